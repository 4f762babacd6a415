"""What a load run measures, and how it is summed up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import ceil

import attrs
from attrs import define, frozen

from scm_trio.client import ChatError, ClientError, ConnectionLost, HandshakeRefused
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
    """The outcome of a run. ``failed`` counts every question that did not get a whole, good answer."""

    clients: int
    answers_ok: int
    failed: int
    seconds: float
    first_token_ms: Percentiles
    total_ms: Percentiles
    tokens_per_s: float
    received_bytes: int
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
    errors: Counter[str] = attrs.Factory(Counter)

    def succeed(self, first_s: float, total_s: float, usage: messages.TokenUsage | None) -> None:
        self.first_s.append(first_s)
        self.total_s.append(total_s)
        self.tokens += usage.completion_tokens if usage else 0
        self.progress(1)

    def fail(self, code: str, questions: int = 1) -> None:
        self.errors[code] += questions
        self.progress(questions)

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
            errors=dict(self.errors.most_common()),
        )


def code_of(failure: ClientError) -> str:
    """The word under which a failure is counted."""
    match failure:
        case ChatError():
            return failure.code
        case HandshakeRefused():
            return f"HTTP {failure.status} {failure.code}".rstrip()
        case ConnectionLost(close_code=int(code)):
            return f"CLOSED {code}"
        case ConnectionLost():
            return "UNREACHABLE"
        case _:
            return type(failure).__name__.upper()
