"""Reading answers in OpenAI's chat format, as OpenAI and the many servers like it send them. No clock, no network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from scm_trio.errors import RequestFailed
from scm_trio.model import DeltaKind, FinishReason, ProviderEvent, Usage
from scm_trio.providers import tolerant_json
from scm_trio.providers.answer_reader import AnswerReader, count
from scm_trio.providers.openai_errors import Classifier, VendorError, error_field, error_in, error_in_body
from scm_trio.providers.sse import SseEvent
from scm_trio.providers.think_tags import ThinkTags

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


class OpenAiReader(AnswerReader):
    """Reads an answer, tolerant of everything that servers leave out or add.

    The finish waits for the end mark, because usage may follow the finish reason.
    """

    def __init__(self, classifier: Classifier, think_tags: ThinkTags | None = None) -> None:
        super().__init__(classifier)
        self._refused = False
        self._think_tags = think_tags

    def feed(self, events: Iterable[SseEvent]) -> list[ProviderEvent]:
        """Return what ``events`` of the stream say, in order."""
        out: list[ProviderEvent] = []
        for event in events:
            if self.ended:
                break
            if event.error:
                self._fail(self.classifier.failed(error_field(event.error)), out)
            elif event.name == b"error":
                self._fail(self.classifier.failed(error_in_body(event.data)), out)
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
            self._fail(self.classifier.unavailable("a part of the answer is no JSON"), out)
            return
        if not isinstance(chunk, dict):
            return
        if (error := self._error_in(chunk)) is not None:
            self._fail(self.classifier.failed(error), out)
            return
        choices = chunk.get("choices")
        usage = chunk.get("usage")
        # The first choice is the only one: more are never asked for.
        if choices and isinstance(choices, list) and isinstance(choice := choices[0], dict):
            if isinstance(delta := choice.get("delta") or choice.get("message"), dict):
                self._read_delta(delta, out)
            if reason := choice.get("finish_reason"):
                self._raw_reason = str(reason)
                self.has_reason = True
            usage = usage or choice.get("usage")
        if usage:
            self._usage = _usage(usage) or self._usage

    def _error_in(self, chunk: dict[str, Any]) -> VendorError | None:
        # What has choices and no error is no error in any of its shapes: nearly every chunk.
        return None if chunk.get("choices") and "error" not in chunk else error_in(chunk)

    def _read_delta(self, delta: dict[str, Any], out: list[ProviderEvent]) -> None:
        # Some servers send both, with the same text.
        if reasoning := delta.get("reasoning_content") or delta.get("reasoning"):
            self._say(_text(reasoning), DeltaKind.REASONING, out)
        if content := delta.get("content"):
            self._say_text(_text(content), out)
        if refusal := delta.get("refusal"):
            self._refused = True
            self._say(_text(refusal), DeltaKind.REFUSAL, out)
        if calls := delta.get("tool_calls"):
            self._calls.add(calls)
        elif call := delta.get("function_call"):
            self._calls.add([{"function": call}])

    def _say_text(self, text: str, out: list[ProviderEvent]) -> None:
        if self._think_tags is None or self._think_tags.is_over:
            self._say(text, DeltaKind.TEXT, out)
        else:
            for kind, piece in self._think_tags.feed(text):
                self._say(piece, kind, out)

    def _say_what_was_held(self, out: list[ProviderEvent]) -> None:
        for kind, piece in self._think_tags.close() if self._think_tags is not None else ():
            self._say(piece, kind, out)

    def _fail(self, failure: RequestFailed, out: list[ProviderEvent]) -> None:
        self._say_what_was_held(out)
        super()._fail(failure, out)

    def _end(self, out: list[ProviderEvent], *, marked: bool) -> None:
        """End the answer by its mark or, not ``marked``, because nothing more can come."""
        if self.ended:
            return
        self._say_what_was_held(out)
        raw = self._raw_reason
        if raw in _BROKEN:
            self._fail(self.classifier.failed(VendorError(code=raw)), out)
        elif raw is None and not marked:
            self._fail(self.classifier.unavailable("truncated: the answer broke off"), out)
        elif raw is None and not self._said_something and not self._calls.slots:
            self._fail(self.classifier.unavailable("empty: the answer says nothing"), out)
        else:
            reason = _REASONS.get(raw or "stop", FinishReason.COMPLETED)
            if reason is FinishReason.COMPLETED and self._refused:
                reason = FinishReason.CONTENT_FILTER
            self._finish(reason, out)


def _text(content: Any) -> str:
    return content if isinstance(content, str) else _text_of_parts(content)


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
        prompt_tokens=count(usage, "prompt_tokens"),
        completion_tokens=count(usage, "completion_tokens"),
        reasoning_tokens=count(details, "reasoning_tokens"),
        # OpenAI, DeepSeek, Moonshot
        cached_tokens=count(usage.get("prompt_tokens_details"), "cached_tokens")
        or count(usage, "prompt_cache_hit_tokens")
        or count(usage, "cached_tokens"),
    )
