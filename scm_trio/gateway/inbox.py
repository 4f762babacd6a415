"""What a connection's peer has said and is not done with yet: done in order, one thing at a time, by one task.

So whoever reads the socket need not wait for the store or for the peer to take an answer, and sees a cancel behind all
that. When too much waits the reader does wait: that holds back the peer, and what he can make the server keep is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import trio

MAX_WAITING = 16
"""Messages. A client that comes back says two for each answer it had, of eight at most: so many never hold up what is
said behind them."""

Errand = Callable[[], Awaitable[None]]


class Inbox:
    """Of one connection; one task puts in, another one works.

    Args:
        max_chars: how much text may wait together; a single message always may.
    """

    def __init__(self, max_chars: int) -> None:
        self._max_chars = max_chars
        # Bounded by ``put``; the channel only wakes who works.
        self._send, self._receive = trio.open_memory_channel[tuple[Errand, int]](math.inf)
        self._waiting = self._chars = 0
        self._room = trio.Event()

    async def put(self, errand: Errand, chars: int = 0) -> None:
        """Have something done after all that was put in before, as soon as there is room for it."""
        while self._waiting >= MAX_WAITING or (self._waiting and self._chars + chars > self._max_chars):
            self._room = trio.Event()
            await self._room.wait()
        self._waiting += 1
        self._chars += chars
        self._send.send_nowait((errand, chars))

    def close(self) -> None:
        """Nothing more comes: who works comes to his end when all is done."""
        self._send.close()

    async def work(self) -> None:
        """Do what is put in, until that is closed; what an errand raises ends it."""
        async for errand, chars in self._receive:
            self._waiting -= 1
            self._chars -= chars
            self._room.set()
            await errand()
