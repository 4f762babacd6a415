"""Reading Spark's answers. No clock, no network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from scm_trio.model import DeltaKind, FinishReason, ProviderEvent, Usage
from scm_trio.providers import tolerant_json
from scm_trio.providers.answer_reader import AnswerReader, count
from scm_trio.providers.openai_errors import Classifier, VendorError, error_in, own_code_in
from scm_trio.providers.openai_reader import OpenAiReader
from scm_trio.providers.sse import SseEvent

_LAST = 2
_Events = list[ProviderEvent]


class SparkReader(AnswerReader):
    """Reads the frames of an answer over WebSocket.

    Only a frame of status 2 ends it properly: an answer that breaks off before is a failure, whatever came.
    """

    def __init__(self, classifier: Classifier, max_tokens: int | None = None) -> None:
        super().__init__(classifier)
        self._max_tokens = max_tokens

    def read(self, frame: str | bytes) -> _Events:
        """Return what one frame says."""
        out: _Events = []
        if self.ended:
            return out
        try:
            message = tolerant_json.loads(frame.encode() if isinstance(frame, str) else frame)
        except ValueError:
            self._fail(self.classifier.unavailable("a part of the answer is no JSON"), out)
            return out
        header, payload = _part(message, "header"), _part(message, "payload")
        self._usage = _usage(payload) or self._usage
        if (error := _error(header) or error_in(message)) is not None:
            self._fail(self.classifier.failed(error), out)
            return out
        choices = _part(payload, "choices")
        texts = choices.get("text")
        for text in texts if isinstance(texts, list) else ():
            if isinstance(text, dict):
                self._read_text(text, out)
        if _LAST in (header.get("status"), choices.get("status")):
            self._end(out)
        return out

    def feed(self, events: Iterable[SseEvent]) -> _Events:
        """Return what frames say that come as events."""
        return [said for event in events for said in self.read(event.data)]

    def whole(self, body: bytes) -> _Events:
        """Return all events of an answer of one frame."""
        return [*self.read(body), *self.close()]

    def close(self, how: str = "the answer broke off") -> _Events:
        """Tell the end of the connection, and how it came."""
        out: _Events = []
        if not self.ended:
            self._fail(self.classifier.unavailable(f"truncated: {how}"), out)
        return out

    def _read_text(self, text: dict[str, Any], out: _Events) -> None:
        for name, kind in (("reasoning_content", DeltaKind.REASONING), ("content", DeltaKind.TEXT)):
            if isinstance(said := text.get(name), str):
                self._say(said, kind, out)
        if isinstance(call := text.get("function_call"), dict):
            # Calls have neither id nor index: one with a name is a new one.
            index = len(self._calls.slots) - (0 if call.get("name") else 1)
            self._calls.add({"index": max(index, 0), "function": call})

    def _end(self, out: _Events) -> None:
        if not self._said_something and not self._calls.slots:
            self._fail(self.classifier.unavailable("empty: the answer says nothing"), out)
            return
        self._raw_reason = f"status={_LAST}"
        self._finish(FinishReason.COMPLETED, out)

    def _finish(self, reason: FinishReason, out: _Events) -> None:
        super()._finish(_told_or_guessed(reason, self._usage, self._max_tokens), out)


class SparkHttpReader(OpenAiReader):
    """Reads answers over HTTP, which look like OpenAI's but never say why they end."""

    def __init__(self, classifier: Classifier, max_tokens: int | None = None) -> None:
        super().__init__(classifier)
        self._max_tokens = max_tokens

    def _error_in(self, chunk: dict[str, Any]) -> VendorError | None:
        # What an audit has refused comes with its code, and must not be shown.
        return own_code_in(chunk) or super()._error_in(chunk)

    def _finish(self, reason: FinishReason, out: _Events) -> None:
        if self._raw_reason is None:
            reason = _told_or_guessed(reason, self._usage, self._max_tokens)
        super()._finish(reason, out)


def _told_or_guessed(reason: FinishReason, usage: Usage | None, max_tokens: int | None) -> FinishReason:
    """Nobody says that an answer was cut at its limit; that it has reached it says so too."""
    if reason is FinishReason.COMPLETED and max_tokens is not None and usage and usage.completion_tokens >= max_tokens:
        return FinishReason.LENGTH
    return reason


def _part(message: Any, name: str) -> dict[str, Any]:
    part = message.get(name) if isinstance(message, dict) else None
    return part if isinstance(part, dict) else {}


def _error(header: dict[str, Any]) -> VendorError | None:
    code = str(header.get("code") or 0)
    if code == "0":
        return None
    # The vendor's support asks for the id of the session.
    words = (header.get("message"), header.get("sid"))
    return VendorError(" ".join(str(word) for word in words if word), code)


def _usage(payload: dict[str, Any]) -> Usage | None:
    counts = _part(payload, "usage").get("text")
    if not isinstance(counts, dict):
        return None
    return Usage(count(counts, "prompt_tokens"), count(counts, "completion_tokens"))
