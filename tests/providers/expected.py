"""The vendors' sample answers, and what a correct reader makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from scm_trio import errors
from scm_trio.model import Delta, DeltaKind, Finish, FinishReason, ProviderEvent, ToolCall, Usage
from scm_trio.providers.answer_reader import AnswerReader
from scm_trio.providers.sse import SseDecoder

SAMPLES = Path(__file__).parent / "samples"
REASONS = {
    "stop": FinishReason.COMPLETED,
    "length": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
    "tool_calls": FinishReason.TOOL_CALLS,
}
KINDS = {
    "auth": errors.ProviderAuth,
    "quota": errors.ProviderAuth,
    "rate_limited": errors.ProviderRateLimited,
    "overloaded": errors.ProviderUnavailable,
    "server_error": errors.ProviderUnavailable,
    "truncated": errors.ProviderUnavailable,
    "content_filter": errors.ContentFiltered,
    "context_length": errors.ContextTooLong,
    "bad_request": errors.ProviderRejected,
    "protocol": errors.ProviderRejected,
    "not_found": errors.ModelUnknown,
}


def expected_of(protocol: str) -> dict[str, dict]:
    """What is expected of each sample whose protocol begins so.

    ``expected.json`` came with the vendors' samples; ``described.json`` is of those that were made from descriptions.
    """
    everything = {}
    for file in ("expected.json", "described.json"):
        everything |= json.loads((SAMPLES / file).read_text(encoding="utf-8"))
    return {name: expected for name, expected in everything.items() if expected["protocol"].startswith(protocol)}


def http_errors(*vendors: str) -> list[dict]:
    """The refusals of these vendors, and those that come from any proxy."""
    cases = json.loads((SAMPLES / "http_errors.json").read_text())
    return [case for case in cases if case["provider"] in (*vendors, "any") and case["status"] != 200]


def cut(data: bytes, size: int) -> list[bytes]:
    """Network reads of so many bytes each."""
    return [data[start : start + size] for start in range(0, len(data), size)]


def read_stream(reads: Iterable[bytes], reader: AnswerReader) -> list[ProviderEvent]:
    decoder = SseDecoder()
    events = [event for data in reads for event in reader.feed(decoder.feed(data))]
    return [*events, *reader.feed(decoder.close()), *reader.close()]


def check(events: list[ProviderEvent], failure: errors.RequestFailed | None, expected: dict) -> None:
    def said(kind: DeltaKind) -> str:
        return "".join(event.text for event in events if isinstance(event, Delta) and event.kind is kind)

    assert said(DeltaKind.TEXT) == expected.get("text", "")
    assert said(DeltaKind.REASONING) == expected.get("reasoning", "")
    assert said(DeltaKind.REFUSAL) == expected.get("refusal", "")
    calls = [(event.call_id, event.name, event.arguments) for event in events if isinstance(event, ToolCall)]
    assert calls == [(call["id"], call["name"], call["arguments"]) for call in expected.get("tool_calls", [])]
    usages = [event for event in events if isinstance(event, Usage)][-1:]  # an early one knows the prompt only
    assert [usage_words(usage, expected["usage"]) for usage in usages] == (
        [expected["usage"]] if expected.get("usage") else []
    )
    if expected["finish_reason"] == "error":
        assert type(failure) is KINDS[expected["error"]["kind"]]
        assert failure.retryable is expected["error"]["retryable"]
        assert not [event for event in events if isinstance(event, Finish)]
    else:
        assert failure is None
        raw = expected.get("raw_finish_reason", events[-1].raw)
        assert events[-1] == Finish(REASONS[expected["finish_reason"]], raw)
        assert sum(isinstance(event, Finish) for event in events) == 1


def check_refusal(failure: errors.RequestFailed, expected: dict) -> None:
    assert type(failure) is KINDS[expected["kind"]]
    assert failure.retryable is expected["retryable"]
    assert failure.retry_after_s == expected["retry_after_seconds"]
    assert (failure.field == "quota") is (expected["kind"] == "quota")


def usage_words(usage: Usage, like: dict) -> dict:
    words = {
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "cached_input_tokens": usage.cached_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
    }
    return {name: count for name, count in words.items() if name in like or count}
