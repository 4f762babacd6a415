"""How many messages a member has not read yet.

His own questions are read by him. Answers are not, also when he asked: he may have gone away before they came.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import frozen
from sqlalchemy import ColumnElement, Connection, Integer, Select, Text, bindparam, func, literal, or_, select

from scm_trio.store.access import name_for
from scm_trio.store.prepared import Prepared
from scm_trio.store.schema import members, messages, sessions

MAX_UNREAD = 1000
"""A session's count stops here: 1000 means at least that many."""
MAX_SESSIONS = 1000


@frozen
class Unread:
    """Unread messages of a session; ``session_id`` is what the member calls it."""

    session_id: str
    global_id: str
    count: int


def is_foreign(user_id: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether a message is news to that user: an answer, or another's question."""
    return or_(messages.c.role == "assistant", messages.c.user_id != user_id)


def unread_counts(conn: Connection, user_id: str, global_ids: Sequence[str]) -> dict[str, int]:
    """Unread messages by session, for those of these sessions that have any."""
    counted = _counted().where(members.c.user_id == user_id, members.c.session_id.in_(global_ids))
    return {global_id: count for global_id, _, count in conn.execute(counted) if count}


def unread_by_member(conn: Connection, global_id: str) -> dict[str, int]:
    """Unread messages of one session by member, for those who have any."""
    counted = _counted().where(members.c.session_id == global_id)
    return {user_id: count for _, user_id, count in conn.execute(counted) if count}


def unread(conn: Connection, user_id: str) -> list[Unread]:
    """Every session of the user that has unread messages, the one updated last first; at most ``MAX_SESSIONS``."""
    rows = _UNREAD.run(conn, {"user": user_id, "sessions": MAX_SESSIONS}).fetchall()
    # Those without any are left out here, because SQLite would count twice to do it.
    return [Unread(*row) for row in rows if row[-1]]


def _counted() -> Select[str, str, int]:
    new = select(literal(1).label("one")).where(
        messages.c.session_id == members.c.session_id,
        messages.c.sequence > members.c.read_to,
        is_foreign(members.c.user_id),
    )
    some = new.correlate(members).limit(MAX_UNREAD).subquery()
    count = select(func.count()).select_from(some).scalar_subquery()
    return select(members.c.session_id, members.c.user_id, count.label("unread"))


def _unread() -> Select[Any]:
    user = bindparam("user", type_=Text)
    newest = select(sessions.c.global_id).join(members, members.c.session_id == sessions.c.global_id)
    newest = newest.where(members.c.user_id == user).order_by(sessions.c.updated_at.desc())
    newest = newest.limit(bindparam("sessions", type_=Integer))
    counted = _counted().where(members.c.user_id == user, members.c.session_id.in_(newest)).subquery()
    columns = (name_for(user), sessions.c.global_id, counted.c.unread)
    query = select(*columns).join(counted, counted.c.session_id == sessions.c.global_id)
    return query.order_by(sessions.c.updated_at.desc())


# Every connection that opens asks.
_UNREAD = Prepared(lambda _: _unread())
