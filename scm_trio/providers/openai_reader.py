"""Reading answers in OpenAI's chat format, as OpenAI and the many servers like it send them. No clock, no network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
from attrs import define, field

from scm_trio.errors import RequestFailed
from scm_trio.model import Delta, DeltaKind, Finish, FinishReason, ProviderEvent, ToolCall, Usage
from scm_trio.providers import tolerant_json
from scm_trio.providers.openai_errors import Classifier, VendorError, error_field, error_in
from scm_trio.providers.sse import SseEvent

_DONE = b"[DONE]"
_REASONS = {
    "stop": FinishReason.COMPLETED,
    "length": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
    "sensitive": FinishReason.CONTENT_FILTER,
    "refusal": FinishReason.CONTENT_FILTER,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
}
"""Any other reason is some server's own word for a proper end."""
_BROKEN = frozenset({"error", "insufficient_system_resource", "network_error"})


class OpenAiReader:
    """Turns one answer, streamed or whole, into events; tolerant of everything that servers leave out or add.

    Text comes at once. Tool calls, usage and the finish are held back until the answer's end mark, because usage may
    follow the finish reason.

    Attributes:
        ended: whether the answer is over; nothing comes after that.
        failure: why it failed. It is to be raised when the events that came with it have been passed on.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.ended = False
        self.failure: RequestFailed | None = None
        self._classifier = classifier
        self._raw_reason: str | None = None
        self._usage: Usage | None = None
        self._calls = _ToolCalls()
        self._said_something = False
        self._refused = False

    def feed(self, events: Iterable[SseEvent]) -> list[ProviderEvent]:
        """Return what ``events`` of the stream say, in order."""
        out: list[ProviderEvent] = []
        for event in events:
            if self.ended:
                break
            if event.error:
                self._fail(self._classifier.failed(error_field(event.error)), out)
            elif event.data.startswith(_DONE):
                self._end(out, marked=True)
            else:
                self._read(event.data, out)
        return out

    def whole(self, body: bytes) -> list[ProviderEvent]:
        """Return all events of an answer that came as one JSON body."""
        out: list[ProviderEvent] = []
        self._read(body, out)
        self._end(out, marked=True)
        return out

    def close(self) -> list[ProviderEvent]:
        """Tell the end of the connection, and return what was held back if the answer was over."""
        out: list[ProviderEvent] = []
        self._end(out, marked=False)
        return out

    def _read(self, data: bytes, out: list[ProviderEvent]) -> None:
        """Read one chunk of a stream, or a whole body, which has a ``message`` where a chunk has a ``delta``."""
        try:
            chunk = tolerant_json.loads(data)
        except ValueError:
            self._fail(self._classifier.unavailable("a part of the answer is no JSON"), out)
            return
        if not isinstance(chunk, dict):
            return
        choices = chunk.get("choices")
        # What has choices and no error is no error in any of its shapes: nearly every chunk.
        if (not choices or "error" in chunk) and (error := error_in(chunk)) is not None:
            self._fail(self._classifier.failed(error), out)
            return
        usage = chunk.get("usage")
        # The first choice is the only one: more are never asked for.
        if choices and isinstance(choices, list) and isinstance(choice := choices[0], dict):
            if isinstance(delta := choice.get("delta") or choice.get("message"), dict):
                self._read_delta(delta, out)
            if reason := choice.get("finish_reason"):
                self._raw_reason = str(reason)
            usage = usage or choice.get("usage")
        if usage:
            self._usage = _usage(usage) or self._usage

    def _read_delta(self, delta: dict[str, Any], out: list[ProviderEvent]) -> None:
        # Some servers send both, with the same text.
        if reasoning := delta.get("reasoning_content") or delta.get("reasoning"):
            self._say(reasoning, DeltaKind.REASONING, out)
        if content := delta.get("content"):
            self._say(content, DeltaKind.TEXT, out)
        if refusal := delta.get("refusal"):
            self._refused = True
            self._say(refusal, DeltaKind.REFUSAL, out)
        if calls := delta.get("tool_calls"):
            self._calls.add(calls)
        elif call := delta.get("function_call"):
            self._calls.add([{"function": call}])

    def _say(self, content: Any, kind: DeltaKind, out: list[ProviderEvent]) -> None:
        text = content if isinstance(content, str) else _text_of_parts(content)
        if "\0" in text:  # which databases and browsers do not take
            text = text.replace("\0", "")
        if text:
            self._said_something = True
            out.append(Delta(text, kind))

    def _end(self, out: list[ProviderEvent], *, marked: bool) -> None:
        """End the answer by its mark or, not ``marked``, because nothing more can come."""
        if self.ended:
            return
        raw = self._raw_reason
        if raw in _BROKEN:
            self._fail(self._classifier.failed(VendorError(code=raw)), out)
        elif raw is None and not marked:
            self._fail(self._classifier.unavailable("truncated: the answer broke off"), out)
        elif raw is None and not self._said_something and not self._calls.slots:
            self._fail(self._classifier.unavailable("empty: the answer says nothing"), out)
        else:
            calls = self._calls.whole()
            out += calls
            self._tell_usage(out)
            out.append(Finish(self._reason(called=bool(calls)), raw))
            self.ended = True

    def _fail(self, failure: RequestFailed, out: list[ProviderEvent]) -> None:
        self._tell_usage(out)  # what failed may still be billed
        self.failure = failure
        self.ended = True

    def _tell_usage(self, out: list[ProviderEvent]) -> None:
        if self._usage is not None:
            out.append(self._usage)

    def _reason(self, *, called: bool) -> FinishReason:
        reason = _REASONS.get(self._raw_reason or "stop", FinishReason.COMPLETED)
        if reason is FinishReason.COMPLETED and self._refused:
            return FinishReason.CONTENT_FILTER
        if reason is FinishReason.COMPLETED and called:
            return FinishReason.TOOL_CALLS
        return reason


@define
class _Slot:
    call_id: str = ""
    name: str = ""
    arguments: list[str] = field(factory=list)


class _ToolCalls:
    """Puts tool calls together from fragments, which name their call by its index; id and name come only once."""

    def __init__(self) -> None:
        self.slots: list[_Slot] = []
        self._by_index: dict[object, _Slot] = {}

    def add(self, fragments: Any) -> None:
        if isinstance(fragments, dict):  # Spark: a single one without a list
            fragments = [fragments]
        if not isinstance(fragments, list):
            return
        for position, fragment in enumerate(fragments):
            if isinstance(fragment, dict):
                self._add(fragment, position)

    def whole(self) -> list[ToolCall]:
        return [
            ToolCall(slot.call_id or f"call_{position}", slot.name, "".join(slot.arguments).replace("\0", ""))
            for position, slot in enumerate(self.slots)
        ]

    def _add(self, fragment: dict[str, Any], position: int) -> None:
        index = fragment.get("index")
        key = index if isinstance(index, int) else position
        call_id = str(fragment.get("id") or "")
        slot = self._by_index.get(key)
        # A new id is a new call, also where every call has the index 0 or none has one.
        if slot is None or (call_id and slot.call_id and call_id != slot.call_id):
            slot = self._by_index[key] = _Slot()
            self.slots.append(slot)
        slot.call_id = slot.call_id or call_id
        function = fragment.get("function")
        if isinstance(function, dict):
            slot.name = slot.name or str(function.get("name") or "")
            if arguments := function.get("arguments"):
                slot.arguments.append(arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode())


def _text_of_parts(content: Any) -> str:
    if not isinstance(content, list):
        return ""
    texts = (part.get("text") for part in content if isinstance(part, dict))
    return "".join(text for text in texts if isinstance(text, str))


def _usage(usage: Any) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    details = usage.get("completion_tokens_details")
    return Usage(
        prompt_tokens=_count(usage, "prompt_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
        reasoning_tokens=_count(details, "reasoning_tokens"),
        # OpenAI, DeepSeek, Moonshot
        cached_tokens=_count(usage.get("prompt_tokens_details"), "cached_tokens")
        or _count(usage, "prompt_cache_hit_tokens")
        or _count(usage, "cached_tokens"),
    )


def _count(counts: Any, name: str) -> int:
    count = counts.get(name) if isinstance(counts, dict) else None
    return count if isinstance(count, int) and count > 0 else 0
