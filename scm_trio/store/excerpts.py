"""A session's messages from the beginning on, for whoever wants all of them: first which, then page by page.

Functions take a connection first, as in ``messages.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, literal, select

from scm_trio.model import Message
from scm_trio.store.files import with_attachments
from scm_trio.store.messages import find_message
from scm_trio.store.paging import fitting
from scm_trio.store.schema import messages

MAX_MESSAGES = 100_000
"""Of a longer conversation the newest ones are told."""


def whole(conn: Connection, session_global_id: str) -> list[str]:
    """Return the ids of all messages of a session, of all its branches, in the order of storing."""
    ids = select(messages.c.message_id).where(messages.c.session_id == session_global_id)
    return list(conn.execute(ids.order_by(messages.c.sequence.desc()).limit(MAX_MESSAGES)).scalars())[::-1]


def branch(conn: Connection, session_global_id: str, leaf_id: str | None) -> list[str]:
    """Return the ids of the messages from the root to a leaf, oldest first.

    Args:
        conn: where to read.
        session_global_id: the session; a leaf of another one has no branch here.
        leaf_id: None: the message of the session that was stored last.
    """
    start = select(messages.c.message_id, messages.c.parent_id, literal(1).label("depth"))
    start = start.where(messages.c.session_id == session_global_id)
    if leaf_id is None:
        start = start.order_by(messages.c.sequence.desc()).limit(1).subquery().select()
    else:
        start = start.where(messages.c.message_id == leaf_id)
    chain = start.cte("chain", recursive=True)
    above = select(messages.c.message_id, messages.c.parent_id, chain.c.depth + 1)
    chain = chain.union_all(above.where(messages.c.message_id == chain.c.parent_id, chain.c.depth < MAX_MESSAGES))
    return list(conn.execute(select(chain.c.message_id).order_by(chain.c.depth.desc())).scalars())


def read(conn: Connection, message_ids: Sequence[str]) -> tuple[list[Message], int]:
    """Return the first of these messages, in this order, with their attachments, and how many of the ids that were.

    Together they make a page, at least one of them. One that was deleted meanwhile is left out.
    """
    found: list[Message | None] = []
    fit = fitting(_sizes(conn, message_ids, found))
    return with_attachments(conn, [message for message in found[:fit] if message is not None]), fit


def _sizes(conn: Connection, message_ids: Sequence[str], found: list[Message | None]) -> Iterator[int]:
    """Read one message after the other, so that none is read that the page has no room for, and one at most."""
    for message_id in message_ids:
        message = find_message(conn, message_id)
        found.append(message)
        yield 0 if message is None else len(message.content) + len(message.reasoning)
