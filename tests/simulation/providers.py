"""Scripted providers that fail in every way, and a record of what was really asked of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random

import trio
from attrs import define, field

from scm_trio.errors import (
    ContentFiltered,
    ContextTooLong,
    ProviderAuth,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnavailable,
    RequestFailed,
    TimedOut,
)
from scm_trio.model import Delta, DeltaKind, Finish, FinishReason, Prompt, ToolCall, Usage
from scm_trio.providers.base import Batch as Events
from scm_trio.providers.scripted import Batch, Fail, Pause, Reasoning, Scripted, SlowClose, Stall, Step

AT_LENGTH = ", at length"
"""A question that ends so is answered for longer than the server lets anybody speak."""
BROKEN_OFF = "broken off"
"""A ``Finish`` marked so is not told: the stream just ends there."""
WORDS = ("supply ", "链", "chain 🚚 ", "é", "物流", "<b>", '"\\', "\u2028", "end. ", "\n")


@define(eq=False)
class Call:
    """One upstream attempt that was really made. Times are Trio's.

    Attributes:
        said: the pieces of text that the run was handed, with their times.
        finish: how the provider ended by itself, if it did.
        close_s: how long it takes to close.
    """

    question: str
    provider: str
    began_at: float
    closed_at: float | None = None
    said: list[tuple[float, str]] = field(factory=list)
    finish: FinishReason | None = None
    close_s: float = 0.0

    @property
    def text(self) -> str:
        return "".join(piece for _, piece in self.said)


class Moody(Scripted):
    """A provider whose every answer follows from the seed, its name, the question and how often that was asked.

    Attributes:
        calls: all attempts, in order.
        is_gone: its server was killed; what the remains of that one still ask does not count.
    """

    def __init__(self, name: str, seed: object, context_tokens: int | None = None) -> None:
        super().__init__([], name, (f"{name}-1", f"{name}-2"), context_tokens)
        self.calls: list[Call] = []
        self.is_gone = False
        self._seed = seed

    @property
    def open_calls(self) -> list[Call]:
        return [call for call in self.calls if call.closed_at is None]

    @asynccontextmanager
    async def stream(self, prompt: Prompt) -> AsyncIterator[AsyncIterator[Events]]:
        """Answer; see ``base.Provider``."""
        call = Call(prompt.turns[-1].content, self.name, trio.current_time())
        nth = sum(each.question == call.question for each in self.calls)
        if not self.is_gone:
            self.calls.append(call)
        rng = Random(f"{self._seed}/{self.name}/{call.question}/{nth}")
        steps = _lengthy(rng) if call.question.endswith(AT_LENGTH) else script(rng)
        call.close_s = max((step.seconds for step in steps if isinstance(step, SlowClose)), default=0.0)
        try:
            async with Scripted(steps).stream(prompt) as events:
                yield _Recorded(events, call)
        finally:
            call.closed_at = trio.current_time()


class _Recorded:
    def __init__(self, events: AsyncIterator[Events], call: Call) -> None:
        self._events = events
        self._call = call

    def __aiter__(self) -> _Recorded:
        return self

    async def __anext__(self) -> Events:
        batch = await anext(self._events)
        kept = [event for event in batch if not (isinstance(event, Finish) and event.raw == BROKEN_OFF)]
        if batch and not kept:
            raise StopAsyncIteration
        for event in kept:
            if isinstance(event, Delta) and event.kind is not DeltaKind.REASONING:
                self._call.said.append((trio.current_time(), event.text))
            elif isinstance(event, Finish):
                self._call.finish = event.reason
        return kept


# ---- moods


def script(rng: Random) -> list[Step]:
    """One answer. The server's deadlines are 5 s to the first word and between words, and 30 s in all."""
    moods = (
        _fluent,
        _fluent,
        _fluent,
        _bursting,
        _sluggish,
        _thinking,
        _terse,
        _refusing,
        _breaking,
        _silent,
        _truncated,
    )
    steps = rng.choice(moods)(rng)
    if rng.random() < 0.15:
        # It is slow to close: below and above the limit of 5 s, and longer than anybody waits.
        steps.insert(1 if isinstance(steps[0], Fail) else 0, SlowClose(rng.choice((0.5, 4.0, 5.5, 20.0, 300.0))))
    return steps


def _words(rng: Random, most: int) -> list[str]:
    return [rng.choice(WORDS) for _ in range(rng.randint(1, most))]


def _fluent(rng: Random) -> list[Step]:
    gap_s = rng.choice((0.0, 0.02, 0.1, 0.4))
    steps: list[Step] = [Pause(rng.choice((0.0, 0.0, 0.3, 2.0)))]
    for word in _words(rng, 30):
        steps += [word, Pause(gap_s)] if gap_s else [word]
    return [*steps, *_ending(rng)]


def _lengthy(rng: Random) -> list[Step]:
    return [step for _ in range(80) for step in (rng.choice(WORDS), Pause(0.5))]


def _bursting(rng: Random) -> list[Step]:
    sizes = (1, 10, 300, 300, 9_000)
    bursts = [Batch([word * rng.choice(sizes) for word in _words(rng, 12)]) for _ in range(rng.randint(1, 4))]
    return [step for burst in bursts for step in (burst, Pause(rng.choice((0.0, 0.5))))] + _ending(rng)


def _sluggish(rng: Random) -> list[Step]:
    """Some of its pauses are too long."""
    steps: list[Step] = []
    for word in _words(rng, 8):
        steps += [Pause(rng.choice((1.0, 3.0, 4.5, 4.5, 6.0))), word]
    return [*steps, *_ending(rng)]


def _thinking(rng: Random) -> list[Step]:
    steps: list[Step] = []
    for word in _words(rng, 15):
        steps += [Reasoning(word) if rng.random() < 0.5 else word, Pause(rng.choice((0.0, 0.1)))]
    return [*steps, *_ending(rng)]


def _terse(rng: Random) -> list[Step]:
    """An answer without a word."""
    return [Pause(rng.choice((0.0, 1.0))), *_ending(rng)]


def _refusing(rng: Random) -> list[Step]:
    return [*rng.choice(([], [Pause(0.5)], [Pause(4.0)])), Fail(_failure(rng))]


def _breaking(rng: Random) -> list[Step]:
    words: Sequence[Step] = _words(rng, 10)
    return [*words, Pause(rng.choice((0.0, 1.5))), Fail(_failure(rng))]


def _silent(rng: Random) -> list[Step]:
    return [*rng.choice(([], _words(rng, 10))), Stall()]


def _truncated(rng: Random) -> list[Step]:
    return [*_words(rng, 10), Pause(0.2), Finish(FinishReason.COMPLETED, BROKEN_OFF)]


def _ending(rng: Random) -> list[Step]:
    usage = [Usage(rng.randint(1, 500), rng.randint(0, 500))] if rng.random() < 0.6 else []
    reason = rng.choice((*[FinishReason.COMPLETED] * 5, FinishReason.LENGTH, FinishReason.CONTENT_FILTER))
    if rng.random() < 0.05:
        return [ToolCall("call-1", "lookup", "{}"), *usage, Finish(FinishReason.TOOL_CALLS)]
    return [*usage, Finish(reason)]


def _failure(rng: Random) -> RequestFailed:
    return rng.choice(
        (
            ProviderUnavailable("down"),
            ProviderUnavailable("down", retry_after_s=3),
            ProviderRateLimited("busy", retry_after_s=rng.choice((1, 10, 60))),
            ProviderAuth("key"),
            ProviderRejected("no"),
            ContextTooLong("long"),
            ContentFiltered("filter"),
            TimedOut(field="connect"),
        )
    )
