"""What was said in a session, in pages: all of it, or one branch of its tree; each message with its alternatives."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen
from sqlalchemy import Connection, Select, bindparam, func, select

from scm_trio.model import Message, MessageStatus
from scm_trio.store.access import resolve
from scm_trio.store.files import with_attachments
from scm_trio.store.markers import sequence_in, status_of
from scm_trio.store.members import markers_of
from scm_trio.store.messages import branch, history
from scm_trio.store.paging import Page, decode_cursor, encode_cursor, fitting, page_size
from scm_trio.store.schema import messages

MAX_SIBLINGS = 1000
"""Alternatives that are looked up for a page."""


@frozen
class Said:
    """A message of a session's history.

    Attributes:
        message: as it is stored.
        status: how far it has come, as the reader sees it.
        siblings: the ids of its alternatives and its own, in the order of storing: other answers to the same question,
            other questions after the same answer. With "2 of 3" a client offers to change the branch (``newest_leaf``).
    """

    message: Message
    status: MessageStatus
    siblings: tuple[str, ...]


@frozen
class HistoryFilter:
    """Which part of a history is asked for.

    Attributes:
        leaf: only the branch from this message up to its root; None: everything.
        before: the cursor of the page before.
        limit: how many at most.
    """

    leaf: str | None = None
    before: str | None = None
    limit: int = 50


def history_page(conn: Connection, user_id: str, reference: str, wanted: HistoryFilter) -> Page[Said]:
    """A page of a session's history: the newest page first, the oldest message of a page first.

    Raises:
        NotFound: he is no member of such a session, or the leaf is none of its messages.
        InvalidMessage: the cursor is none of this list.
    """
    global_id = resolve(conn, user_id, reference).global_id
    before = None if wanted.before is None else int(decode_cursor(wanted.before, int)[0])
    size = page_size(wanted.limit)
    if wanted.leaf is None:
        found = history(conn, global_id, before, size + 1)
    else:
        found = _one_branch(conn, global_id, wanted.leaf, before, size + 1)
    fit = fitting(len(each.content) + len(each.reasoning) for each in reversed(found[-size:]))
    shown = with_attachments(conn, found[len(found) - fit :])
    sequences = _sequences(conn, shown)
    markers = markers_of(conn, global_id)
    siblings = _siblings(conn, global_id, shown)
    items = tuple(
        Said(each, status_of(each, sequences[each.message_id], user_id, markers), siblings[each.message_id])
        for each in shown
    )
    return Page(items, encode_cursor(sequences[shown[0].message_id]) if len(found) > fit else None)


def newest_leaf(conn: Connection, user_id: str, reference: str, message_id: str) -> str:
    """The end of the branch that one sees below a message: at every fork the alternative that was stored last.

    Raises:
        NotFound: he is no member of such a session, or it has no such message.
    """
    global_id = resolve(conn, user_id, reference).global_id
    found = conn.execute(_DOWN, {"sequence": sequence_in(conn, global_id, message_id)}).scalar_one()
    return str(found)


def _one_branch(conn: Connection, global_id: str, leaf: str, before: int | None, limit: int) -> list[Message]:
    sequence_in(conn, global_id, leaf)
    tip: str | None = leaf
    if before is not None:
        # Before the oldest message of the page before; where that is gone by now, what was older is gone as well.
        oldest = messages.c.sequence == before, messages.c.session_id == global_id
        tip = conn.execute(select(messages.c.parent_id).where(*oldest)).scalar_one_or_none()
    return [] if tip is None else branch(conn, tip, limit)


def _sequences(conn: Connection, said: Sequence[Message]) -> dict[str, int]:
    ids = [message.message_id for message in said]
    places = select(messages.c.message_id, messages.c.sequence).where(messages.c.message_id.in_(ids))
    return dict(conn.execute(places).all())


def _siblings(conn: Connection, global_id: str, said: Sequence[Message]) -> dict[str, tuple[str, ...]]:
    """The alternatives of each of these messages of a session, by its id.

    Answers and questions are told apart, for questions whose parent was removed hang where its alternatives do.
    """
    parents = {message.parent_id for message in said if message.parent_id is not None}
    trunks = {message.conversation_id for message in said if message.parent_id is None}
    root = messages.c.parent_id.is_(None), messages.c.session_id == global_id
    columns = (messages.c.parent_id, messages.c.conversation_id, messages.c.role, messages.c.message_id)
    together: dict[tuple[str | None, str | None, str], list[str]] = {}
    for query in (
        select(*columns).where(messages.c.parent_id.in_(parents)),
        select(*columns).where(*root, messages.c.conversation_id.in_(trunks)),
    ):
        for row in conn.execute(query.order_by(messages.c.sequence).limit(MAX_SIBLINGS)):
            together.setdefault(_fork(row.parent_id, row.conversation_id, row.role), []).append(row.message_id)
    places = {each.message_id: _fork(each.parent_id, each.conversation_id, each.role) for each in said}
    return {message_id: tuple(together.get(fork, ())) for message_id, fork in places.items()}


def _fork(parent_id: str | None, conversation_id: str, role: str) -> tuple[str | None, str | None, str]:
    return parent_id, conversation_id if parent_id is None else None, role


def _down_the_tree() -> Select[str]:
    start = select(messages.c.sequence, messages.c.message_id).where(messages.c.sequence == bindparam("sequence"))
    way = start.cte("way", recursive=True)
    child = messages.alias("child")
    newest = select(func.max(child.c.sequence)).where(child.c.parent_id == way.c.message_id).scalar_subquery()
    step = (
        select(messages.c.sequence, messages.c.message_id)
        .select_from(way)
        .join(messages, messages.c.sequence == newest)
    )
    way = way.union_all(step)
    return select(way.c.message_id).order_by(way.c.sequence.desc()).limit(1)


_DOWN = _down_the_tree()
