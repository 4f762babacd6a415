"""Reading one answer, whatever the vendor: what is told at once, what is held back, and how it ends. No clock, no network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from scm_trio.errors import RequestFailed
from scm_trio.model import Delta, DeltaKind, Finish, FinishReason, ProviderEvent, Usage
from scm_trio.providers.openai_errors import Classifier
from scm_trio.providers.sse import SseEvent
from scm_trio.providers.tool_calls import ToolCalls


class AnswerReader(ABC):
    """Turns one answer, streamed or whole, into events.

    Text comes at once. Tool calls, usage and the finish are held back until the answer's end mark.

    Attributes:
        classifier: turns the vendor's errors into failures.
        ended: whether the answer is over; nothing comes after that.
        has_reason: whether the vendor has said why the answer ends, after which it is whole without an end mark, too.
        failure: why it failed. It is to be raised when the events that came with it have been passed on.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self.ended = False
        self.has_reason = False
        self.failure: RequestFailed | None = None
        self._raw_reason: str | None = None
        self._usage: Usage | None = None
        self._told_usage: Usage | None = None
        self._calls = ToolCalls()
        self._said_something = False

    @abstractmethod
    def feed(self, events: Iterable[SseEvent]) -> list[ProviderEvent]:
        """Return what ``events`` of the stream say, in order."""

    @abstractmethod
    def whole(self, body: bytes) -> list[ProviderEvent]:
        """Return all events of an answer that came as one JSON body."""

    @abstractmethod
    def close(self) -> list[ProviderEvent]:
        """Tell the end of the connection, and return what was held back if the answer was over."""

    def _say(self, text: str, kind: DeltaKind, out: list[ProviderEvent]) -> None:
        if "\0" in text:  # which databases and browsers do not take
            text = text.replace("\0", "")
        if text:
            self._said_something = True
            out.append(Delta(text, kind))

    def _finish(self, reason: FinishReason, out: list[ProviderEvent]) -> None:
        """Tell what was held back, and the proper end."""
        calls = self._calls.whole()
        if calls and reason is FinishReason.COMPLETED:
            reason = FinishReason.TOOL_CALLS
        out += calls
        self._tell_usage(out)
        out.append(Finish(reason, self._raw_reason))
        self.ended = True

    def _fail(self, failure: RequestFailed, out: list[ProviderEvent]) -> None:
        self._tell_usage(out)  # what failed may still be billed
        self.failure = failure
        self.ended = True

    def _tell_usage(self, out: list[ProviderEvent]) -> None:
        if self._usage is not None and self._usage != self._told_usage:
            out.append(self._usage)
            self._told_usage = self._usage


MAX_COUNT = 2**31
"""Larger counts are nonsense, and the ledger's columns could not hold them."""


def count(counts: Any, name: str) -> int:
    """Return the count of that name; 0 where there is none, or something else, or more than anybody can count."""
    number = counts.get(name) if isinstance(counts, dict) else None
    return number if isinstance(number, int) and 0 < number < MAX_COUNT else 0
