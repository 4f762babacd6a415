"""Sessions and messages: what was said, and in which branch of which conversation.

Every function takes a connection first and is meant for ``Database.read`` or ``Database.write``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import asdict, evolve
from sqlalchemy import Connection, Select, bindparam, insert, literal, select, update

from scm_trio.model import Message, Session, Usage
from scm_trio.store.prepared import Prepared
from scm_trio.store.schema import insert_unless_there, members, messages, sessions

SESSION_COLUMNS = [column for column in sessions.c if column.name != "title_source"]
"""What ``session_from`` reads a session from."""
COLUMNS = [column for column in messages.c if column.name != "sequence"]
"""What ``message_from`` reads a message from."""
_SAID = [column.name for column in COLUMNS[:-6]]
"""What comes before the usage and the time."""


def ensure_session(conn: Connection, owner_id: str, session_id: str, global_id_if_new: str, now: float) -> Session:
    """Return the owner's session of that name, created if there is none; two callers at once get the same one."""
    found = find_session(conn, owner_id, session_id)
    if found is not None:
        return found
    new = Session(global_id_if_new, session_id, owner_id, created_at=now, updated_at=now)
    if _NEW_SESSION.one(conn, asdict(new)) is not None:
        enter_owner(conn, new)
        return new
    # Another node was faster: the row is its, and it made its owner a member.
    there = _SESSION.one(conn, {"owner": owner_id, "name": session_id})
    return new if there is None else session_from(there)


def enter_owner(conn: Connection, session: Session) -> None:
    """Make the owner of a session that was just created its first member."""
    row = {"session_id": session.global_id, "user_id": session.owner_id, "role": "owner"}
    _FIRST_MEMBER.run(conn, {**row, "joined_at": session.created_at, "delivered_to": 0, "read_to": 0})


def find_session(conn: Connection, owner_id: str, session_id: str) -> Session | None:
    """Return the session that this owner calls ``session_id``, or None."""
    row = _SESSION.one(conn, {"owner": owner_id, "name": session_id})
    return None if row is None else session_from(row)


def find_session_by_global_id(conn: Connection, global_id: str) -> Session | None:
    """Return the session, or None."""
    row = conn.execute(select(*SESSION_COLUMNS).where(sessions.c.global_id == global_id)).one_or_none()
    return None if row is None else session_from(row)


def find_message(conn: Connection, message_id: str) -> Message | None:
    """Return the message, or None."""
    row = _MESSAGE.one(conn, {"id": message_id})
    return None if row is None else message_from(row)


def newest(conn: Connection, session_global_id: str, conversation_id: str) -> Message | None:
    """Return the message of the conversation that was stored last, or None."""
    row = _NEWEST.one(conn, {"session": session_global_id, "conversation": conversation_id})
    return None if row is None else message_from(row)


def branch(conn: Connection, leaf_id: str, limit: int) -> list[Message]:
    """Return the newest ``limit`` messages on the way from the leaf up to its root, oldest first.

    An unknown leaf has none.
    """
    if limit < 1:
        return []
    return [message_from(row) for row in _BRANCH.run(conn, {"leaf": leaf_id, "limit": limit}).fetchall()]


def history(conn: Connection, session_global_id: str, before: int | None, limit: int) -> list[Message]:
    """Return the newest ``limit`` messages of a session, all its conversations and branches, oldest first.

    Args:
        conn: where to read.
        session_global_id: the session.
        before: only messages stored before this sequence number; None: from the newest.
        limit: how many at most.
    """
    query = select(*COLUMNS).where(messages.c.session_id == session_global_id)
    if before is not None:
        query = query.where(messages.c.sequence < before)
    rows = conn.execute(query.order_by(messages.c.sequence.desc()).limit(limit)).all()
    return [message_from(row) for row in reversed(rows)]


def add_message(conn: Connection, message: Message) -> Message:
    """Store a message and return it with its place; its session and its parent are there already.

    The session counts as updated at that time.
    """
    row = _ADD.one(conn, _values(message))
    _TOUCH.run(conn, {"session": message.session_id, "now": message.created_at})
    return evolve(message, sequence=row[0] if row else 0)


def _values(message: Message) -> dict[str, Any]:
    usage = message.usage
    return {
        **asdict(message, recurse=False),
        "prompt_tokens": usage.prompt_tokens if usage else None,
        "completion_tokens": usage.completion_tokens if usage else None,
        "reasoning_tokens": usage.reasoning_tokens if usage else None,
        "cached_tokens": usage.cached_tokens if usage else None,
        "usage_source": usage.source if usage else None,
    }


def session_from(row: Sequence[Any]) -> Session:
    """A session from ``SESSION_COLUMNS``."""
    global_id, owner_id, session_id, title, model, provider, system_prompt, archived, created_at, updated_at = row
    said = (title, model, provider, system_prompt)
    return Session(global_id, session_id, owner_id, *said, bool(archived), created_at, updated_at)


def message_from(row: Sequence[Any]) -> Message:
    """A message from ``COLUMNS``."""
    prompt, completion, reasoning, cached, source, created_at = row[-6:]
    usage = None if source is None else Usage(prompt, completion, reasoning, cached, source)
    said: dict[str, Any] = dict(zip(_SAID, row, strict=False))
    return Message(**said, usage=usage, created_at=created_at)


def _up_the_tree() -> Select[Any]:
    ids = (messages.c.message_id, messages.c.parent_id)
    leaf = select(*ids, literal(1).label("depth")).where(messages.c.message_id == bindparam("leaf"))
    chain = leaf.cte("chain", recursive=True)
    chain = chain.union_all(
        select(*ids, chain.c.depth + 1).where(
            messages.c.message_id == chain.c.parent_id, chain.c.depth < bindparam("limit")
        )
    )
    return select(*COLUMNS).join(chain, chain.c.message_id == messages.c.message_id).order_by(chain.c.depth.desc())


def _newest() -> Select[Any]:
    conversation = messages.c.conversation_id == bindparam("conversation")
    rows = select(*COLUMNS).where(messages.c.session_id == bindparam("session"), conversation)
    return rows.order_by(messages.c.sequence.desc()).limit(1)


_SESSION = Prepared(
    lambda _: select(*SESSION_COLUMNS).where(
        sessions.c.owner_id == bindparam("owner"), sessions.c.session_id == bindparam("name")
    )
)
_MESSAGE = Prepared(lambda _: select(*COLUMNS).where(messages.c.message_id == bindparam("id")))
_BRANCH = Prepared(lambda _: _up_the_tree())
_NEWEST = Prepared(lambda _: _newest())
_ADD = Prepared(lambda _: insert(messages).returning(messages.c.sequence), tuple(column.name for column in COLUMNS))
_TOUCH = Prepared(
    lambda _: (
        update(sessions)
        .where(sessions.c.global_id == bindparam("session"), sessions.c.updated_at < bindparam("now"))
        .values(updated_at=bindparam("now"))
    )
)
_NEW_SESSION = Prepared(
    lambda dialect: insert_unless_there(dialect, sessions, "owner_id", "session_id").returning(sessions.c.global_id),
    tuple(column.name for column in SESSION_COLUMNS),
)
_FIRST_MEMBER = Prepared(lambda _: insert(members), tuple(column.name for column in members.c))
