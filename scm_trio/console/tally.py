"""What a load run measures, and how it is summed up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import ceil

import attrs
from attrs import define, frozen

from scm_trio.client import Chat, ChatError, ClientError, ConnectionLost, GaveUp, HandshakeRefused
from scm_trio.protocol import messages


@frozen
class Percentiles:
    """Milliseconds, by nearest rank; None without samples."""

    p50: float | None
    p90: float | None
    p99: float | None

    @classmethod
    def of(cls, samples_s: list[float]) -> Percentiles:
        ordered = sorted(samples_s)
        if not ordered:
            return cls(None, None, None)
        return cls(*(round(ordered[ceil(len(ordered) * part) - 1] * 1000, 1) for part in (0.50, 0.90, 0.99)))


@frozen
class Report:
    """The outcome of a run. ``failed`` counts every question that did not get a whole, good answer.

    ``reconnects``: how often a client came back after a broken connection; its answers went on. ``divergences``: answers
    whose text was not what the server had sent; there must be none.
    """

    clients: int
    answers_ok: int
    failed: int
    seconds: float
    first_token_ms: Percentiles
    total_ms: Percentiles
    tokens_per_s: float
    received_bytes: int
    reconnects: int
    divergences: int
    errors: dict[str, int]


@define
class Tally:
    """What is counted while the clients run."""

    clock: Callable[[], float]
    progress: Callable[[int], None]
    first_s: list[float] = attrs.Factory(list)
    total_s: list[float] = attrs.Factory(list)
    tokens: int = 0
    received_bytes: int = 0
    reconnects: int = 0
    divergences: int = 0
    errors: Counter[str] = attrs.Factory(Counter)

    def succeed(self, first_s: float, total_s: float, usage: messages.TokenUsage | None) -> None:
        self.first_s.append(first_s)
        self.total_s.append(total_s)
        self.tokens += usage.completion_tokens if usage else 0
        self.progress(1)

    def fail(self, code: str, questions: int = 1) -> None:
        self.errors[code] += questions
        self.progress(questions)

    def leave(self, chat: Chat) -> None:
        """Count what a client's connections were like."""
        self.received_bytes += chat.received_bytes
        self.reconnects += chat.reconnects
        self.divergences += chat.divergences

    def report(self, clients: int, seconds: float) -> Report:
        return Report(
            clients=clients,
            answers_ok=len(self.total_s),
            failed=self.errors.total(),
            seconds=round(seconds, 3),
            first_token_ms=Percentiles.of(self.first_s),
            total_ms=Percentiles.of(self.total_s),
            tokens_per_s=round(self.tokens / seconds, 1) if seconds else 0.0,
            received_bytes=self.received_bytes,
            reconnects=self.reconnects,
            divergences=self.divergences,
            errors=dict(self.errors.most_common()),
        )


def code_of(failure: ClientError) -> str:
    """The word under which a failure is counted."""
    match failure:
        case ChatError():
            return failure.code
        case HandshakeRefused():
            return f"HTTP {failure.status} {failure.code}".rstrip()
        case GaveUp(__cause__=ClientError() as cause):
            return code_of(cause)
        case ConnectionLost(close_code=int(code)):
            return f"CLOSED {code}"
        case ConnectionLost():
            return "UNREACHABLE"
        case _:
            return type(failure).__name__.upper()
