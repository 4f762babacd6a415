"""How far a member is: what he was given, and what he has read.

A marker is a sequence number, and says: all of this session's messages up to here. It only moves forward. That is sound
because within one session no message with a lower number appears later than one with a higher number: SQLite has one
writer at a time, and on PostgreSQL a trigger takes the session's lock before it hands the number out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from attrs import frozen
from sqlalchemy import ColumnElement, Connection, Select, and_, bindparam, exists, func, select, update

from scm_trio.errors import NotFound
from scm_trio.model import Message, MessageStatus
from scm_trio.store.access import Access, name_for, resolve
from scm_trio.store.files import with_attachments
from scm_trio.store.members import Markers
from scm_trio.store.messages import COLUMNS, message_from
from scm_trio.store.schema import members, messages, sessions
from scm_trio.store.unread import is_foreign


@frozen
class ReadMark:
    """Where a reader's marker is after he read up to a message; ``moved``: it was not as far before."""

    access: Access
    sequence: int
    moved: bool


@frozen
class Undelivered:
    """A message that its reader was not given yet; ``session_id`` is what he calls its session."""

    message: Message
    sequence: int
    session_id: str


def mark_read(conn: Connection, user_id: str, reference: str, message_id: str) -> ReadMark:
    """Move the user's marker up to this message; what is read was delivered as well.

    Raises:
        NotFound: he is no member of such a session, or it has no such message.
    """
    access = resolve(conn, user_id, reference)
    sequence = sequence_in(conn, access.global_id, message_id)
    mine = members.c.session_id == access.global_id, members.c.user_id == user_id
    for marker in (members.c.read_to, members.c.delivered_to):
        conn.execute(update(members).where(*mine, marker < sequence).values({marker: sequence}))
    return ReadMark(access, max(sequence, access.read_to), sequence > access.read_to)


def mark_delivered(conn: Connection, global_id: str, user_ids: Collection[str], message_id: str) -> set[str]:
    """Note that these members were given a message, and return those for whom it holds.

    Whoever is left out has news of this session before it that he was not given: nothing is skipped, and
    ``take_undelivered`` has it all in order. An unknown message is given to nobody.
    """
    sequence = conn.execute(
        select(messages.c.sequence).where(messages.c.session_id == global_id, messages.c.message_id == message_id)
    ).scalar_one_or_none()
    if sequence is None:
        return set()
    listed = members.c.session_id == global_id, members.c.user_id.in_(user_ids)
    skipped = exists().where(
        messages.c.session_id == members.c.session_id,
        messages.c.sequence > members.c.delivered_to,
        messages.c.sequence < sequence,
        is_foreign(members.c.user_id),
    )
    conn.execute(
        update(members).where(*listed, members.c.delivered_to < sequence, ~skipped).values(delivered_to=sequence)
    )
    return set(conn.execute(select(members.c.user_id).where(*listed, members.c.delivered_to >= sequence)).scalars())


def take_undelivered(conn: Connection, user_id: str, limit: int) -> list[Undelivered]:
    """The oldest ``limit`` messages that the user was not given yet, in the order of their storing; they now count as given.

    Of two callers at once, in two processes even, each message is had by one. An empty list: there is no more.
    """
    # Each session is asked for its first one: nothing else is read where there are none, however large the database.
    while firsts := dict(conn.execute(_FIRSTS, {"user": user_id, "limit": limit}).all()):
        mine = members.c.user_id == user_id, members.c.session_id.in_(firsts)
        # Locked in one order, so that two callers wait for each other and never both ways.
        conn.execute(select(members.c.session_id).where(*mine).order_by(members.c.session_id).with_for_update())
        query = (
            select(messages.c.sequence, name_for(user_id), *COLUMNS)
            .join(members, members.c.session_id == messages.c.session_id)
            .join(sessions, sessions.c.global_id == members.c.session_id)
            .where(*mine, _is_undelivered(), messages.c.sequence >= min(firsts.values()))
            .order_by(messages.c.sequence)
            .limit(limit)
        )
        rows = conn.execute(query).all()
        said = with_attachments(conn, [message_from(row[2:]) for row in rows])
        taken = [Undelivered(message, row[0], row[1]) for message, row in zip(said, rows, strict=True)]
        if taken:
            _mark_taken(conn, user_id, taken)
            return taken
        # Another caller had them while this one waited for the lock.
    return []


def _mark_taken(conn: Connection, user_id: str, taken: Sequence[Undelivered]) -> None:
    last = {each.message.session_id: each.sequence for each in taken}
    marked = update(members).where(members.c.user_id == user_id, members.c.session_id == bindparam("session"))
    rows = [{"session": global_id, "last": sequence} for global_id, sequence in last.items()]
    conn.execute(marked.values(delivered_to=bindparam("last")), rows)


def status_of(message: Message, sequence: int, user_id: str, markers: Mapping[str, Markers]) -> MessageStatus:
    """How far a message has come, as the user sees it.

    His own question is delivered, and read, when the last of the other members has it; the assistant needs no waiting
    for, so that without other members it is read. Everything else is his to receive and to read himself.
    """
    is_own = message.role == "user" and message.user_id == user_id
    waited_for = [mark for user, mark in markers.items() if (user != user_id) == is_own]
    if all(mark.read_to >= sequence for mark in waited_for):
        return "read"
    return "delivered" if all(mark.delivered_to >= sequence for mark in waited_for) else "sent"


def sequence_in(conn: Connection, global_id: str, message_id: str) -> int:
    """The message's place in the order of storing.

    Raises:
        NotFound: it is none of this session's.
    """
    query = select(messages.c.sequence).where(messages.c.message_id == message_id, messages.c.session_id == global_id)
    sequence: int | None = conn.execute(query).scalar_one_or_none()
    if sequence is None:
        raise NotFound("no such message in this session")
    return sequence


def _is_undelivered() -> ColumnElement[bool]:
    return and_(messages.c.sequence > members.c.delivered_to, is_foreign(members.c.user_id))


def _firsts() -> Select[str, int]:
    """The user's sessions that have undelivered messages, each with the number of its first; the lowest first."""
    here = messages.c.session_id == members.c.session_id
    first = select(func.min(messages.c.sequence)).where(here, _is_undelivered()).correlate(members).scalar_subquery()
    sessions_of = select(members.c.session_id, first.label("first")).where(members.c.user_id == bindparam("user"))
    known = sessions_of.subquery()
    there = select(known.c.session_id, known.c.first).where(known.c.first.is_not(None))
    return there.order_by(known.c.first).limit(bindparam("limit"))


_FIRSTS = _firsts()
