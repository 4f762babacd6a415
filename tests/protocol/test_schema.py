"""The schemas say the same as the codec, for vectors, constructed messages and arbitrary ones."""

import copy
import json
import re

import pytest
from attrs import frozen
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from scm_trio.errors import InvalidMessage, RequestFailed
from scm_trio.model import FinishReason
from scm_trio.protocol import codec, schema
from scm_trio.protocol.messages import CLIENT_TYPES, SERVER_TYPES

from .examples import EXAMPLES
from .strategies import ANY_JSON, client_messages, places, put, spelled, take
from .vectors import load, text_of

CLIENT = schema.document("client")
SERVER = schema.document("server")
ACCEPTED = Draft202012Validator(CLIENT)
SENT = Draft202012Validator(SERVER)
BY_KIND = {kind: Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": CLIENT["$defs"]}) for kind in CLIENT_TYPES}

# The same examples in every run; big ones are rare and cheap enough.
steady = settings(
    derandomize=True, database=None, deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow]
)


def wire_text(message) -> str:
    return json.dumps(message, ensure_ascii=False)


def refusal(message) -> RequestFailed | None:
    try:
        codec.decode_client(wire_text(message))
    except RequestFailed as exc:
        return exc
    return None


@pytest.mark.parametrize("document", [CLIENT, SERVER], ids=["client", "server"])
def test_a_document_is_a_valid_schema_whose_references_lead_somewhere(document):
    Draft202012Validator.check_schema(document)
    referred_to = set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(document)))
    assert referred_to == set(document["$defs"])


def test_every_type_has_a_schema():
    assert set(CLIENT_TYPES) <= set(CLIENT["$defs"])
    assert set(SERVER_TYPES) <= set(SERVER["$defs"])


@pytest.mark.parametrize("row", [*load("client-accepted"), *load("seed")["client"]], ids=lambda row: row["name"])
def test_an_accepted_vector_fits_its_schema(row):
    ACCEPTED.validate(json.loads(text_of(row)))


@pytest.mark.parametrize(
    "row",
    # Without the bombs, which validators are not made for.
    [row for row in load("client-refused") if row["error"]["code"] != "BAD_JSON" and isinstance(row["text"], str)],
    ids=lambda row: row["name"],
)
def test_a_refused_vector_fits_no_schema(row):
    assert not ACCEPTED.is_valid(json.loads(text_of(row)))


@pytest.mark.parametrize("text", EXAMPLES.values(), ids=EXAMPLES)
def test_what_the_server_sends_fits_its_schema(text):
    SENT.validate(json.loads(text))


@pytest.mark.parametrize("row", load("seed")["server"], ids=lambda row: row["name"])
def test_the_message_beside_a_sample_of_the_seed_fits_its_schema(row):
    SENT.validate(json.loads(row["text"]))


@pytest.mark.parametrize("text", EXAMPLES.values(), ids=EXAMPLES)
def test_a_server_schema_takes_no_other_field_and_misses_none(text):
    message = json.loads(text)
    for path in [(), *places(message)]:
        inner = message
        for key in path:
            inner = inner[key]
        if isinstance(inner, dict):
            more = copy.deepcopy(message)
            put(more, (*path, "surprise"), 1)
            assert not SENT.is_valid(more), path
    for name in ("type", "data", "timestamp"):
        assert not SENT.is_valid({key: value for key, value in message.items() if key != name})


def test_a_server_schema_knows_the_words_that_a_field_may_have():
    end = json.loads(EXAMPLES["end"])
    for reason in FinishReason:
        end["data"]["finishReason"] = reason.value
        SENT.validate(end)
    end["data"]["finishReason"] = "bored"
    assert not SENT.is_valid(end)
    error = json.loads(EXAMPLES["error with the least detail"])
    for code in schema.error_codes():
        error["error"]["code"] = code
        SENT.validate(error)
    error["error"]["code"] = "OOPS"
    assert not SENT.is_valid(error)


def test_a_null_that_the_server_sends_fits_only_where_a_field_is_always_there():
    start = json.loads(EXAMPLES["start of a pushed answer"])
    assert start["data"]["requestId"] is None
    start["data"]["userMessageId"] = None
    assert not SENT.is_valid(start)


def test_an_unheard_of_type_has_no_schema():
    @frozen
    class Odd:
        when: complex

    with pytest.raises(TypeError, match="complex"):
        schema._Models("#/", strict=True).envelope("ODD", Odd)


@pytest.mark.parametrize("kind", CLIENT_TYPES)
def test_the_codec_accepts_what_the_schema_accepts(kind):
    @steady
    @given(client_messages(kind))
    def check(message):
        BY_KIND[kind].validate(message)
        received = codec.decode_client(wire_text(message))
        assert received.kind == kind
        # Everything that was said and means something is there again.
        understood = codec.plain(received.data)
        for name, value in (message["data"] or {}).items():
            if name in understood and not isinstance(value, (dict, list)) and value is not None:
                assert understood[name] == value

    check()


@pytest.mark.parametrize("kind", CLIENT_TYPES)
def test_one_changed_value_is_refused_by_both_or_by_neither(kind):
    @steady
    @given(client_messages(kind), ANY_JSON, st.randoms(use_true_random=False))
    def check(message, value, random):
        path = random.choice(sorted(places(message), key=spelled))
        assume(path != ("type",))
        put(message, path, value)
        failure = refusal(message)
        assert (failure is None) == BY_KIND[kind].is_valid(message)
        if failure is not None:
            assert isinstance(failure, InvalidMessage)
            assert failure.field.startswith(spelled(path))

    check()


@pytest.mark.parametrize("kind", CLIENT_TYPES)
def test_one_missing_value_is_refused_by_both_or_by_neither(kind):
    @steady
    @given(client_messages(kind), st.randoms(use_true_random=False))
    def check(message, random):
        path = random.choice(sorted(places(message), key=spelled))
        assume(path != ("type",))
        take(message, path)
        failure = refusal(message)
        assert (failure is None) == BY_KIND[kind].is_valid(message)
        if failure is not None:
            assert failure.params["expected"] == "missing"
            assert failure.field.startswith(spelled(path))

    check()


@steady
@given(ANY_JSON)
def test_anything_else_is_refused_by_both(message):
    failure = refusal(message)
    assert failure is not None
    assert failure.code in {"BAD_JSON", "INVALID_MESSAGE", "UNKNOWN_TYPE"}
    assert not ACCEPTED.is_valid(message)
