"""Sessions and messages: what was said, and in which branch of which conversation.

Every function takes a connection first and is meant for ``Database.read`` or ``Database.write``.
"""

from __future__ import annotations

from typing import Any

from attrs import asdict, fields
from sqlalchemy import Connection, RowMapping, Select, bindparam, insert, literal, select, update

from scm_trio.model import Message, Session, Usage
from scm_trio.store.schema import insert_unless_there, messages, sessions

_COLUMNS = [column for column in messages.c if column.name != "sequence"]


def ensure_session(conn: Connection, owner_id: str, session_id: str, global_id_if_new: str, now: float) -> Session:
    """Return the owner's session of that name, created if there is none; two callers at once get the same one."""
    found = find_session(conn, owner_id, session_id)
    if found is not None:
        return found
    new = Session(global_id_if_new, session_id, owner_id, created_at=now, updated_at=now)
    conn.execute(insert_unless_there(conn, sessions, "owner_id", "session_id"), asdict(new))
    # Another node may have been faster: then the row is its, not ours.
    return Session(**conn.execute(_SESSION, {"owner": owner_id, "name": session_id}).mappings().one())


def find_session(conn: Connection, owner_id: str, session_id: str) -> Session | None:
    """Return the session that this owner calls ``session_id``, or None."""
    row = conn.execute(_SESSION, {"owner": owner_id, "name": session_id}).mappings().one_or_none()
    return None if row is None else Session(**row)


def find_session_by_global_id(conn: Connection, global_id: str) -> Session | None:
    """Return the session, or None."""
    row = conn.execute(select(sessions).where(sessions.c.global_id == global_id)).mappings().one_or_none()
    return None if row is None else Session(**row)


def find_message(conn: Connection, message_id: str) -> Message | None:
    """Return the message, or None."""
    row = conn.execute(_MESSAGE, {"id": message_id}).mappings().one_or_none()
    return None if row is None else _message(row)


def newest(conn: Connection, session_global_id: str, conversation_id: str) -> Message | None:
    """Return the message of the conversation that was stored last, or None."""
    row = (
        conn.execute(_NEWEST, {"session": session_global_id, "conversation": conversation_id}).mappings().one_or_none()
    )
    return None if row is None else _message(row)


def branch(conn: Connection, leaf_id: str, limit: int) -> list[Message]:
    """Return the newest ``limit`` messages on the way from the leaf up to its root, oldest first.

    An unknown leaf has none.
    """
    if limit < 1:
        return []
    return [_message(row) for row in conn.execute(_BRANCH, {"leaf": leaf_id, "limit": limit}).mappings()]


def history(conn: Connection, session_global_id: str, before: int | None, limit: int) -> list[Message]:
    """Return the newest ``limit`` messages of a session, all its conversations and branches, oldest first.

    Args:
        conn: where to read.
        session_global_id: the session.
        before: only messages stored before this sequence number (see ``sequence_of``); None: from the newest.
        limit: how many at most.
    """
    query = select(*_COLUMNS).where(messages.c.session_id == session_global_id)
    if before is not None:
        query = query.where(messages.c.sequence < before)
    rows = conn.execute(query.order_by(messages.c.sequence.desc()).limit(limit)).mappings().all()
    return [_message(row) for row in reversed(rows)]


def sequence_of(conn: Connection, message_id: str) -> int | None:
    """Return the message's place in the order of storing, for ``history``; None where there is no such message."""
    return conn.execute(select(messages.c.sequence).where(messages.c.message_id == message_id)).scalar_one_or_none()


def add_message(conn: Connection, message: Message) -> None:
    """Store a message; its session and its parent are there already. The session counts as updated at that time."""
    conn.execute(insert(messages), _values(message))
    conn.execute(_TOUCH, {"session": message.session_id, "now": message.created_at})


def _values(message: Message) -> dict[str, Any]:
    values = asdict(message, recurse=False)
    usage = values.pop("usage")
    if usage is not None:
        values |= asdict(usage)
        values["usage_source"] = values.pop("source")
    return values


def _message(row: RowMapping) -> Message:
    values: dict[str, Any] = dict(row)
    values["source"] = values.pop("usage_source")
    spent = {field.name: values.pop(field.name) for field in fields(Usage)}
    return Message(**values, usage=None if spent["source"] is None else Usage(**spent))


def _up_the_tree() -> Select[Any]:
    ids = (messages.c.message_id, messages.c.parent_id)
    leaf = select(*ids, literal(1).label("depth")).where(messages.c.message_id == bindparam("leaf"))
    chain = leaf.cte("chain", recursive=True)
    chain = chain.union_all(
        select(*ids, chain.c.depth + 1).where(
            messages.c.message_id == chain.c.parent_id, chain.c.depth < bindparam("limit")
        )
    )
    return select(*_COLUMNS).join(chain, chain.c.message_id == messages.c.message_id).order_by(chain.c.depth.desc())


_SESSION = select(sessions).where(sessions.c.owner_id == bindparam("owner"), sessions.c.session_id == bindparam("name"))
_MESSAGE = select(*_COLUMNS).where(messages.c.message_id == bindparam("id"))
_BRANCH = _up_the_tree()
_NEWEST = (
    select(*_COLUMNS)
    .where(messages.c.session_id == bindparam("session"), messages.c.conversation_id == bindparam("conversation"))
    .order_by(messages.c.sequence.desc())
    .limit(1)
)
_TOUCH = (
    update(sessions)
    .where(sessions.c.global_id == bindparam("session"), sessions.c.updated_at < bindparam("now"))
    .values(updated_at=bindparam("now"))
)
