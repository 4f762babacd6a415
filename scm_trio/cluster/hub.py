"""This node's connections: who is here, and how many more may come."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Protocol

import trio

from scm_trio.errors import Disconnect, RequestFailed, ServerBusy


class TooManyConnections(RequestFailed):
    """The user has as many connections as one user may have."""

    code, retryable = "RATE_LIMITED", True


class Connection(Protocol):
    """What the hub needs to know of a connection."""

    @property
    def connection_id(self) -> str: ...

    @property
    def user_id(self) -> str: ...

    async def told(self) -> None:
        """Return when no answer is being sent any more."""

    def disconnect(self, reason: Disconnect | None) -> None: ...


class Hub:
    """All connections of this process, by user. Admission never awaits, so that it cannot race."""

    def __init__(self, *, max_connections: int, max_connections_per_user: int) -> None:
        self._max = max_connections
        self._max_per_user = max_connections_per_user
        self._admitted = 0
        self._emptied = trio.Event()
        self._admitted_by_user: dict[str, int] = defaultdict(int)
        self._by_user: dict[str, dict[str, Connection]] = defaultdict(dict)

    @property
    def active(self) -> int:
        """Connections that are admitted, those still in their handshake included."""
        return self._admitted

    @property
    def users(self) -> int:
        return len(self._by_user)

    def admit(self, user_id: str) -> None:
        """Take a place; every ``admit`` is followed by one ``release``.

        Raises:
            ServerBusy: the server is full.
            TooManyConnections: the user has enough.
        """
        if self._admitted >= self._max:
            raise ServerBusy("max-connections", retry_after_s=5)
        if self._admitted_by_user[user_id] >= self._max_per_user:
            raise TooManyConnections("max-connections-per-user", retry_after_s=5, notice="TOO_MANY_CONNECTIONS")
        self._admitted += 1
        self._admitted_by_user[user_id] += 1

    def release(self, user_id: str) -> None:
        self._admitted -= 1
        if not self._admitted:
            self._emptied.set()
        self._admitted_by_user[user_id] -= 1
        if not self._admitted_by_user[user_id]:
            del self._admitted_by_user[user_id]

    def join(self, connection: Connection) -> None:
        self._by_user[connection.user_id][connection.connection_id] = connection

    def leave(self, connection: Connection) -> None:
        mine = self._by_user[connection.user_id]
        mine.pop(connection.connection_id, None)
        if not mine:
            del self._by_user[connection.user_id]

    def everyone(self) -> list[Connection]:
        return [connection for mine in self._by_user.values() for connection in mine.values()]

    async def wait_empty(self) -> None:
        """Return when nobody is admitted any more."""
        while self._admitted:
            self._emptied = trio.Event()
            await self._emptied.wait()

    def of_user(self, user_id: str) -> Iterator[Connection]:
        yield from list(self._by_user.get(user_id, {}).values())
