"""One at a time: what a user asks for besides waits behind his own, and keeps nobody else waiting."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class Turns:
    """A queue for each user who has something in it."""

    def __init__(self) -> None:
        self._locks: dict[str, trio.Lock] = {}

    def __contains__(self, user_id: str) -> bool:
        """Whether somebody has the user's turn."""
        return user_id in self._locks

    @asynccontextmanager
    async def of(self, user_id: str) -> AsyncIterator[None]:
        """Wait for the user's turn, and have it."""
        lock = self._locks.setdefault(user_id, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            # Handed on to whoever waits, who is now its owner; else nobody needs it.
            if not lock.locked() and self._locks.get(user_id) is lock:
                del self._locks[user_id]
