from __future__ import annotations

import orjson
import pytest

from scm_trio import errors
from scm_trio.model import Delta, DeltaKind, Finish, FinishReason, ProviderEvent, ToolCall, Usage
from scm_trio.providers.anthropic_errors import AnthropicClassifier
from scm_trio.providers.anthropic_reader import AnthropicReader
from scm_trio.providers.sse import SseEvent

from .expected import SAMPLES, check, cut, expected_of, read_stream

EXPECTED = expected_of("anthropic")
STREAMS = [name for name in EXPECTED if name.endswith(".sse")]
BODIES = [name for name in EXPECTED if name.endswith(".json")]
COMPLETED = Finish(FinishReason.COMPLETED, "end_turn")


def new_reader() -> AnthropicReader:
    return AnthropicReader(AnthropicClassifier("claude"))


@pytest.mark.parametrize("size", [1_000_000, 7, 1])
@pytest.mark.parametrize("name", STREAMS)
def test_every_sample_stream_is_read_as_expected_wherever_it_is_cut(name, size):
    reader = new_reader()
    events = read_stream(cut((SAMPLES / name).read_bytes(), size), reader)
    check(events, reader.failure, EXPECTED[name])


@pytest.mark.parametrize("name", BODIES)
def test_every_sample_body_is_read_as_expected(name):
    reader = new_reader()
    events = reader.whole((SAMPLES / name).read_bytes())
    check(events, reader.failure, EXPECTED[name])


@pytest.mark.parametrize("name", ["anthropic_messages.sse", "anthropic_refusal.sse"])
def test_a_stream_that_breaks_off_anywhere_is_never_completed(name):
    stream = (SAMPLES / name).read_bytes()
    for length in range(len(stream)):
        reader = new_reader()
        events = read_stream([stream[:length]] if length else [], reader)
        assert "truncated" in reader.failure.detail
        assert reader.failure.retryable
        assert not [event for event in events if isinstance(event, Finish)]


# Single rules


def said(kind: str, **rest: object) -> SseEvent:
    return SseEvent(orjson.dumps({"type": kind, **rest}), kind.encode())


def block(index: int, kind: str, **rest: object) -> SseEvent:
    return said("content_block_start", index=index, content_block={"type": kind, **rest})


def delta(index: int, kind: str, **rest: object) -> SseEvent:
    return said("content_block_delta", index=index, delta={"type": kind, **rest})


def text(words: str, index: int = 0) -> SseEvent:
    return delta(index, "text_delta", text=words)


def ended(reason: str | None, **usage: object) -> SseEvent:
    return said("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage=usage)


def started(**usage: object) -> SseEvent:
    return said("message_start", message={"type": "message", "content": [], "stop_reason": None, "usage": usage})


STOP = said("message_stop")
AT_FIRST = Usage(3, source="estimated")
"""Told at the beginning by ``started(input_tokens=3)``."""


def read(*events: SseEvent) -> list[ProviderEvent]:
    reader = new_reader()
    out = [*reader.feed(events), *reader.close()]
    if reader.failure is not None:
        raise reader.failure
    return out


def test_text_is_told_at_once_and_the_rest_at_the_end_mark():
    reader = new_reader()
    assert reader.feed([text("a"), text("b")]) == [Delta("a"), Delta("b")]
    assert reader.feed([ended("end_turn", output_tokens=2)]) == []
    assert not reader.ended
    assert reader.feed([STOP]) == [Usage(0, 2), COMPLETED]
    assert reader.ended
    assert reader.feed([text("late")]) == reader.close() == []


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("end_turn", FinishReason.COMPLETED),
        ("stop_sequence", FinishReason.COMPLETED),
        ("pause_turn", FinishReason.COMPLETED),
        ("max_tokens", FinishReason.LENGTH),
        ("model_context_window_exceeded", FinishReason.LENGTH),
        ("tool_use", FinishReason.TOOL_CALLS),
        ("refusal", FinishReason.CONTENT_FILTER),
        ("something_new", FinishReason.COMPLETED),
    ],
)
def test_stop_reasons_are_translated_and_the_vendors_word_is_kept(raw, reason):
    assert read(text("a"), ended(raw), STOP)[-1] == Finish(reason, raw)


def test_an_end_mark_after_some_output_needs_no_reason():
    assert read(text("a"), STOP) == [Delta("a"), Finish(FinishReason.COMPLETED)]


def test_an_end_mark_without_anything_is_a_failure():
    with pytest.raises(errors.ProviderUnavailable, match="empty"):
        read(started(input_tokens=3), ended(None), STOP)


def test_a_refusal_may_come_before_any_text():
    assert read(ended("refusal"), STOP) == [Finish(FinishReason.CONTENT_FILTER, "refusal")]


def test_a_reason_without_the_end_mark_is_no_end():
    reader = new_reader()
    events = [*reader.feed([started(input_tokens=3), text("a"), ended("end_turn", output_tokens=1)]), *reader.close()]
    assert events == [AT_FIRST, Delta("a"), Usage(3, 1)]
    assert "truncated" in reader.failure.detail


@pytest.mark.parametrize(
    "event",
    [
        said("ping"),
        said("something_new", text="x"),
        said("content_block_stop", index=0),
        block(0, "server_tool_use", id="s", name="web_search", input={}),
        block(0, "redacted_thinking", data="x"),
        block(0, "something_new", text="x"),
        delta(0, "signature_delta", signature="x"),
        delta(0, "citations_delta", citation={}),
        delta(0, "input_json_delta", partial_json="{"),
        delta(0, "something_new", text="x"),
        text(""),
        delta(0, "text_delta"),
        delta(0, "text_delta", text=None),
        delta(0, "thinking_delta", thinking=7),
        said("content_block_start"),
        said("content_block_delta"),
        said("message_start"),
        said("message_delta"),
        said("message_delta", delta=None, usage=None),
        SseEvent(b"{}"),
        SseEvent(b"7"),
        SseEvent(b"null"),
        SseEvent(b'{"type": []}'),
        SseEvent(b'{"text": "x"}', b"content_block_delta"),
    ],
)
def test_what_is_not_known_or_lacks_everything_is_skipped(event):
    assert read(event, text("a"), event, ended("end_turn"), STOP) == [Delta("a"), COMPLETED]


def test_events_are_told_apart_by_their_json_and_need_no_name():
    unnamed = [SseEvent(event.data) for event in (text("a"), ended("end_turn"), STOP)]
    assert read(*unnamed) == [Delta("a"), COMPLETED]


def test_blocks_may_begin_with_content():
    events = read(block(0, "thinking", thinking="hm"), block(1, "text", text="a"), ended("end_turn"), STOP)
    assert events == [Delta("hm", DeltaKind.REASONING), Delta("a"), COMPLETED]


def test_thinking_that_is_omitted_leaves_only_its_signature_which_nobody_sees():
    hidden = [block(0, "thinking", thinking="", signature=""), delta(0, "signature_delta", signature="U0lH")]
    assert read(*hidden, text("a", 1), ended("end_turn"), STOP) == [Delta("a"), COMPLETED]


def test_nul_characters_and_half_characters_do_no_harm():
    half = SseEvent(rb'{"type":"content_block_delta","delta":{"type":"text_delta","text":"b\ud83d"}}')
    assert read(text("a\0"), half, STOP)[:2] == [Delta("a"), Delta("b\ufffd")]


def test_tool_calls_are_put_together_from_their_pieces():
    events = read(
        text("Looking."),
        block(1, "tool_use", id="toolu_1", name="weather", input={}),
        *(delta(1, "input_json_delta", partial_json=piece) for piece in ("", '{"city":', ' "北京"}')),
        block(2, "tool_use", id="toolu_2", name="now", input={}),
        ended("tool_use"),
        STOP,
    )
    assert events == [
        Delta("Looking."),
        ToolCall("toolu_1", "weather", '{"city": "北京"}'),
        ToolCall("toolu_2", "now", "{}"),
        Finish(FinishReason.TOOL_CALLS, "tool_use"),
    ]


def test_a_tool_that_the_server_runs_itself_is_no_call_of_ours():
    searched = [block(0, "server_tool_use", id="s", name="web_search"), delta(0, "input_json_delta", partial_json="{}")]
    assert read(*searched, text("a", 1), ended("end_turn"), STOP) == [Delta("a"), COMPLETED]


def test_a_call_that_comes_whole_keeps_its_arguments():
    whole = said("content_block_start", content_block={"type": "tool_use", "name": "f", "input": {"x": 1}})
    assert read(whole, ended("end_turn"), STOP) == [
        ToolCall("call_0", "f", '{"x":1}'),
        Finish(FinishReason.TOOL_CALLS, "end_turn"),
    ]


@pytest.mark.parametrize(
    ("first", "last", "usage"),
    [
        ({"input_tokens": 5, "output_tokens": 1}, {"output_tokens": 9}, Usage(5, 9)),
        ({"input_tokens": 5, "output_tokens": 1}, {"output_tokens": 9, "input_tokens": None}, Usage(5, 9)),
        ({"input_tokens": 5, "output_tokens": 4}, {"output_tokens": 4, "input_tokens": 7}, Usage(7, 4)),
        (
            {"input_tokens": 5, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 100},
            {"output_tokens": 3, "output_tokens_details": {"thinking_tokens": 2}},
            Usage(125, 3, reasoning_tokens=2, cached_tokens=100),
        ),
        ({"input_tokens": "5", "output_tokens_details": 7}, {"output_tokens": -1}, Usage()),
    ],
)
def test_usage_replaces_what_was_known_and_cached_tokens_are_part_of_the_prompt(first, last, usage):
    assert read(started(**first), text("a"), ended("end_turn", **last), STOP)[-2] == usage


def test_what_the_prompt_costs_is_told_at_once_and_not_as_the_whole_truth():
    reader = new_reader()
    cached = started(input_tokens=5, cache_read_input_tokens=100, output_tokens=1)
    assert reader.feed([cached]) == [Usage(105, 1, cached_tokens=100, source="estimated")]
    assert reader.feed([text("a")]) == [Delta("a")]
    assert reader.close() == []
    assert reader.failure is not None


@pytest.mark.parametrize("usage", [{}, {"input_tokens": 0, "output_tokens": 0}, {"output_tokens": 1}])
def test_a_prompt_that_was_not_counted_costs_nobody_knows_what(usage):
    assert new_reader().feed([started(**usage)]) == []


def test_an_end_that_tells_no_tokens_leaves_the_answer_to_be_estimated():
    assert read(started(input_tokens=3), text("a"), ended("end_turn"), STOP) == [AT_FIRST, Delta("a"), COMPLETED]


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (said("error", error={"type": "overloaded_error", "message": "Overloaded"}), errors.ProviderUnavailable),
        (said("error", error={"type": "api_error", "message": "?"}), errors.ProviderUnavailable),
        (said("error", error={"type": "rate_limit_error", "message": "?"}), errors.ProviderRateLimited),
        (said("error", error={"type": "invalid_request_error", "message": "?"}), errors.ProviderRejected),
        (said("error", error={"type": "permission_error", "message": "?"}), errors.ProviderAuth),
        (said("error", error="boom"), errors.ProviderUnavailable),
        (said("error"), errors.ProviderUnavailable),
        (SseEvent(b'{"error": {"message": "from a proxy"}}'), errors.ProviderUnavailable),
        (SseEvent(b"{"), errors.ProviderUnavailable),
        (
            said(
                "error",
                error={"type": "invalid_request_error", "message": "Output blocked by content filtering policy"},
            ),
            errors.ContentFiltered,
        ),
    ],
)
def test_an_error_ends_the_stream_after_what_was_said_and_spent(event, kind):
    reader = new_reader()
    assert reader.feed([started(input_tokens=3), text("a"), event, text("b"), STOP]) == [AT_FIRST, Delta("a")]
    assert type(reader.failure) is kind
    assert reader.close() == []


def test_an_event_of_a_kind_yet_unknown_may_look_like_anything():
    reader = new_reader()
    unknown = [SseEvent(b"{", b"news"), SseEvent(b"7", b"news"), SseEvent(b"", b"\xff")]
    assert Delta("a") in reader.feed([started(input_tokens=3), *unknown, text("a"), STOP])
    assert reader.failure is None
    reader = new_reader()
    reader.feed([SseEvent(b"{", b"content_block_delta")])
    assert type(reader.failure) is errors.ProviderUnavailable


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}', errors.ProviderUnavailable),
        (b"<html>", errors.ProviderUnavailable),
        (b"[]", errors.ProviderUnavailable),
        (b'{"type":"message","content":null}', errors.ProviderUnavailable),
        (b'{"type":"message","content":[7,{"type":"text"}]}', errors.ProviderUnavailable),
    ],
)
def test_a_body_without_an_answer_is_a_failure(body, kind):
    reader = new_reader()
    assert reader.whole(body) == []
    assert type(reader.failure) is kind


def test_a_body_may_call_tools():
    content = [{"type": "tool_use", "id": "t", "name": "f", "input": {"x": 1}}, {"type": "tool_use", "id": "u"}]
    body = orjson.dumps({"content": content, "stop_reason": "tool_use"})
    assert new_reader().whole(body) == [
        ToolCall("t", "f", '{"x":1}'),
        ToolCall("u", "", "{}"),
        Finish(FinishReason.TOOL_CALLS, "tool_use"),
    ]
