"""How things are that a connection is told of, about each of them the newest only: who types, who is here.

What happens in its sessions, in order, is the outbox's. So a slow socket is never behind with what does not count any more, and what waits for it stays small.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from scm_trio.cluster.hub import StateNews

MAX_WAITING = 1000
"""Subjects. A socket that stands still while so much changes is given up, and told everything when it comes back."""

Send = Callable[[Callable[[], bytes | None]], Awaitable[None]]


class News:
    """Waits for its first ``open``; from then on it has a task whenever there is something to tell.

    Args:
        nursery: the connection's.
        send: sends one frame, made when it is its turn.
        frame: makes one.
        on_overflow: called when too much waits.
    """

    def __init__(
        self, nursery: trio.Nursery, send: Send, frame: Callable[[StateNews], bytes], on_overflow: Callable[[], None]
    ) -> None:
        self._nursery = nursery
        self._send = send
        self._frame = frame
        self._on_overflow = on_overflow
        self._waiting: dict[tuple[object, ...], StateNews] = {}
        self._is_open = self._is_telling = self._is_closed = False

    def open(self) -> None:
        """Begin to tell: the peer has been greeted."""
        self._is_open = True
        self._begin()

    def close(self) -> None:
        """Tell nothing any more: the connection is over, and its nursery may be."""
        self._is_closed = True
        self._waiting.clear()

    def put(self, news: StateNews) -> None:
        """Tell it, in the place of what still waits about the same subject; nothing after the end."""
        if self._is_closed:
            return
        self._waiting[news.subject] = news
        if len(self._waiting) > MAX_WAITING:
            self._on_overflow()
        self._begin()

    def drop(self, global_id: str) -> None:
        """Tell nothing that waits about this session."""
        for subject in [subject for subject, news in self._waiting.items() if news.global_id == global_id]:
            del self._waiting[subject]

    def _begin(self) -> None:
        if self._is_open and self._waiting and not self._is_telling:
            self._is_telling = True
            self._nursery.start_soon(self._tell)

    async def _tell(self) -> None:
        with suppress(trio.BrokenResourceError):  # the wire has told the connection why it ends
            while self._waiting:
                await self._send(self._next)
        self._is_telling = False

    def _next(self) -> bytes | None:
        """The oldest of what waits, when the socket is free for it."""
        return self._frame(self._waiting.pop(next(iter(self._waiting)))) if self._waiting else None
