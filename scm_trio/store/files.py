"""Files and attachments: whose they are, which message shows them, and which of them nobody needs any more.

The bytes are elsewhere (``blobs.py``). A file's row is written before its first byte and deleted after its last, so
whatever a crash leaves behind is found here. Functions take a connection first, as in ``messages.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from attrs import asdict, evolve, fields
from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    Text,
    any_,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql

from scm_trio.model import File, Message
from scm_trio.store.prepared import Prepared
from scm_trio.store.schema import COMING, LEAVING, READY, attachments, file_is_leaving, files, members, messages

LEAST_CHARGE_BYTES = 4096
"""What a file costs of its owner's quota at least: a block of the disk, and a row."""


# ---- coming


def announce(conn: Connection, file: File) -> int:
    """Write down a file whose bytes are about to come; returns what its owner's files cost of the quota without it."""
    used = used_bytes(conn, file.user_id)
    conn.execute(insert(files), {**asdict(file), "state": COMING})
    return used


def complete(conn: Connection, file: File) -> bool:
    """All bytes are here: from now on the file can be read and attached. False: it was swept away meanwhile."""
    still_coming = files.c.file_id == file.file_id, files.c.state == COMING
    values = {"media_type": file.media_type, "size_bytes": file.size_bytes, "state": READY}
    return conn.execute(update(files).where(*still_coming).values(values)).rowcount == 1


def used_bytes(conn: Connection, user_id: str) -> int:
    """Return what a user's files cost of the quota; one that is still coming counts the least."""
    charge = case((files.c.size_bytes < LEAST_CHARGE_BYTES, LEAST_CHARGE_BYTES), else_=files.c.size_bytes)
    total = conn.execute(select(func.sum(charge)).where(files.c.user_id == user_id)).scalar()
    return int(total or 0)


# ---- being read and attached


def find_readable(conn: Connection, user_id: str, file_id: str) -> File | None:
    """Return the file if this user may read it, else None."""
    row = conn.execute(_READY.where(files.c.file_id == file_id, _may_read(user_id))).mappings().one_or_none()
    return None if row is None else _file(row)


def _may_read(user_id: str) -> ColumnElement[bool]:
    """Whether a user may read a file; asked nowhere else: whoever uploaded it, and the members of sessions that show it."""
    shown = select(attachments.c.file_id).join(messages, messages.c.message_id == attachments.c.message_id)
    shown = shown.join(members, members.c.session_id == messages.c.session_id).where(members.c.user_id == user_id)
    return or_(files.c.user_id == user_id, shown.where(attachments.c.file_id == files.c.file_id).exists())


def find_own(conn: Connection, user_id: str, file_ids: Sequence[str]) -> dict[str, File]:
    """Return those of these files that this user uploaded, by their ids."""
    rows = conn.execute(_READY.where(files.c.user_id == user_id, files.c.file_id.in_(file_ids))).mappings()
    return {row["file_id"]: _file(row) for row in rows}


def attach(conn: Connection, message_id: str, file_ids: Sequence[str], now: float) -> bool:
    """Attach different files to a message that was just stored, in this order; False: one of them is leaving."""
    if not file_ids:
        return True
    still_there = files.c.file_id.in_(file_ids), files.c.state == READY
    first_time = func.coalesce(files.c.attached_at, now)
    if conn.execute(update(files).where(*still_there).values(attached_at=first_time)).rowcount != len(file_ids):
        return False
    rows = [{"message_id": message_id, "position": n, "file_id": each} for n, each in enumerate(file_ids)]
    conn.execute(insert(attachments), rows)
    return True


def with_attachments(conn: Connection, found: Sequence[Message]) -> list[Message]:
    """Return the messages, in the same order, each with the files that are attached to it."""
    ids = [message.message_id for message in found if message.role == "user"]
    of_message: dict[str, list[File]] = {}
    if ids:
        wanted = {"ids": orjson.dumps(ids).decode() if conn.dialect.name == "sqlite" else ids}
        for message_id, *file in _ATTACHED.run(conn, wanted).fetchall():
            of_message.setdefault(message_id, []).append(File(*file))
    if not of_message:
        return list(found)
    return [evolve(each, attachments=tuple(of_message.get(each.message_id, ()))) for each in found]


# ---- leaving


def is_littered(conn: Connection, *, unattached_before: float) -> bool:
    """Whether ``sweep`` has something to do; mostly it has not, and an idle server should write nothing."""
    return _LITTER.one(conn, {"before": unattached_before}) is not None


def sweep(conn: Connection, *, unattached_before: float, limit: int) -> list[str]:
    """Take away what nobody needs any more; returns the ids of files whose bytes are to be deleted, at most ``limit``.

    These are files that lost their last message, and files that were announced before a time and neither completed
    nor attached since. They are nobody's from now on; ``forget`` has to follow when their bytes are gone.
    """
    lost = conn.execute(
        select(attachments.c.sequence, attachments.c.file_id).where(attachments.c.message_id.is_(None)).limit(limit)
    ).all()
    conn.execute(delete(attachments).where(attachments.c.sequence.in_([sequence for sequence, _ in lost])))
    is_attached = exists().where(attachments.c.file_id == files.c.file_id)
    lonely = files.c.file_id.in_([file_id for _, file_id in lost]), ~is_attached
    conn.execute(update(files).where(*lonely).values(state=LEAVING))
    # Said twice: where another node attaches one at this moment, the database looks at the row itself again.
    never_attached = files.c.attached_at.is_(None)
    old = select(files.c.file_id).where(never_attached, files.c.created_at < unattached_before)
    conn.execute(update(files).where(never_attached, files.c.file_id.in_(old.limit(limit))).values(state=LEAVING))
    return list(conn.execute(select(files.c.file_id).where(file_is_leaving).limit(limit)).scalars())


def forget(conn: Connection, file_ids: Sequence[str]) -> None:
    """Delete the rows of files whose bytes are gone."""
    conn.execute(delete(files).where(files.c.file_id.in_(file_ids)))


def _file(row: RowMapping) -> File:
    return File(**row)


def _attached(dialect: str) -> Select[Any]:
    """Every answer asks this, mostly in vain: a list of ids would have to be compiled anew for each length."""
    if dialect == "sqlite":
        ids = select(func.json_each(bindparam("ids")).table_valued("value").c.value)
        among: ColumnElement[bool] = attachments.c.message_id.in_(ids)
    else:
        among = attachments.c.message_id == any_(bindparam("ids", type_=postgresql.ARRAY(Text)))
    query = select(attachments.c.message_id, *_COLUMNS).join(files).where(among)
    return query.order_by(attachments.c.message_id, attachments.c.position)


def _litter(_: str) -> Select[Any]:
    lost = exists().where(attachments.c.message_id.is_(None))
    old = exists().where(files.c.attached_at.is_(None), files.c.created_at < bindparam("before"))
    return select(literal(1)).where(lost | old | exists().where(file_is_leaving))


_COLUMNS = [files.c[each.name] for each in fields(File)]
_READY = select(*_COLUMNS).where(files.c.state == READY)
_ATTACHED = Prepared(_attached)
_LITTER = Prepared(_litter)
