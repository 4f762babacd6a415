"""From what a user calls a session to the session, if he is a member of it; and what his role lets him do.

A reference is his own name for a session, or the global id of one that he is a member of, in this order. Whatever else
it is gives ``NotFound``: nobody learns that a session exists.
"""

from __future__ import annotations

import re
from typing import Any

from attrs import frozen
from sqlalchemy import ColumnElement, Connection, Integer, Select, bindparam, case, func, literal, select

from scm_trio.errors import Conflict, Forbidden, NotFound
from scm_trio.model import MemberRole, Session
from scm_trio.store.messages import SESSION_COLUMNS, ensure_session, session_from
from scm_trio.store.prepared import Prepared
from scm_trio.store.schema import members, sessions

ROLES: tuple[MemberRole, ...] = ("viewer", "member", "owner")
"""The one who may least comes first."""

MAX_SESSIONS = 10_000
"""Sessions that one user can have begun, for himself or others; of those of others he may be a member besides."""

_GLOBAL_ID = re.compile(r"s-[0-9a-f]{24}")


@frozen
class Access:
    """A user's way into a session of his.

    Attributes:
        session: as it is stored.
        user_id: whose way it is.
        role: what he may do.
        delivered_to: his markers: sequence numbers up to which messages were given to him, and
        read_to: were read by him.
    """

    session: Session
    user_id: str
    role: MemberRole
    delivered_to: int = 0
    read_to: int = 0

    @property
    def global_id(self) -> str:
        return self.session.global_id

    @property
    def name(self) -> str:
        """What the user calls the session."""
        return self.session.name_for(self.user_id)

    def may(self, least: MemberRole) -> bool:
        return ROLES.index(self.role) >= ROLES.index(least)

    def demand(self, least: MemberRole) -> None:
        """Insist on a right.

        Raises:
            Forbidden: the user's role does not have it.
        """
        if not self.may(least):
            raise Forbidden(f"{self.role} of the session, {least} is needed")


def resolve(conn: Connection, user_id: str, reference: str) -> Access:
    """The session that a user means.

    Raises:
        NotFound: he has none of that name, and is no member of one with that global id.
    """
    # Two short statements instead of one with an OR: nearly always the first one finds it.
    params = {"user": user_id, "reference": reference}
    row = _BY_NAME.one(conn, params) or _BY_GLOBAL_ID.one(conn, params)
    if row is None:
        raise NotFound("no such session of this user")
    *of_session, role, delivered_to, read_to = row
    return Access(session_from(of_session), user_id, role, delivered_to, read_to)


def resolve_for_change(conn: Connection, user_id: str, reference: str) -> Access:
    """As ``resolve``, and nobody else changes the session or its members until this transaction ends.

    Raises:
        NotFound: as ``resolve``.
    """
    lock(conn, resolve(conn, user_id, reference).global_id)
    # Once more: on PostgreSQL somebody else may have changed it while we waited for the lock.
    return resolve(conn, user_id, reference)


def lock(conn: Connection, global_id: str) -> None:
    """Keep other writers off a session and its members until this transaction ends; SQLite has no others."""
    conn.execute(select(sessions.c.global_id).where(sessions.c.global_id == global_id).with_for_update(key_share=True))


def enter(conn: Connection, user_id: str, reference: str, global_id_if_new: str, now: float) -> Access:
    """The session that a user means, created under that name of his if there is none.

    What has the form of a global id is never created: it is another's session, or one that he was taken off.

    Raises:
        NotFound: the reference is a global id, and none of his.
        Conflict: he has as many sessions as a user may have.
    """
    try:
        return resolve(conn, user_id, reference)
    except NotFound:
        if is_global_id(reference):
            raise
    check_room(conn, user_id)
    return Access(ensure_session(conn, user_id, reference, global_id_if_new, now), user_id, "owner")


def check_room(conn: Connection, user_id: str) -> None:
    """Insist that a user may begin one session more.

    Those that he has left count as long as others have them: nobody's room is used up by what others do.

    Raises:
        Conflict: he has begun ``MAX_SESSIONS``.
    """
    row = _BEGUN.one(conn, {"user": user_id, "most": MAX_SESSIONS})
    if row is not None and row[0] >= MAX_SESSIONS:
        raise Conflict("too many sessions", notice="TOO_MANY_SESSIONS", limit=MAX_SESSIONS)


def is_global_id(reference: str) -> bool:
    """Whether this can only be the global id of a session."""
    return _GLOBAL_ID.fullmatch(reference) is not None


def name_for(user_id: str | ColumnElement[str]) -> ColumnElement[str]:
    """As ``Access.name``, for the sessions of a query."""
    return case((sessions.c.owner_id == user_id, sessions.c.session_id), else_=sessions.c.global_id)


def _access(*which: ColumnElement[bool]) -> Select[Any]:
    mine = members.c.session_id == sessions.c.global_id, members.c.user_id == bindparam("user")
    columns = (*SESSION_COLUMNS, members.c.role, members.c.delivered_to, members.c.read_to)
    return select(*columns).where(*which, *mine)


def _begun() -> Select[Any]:
    mine = select(literal(1).label("one")).where(sessions.c.owner_id == bindparam("user"))
    return select(func.count()).select_from(mine.limit(bindparam("most", type_=Integer)).subquery())


_BY_NAME = Prepared(
    lambda _: _access(sessions.c.owner_id == bindparam("user"), sessions.c.session_id == bindparam("reference"))
)
_BY_GLOBAL_ID = Prepared(lambda _: _access(sessions.c.global_id == bindparam("reference")))
_BEGUN = Prepared(lambda _: _begun())
