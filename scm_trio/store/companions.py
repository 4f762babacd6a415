"""The people whom a user shares sessions with."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Integer, Select, bindparam, select

from scm_trio.store.prepared import Prepared
from scm_trio.store.schema import members

MAX_COMPANIONS = 1000


def companions(conn: Connection, user_id: str) -> list[str]:
    """Everybody else who is a member of a session of the user's; ``MAX_COMPANIONS`` of them where there are more."""
    return [row[0] for row in _COMPANIONS.run(conn, {"user": user_id, "most": MAX_COMPANIONS}).fetchall()]


def _companions() -> Select[Any]:
    mine, other = members.alias("mine"), members.alias("other")
    found = select(other.c.user_id).distinct().select_from(mine).join(other, mine.c.session_id == other.c.session_id)
    found = found.where(mine.c.user_id == bindparam("user"), other.c.user_id != bindparam("user"))
    return found.limit(bindparam("most", type_=Integer))


_COMPANIONS = Prepared(lambda _: _companions())
