"""What members were given, and what waits for them.

``delivered_to`` says that a member was given everything up to there. So a message counts as delivered only when nothing
before it is missing: ``mark_given`` leaves the others for later, and what was never given is found by ``waiting_for``,
in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from attrs import evolve, frozen
from sqlalchemy import Connection, Exists, Select, bindparam, case, exists, func, select, update

from scm_trio.errors import NotFound
from scm_trio.model import Message
from scm_trio.store.access import Access, name_for, resolve
from scm_trio.store.companions import companions
from scm_trio.store.files import with_attachments
from scm_trio.store.messages import COLUMNS, message_from
from scm_trio.store.prepared import Prepared
from scm_trio.store.schema import members, messages, sessions
from scm_trio.store.unread import Unread, is_foreign, unread

Given = Mapping[tuple[str, str], Sequence[int]]
"""By user and session (its global id): the sequence numbers of messages, in ascending order."""


@frozen
class Undelivered:
    """A message that its reader was not given yet; ``session_id`` is what he calls its session."""

    message: Message
    session_id: str


@frozen
class Arrival:
    """What a user is to be told when a connection of his opens.

    Attributes:
        access: his way into the session that the connection named; None: there is no such session of his yet.
        unread: his sessions with unread messages.
        seen: those of the sessions asked about that he is a member of.
        behind: the sessions in which messages wait for him.
        companions: the people whom he shares a session with; None: that was not looked up.
    """

    access: Access | None = None
    unread: Sequence[Unread] = ()
    seen: frozenset[str] = frozenset()
    behind: frozenset[str] = frozenset()
    companions: frozenset[str] | None = None


def arrive(conn: Connection, user_id: str, reference: str, global_ids: Iterable[str]) -> Arrival:
    """Everything that an opened connection is told, in one look.

    Args:
        conn: where to read.
        user_id: whose connection it is.
        reference: the session that it names.
        global_ids: sessions that he may be a member of.
    """
    try:
        access = resolve(conn, user_id, reference)
    except NotFound:
        access = None
    behind = frozenset(session for session, _ in _first_of_each(conn, user_id, 0))
    seen = frozenset(each for each in set(global_ids) if _IS_MEMBER.one(conn, {"user": user_id, "session": each}))
    return Arrival(access, unread(conn, user_id), seen, behind, frozenset(companions(conn, user_id)))


def waiting_for(conn: Connection, user_id: str, after: int, limit: int) -> Sequence[Undelivered]:
    """The oldest ``limit`` messages that the user was not given, in the order of their storing.

    Args:
        conn: where to read.
        user_id: the user.
        after: only those whose sequence number is higher.
        limit: how many at most.
    """
    # Each session is asked for its first one: nothing else is read where there are none, however large the database.
    firsts = sorted(_first_of_each(conn, user_id, after), key=itemgetter(1))[:limit]
    if not firsts:
        return []
    query = (
        select(messages.c.sequence, name_for(user_id), *COLUMNS)
        .join(members, members.c.session_id == messages.c.session_id)
        .join(sessions, sessions.c.global_id == members.c.session_id)
        .where(members.c.user_id == user_id, members.c.session_id.in_([session for session, _ in firsts]))
        .where(messages.c.sequence >= firsts[0][1], *_undelivered())
        .order_by(messages.c.sequence)
        .limit(limit)
    )
    rows = conn.execute(query).all()
    found = with_attachments(conn, [evolve(message_from(row), sequence=sequence) for sequence, _, *row in rows])
    return [Undelivered(message, row[1]) for message, row in zip(found, rows, strict=True)]


def mark_given(conn: Connection, given: Given) -> Given:
    """Move the markers over what was given, and return what is left because something before it was not.

    What a user was given in a session that he is no member of any more is forgotten.
    """
    left: dict[tuple[str, str], Sequence[int]] = {}
    for (user_id, global_id), sequences in given.items():
        place = {"session": global_id, "user": user_id}
        for number, sequence in enumerate(sequences):
            at = {**place, "sequence": sequence}
            if _MARK.one(conn, at) is None and _IS_BEFORE.one(conn, at) is not None:
                left[user_id, global_id] = sequences[number:]
                break
    return left


def _first_of_each(conn: Connection, user_id: str, after: int) -> list[tuple[str, int]]:
    """The user's sessions that have undelivered messages, each with the number of its first after that one."""
    rows = _FIRSTS.run(conn, {"user": user_id, "after": after}).fetchall()
    # Those without any are left out here, because SQLite would look twice to do it.
    return [(session, first) for session, first in rows if first is not None]


def _undelivered() -> tuple[Any, ...]:
    return messages.c.sequence > members.c.delivered_to, is_foreign(members.c.user_id)


def _missing() -> Exists:
    here = messages.c.session_id == members.c.session_id
    return exists().where(here, messages.c.sequence < bindparam("sequence"), *_undelivered())


def _firsts() -> Select[Any]:
    """The user's sessions, each with the number of its first undelivered message, NULL where there is none."""
    # One bound and no second one: SQLite's index would be used for either of them.
    passed = case((members.c.delivered_to > bindparam("after"), members.c.delivered_to), else_=bindparam("after"))
    new = messages.c.session_id == members.c.session_id, messages.c.sequence > passed, is_foreign(members.c.user_id)
    first = select(func.min(messages.c.sequence)).where(*new).correlate(members).scalar_subquery()
    return select(members.c.session_id, first).where(members.c.user_id == bindparam("user"))


_MINE = members.c.session_id == bindparam("session"), members.c.user_id == bindparam("user")
_FIRSTS = Prepared(lambda _: _firsts())
_IS_MEMBER = Prepared(lambda _: select(members.c.role).where(*_MINE))
_IS_BEFORE = Prepared(lambda _: select(members.c.role).where(*_MINE, members.c.delivered_to < bindparam("sequence")))
_MARK = Prepared(
    lambda _: (
        update(members)
        .where(*_MINE, members.c.delivered_to < bindparam("sequence"), ~_missing())
        .values(delivered_to=bindparam("sequence"))
        .returning(members.c.role)
    )
)
