"""The documents say what the code does: generated files, the contract's tables and its examples."""

import json
import re
import runpy
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import attrs
import pytest
from jsonschema import Draft202012Validator

from scm_trio import errors
from scm_trio.config_loader import reference
from scm_trio.errors import CloseCode, RequestFailed
from scm_trio.model import FinishReason
from scm_trio.protocol import asyncapi, codec, messages, schema
from scm_trio.protocol.messages import CLIENT_TYPES, SERVER_TYPES

ROOT = Path(__file__).resolve().parents[2]
RENDERED = runpy.run_path(str(ROOT / "scripts" / "render-docs"))["rendered"]()
CONTRACT = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
ASYNCAPI = asyncapi.document()
SENT = Draft202012Validator(schema.document("server"))
ACCEPTED = Draft202012Validator(schema.document("client"))

SIDES = {"from the client": ["client"], "from the server": ["server"], "from either side": ["client", "server"]}
HEADING = re.compile(r"^### ([A-Z_, ]+?)(?: \(\+\))? \((from .*)\)$")


def sections() -> dict[tuple[str, str], str]:
    """The text about each message, by direction and type."""
    found = {}
    for part in re.split(r"^(?=#{2,3} )", CONTRACT, flags=re.MULTILINE):
        heading = HEADING.match(part.splitlines()[0])
        if heading:
            for kind in heading[1].split(", "):
                for direction in SIDES[heading[2]]:
                    found[direction, kind] = part
    return found


SECTIONS = sections()
TYPES = {
    **{("client", kind): cls for kind, cls in CLIENT_TYPES.items()},
    **{("server", kind): messages.ErrorDetail if cls is messages.Error else cls for kind, cls in SERVER_TYPES.items()},
}


def rows(text: str, columns: int) -> list[list[str]]:
    """The table rows of a text that have so many columns, without the heads."""
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:3] == "| `"]
    return [line for line in lines if len(line) == columns]


def name_in(cell: str) -> str:
    return cell.split("`")[1]


@pytest.mark.parametrize("path", RENDERED, ids=lambda path: path.name)
def test_a_generated_file_is_what_would_be_generated_now(path):
    assert path.read_text(encoding="utf-8") == RENDERED[path], "run scripts/render-docs"


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [value["$ref"]] if "$ref" in value else [ref for each in value.values() for ref in references(each)]
    return [ref for each in value for ref in references(each)] if isinstance(value, list) else []


def test_every_reference_of_the_asyncapi_document_leads_somewhere():
    for reference_ in references(ASYNCAPI):
        value: Any = ASYNCAPI
        for step in reference_.removeprefix("#/").split("/"):
            value = value[step]
        assert value


def test_the_asyncapi_operations_have_every_message():
    operations = ASYNCAPI["operations"]
    assert {name: operation["action"] for name, operation in operations.items()} == {
        "receive": "receive",
        "send": "send",
    }
    prefix = "#/channels/chat/messages/"
    received = [ref["$ref"] for ref in operations["receive"]["messages"]]
    sent = [ref["$ref"] for ref in operations["send"]["messages"]]
    assert received == [f"{prefix}client.{kind}" for kind in CLIENT_TYPES]
    assert sent == [f"{prefix}server.{kind}" for kind in SERVER_TYPES]


def test_the_asyncapi_channel_is_the_chats_address():
    channel = ASYNCAPI["channels"]["chat"]
    assert f"ws://HOST:8088{channel['address']}?" in CONTRACT
    query = channel["bindings"]["ws"]["query"]["properties"]
    assert set(query) == {"userId", "sessionId", "token", "coalesceMs", "lang"}
    for name in query:
        assert f"| `{name}`" in CONTRACT


def test_the_contract_describes_every_message():
    assert set(SECTIONS) == set(TYPES)


@pytest.mark.parametrize("key", TYPES, ids="-".join)
def test_a_messages_table_has_its_fields_and_says_which_must_be_there(key):
    direction, kind = key
    cls, text = TYPES[key], SECTIONS[key]
    if key == ("server", "SESSION_UPDATE"):
        text = SECTIONS["server", "SESSION_CREATE"]
    table = {name_in(row[0]): row for row in rows(text, 4)}
    hints = get_type_hints(cls)
    assert list(table) == [codec.camel(field.name) for field in attrs.fields(cls)], kind
    for field in attrs.fields(cls):
        presence = table[codec.camel(field.name)][2]
        if direction == "client":
            assert (presence == "required") == (field.default is attrs.NOTHING), field.name
            told = re.match(r"default `(.*)`", presence)
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            assert (told is not None) == (field.default not in (None, attrs.NOTHING)), field.name
            assert told is None or json.loads(told[1]) == default, field.name
        else:
            assert presence.startswith("always") == (field.default is not None), field.name
            nullable = field.default is attrs.NOTHING and NoneType in get_args(hints[field.name])
            assert presence.endswith("may be null") == nullable, field.name


@pytest.mark.parametrize("key", TYPES, ids="-".join)
def test_a_message_has_an_example_that_fits(key):
    direction, kind = key
    examples = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", SECTIONS[key], re.DOTALL)]
    assert kind in {example["type"] for example in examples}
    for example in examples:
        (ACCEPTED if direction == "client" else SENT).validate(example)


def test_the_contract_lists_every_error_code_and_whether_it_can_be_retried():
    told = {name_in(row[0]): row[1] for row in rows(CONTRACT, 3) if row[1] in ("yes", "no")}
    assert list(told) == [*(code for code in schema.error_codes() if code != "INTERNAL"), "INTERNAL"]
    failures = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, RequestFailed)]
    for failure in failures:
        if failure is not RequestFailed:
            assert told[failure.code] == ("yes" if failure.retryable else "no")


def test_the_contract_lists_every_close_code_and_whether_to_come_back():
    table = dict(re.findall(r"^\| (\d{4}) \|.*\| ([^|]+) \|$", CONTRACT, re.MULTILINE))
    assert {int(code) for code in table} == set(CloseCode)
    for code in CloseCode:
        assert table[str(int(code))].startswith("yes") == (code in errors.RECONNECTABLE)


def test_the_contract_lists_every_finish_reason():
    told = [name_in(row[0]) for row in rows(SECTIONS["server", "CHAT_STREAM_END"], 2)]
    assert told == ["finishReason", *(reason.value for reason in FinishReason)]


def test_the_contract_lists_every_key_of_the_configuration_with_its_default():
    table = CONTRACT.split("## 8. Configuration")[1]
    told = re.findall(r"^\| `([^`]+)` \| (?:`([^`]+)` )?\|", table, re.MULTILINE)
    assert told == [(each.key.removeprefix("scm."), each.default) for each in reference()]
