"""What the vectors cannot say of the codec: bytes, helpers, secrets, round trips."""

import sys

import pytest

from scm_trio.errors import BadJson, InvalidMessage, UnknownType
from scm_trio.protocol import codec, messages

from .examples import AT


@pytest.mark.parametrize(
    ("name", "wire"), [("rev", "rev"), ("next_index", "nextIndex"), ("heartbeat_interval_ms", "heartbeatIntervalMs")]
)
def test_camel_spells_names_as_the_wire_does(name, wire):
    assert codec.camel(name) == wire


def test_a_timestamp_is_utc_with_milliseconds():
    assert codec.timestamp(0.0) == "1970-01-01T00:00:00.000Z"
    assert codec.timestamp(1_736_677_800.25) == "2025-01-12T10:30:00.250Z"


@pytest.mark.parametrize("raw", [b'{"type":"HEARTBEAT\xff"}', b"\xef\xbb\xbf{}", '{"type":"\ud800"}'])
def test_what_is_not_utf8_is_not_json(raw):
    with pytest.raises(BadJson) as caught:
        codec.decode_client(raw)
    assert caught.value.params == {"position": 0}


def test_a_deep_type_does_not_depend_on_how_deep_the_stack_is_already():
    text = '{"type":' + "[" * 1000 + "]" * 1000 + "}"

    def deeper(levels):
        if levels:
            return deeper(levels - 1)
        with pytest.raises(InvalidMessage) as caught:
            codec.decode_client(text)
        return caught.value.field

    assert deeper(sys.getrecursionlimit() // 2) == "type"


def test_a_client_may_not_send_what_only_a_server_says():
    with pytest.raises(UnknownType):
        codec.decode_client('{"type":"CONNECT"}')
    with pytest.raises(UnknownType):
        codec.decode_server('{"type":"CHAT_REQUEST","data":{"message":"a"}}')


@pytest.mark.parametrize(
    ("text", "field", "expected"),
    [
        ('{"type":"ERROR","error":{"code":"X","retryable":true}}', "data", "text"),
        ('{"type":"ERROR","data":{},"error":{"code":"X","retryable":true}}', "data", "text"),
        ('{"type":"ERROR","data":"sorry"}', "error", "object"),
        ('{"type":"ERROR","data":"sorry","error":{"code":"X"}}', "error.retryable", "missing"),
        ('{"type":"ERROR","data":"sorry","error":{"code":"X","retryable":1}}', "error.retryable", "boolean"),
        ('{"type":"CHAT_RESPONSE","data":{}}', "data.messageId", "missing"),
        ('{"type":"SYSTEM_MESSAGE","data":{"message":null}}', "data.message", "missing"),
        ('{"type":"AUTH_REFRESH","data":{}}', "data.expiresAt", "missing"),
    ],
)
def test_a_broken_message_of_a_server_is_refused_with_the_field_on_the_wire(text, field, expected):
    with pytest.raises(InvalidMessage) as caught:
        codec.decode_server(text)
    assert (caught.value.field, caught.value.params) == (field, {"expected": expected})


def test_an_error_is_read_into_its_sentence_and_its_detail():
    text = '{"type":"ERROR","data":"sorry","error":{"code":"X","retryable":true,"news":1},"requestId":"r1"}'
    received = codec.decode_server(text)
    assert received.data == messages.Error("sorry", messages.ErrorDetail("X", retryable=True))
    assert received.request_id == "r1"


def test_a_newer_server_may_say_more_than_this_client_knows():
    text = '{"type":"SYSTEM_MESSAGE","data":{"message":"hi","mood":"good"},"trace":"t"}'
    assert codec.decode_server(text).data == messages.SystemMessage("hi")


def test_the_failure_does_not_repeat_what_the_client_said():
    with pytest.raises(InvalidMessage) as caught:
        codec.decode_client('{"type":"AUTH_REFRESH","data":{"token":["secret"]}}')
    assert "secret" not in f"{caught.value!r} {caught.value.params} {caught.value.__cause__}"


def test_tokens_and_chat_text_do_not_show_in_a_repr():
    asked = codec.decode_client('{"type":"CHAT_REQUEST","data":{"message":"my salary"}}')
    refresh = codec.decode_client('{"type":"AUTH_REFRESH","data":{"token":"aa.bb.cc"}}')
    said = messages.ChatStreamData("m1", "my salary", "my salary", 0, 1, reasoning="my salary")
    shown = f"{asked!r} {refresh!r} {said!r} {messages.Warning('A', 'b', token='aa.bb.cc')!r}"
    assert "salary" not in shown
    assert "aa.bb" not in shown


@pytest.mark.parametrize(
    ("text", "request_id"),
    [
        ('{"type":"CHAT_REQUEST","requestId":"r1"}', "r1"),
        ('{"type":"CHAT_REQUEST","data":{"requestId":"r2"}}', "r2"),
        ('{"requestId":"r1","data":{"requestId":"r2"}}', "r1"),
        ('{"requestId":null,"data":{"requestId":"r2"}}', "r2"),
        ('{"type":"X"}', None),
        ('{"requestId":7}', None),
        ('{"requestId":"a\\nb"}', None),
        ('{"data":["requestId"]}', None),
        ('{"data":{"requestId":{}}}', None),
        ("[]", None),
        ("{", None),
    ],
)
def test_a_message_that_is_refused_still_tells_its_request_id(text, request_id):
    assert codec.request_id_of(text) == request_id


@pytest.mark.parametrize(
    ("text", "good"), [("session001", True), ("会话 1", True), ("", False), ("a\x7fb", False), ("a" * 129, False)]
)
def test_ids_from_elsewhere_are_held_to_the_same_rule(text, good):
    assert codec.is_id(text) is good


def test_the_envelope_leaves_out_what_is_none():
    assert codec.encode("HEARTBEAT", messages.Heartbeat(), at=AT) == (
        b'{"type":"HEARTBEAT","data":{},"timestamp":"2026-01-02T03:04:05.678Z"}'
    )


def test_a_clients_own_messages_are_written_in_the_same_way():
    data = messages.ChatRequest(
        messages.Text("a"), on_orphan=messages.Grace(messages.Count(5)), max_tokens=messages.Count(9)
    )
    text = codec.encode("CHAT_REQUEST", data, at=AT, session_id="s1", request_id="r1")
    received = codec.decode_client(text)
    assert received == codec.Received("CHAT_REQUEST", data, session_id="s1", request_id="r1", timestamp=AT)
