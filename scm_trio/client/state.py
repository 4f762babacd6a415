"""What a chat's connection is doing, for those who show it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal

import trio
from attrs import frozen

from scm_trio.client.failures import ClientError


@frozen
class State:
    """What the connection is doing.

    Attributes:
        name: ``connecting``; ``open``; ``waiting`` before the next try; ``closed`` for good.
        wait_s: seconds from the beginning of ``waiting`` to the next try.
        failure: why it is waiting, or closed; None where this side has left.
    """

    name: Literal["connecting", "open", "waiting", "closed"]
    wait_s: float | None = None
    failure: ClientError | None = None


class States:
    """The present state, and what comes after it."""

    def __init__(self) -> None:
        self.now = State("connecting")
        self._changed = trio.Event()

    def set(self, state: State) -> None:
        self.now = state
        self._changed.set()
        self._changed = trio.Event()

    def __aiter__(self) -> AsyncIterator[State]:
        return _Changes(self)

    async def changed(self) -> None:
        """Wait until the state is set after this call."""
        await self._changed.wait()


class _Changes:
    """The present state, then each later one until ``closed``; whoever is slow sees the newest only."""

    def __init__(self, states: States) -> None:
        self._states = states
        self._seen: State | None = None

    def __aiter__(self) -> AsyncIterator[State]:
        return self

    async def __anext__(self) -> State:
        await trio.lowlevel.checkpoint()
        if self._seen is not None and self._seen.name == "closed":
            raise StopAsyncIteration
        while self._states.now is self._seen:
            await self._states.changed()
        self._seen = self._states.now
        return self._seen
