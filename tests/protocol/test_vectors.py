"""The codec against the golden vectors."""

import json
from typing import Any

import pytest

from scm_trio.errors import RequestFailed
from scm_trio.protocol import codec
from scm_trio.protocol.messages import CLIENT_TYPES, SERVER_TYPES

from .examples import EXAMPLES, KINDS
from .vectors import as_message, load, text_of

ACCEPTED = [*load("client-accepted"), *load("seed")["client"]]
REFUSED = load("client-refused")
SENT = load("server")
SEED_SAMPLES = load("seed")["server"]


def by_name(rows: list[dict[str, Any]]) -> Any:
    return pytest.mark.parametrize("row", rows, ids=[row["name"] for row in rows])


@by_name(ACCEPTED)
def test_what_a_client_may_say_is_read_as_the_vector_says(row):
    assert as_message(codec.decode_client(text_of(row))) == row["message"]


@by_name(ACCEPTED)
def test_bytes_are_read_like_text(row):
    assert as_message(codec.decode_client(text_of(row).encode())) == row["message"]


@by_name(REFUSED)
def test_what_a_client_may_not_say_is_refused_with_code_and_field(row):
    with pytest.raises(RequestFailed) as caught:
        codec.decode_client(text_of(row))
    failure = caught.value
    told = {"code": failure.code, "field": failure.field, **failure.params}
    wanted = {"field": None, **row["error"]}
    # How far a parser gets in a bomb is its own business.
    assert {key: value for key, value in told.items() if key in wanted or key != "position"} == wanted


@by_name(SENT)
def test_the_server_sends_exactly_these_bytes(row):
    assert EXAMPLES[row["name"]] == row["text"].encode()


@by_name(SENT)
def test_what_the_server_sends_can_be_read_back_and_written_again(row):
    received = codec.decode_server(row["text"])
    again = codec.encode(
        received.kind,
        received.data,
        at=received.timestamp,
        session_id=received.session_id,
        user_id=received.user_id,
        request_id=received.request_id,
    )
    assert again == row["text"].encode()


@by_name(SEED_SAMPLES)
def test_a_sample_of_the_seed_is_part_of_what_the_server_sends(row):
    sample, sent = json.loads(row["seed"]), json.loads(row["text"])
    assert sample["data"].items() <= sent["data"].items()
    assert {key: sent[key] for key in sample if key != "data"} == {key: sample[key] for key in sample if key != "data"}
    assert [key for key in sent if key in sample] == list(sample)
    assert [key for key in sent["data"] if key in sample["data"]] == list(sample["data"])


@by_name(SEED_SAMPLES)
def test_the_message_beside_a_sample_of_the_seed_is_one_of_ours(row):
    assert as_message(codec.decode_server(row["text"]))["data"] == json.loads(row["text"])["data"]


def test_every_type_has_a_vector():
    assert {row["message"]["type"] for row in ACCEPTED} == set(CLIENT_TYPES)
    assert {json.loads(row["text"])["type"] for row in SENT} == set(SERVER_TYPES)


def test_every_server_vector_has_its_constructed_message():
    assert [row["name"] for row in SENT] == list(EXAMPLES)
    assert set(SERVER_TYPES) == KINDS
