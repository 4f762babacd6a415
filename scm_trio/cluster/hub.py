"""This node's connections: who is here, and how many more may come."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Protocol

import trio
from attrs import frozen

from scm_trio.errors import Disconnect, RequestFailed, ServerBusy
from scm_trio.model import Message


class TooManyConnections(RequestFailed):
    """The user has as many connections as one user may have."""

    code, retryable = "RATE_LIMITED", True


@frozen
class SessionEvent:
    """Something that happened in a session, as one of its members is told it.

    Attributes:
        kind: the message's type on the wire.
        data: an instance of the type's class.
        global_id: the session.
        name: what the member calls it.
        user_id: whom it is about.
        message: the stored message that it carries, if that is news to the member; it counts as delivered then.
        request_id: of the member's own request, where it is that which is answered.
    """

    kind: str
    data: Any
    global_id: str
    name: str
    user_id: str
    message: Message | None = None
    request_id: str | None = None


@frozen
class StateNews:
    """How something is now, of which nobody needs to know how it was before: whether somebody types, or is here.

    Attributes:
        kind: the message's type on the wire.
        data: an instance of the type's class.
        user_id: whom it is about.
        global_id: the session that it is about, and
        name: what the receiver calls that; None: it is about none.
    """

    kind: str
    data: Any
    user_id: str
    global_id: str | None = None
    name: str | None = None

    @property
    def subject(self) -> tuple[object, ...]:
        """What it is about: what comes later about the same replaces it."""
        return type(self.data), self.user_id, self.global_id


class Connection(Protocol):
    """What the hub needs to know of a connection."""

    @property
    def connection_id(self) -> str: ...

    @property
    def user_id(self) -> str: ...

    async def told(self) -> None:
        """Return when no answer is being sent any more."""

    def shows(self, key: str) -> bool:
        """Whether that answer is being sent."""

    def has_seen(self, key: str, message: Message) -> bool:
        """Whether that answer, which has just been stored, is being sent, or was to its end."""

    def show(self, answer: Any) -> bool:
        """Send an answer that has just begun, unless that is being done; False where too many are. Does not wait."""

    def tell(self, event: SessionEvent) -> None:
        """Send it when its turn comes. Does not wait."""

    def gain(self, global_id: str) -> None:
        """The user has become a member of a session."""

    def lose(self, global_id: str) -> None:
        """The session is the user's no more: what has happened there and was not sent is not sent any more."""

    def cut_off(self, global_id: str) -> None:
        """End the answers of a session that are being sent, with a word, here alone."""

    def tell_state(self, news: StateNews) -> None:
        """Send it when the socket is free, in the place of what still waits about the same. Does not wait."""

    def disconnect(self, reason: Disconnect | None) -> None: ...


class Hub:
    """All connections of this process, by user and by the sessions that they have open.

    Admission never awaits, so that it cannot race. Sessions are named by any hashable keys, on which those who open
    them and those who look for them have agreed.

    Attributes:
        on_leave: called after a connection has left.
    """

    def __init__(self, *, max_connections: int, max_connections_per_user: int) -> None:
        self._max = max_connections
        self._max_per_user = max_connections_per_user
        self._admitted = 0
        self._emptied = trio.Event()
        self._admitted_by_user: dict[str, int] = defaultdict(int)
        self._by_user: dict[str, dict[str, Connection]] = defaultdict(dict)
        self._by_session: dict[Hashable, dict[str, Connection]] = defaultdict(dict)
        self.on_leave: Callable[[Connection], None] = _nobody_cares

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
        """Forget a connection; what it has open it has closed before."""
        _take_out(self._by_user, connection.user_id, connection)
        self.on_leave(connection)

    def open(self, connection: Connection, session: Hashable) -> None:
        """Note that a connection wants to see what happens in a session."""
        self._by_session[session][connection.connection_id] = connection

    def close(self, connection: Connection, session: Hashable) -> None:
        _take_out(self._by_session, session, connection)

    def watching(self, sessions: Iterable[Hashable]) -> list[Connection]:
        """Who has any of these open, each connection once."""
        found = {name: each for session in sessions for name, each in self._by_session.get(session, {}).items()}
        return list(found.values())

    def everyone(self) -> list[Connection]:
        return [connection for mine in self._by_user.values() for connection in mine.values()]

    async def wait_empty(self) -> None:
        """Return when nobody is admitted any more."""
        while self._admitted:
            self._emptied = trio.Event()
            await self._emptied.wait()

    def of_user(self, user_id: str) -> list[Connection]:
        return list(self._by_user.get(user_id, {}).values())


def _nobody_cares(_: Connection) -> None:
    """Before somebody listens."""


def _take_out(index: dict[Any, dict[str, Connection]], key: Hashable, connection: Connection) -> None:
    there = index.get(key)
    if there is not None:
        there.pop(connection.connection_id, None)
        if not there:
            del index[key]
