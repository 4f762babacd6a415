"""Who is online, away or offline, told to the people who share a session with him.

A connection is online or away. A user is online while one of his connections is, away while all of them are, and offline
when the last one has left, or when he says so: then for all of his connections, until he says otherwise or all are gone.
A leave counts only after a moment, so that a reloaded page is no news.
"""

from __future__ import annotations

from collections.abc import Iterable

import structlog
import trio

from scm_trio.chat.circles import Circles
from scm_trio.cluster.hub import Connection, Hub, StateNews
from scm_trio.errors import StoreError
from scm_trio.protocol.messages import OnlineStatuses, UserStatus
from scm_trio.protocol.messages import Presence as Status

log = structlog.get_logger(__name__)

LEAVE_GRACE_S = 5.0
RETRY_S = 5.0
"""How long a change waits whose hearers could not be looked up."""


class Presence:
    """The users of this process.

    Args:
        circles: who hears of whom.
        hub: where they are.
    """

    def __init__(self, circles: Circles, hub: Hub) -> None:
        self._circles = circles
        self._hub = hub
        self._connections: dict[str, dict[str, Status]] = {}
        self._hidden: set[str] = set()
        self._told: dict[str, Status] = {}  # what others know of those who are not offline to them
        self._due_at: dict[str, float] = {}
        self._stirred = trio.Event()

    # ---- what happens

    def joined(self, connection: Connection) -> None:
        self._connections.setdefault(connection.user_id, {})[connection.connection_id] = "online"
        self._look_at(connection.user_id, trio.current_time())

    def left(self, connection: Connection) -> None:
        mine = self._connections.get(connection.user_id, {})
        if mine.pop(connection.connection_id, None) is None:
            return
        if not mine:
            del self._connections[connection.user_id]
        self._look_at(connection.user_id, trio.current_time() + LEAVE_GRACE_S)

    def say(self, connection: Connection, status: Status) -> None:
        """The user says how he is: for this connection, or with ``offline`` for all of his."""
        if status == "offline":
            self._hidden.add(connection.user_id)
        else:
            self._hidden.discard(connection.user_id)
            self._connections[connection.user_id][connection.connection_id] = status
        self._look_at(connection.user_id, trio.current_time())

    def _look_at(self, user_id: str, at: float) -> None:
        self._due_at[user_id] = at
        self._stirred.set()

    # ---- asking

    def own(self, user_id: str) -> Status:
        """How the user is."""
        if user_id in self._hidden:
            return "offline"
        mine = self._connections.get(user_id, {}).values()
        return "online" if "online" in mine else "away" if mine else "offline"

    async def ask(self, user_id: str, others: Iterable[str]) -> tuple[UserStatus, ...]:
        """How these people are, each named once. Who shares no session with the user is offline to him, as nobody is.

        Raises:
            StoreError: the database failed.
        """
        asked = dict.fromkeys(others)
        companions = await self._circles.companions(user_id) if asked.keys() - {user_id} else ()
        # What others were told counts, so that an answer and the pushes around it never contradict each other.
        statuses = {other: self._told[other] for other in companions if other in self._told}
        statuses[user_id] = self.own(user_id)
        return tuple(UserStatus(other, statuses.get(other, "offline")) for other in asked)

    # ---- telling

    async def run(self) -> None:
        """Tell changes until cancelled."""
        while True:
            now = trio.current_time()
            for user_id in [user_id for user_id, at in self._due_at.items() if at <= now]:
                await self._settle(user_id)
            self._stirred = trio.Event()
            with trio.move_on_at(min(self._due_at.values(), default=float("inf"))):
                await self._stirred.wait()

    async def _settle(self, user_id: str) -> None:
        """Tell how the user is, if that is news to others."""
        if self._due_at[user_id] > trio.current_time():
            return  # it has changed again while others were looked at
        del self._due_at[user_id]
        if user_id not in self._connections:
            self._hidden.discard(user_id)
        status = self.own(user_id)
        if status == self._told.get(user_id, "offline"):
            return
        try:
            companions = await self._circles.companions(user_id)
        except StoreError as exc:
            log.warning("presence not told", user_id=user_id, error=str(exc))
            self._due_at.setdefault(user_id, trio.current_time() + RETRY_S)
            return
        self._tell(user_id, status, companions)

    def _tell(self, user_id: str, status: Status, companions: Iterable[str]) -> None:
        if status == "offline":
            self._told.pop(user_id, None)
        else:
            self._told[user_id] = status
        news = StateNews("ONLINE_STATUS", OnlineStatuses((UserStatus(user_id, status),)), user_id)
        for companion in companions:
            for connection in self._hub.of_user(companion):
                connection.tell_state(news)
