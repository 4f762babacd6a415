from __future__ import annotations

import json
from typing import Any

import pytest

from scm_trio import errors
from scm_trio.model import Delta, DeltaKind, Finish, FinishReason, ProviderEvent, ToolCall, Usage
from scm_trio.providers.spark_errors import SparkClassifier
from scm_trio.providers.spark_reader import SparkHttpReader, SparkReader
from scm_trio.providers.sse import SseEvent

from .expected import SAMPLES, check, cut, read_stream
from .spark_server import HTTP_SAMPLES, WEBSOCKET_SAMPLES, frame

COMPLETED = Finish(FinishReason.COMPLETED, "status=2")


def new_reader(max_tokens: int | None = None) -> SparkReader:
    return SparkReader(SparkClassifier("spark"), max_tokens)


def read(*frames: Any, max_tokens: int | None = None) -> tuple[list[ProviderEvent], errors.RequestFailed | None]:
    reader = new_reader(max_tokens)
    events = [event for each in frames for event in reader.read(each if isinstance(each, bytes) else json.dumps(each))]
    return [*events, *reader.close()], reader.failure


@pytest.mark.parametrize("as_text", [True, False])
@pytest.mark.parametrize("name", WEBSOCKET_SAMPLES)
def test_every_sample_is_read_as_expected(name, as_text):
    reader = new_reader()
    frames = (SAMPLES / name).read_bytes().splitlines()
    events = [event for each in frames for event in reader.read(each.decode() if as_text else each)]
    check([*events, *reader.close()], reader.failure, WEBSOCKET_SAMPLES[name])


def test_frames_may_come_as_events_too():
    reader = new_reader()
    frames = [SseEvent(line) for line in (SAMPLES / "spark_ws.jsonl").read_bytes().splitlines()]
    check(reader.feed(frames), reader.failure, WEBSOCKET_SAMPLES["spark_ws.jsonl"])
    reader = new_reader()
    name = "spark_function_call.jsonl"
    check(reader.whole((SAMPLES / name).read_bytes()), reader.failure, WEBSOCKET_SAMPLES[name])


def test_an_error_names_the_session_for_the_vendors_support():
    _, failure = read({"header": {"code": 10110, "message": "busy", "sid": "cht01", "status": 2}})
    assert failure.detail == "spark: in the answer 10110 busy cht01"


def test_text_comes_at_once_and_the_rest_with_the_last_frame():
    reader = new_reader()
    assert reader.read(json.dumps(frame("a"))) == [Delta("a")]
    assert reader.read(json.dumps(frame("b", status=2, usage=(3, 2)))) == [Delta("b"), Usage(3, 2), COMPLETED]
    assert reader.ended
    assert reader.read(json.dumps(frame("c"))) == []
    assert reader.close() == []


def test_an_audit_may_stop_a_running_answer():
    events, failure = read(frame("a"), {"header": {"code": 10014, "message": "audit", "status": 2}}, frame("b"))
    assert events == [Delta("a")]
    assert type(failure) is errors.ContentFiltered


def test_sources_of_a_search_are_no_text():
    sources = {"header": {"code": 0, "status": 0}, "payload": {"plugins": {"text": [{"name": "ifly_search"}]}}}
    assert read(sources, frame("a", status=2)) == ([Delta("a"), COMPLETED], None)


def test_calls_have_neither_ids_nor_indexes():
    def calling(*calls: object, status: int) -> dict:
        texts = [{"content": "", "function_call": call} for call in calls]
        return {"header": {"code": 0, "status": status}, "payload": {"choices": {"text": texts}}}

    begin = calling({"name": "f", "arguments": "{"}, status=1)
    rest = calling({"arguments": "}"}, {"name": "g", "arguments": {"a": 1}}, "nonsense", status=2)
    tools = Finish(FinishReason.TOOL_CALLS, "status=2")
    assert read(begin, rest) == ([ToolCall("call_0", "f", "{}"), ToolCall("call_1", "g", '{"a":1}'), tools], None)
    nameless = calling({"arguments": "{}"}, status=2)
    assert read(nameless) == ([ToolCall("call_0", "", "{}"), tools], None)


@pytest.mark.parametrize(
    ("max_tokens", "reason"),
    [(2, FinishReason.LENGTH), (3, FinishReason.COMPLETED), (None, FinishReason.COMPLETED)],
)
def test_an_answer_that_has_reached_its_limit_was_cut_there(max_tokens, reason):
    events, _ = read(frame("a", status=2, usage=(1, 2)), max_tokens=max_tokens)
    assert events[-1] == Finish(reason, "status=2")


def test_without_usage_nobody_knows_of_a_limit():
    assert read(frame("a", status=2), max_tokens=1) == ([Delta("a"), COMPLETED], None)


def test_thinking_is_an_answer_too():
    text = {"content": "", "reasoning_content": "hm"}
    last = {"header": {"status": 2}, "payload": {"choices": {"text": [text]}}}
    assert read(last) == ([Delta("hm", DeltaKind.REASONING), COMPLETED], None)


@pytest.mark.parametrize("status", [None, 0, 1])
def test_the_last_frame_is_told_by_header_or_choices(status):
    message = {"header": {"status": status}, "payload": {"choices": {"status": 2, "text": [{"content": "a"}]}}}
    assert read(message) == ([Delta("a"), COMPLETED], None)


@pytest.mark.parametrize(("code", "kind"), [(10014, errors.ContentFiltered), (10013, errors.ContentFiltered)])
def test_over_http_what_an_audit_refused_is_not_shown(code, kind):
    def chunk(number, text):
        return {"code": number, "message": "m", "choices": [{"index": 0, "delta": {"content": text}}]}

    reader = SparkHttpReader(SparkClassifier("spark"))
    events = [SseEvent(json.dumps(each).encode()) for each in (chunk(0, "a"), chunk(code, "evil"), chunk(0, "b"))]
    assert reader.feed([*events, SseEvent(b"[DONE]")]) == [Delta("a")]
    assert type(reader.failure) is kind
    reader = SparkHttpReader(SparkClassifier("spark"))
    assert reader.whole(json.dumps({"code": code, "choices": [{"message": {"content": ""}}]}).encode()) == []
    assert type(reader.failure) is kind


def test_the_choices_tell_the_status_where_the_header_does_not():
    assert read({"payload": {"choices": {"status": 2, "text": [{"content": "a"}]}}}) == ([Delta("a"), COMPLETED], None)


@pytest.mark.parametrize(
    ("message", "detail"),
    [
        (frame("", status=2), "empty"),
        (b"{", "no JSON"),
        ([1], "truncated: the answer broke off"),
        ({"header": [], "payload": {"choices": {"text": [None, {"content": 7}, 7]}}}, "truncated"),
        ({"payload": {"choices": {"text": "a"}}}, "truncated"),
        ({"header": {"code": 0, "status": 1}}, "truncated"),
        ({"code": 503, "message": "gone"}, "503 gone"),
    ],
)
def test_what_is_no_answer_is_a_failure(message, detail):
    events, failure = read(message)
    assert events == []
    assert type(failure) is errors.ProviderUnavailable
    assert detail in failure.detail


def test_an_error_outside_of_any_header_is_one_too():
    _, failure = read({"code": 11203, "message": "concurrency"})
    assert type(failure) is errors.ProviderRateLimited


def test_what_fails_may_have_cost_something():
    failed = {**frame("", usage=(3, 0)), "header": {"code": 10013, "status": 2}}
    assert read(failed)[0] == [Usage(3, 0)]


# Over HTTP


def http_reader(max_tokens: int | None = None) -> SparkHttpReader:
    return SparkHttpReader(SparkClassifier("spark"), max_tokens)


@pytest.mark.parametrize("size", [1_000_000, 7, 1])
def test_the_sample_over_http_is_read_as_expected_wherever_it_is_cut(size):
    reader = http_reader()
    events = read_stream(cut((SAMPLES / "spark_http.sse").read_bytes(), size), reader)
    check(events, reader.failure, HTTP_SAMPLES["spark_http.sse"])


@pytest.mark.parametrize("name", ["spark_http_nonstream.json", "spark_http_nonstream_error.json"])
def test_the_sample_bodies_over_http_are_read_as_expected(name):
    reader = http_reader()
    check(reader.whole((SAMPLES / name).read_bytes()), reader.failure, HTTP_SAMPLES[name])


@pytest.mark.parametrize(
    ("max_tokens", "told", "reason"),
    [
        (7, None, FinishReason.LENGTH),
        (8, None, FinishReason.COMPLETED),
        (7, "stop", FinishReason.COMPLETED),
    ],
)
def test_over_http_a_limit_is_guessed_only_where_no_reason_is_told(max_tokens, told, reason):
    reader = http_reader(max_tokens)
    body = {
        "code": 0,
        "choices": [{"message": {"content": "a"}, "finish_reason": told}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 7},
    }
    assert reader.whole(json.dumps(body).encode())[-1] == Finish(reason, told)
