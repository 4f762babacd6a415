"""How far a member is: what he was given, and what he has read.

A marker is a sequence number, and says: all of this session's messages up to here. It only moves forward. That is sound
because within one session no message with a lower number appears later than one with a higher number: SQLite has one
writer at a time, and on PostgreSQL a trigger takes the session's lock before it hands the number out.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen
from sqlalchemy import Connection, select, update

from scm_trio.errors import NotFound
from scm_trio.model import Message, MessageStatus
from scm_trio.store.access import Access, resolve
from scm_trio.store.members import Markers
from scm_trio.store.schema import members, messages


@frozen
class ReadMark:
    """Where a reader's marker is after he read up to a message; ``moved``: it was not as far before."""

    access: Access
    sequence: int
    moved: bool


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
