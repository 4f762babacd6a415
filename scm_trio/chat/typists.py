"""Who is typing, told to the others who have the session open.

Somebody types in a session as long as one of his connections has said so less than ``EXPIRY_S`` ago. It ends with his
word, his question, his connection or his membership.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

import trio
from attrs import define, evolve, field

from scm_trio.chat.circles import Circle, Circles
from scm_trio.cluster.hub import Connection, Hub, StateNews
from scm_trio.protocol.messages import Id, Typing

EXPIRY_S = 10.0

Place = tuple[str, str]
"""A session's global id, and who types there."""


@define
class _Typist:
    """Somebody who types in a session.

    Attributes:
        circle: who the others are.
        until: when the word of each of his connections expires.
        told: the connections that know it.
    """

    circle: Circle
    until: dict[str, float] = field(factory=dict)
    told: set[str] = field(factory=set)


class Typists:
    """Everybody who types now.

    Args:
        circles: who the others are.
        hub: where they are.
    """

    def __init__(self, circles: Circles, hub: Hub) -> None:
        self._circles = circles
        self._hub = hub
        self._typists: dict[Place, _Typist] = {}
        # Every word has the same time, so that the first entry is always the next to expire.
        self._expiries: deque[tuple[float, Place, str]] = deque()
        self._arrived = trio.Event()

    # ---- by the typist

    async def start(self, connection: Connection, reference: str) -> None:
        """He types there. Who knows that already is not told again.

        Raises:
            NotFound: he is no member of such a session.
            Forbidden: he may not ask there.
            StoreError: the database failed.
        """
        circle = await self._find(connection, reference)
        place = circle.global_id, connection.user_id
        typist = self._typists.setdefault(place, _Typist(circle))
        typist.circle = circle
        expires_at = typist.until[connection.connection_id] = trio.current_time() + EXPIRY_S
        self._expiries.append((expires_at, place, connection.connection_id))
        self._arrived.set()
        news = [each for each in self._others(place, circle) if each.connection_id not in typist.told]
        typist.told.update(each.connection_id for each in news)
        self._tell("TYPING_START", place, circle, news)

    async def stop(self, connection: Connection, reference: str) -> None:
        """He types no longer, on this connection. Raises as ``start``."""
        circle = await self._find(connection, reference)
        self._end_word((circle.global_id, connection.user_id), connection.connection_id)

    async def _find(self, connection: Connection, reference: str) -> Circle:
        circle = await self._circles.find(connection.user_id, reference)
        circle.demand(connection.user_id, "member")
        return circle

    # ---- by what happens

    def asked(self, global_id: str, user_id: str) -> None:
        """He has asked his question there."""
        self._end((global_id, user_id))

    def left(self, connection: Connection) -> None:
        """The connection is gone."""
        for place in [place for place in self._typists if place[1] == connection.user_id]:
            self._end_word(place, connection.connection_id)

    def changed(self, global_id: str, names: Mapping[str, str], removed: Iterable[str]) -> None:
        """The session has other members now; ``names`` says what each of them calls it."""
        for place, typist in self._typists.items():
            if place[0] == global_id:
                typist.circle = evolve(typist.circle, names=names)
        for user_id in removed:
            self._end((global_id, user_id))

    async def run(self) -> None:
        """Let words expire, until cancelled."""
        while True:
            while not self._expiries:
                self._arrived = trio.Event()
                await self._arrived.wait()
            expires_at, place, connection_id = self._expiries.popleft()
            await trio.sleep_until(expires_at)
            typist = self._typists.get(place)
            if typist is not None and typist.until.get(connection_id) == expires_at:  # not said again since
                self._end_word(place, connection_id)

    # ---- ending

    def _end_word(self, place: Place, connection_id: str) -> None:
        typist = self._typists.get(place)
        if typist is not None and typist.until.pop(connection_id, None) is not None and not typist.until:
            self._end(place)

    def _end(self, place: Place) -> None:
        typist = self._typists.pop(place, None)
        if typist is not None:
            knowing = [each for each in self._others(place, typist.circle) if each.connection_id in typist.told]
            self._tell("TYPING_STOP", place, typist.circle, knowing)

    # ---- telling

    def _others(self, place: Place, circle: Circle) -> list[Connection]:
        """The other members' connections that have the session open."""
        open_here = self._hub.watching(circle.keys)
        return [each for each in open_here if each.user_id != place[1] and each.user_id in circle.names]

    def _tell(self, kind: str, place: Place, circle: Circle, connections: Iterable[Connection]) -> None:
        for connection in connections:
            name = circle.names[connection.user_id]
            connection.tell_state(StateNews(kind, Typing(Id(name), Id(place[1])), place[1], place[0], name))
