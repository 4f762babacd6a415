from __future__ import annotations

import json

import orjson
import pytest

from scm_trio import errors
from scm_trio.model import Delta, DeltaKind, Finish, FinishReason, ProviderEvent, ToolCall, Usage
from scm_trio.providers.openai_errors import Classifier
from scm_trio.providers.openai_reader import OpenAiReader
from scm_trio.providers.presets import PRESETS
from scm_trio.providers.sse import SseEvent

from .expected import SAMPLES, check, cut, expected_of, read_stream

EXPECTED = expected_of("openai_chat")
STREAMS = [name for name in EXPECTED if name.endswith(".sse")]
BODIES = [name for name in EXPECTED if name.endswith(".json")]
SPARK_CODES = {"11202": errors.ProviderRateLimited}


def reader_for(name: str = "") -> OpenAiReader:
    vendor = name.split("_", maxsplit=1)[0]
    codes = SPARK_CODES if vendor == "spark" else PRESETS[vendor].codes if vendor in PRESETS else {}
    return OpenAiReader(Classifier("acme", codes))


@pytest.mark.parametrize("size", [1_000_000, 7, 1])
@pytest.mark.parametrize("name", STREAMS)
def test_every_sample_stream_is_read_as_expected_wherever_it_is_cut(name, size):
    stream = (SAMPLES / name).read_bytes()
    reader = reader_for(name)
    events = read_stream(cut(stream, size), reader)
    check(events, reader.failure, EXPECTED[name])


@pytest.mark.parametrize("name", BODIES)
def test_every_sample_body_is_read_as_expected(name):
    reader = reader_for(name)
    events = reader.whole((SAMPLES / name).read_bytes())
    check(events, reader.failure, EXPECTED[name])


def test_characters_may_be_cut_by_the_network():
    reads = json.loads((SAMPLES / "utf8_split.chunks.json").read_text())["chunks_hex"]
    reader = reader_for()
    events = read_stream(map(bytes.fromhex, reads), reader)
    check(events, reader.failure, EXPECTED["utf8_split.sse"])


# Single rules


def chunk(delta: object = None, **choice: object) -> SseEvent:
    return SseEvent(orjson.dumps({"choices": [{"delta": delta, **choice}]}))


DONE = SseEvent(b"[DONE]")
STOP = chunk({}, finish_reason="stop")
COMPLETED = Finish(FinishReason.COMPLETED, "stop")


def read(*events: SseEvent) -> list[ProviderEvent]:
    reader = reader_for()
    out = [*reader.feed(events), *reader.close()]
    if reader.failure is not None:
        raise reader.failure
    return out


def test_text_is_told_at_once_and_the_finish_at_the_end_mark():
    reader = reader_for()
    assert reader.feed([chunk({"content": "a"}), chunk({"content": "b"})]) == [Delta("a"), Delta("b")]
    assert reader.feed([STOP]) == []
    assert not reader.ended
    assert reader.feed([SseEvent(b'{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}'), DONE]) == [
        Usage(3, 2),
        COMPLETED,
    ]
    assert reader.ended
    assert reader.feed([chunk({"content": "late"})]) == reader.close() == []


@pytest.mark.parametrize("data", [b"[DONE]", b"[DONE] "])
def test_a_done_with_some_output_and_no_reason_is_a_proper_end(data):
    assert read(chunk({"content": "a"}), SseEvent(data)) == [Delta("a"), Finish(FinishReason.COMPLETED)]


def test_a_done_without_any_output_is_a_failure():
    with pytest.raises(errors.ProviderUnavailable, match="empty"):
        read(chunk({"role": "assistant", "content": ""}), DONE)


def test_a_finish_reason_without_a_done_is_a_proper_end():
    assert read(chunk({"content": "a"}), STOP) == [Delta("a"), COMPLETED]


def test_an_end_without_either_is_a_failure():
    with pytest.raises(errors.ProviderUnavailable, match="truncated"):
        read(chunk({"content": "a"}))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("stop", FinishReason.COMPLETED),
        ("load", FinishReason.COMPLETED),
        ("length", FinishReason.LENGTH),
        ("model_context_window_exceeded", FinishReason.LENGTH),
        ("content_filter", FinishReason.CONTENT_FILTER),
        ("sensitive", FinishReason.CONTENT_FILTER),
        ("tool_calls", FinishReason.TOOL_CALLS),
        ("function_call", FinishReason.TOOL_CALLS),
    ],
)
def test_finish_reasons_are_translated_and_the_vendors_word_is_kept(raw, reason):
    assert read(chunk({"content": "a"}, finish_reason=raw))[-1] == Finish(reason, raw)


@pytest.mark.parametrize("raw", ["error", "network_error", "insufficient_system_resource"])
def test_some_finish_reasons_are_failures(raw):
    with pytest.raises(errors.ProviderUnavailable):
        read(chunk({"content": "a"}, finish_reason=raw), DONE)


def test_a_filter_may_strike_after_the_stop():
    blocked = SseEvent(b'{"choices": [{"finish_reason": "content_filter", "content_filter_offsets": {}}]}')
    assert read(chunk({"content": "a"}), STOP, blocked, DONE)[-1].reason is FinishReason.CONTENT_FILTER


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b"null",
        b"7",
        b'{"choices": null}',
        b'{"choices": []}',
        b'{"choices": {}}',
        b'{"choices": [null]}',
        b'{"choices": [{}]}',
        b'{"choices": [{"delta": null, "finish_reason": null}]}',
        b'{"choices": [{"delta": "x", "finish_reason": ""}]}',
        b'{"choices": [{"delta": {"content": null, "tool_calls": null}}], "usage": null}',
        b'{"choices": [{"delta": {"content": 7, "tool_calls": "x"}}], "usage": "x"}',
        b'{"choices": [{"delta": {"content": [], "tool_calls": [7]}}], "usage": {}}',
    ],
)
def test_chunks_may_lack_everything(data):
    assert read(SseEvent(data), chunk({"content": "a"}), STOP, DONE) == [Delta("a"), COMPLETED]


def test_text_may_come_in_parts():
    parts = [{"type": "text", "text": "a"}, {"type": "other"}, "x", {"type": "text", "text": "b"}]
    assert read(chunk({"content": parts}), STOP)[0] == Delta("ab")


def test_reasoning_that_is_sent_twice_is_read_once():
    delta = {"reasoning_content": "hm", "reasoning": "hm", "content": "a"}
    assert read(chunk(delta), STOP)[:-1] == [Delta("hm", DeltaKind.REASONING), Delta("a")]


def test_nul_characters_are_removed():
    assert read(chunk({"content": "a\0b"}), chunk({"content": "\0"}), STOP) == [Delta("ab"), COMPLETED]


def test_half_a_character_is_replaced():
    assert read(SseEvent(rb'{"choices": [{"delta": {"content": "a\ud83d"}}]}'), STOP)[0] == Delta("a\ufffd")


def test_a_chunk_that_is_no_json_is_a_failure_after_what_was_good():
    reader = reader_for()
    assert reader.feed([chunk({"content": "a"}), SseEvent(b"{"), chunk({"content": "b"}), DONE]) == [Delta("a")]
    assert type(reader.failure) is errors.ProviderUnavailable


def test_an_error_wins_over_choices_and_keeps_the_usage_known_so_far():
    reader = reader_for()
    used = SseEvent(
        b'{"choices": [{"delta": {"content": "a"}}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}'
    )
    broken = SseEvent(b'{"choices": [{"finish_reason": "error"}], "error": {"code": 502, "message": "m"}}')
    assert reader.feed([used, broken, DONE]) == [Delta("a"), Usage(1, 1)]
    assert type(reader.failure) is errors.ProviderUnavailable


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b'{"message": "boom", "code": 500}', "500 boom"),
        (b'{"error": {"message": "boom"}}', "boom"),
        (b"gone", "gone"),
        (b'{"choices": [{"delta": {"content": "b"}}]}', "in the answer"),
    ],
)
def test_an_event_called_error_is_one_whatever_it_holds(data, detail):
    reader = reader_for()
    assert reader.feed([chunk({"content": "a"}), SseEvent(data, b"error"), DONE]) == [Delta("a")]
    assert type(reader.failure) is errors.ProviderUnavailable
    assert detail in reader.failure.detail


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 2, "prompt_cache_hit_tokens": 4}, Usage(9, 2, cached_tokens=4)),
        ({"prompt_tokens": 9, "completion_tokens": 2, "cached_tokens": 5}, Usage(9, 2, cached_tokens=5)),
        ({"prompt_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 3}}, Usage(9, reasoning_tokens=3)),
        ({"prompt_tokens": -1, "completion_tokens": "2", "prompt_tokens_details": 5}, Usage()),
    ],
)
def test_usage_is_read_in_every_dialect(usage, expected):
    assert read(chunk({"content": "a"}, usage=usage), STOP)[1] == expected


def test_the_last_usage_wins():
    used = [SseEvent(b'{"usage": {"prompt_tokens": 1, "completion_tokens": %d}}' % count) for count in (1, 2, 3)]
    assert read(chunk({"content": "a"}), *used, STOP)[1:] == [Usage(1, 3), COMPLETED]


def calls(*deltas: object, reason: str | None = "tool_calls") -> list[ProviderEvent]:
    return read(*(chunk({"tool_calls": delta}) for delta in deltas), chunk({}, finish_reason=reason), DONE)


def test_tool_calls_are_put_together_by_their_index():
    first = [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}}]
    second = [{"index": 1, "id": "b", "function": {"name": "g", "arguments": ""}}]
    rest = [{"index": 1, "function": {"arguments": "[]"}}, {"index": 0, "function": {"arguments": "}"}}]
    assert calls(first, second, rest)[:2] == [ToolCall("a", "f", "{}"), ToolCall("b", "g", "[]")]


def test_tool_calls_without_an_index_are_told_apart_by_their_ids():
    whole = [[{"id": name, "function": {"name": name, "arguments": "{}"}}] for name in "ab"]
    assert calls(*whole)[:2] == [ToolCall("a", "a", "{}"), ToolCall("b", "b", "{}")]


def test_missing_ids_are_invented_and_objects_become_json():
    both = [{"function": {"name": "f", "arguments": {"x": 1}}}, {"function": None}]
    assert calls(both)[:2] == [ToolCall("call_0", "f", '{"x":1}'), ToolCall("call_1", "", "")]


def test_a_single_tool_call_may_come_without_a_list():
    assert calls({"function": {"name": "f", "arguments": "{}"}})[0] == ToolCall("call_0", "f", "{}")


def test_the_old_function_call_is_a_tool_call():
    pieces = [chunk({"function_call": {"name": "f", "arguments": "{"}}), chunk({"function_call": {"arguments": "}"}})]
    assert read(*pieces, chunk({}, finish_reason="function_call"))[0] == ToolCall("call_0", "f", "{}")


@pytest.mark.parametrize("reason", ["stop", None])
def test_an_answer_that_calls_tools_ends_with_that_whatever_its_reason_says(reason):
    assert calls([{"function": {"name": "f"}}], reason=reason)[-1] == Finish(FinishReason.TOOL_CALLS, reason)


def test_a_whole_body_without_an_answer_is_a_failure():
    reader = reader_for()
    assert reader.whole(b'{"object": "chat.completion"}') == []
    assert "empty" in reader.failure.detail


def test_a_whole_body_that_is_no_json_is_a_failure():
    reader = reader_for()
    assert reader.whole(b"<html>") == []
    assert type(reader.failure) is errors.ProviderUnavailable
