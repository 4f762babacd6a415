"""All that is kept about one person: given out, and deleted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Table,
    and_,
    case,
    delete,
    exists,
    or_,
    select,
    union_all,
    update,
)

from scm_trio.protocol.codec import camel, timestamp
from scm_trio.store.access import lock, name_for
from scm_trio.store.removal import BATCH, NOBODY, SOMEBODY, remove_messages, remove_session
from scm_trio.store.schema import LEAVING, attachments, files, members, messages, reservations, runs, sessions, usage

Record = dict[str, Any]


def export_user(conn: Connection, user_id: str) -> Iterator[Record]:
    """Everything kept about a person, record by record; each says by ``kind`` what it is.

    First his sessions, under his own names for them, with his membership and his markers in them; of those that he began and
    has left no more than that, and a title that was made from his question. Then his messages (what he asked, and what was
    answered to him; in sessions that he has left, too), his files without their bytes, which messages show them, his runs,
    what they have set aside, and his lines of the ledger, each in the order of its time. What others said in a shared session is theirs. Rows are read as they are asked for: the records never stand
    in memory together.
    """
    kept = (column for column in members.c if column.name != "session_id")
    membership = and_(members.c.session_id == sessions.c.global_id, members.c.user_id == user_id)
    his = or_(members.c.user_id.is_not(None), sessions.c.owner_id == user_id, sessions.c.title_source == user_id)
    mine = select(*_as_seen_by(user_id), *kept).select_from(sessions.outerjoin(members, membership)).where(his)
    # Found in an index that has all it takes: no other text is read on the way.
    said = select(messages.c.sequence).where(messages.c.user_id == user_id)
    attached = select(attachments).join(files).where(files.c.user_id == user_id)
    parts: tuple[tuple[str, Select[Any]], ...] = (
        ("session", mine.order_by(sessions.c.created_at, sessions.c.global_id)),
        ("message", select(messages).where(messages.c.sequence.in_(said)).order_by(messages.c.sequence)),
        ("file", _of(files, user_id).order_by(files.c.created_at, files.c.file_id)),
        ("attachment", attached.order_by(attachments.c.sequence)),
        ("run", _of(runs, user_id).order_by(runs.c.started_at, runs.c.run_id)),
        ("reservation", _of(reservations, user_id).order_by(reservations.c.run_id)),
        ("usage", _of(usage, user_id).order_by(usage.c.started_at, usage.c.attempt_id)),
    )
    for kind, query in parts:
        for row in conn.execute(query, execution_options={"yield_per": BATCH}).mappings():
            yield {"kind": kind, **{camel(name): _plain(name, value) for name, value in row.items()}}


def write_export(conn: Connection, user_id: str, lines: BinaryIO) -> int:
    """Write ``export_user`` as JSON lines; return how many it were."""
    count = 0
    for record in export_user(conn, user_id):
        lines.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        count += 1
    return count


def delete_user(conn: Connection, user_id: str) -> int:
    """Delete the next batch of what is kept about a person; return its size, 0 when nothing is left.

    - A session of which he is the only owner goes, whoever else is in it. Another one he leaves; if he began it, it counts
      for nobody from then on.
    - What he asked in sessions that stay, and what was answered to him, is deleted and not only made anonymous: a text says
      who wrote it. What others said below it moves up (``removal.py``). Titles that were made from his questions go as well.
    - His files are nobody's and leaving (``files.sweep``), since their bytes have to be deleted first.
    - The ledger's lines stay, for the sums, and are nobody's.
    """
    if user_id in {NOBODY, SOMEBODY}:
        return 0
    return next((rows for step in _STEPS if (rows := step(conn, user_id))), 0)


def _of(table: Table, user_id: str) -> Select[Any]:
    return select(table).where(table.c.user_id == user_id)


def _as_seen_by(user_id: str) -> Iterator[ColumnElement[Any]]:
    """The columns of a session, without what others call it and who else has begun it or asked in it.

    What a session is like now is no business of one who has left it.
    """
    is_in_it = members.c.user_id.is_not(None)
    for column in sessions.c:
        if column.name == "session_id":
            yield name_for(user_id).label(column.name)
        elif column.name in {"owner_id", "title_source"}:
            yield case((column == user_id, column)).label(column.name)
        elif column.name == "title":
            yield case((or_(is_in_it, sessions.c.title_source == user_id), column)).label(column.name)
        elif column.name in {"model", "provider", "system_prompt"}:
            yield case((is_in_it, column)).label(column.name)
        else:
            yield column


def _plain(name: str, value: object) -> object:
    return timestamp(value) if name.endswith("_at") and isinstance(value, float) else value


def _leave_a_session(conn: Connection, user_id: str) -> int:
    taken_part = select(members.c.session_id).where(members.c.user_id == user_id)
    named = select(sessions.c.global_id).where(sessions.c.owner_id == user_id)
    global_id = conn.execute(union_all(taken_part, named).limit(1)).scalar_one_or_none()
    if global_id is None:
        return 0
    lock(conn, global_id)
    here = members.c.session_id == global_id
    other_owner = exists().where(here, members.c.user_id != user_id, members.c.role == "owner")
    if not conn.execute(select(other_owner)).scalar_one():
        remove_session(conn, global_id)
        return 1
    conn.execute(delete(members).where(here, members.c.user_id == user_id))
    begun = update(sessions).where(sessions.c.global_id == global_id, sessions.c.owner_id == user_id)
    conn.execute(begun.values(owner_id=SOMEBODY, session_id=global_id))
    return 1


def _delete_messages(conn: Connection, user_id: str) -> int:
    mine = messages.c.user_id == user_id
    global_id = conn.execute(select(messages.c.session_id).where(mine).limit(1)).scalar_one_or_none()
    if global_id is None:
        return 0
    lock(conn, global_id)
    here = select(messages.c.sequence).where(mine, messages.c.session_id == global_id).order_by(messages.c.sequence)
    return remove_messages(conn, conn.execute(here.limit(BATCH)).scalars().all())


def _clear_titles(conn: Connection, user_id: str) -> int:
    """After the messages: from then on nothing is left that a title could be made from."""
    some = select(sessions.c.global_id).where(sessions.c.title_source == user_id).limit(BATCH)
    made = update(sessions).where(sessions.c.global_id.in_(some))
    return conn.execute(made.values(title=None, title_source=None)).rowcount


def _let_files_go(conn: Connection, user_id: str) -> int:
    some = conn.execute(select(files.c.file_id).where(files.c.user_id == user_id).limit(BATCH)).scalars().all()
    conn.execute(delete(attachments).where(attachments.c.file_id.in_(some)))
    going = update(files).where(files.c.file_id.in_(some))
    conn.execute(going.values(user_id=NOBODY, name="", state=LEAVING))
    return len(some)


def _delete_runs(conn: Connection, user_id: str) -> int:
    some = select(runs.c.run_id).where(runs.c.user_id == user_id).limit(BATCH)
    return conn.execute(delete(runs).where(runs.c.run_id.in_(some))).rowcount


def _delete_reservations(conn: Connection, user_id: str) -> int:
    return conn.execute(delete(reservations).where(reservations.c.user_id == user_id)).rowcount


def _forget_in_ledger(conn: Connection, user_id: str) -> int:
    some = select(usage.c.attempt_id).where(usage.c.user_id == user_id).limit(BATCH)
    return conn.execute(update(usage).where(usage.c.attempt_id.in_(some)).values(user_id=NOBODY)).rowcount


_STEPS = (
    _leave_a_session,
    _delete_messages,
    _clear_titles,
    _let_files_go,
    _delete_runs,
    _delete_reservations,
    _forget_in_ledger,
)
