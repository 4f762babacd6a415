"""Reading answers of Anthropic's Messages API. No clock, no network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from scm_trio.model import DeltaKind, FinishReason, ProviderEvent, Usage, UsageSource
from scm_trio.providers import tolerant_json
from scm_trio.providers.answer_reader import AnswerReader, count
from scm_trio.providers.openai_errors import Classifier, VendorError, error_in
from scm_trio.providers.sse import SseEvent
from scm_trio.providers.tool_calls import ToolCalls

_REASONS = {
    "end_turn": FinishReason.COMPLETED,
    "stop_sequence": FinishReason.COMPLETED,
    "pause_turn": FinishReason.COMPLETED,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.CONTENT_FILTER,
}
"""Any other reason is a newer word for a proper end."""
_Events = list[ProviderEvent]


class AnthropicReader(AnswerReader):
    """Reads an answer by the types in its JSON; what is of no known type is skipped, as the API's versioning asks.

    Only ``message_stop`` ends a streamed answer: one that breaks off before is a failure, whatever came.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__(classifier)
        self._calls = ToolCalls(without_arguments="{}")
        self._counts: dict[str, Any] = {}
        self._is_counted = False  # the answer's tokens too: a stream begins with those of the prompt
        self._calling: set[int] = set()
        """Indexes of the blocks that are tool calls of ours; there are others, of tools that the server runs itself."""

    def feed(self, events: Iterable[SseEvent]) -> _Events:
        """Return what ``events`` of the stream say, in order."""
        out: _Events = []
        for event in events:
            if self.ended:
                break
            # One of a kind that is not known yet may look like anything.
            is_known = not event.name or event.name.decode("utf-8", "replace") in self._readers
            if payload := self._parse(event.data, out if is_known else None):
                kind = payload.get("type")
                read = self._readers.get(kind) if isinstance(kind, str) else None
                if read is not None:
                    read(self, payload, out)
                elif (error := error_in(payload)) is not None:
                    self._fail(self.classifier.failed(error), out)
        return out

    def whole(self, body: bytes) -> _Events:
        """Return all events of an answer that came as one JSON body."""
        out: _Events = []
        message = self._parse(body, out)
        if self.ended:
            return out
        if (error := error_in(message)) is not None:
            self._fail(self.classifier.failed(error), out)
            return out
        content = message.get("content")
        for index, block in enumerate(content if isinstance(content, list) else ()):
            self._read_block(index, block, out)
        self._note(message, at_end=True)
        self._read_stop(message, out)
        return out

    def close(self) -> _Events:
        """Tell the end of the connection."""
        out: _Events = []
        if not self.ended:
            self._fail(self.classifier.unavailable("truncated: the answer broke off"), out)
        return out

    def _parse(self, data: bytes, out: _Events | None) -> dict[str, Any]:
        """Read an object; empty where it is none, which ends the answer unless ``out`` is None."""
        try:
            payload = tolerant_json.loads(data)
        except ValueError:
            if out is not None:
                self._fail(self.classifier.unavailable("a part of the answer is no JSON"), out)
            return {}
        return payload if isinstance(payload, dict) else {}

    def _read_delta(self, payload: dict[str, Any], out: _Events) -> None:
        delta = payload.get("delta")
        if not isinstance(delta, dict):
            return
        kind = delta.get("type")
        if kind == "text_delta":
            self._say(_text(delta, "text"), DeltaKind.TEXT, out)
        elif kind == "thinking_delta":
            self._say(_text(delta, "thinking"), DeltaKind.REASONING, out)
        elif kind == "input_json_delta" and (index := _index(payload)) in self._calling:
            self._calls.add({"index": index, "function": {"arguments": _text(delta, "partial_json")}})

    def _read_block_start(self, payload: dict[str, Any], out: _Events) -> None:
        self._read_block(_index(payload), payload.get("content_block"), out)

    def _read_block(self, index: int, block: Any, out: _Events) -> None:
        """Read a whole block, or what the first event of a streamed one already holds of it."""
        if not isinstance(block, dict):
            return
        kind = block.get("type")
        if kind == "text":
            self._say(_text(block, "text"), DeltaKind.TEXT, out)
        elif kind == "thinking":
            self._say(_text(block, "thinking"), DeltaKind.REASONING, out)
        elif kind == "tool_use":
            self._calling.add(index)
            function = {"name": block.get("name"), "arguments": block.get("input")}
            self._calls.add({"index": index, "id": block.get("id"), "function": function})

    def _read_message_start(self, payload: dict[str, Any], out: _Events) -> None:
        if isinstance(message := payload.get("message"), dict):
            self._note(message, at_end=False)
            if self._usage is not None and self._usage.prompt_tokens:
                # At once: who leaves early would not hear of it, and the count is exact.
                self._tell_usage(out)

    def _read_message_delta(self, payload: dict[str, Any], _: _Events) -> None:
        delta = payload.get("delta")
        self._note({**(delta if isinstance(delta, dict) else {}), "usage": payload.get("usage")}, at_end=True)

    def _note(self, message: dict[str, Any], *, at_end: bool) -> None:
        """Keep what a message, or a change of it, says of its end and its tokens. Counts are totals, never added up."""
        if reason := message.get("stop_reason"):
            self._raw_reason = str(reason)
        if isinstance(usage := message.get("usage"), dict):
            self._counts |= {name: number for name, number in usage.items() if number is not None}
            self._is_counted = self._is_counted or (at_end and "output_tokens" in usage)
            source: UsageSource = "provider" if self._is_counted else "estimated"
            self._usage = _usage(self._counts, source) if self._counts else None

    def _read_stop(self, _: dict[str, Any], out: _Events) -> None:
        raw = self._raw_reason
        if raw is None and not self._said_something and not self._calls.slots:
            self._fail(self.classifier.unavailable("empty: the answer says nothing"), out)
        else:
            self._finish(_REASONS.get(raw or "end_turn", FinishReason.COMPLETED), out)

    def _read_error(self, payload: dict[str, Any], out: _Events) -> None:
        self._fail(self.classifier.failed(error_in(payload) or VendorError()), out)

    _readers: ClassVar[Mapping[str, Callable[..., None]]] = {
        "message_start": _read_message_start,
        "content_block_start": _read_block_start,
        "content_block_delta": _read_delta,
        "message_delta": _read_message_delta,
        "message_stop": _read_stop,
        "error": _read_error,
    }


def _text(holder: dict[str, Any], name: str) -> str:
    text = holder.get(name)
    return text if isinstance(text, str) else ""


def _index(payload: dict[str, Any]) -> int:
    index = payload.get("index")
    return index if isinstance(index, int) else 0


def _usage(counts: dict[str, Any], source: UsageSource) -> Usage:
    cached = count(counts, "cache_read_input_tokens")
    return Usage(
        # Unlike other vendors' counts, input_tokens holds only what no cache was involved in.
        prompt_tokens=count(counts, "input_tokens") + count(counts, "cache_creation_input_tokens") + cached,
        completion_tokens=count(counts, "output_tokens"),
        reasoning_tokens=count(counts.get("output_tokens_details"), "thinking_tokens"),
        cached_tokens=cached,
        source=source,
    )
