"""The people whom a user shares sessions with."""

from __future__ import annotations

from sqlalchemy import Connection, select

from scm_trio.store.schema import members

MAX_COMPANIONS = 1000


def companions(conn: Connection, user_id: str) -> list[str]:
    """Everybody else who is a member of a session of the user's; ``MAX_COMPANIONS`` of them where there are more."""
    mine, other = members.alias("mine"), members.alias("other")
    shared = mine.c.session_id == other.c.session_id, other.c.user_id != user_id
    found = select(other.c.user_id).distinct().select_from(mine).join(other, shared[0])
    return list(conn.execute(found.where(mine.c.user_id == user_id, shared[1]).limit(MAX_COMPANIONS)).scalars())
