"""A provider that says what a script tells it: for tests and demonstrations."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager

import trio
from attrs import define, field, frozen

from scm_trio.model import Delta, DeltaKind, Finish, FinishReason, Prompt, ProviderEvent
from scm_trio.providers import base

SLOW_CLOSE_LIMIT_S = 3600.0


@frozen(init=False)
class Batch:
    """Events, or texts, that come together."""

    events: tuple[ProviderEvent, ...]

    def __init__(self, events: Iterable[ProviderEvent | str]) -> None:
        self.__attrs_init__(tuple(Delta(event) if isinstance(event, str) else event for event in events))


@frozen
class Pause:
    """Nothing for a while."""

    seconds: float


@frozen
class Stall:
    """Nothing any more, for ever."""


@frozen
class Fail:
    """The provider raises this. As the first step it does so before the stream is open."""

    exception: Exception


@frozen
class SlowClose:
    """From here on, closing the stream takes this long, even for one who is cancelled."""

    seconds: float


Step = str | ProviderEvent | Batch | Pause | Stall | Fail | SlowClose
Script = Sequence[Step] | Callable[[Prompt], Sequence[Step]]


def Reasoning(text: str) -> Delta:  # noqa: N802 - reads like the steps beside it
    """A piece of thinking."""
    return Delta(text, DeltaKind.REASONING)


@define(eq=False)
class Scripted:
    """Answers every prompt by the script. A ``Finish`` is added where the script lets the answer end without one.

    Attributes:
        prompts: what has been asked, in order.
        open_streams: answers being given now.
        closed_streams: answers that have been closed, finished or not.
        closed: whether the provider itself has been.
    """

    script: Script
    name: str = "scripted"
    models: tuple[str, ...] = ("scripted-1",)
    context_tokens: int | None = None
    takes_images: bool = False
    prompts: list[Prompt] = field(factory=list, init=False)
    open_streams: int = field(default=0, init=False)
    closed_streams: int = field(default=0, init=False)
    closed: bool = field(default=False, init=False)

    @asynccontextmanager
    async def stream(self, prompt: Prompt) -> AsyncIterator[AsyncIterator[base.Batch]]:
        """Answer; see ``base.Provider``."""
        self.prompts.append(prompt)
        await trio.lowlevel.checkpoint()
        steps = list(self.script(prompt) if callable(self.script) else self.script)
        if steps and isinstance(steps[0], Fail):
            raise steps[0].exception
        answer = _Answer(steps, whole=not prompt.stream)
        self.open_streams += 1
        try:
            yield answer
        finally:
            await answer.close()
            self.open_streams -= 1
            self.closed_streams += 1

    async def aclose(self) -> None:
        """Note that it was closed; there is nothing to release."""
        self.closed = True


class _Answer:
    def __init__(self, steps: list[Step], *, whole: bool) -> None:
        self._steps: Iterator[Step] = iter(steps)
        self._whole = whole
        self._finished = False
        self._close_s = 0.0

    def __aiter__(self) -> _Answer:
        return self

    async def __anext__(self) -> base.Batch:
        await trio.lowlevel.checkpoint()
        batch = await self._all() if self._whole else await self._next()
        if not batch:
            raise StopAsyncIteration
        return batch

    async def close(self) -> None:
        if self._close_s:
            with trio.move_on_after(min(self._close_s, SLOW_CLOSE_LIMIT_S), shield=True):
                await trio.sleep_forever()

    async def _all(self) -> base.Batch:
        events: list[ProviderEvent] = []
        while batch := await self._next():
            events += batch
        return events

    async def _next(self) -> base.Batch:
        """Take steps up to the next one that says something. Empty: the answer is over."""
        for step in self._steps:
            match step:
                case Pause(seconds):
                    await trio.sleep(seconds)
                case Stall():
                    await trio.sleep_forever()
                case SlowClose(seconds):
                    self._close_s = seconds
                case Fail(exception):
                    self._finished = True
                    raise exception
                case _ if batch := self._said(step):
                    return batch
        return self._said(Finish(FinishReason.COMPLETED)) if not self._finished else ()

    def _said(self, step: str | ProviderEvent | Batch) -> base.Batch:
        batch = step.events if isinstance(step, Batch) else Batch([step]).events
        self._finished = self._finished or any(isinstance(event, Finish) for event in batch)
        return batch
