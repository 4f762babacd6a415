"""Who belongs together: the members of a session, and the people whom a user shares sessions with.

Looked up once, then remembered until somebody tells of a change; for a while only, since another process may change
members, too.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Concatenate, Generic, ParamSpec, TypeVar

import trio
from attrs import frozen
from sqlalchemy import Connection

from scm_trio.chat.registry import session_key
from scm_trio.errors import Forbidden
from scm_trio.model import MemberRole
from scm_trio.store.access import ROLES, resolve
from scm_trio.store.companions import companions
from scm_trio.store.database import Database
from scm_trio.store.members import members_of

TTL_S = 60.0
"""How long something is remembered of which nobody here tells a change."""
MAX_REMEMBERED = 10_000
"""Sessions, and users."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
P = ParamSpec("P")


@frozen
class Circle:
    """A session and its members.

    Attributes:
        global_id: the session's.
        names: what each member calls it.
        roles: what each member may do.
    """

    global_id: str
    names: Mapping[str, str]
    roles: Mapping[str, MemberRole]

    @property
    def keys(self) -> set[Hashable]:
        """Everything under which connections of its members may have it open."""
        return {session_key(user_id, name) for user_id, name in self.names.items()} | {self.global_id}

    def demand(self, user_id: str, least: MemberRole) -> None:
        """Insist on a right of a member.

        Raises:
            Forbidden: his role does not have it.
        """
        if ROLES.index(self.roles[user_id]) < ROLES.index(least):
            raise Forbidden(f"{least} of the session is needed")


class _Memory(Generic[K, V]):
    """A bounded cache whose entries are good for ``TTL_S``."""

    def __init__(self) -> None:
        self._entries: dict[K, tuple[float, V]] = {}

    def get(self, key: K) -> V | None:
        known = self._entries.get(key)
        return known[1] if known is not None and known[0] > trio.current_time() else None

    def put(self, key: K, value: V) -> None:
        self._entries.pop(key, None)
        self._entries[key] = trio.current_time() + TTL_S, value
        if len(self._entries) > MAX_REMEMBERED:
            del self._entries[next(iter(self._entries))]

    def drop(self, key: K) -> None:
        self._entries.pop(key, None)


class Circles:
    """The circles of this process's users.

    Args:
        database: where members are looked up.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._circles: _Memory[str, Circle] = _Memory()
        self._references: _Memory[tuple[str, str], str] = _Memory()
        self._companions: _Memory[str, frozenset[str]] = _Memory()
        self._changes = 0

    async def find(self, user_id: str, reference: str) -> Circle:
        """The session that a user means.

        Raises:
            NotFound: he is no member of such a session.
            StoreError: the database failed.
        """
        global_id = self._references.get((user_id, reference))
        known = None if global_id is None else self._circles.get(global_id)
        # Who left a session that he had named, and is in it again, calls it as everybody does.
        if known is not None and user_id in known.names and reference in (known.names[user_id], global_id):
            return known
        circle = await self._read(_find, user_id, reference)
        self._references.put((user_id, reference), circle.global_id)
        self._circles.put(circle.global_id, circle)
        return circle

    async def companions(self, user_id: str) -> frozenset[str]:
        """The people whom a user shares a session with, himself left out.

        Raises:
            StoreError: the database failed.
        """
        known = self._companions.get(user_id)
        if known is None:
            known = frozenset(await self._read(companions, user_id))
            self._companions.put(user_id, known)
        return known

    @property
    def changes(self) -> int:
        """How many changes have been told."""
        return self._changes

    def learn(self, user_id: str, companions: frozenset[str], changes: int) -> None:
        """Remember what somebody else has just looked up, unless something has changed since there were ``changes``."""
        if changes == self._changes:
            self._companions.put(user_id, companions)

    def forget(self, global_id: str, user_ids: Iterable[str]) -> None:
        """The members of a session have changed: ``user_ids`` are all who were or are in it."""
        self._changes += 1
        self._circles.drop(global_id)
        for user_id in user_ids:
            self._companions.drop(user_id)

    async def _read(self, fn: Callable[Concatenate[Connection, P], V], *args: P.args, **kwargs: P.kwargs) -> V:
        """What holds now: a change that was told while the database was looking may not be in what it found."""
        while True:
            changes = self._changes
            found = await self._database.read(fn, *args, **kwargs)
            if changes == self._changes:
                return found


def _find(conn: Connection, user_id: str, reference: str) -> Circle:
    access = resolve(conn, user_id, reference)
    people = members_of(conn, [access.global_id])[access.global_id]
    return Circle(
        access.global_id,
        {each.user_id: access.session.name_for(each.user_id) for each in people},
        {each.user_id: each.role for each in people},
    )
