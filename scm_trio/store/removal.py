"""Taking messages and whole sessions out of the store, in pieces that keep a transaction short.

What hung below a removed message moves up to the nearest one that is left, so that every branch can still be read. Where
a text goes because of who wrote it, the answers to it go as well; where it goes because of its age, they are younger and
stay. A removed session belongs to nobody at once, so that no function finds it; ``purge`` takes its messages away. The
ledger stays. The search and other tables that refer to messages follow by the database's cascades.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import frozen
from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, exists, or_, select, update

from scm_trio.store.access import name_for
from scm_trio.store.prepared import Prepared
from scm_trio.store.schema import members, messages, runs, sessions

NOBODY = ""
"""Owner of what waits to be removed, and whom anonymous rows belong to: no token can name this user."""

SOMEBODY = "\t"
"""Owner of what was begun by somebody who is deleted, and stays for others: no token can name this user either."""

BATCH = 500
"""Messages that one transaction removes."""


@frozen
class DeletedSession:
    """What there is left to say of a deleted session, by user: what each of its members called it."""

    global_id: str
    names: Mapping[str, str]


def remove_messages(conn: Connection, sequences: Iterable[int], *, with_answers: bool = True) -> int:
    """Remove these messages and their runs; return how many messages it were.

    Args:
        conn: where to write.
        sequences: which messages.
        with_answers: whether the answers to them go as well. Otherwise such an answer moves up like everything else, and
            where nothing is above it the conversation begins with it; its run stays, so that it can be asked for.
    """
    ids = (messages.c.message_id, messages.c.parent_id)
    chosen = messages.c.sequence.in_(sequences)
    gone = dict(conn.execute(select(*ids).where(chosen)).all())
    affected = conn.execute(select(messages.c.session_id).where(chosen).distinct()).scalars().all()
    if with_answers:
        answers = select(*ids).where(messages.c.parent_id.in_(gone), messages.c.role == "assistant")
        gone |= dict(conn.execute(answers).all())
    if not gone:
        return 0
    orphans = select(*ids).where(messages.c.parent_id.in_(gone), messages.c.message_id.not_in(gone))
    moves = [{"orphan": orphan, "left": _left(parent, gone)} for orphan, parent in conn.execute(orphans)]
    if moves:
        move = update(messages).where(messages.c.message_id == bindparam("orphan"))
        conn.execute(move.values(parent_id=bindparam("left")), moves)
    # Running ones too: their end finds no row then, and stores no answer to a question that is not there.
    theirs = or_(runs.c.message_id.in_(gone), and_(runs.c.user_message_id.in_(gone), ~_has_answer(gone)))
    conn.execute(delete(runs).where(runs.c.session_id.in_(affected), theirs))
    conn.execute(delete(messages).where(messages.c.message_id.in_(gone)))
    return len(gone)


def remove_session(conn: Connection, global_id: str) -> DeletedSession:
    """Take the session from everybody at once, and its messages as far as one batch goes; ``purge`` takes the rest.

    A run of it that is running finds no row at its end, and stores nothing. Returns whose it was.
    """
    people = select(members.c.user_id, name_for(members.c.user_id)).select_from(members).join(sessions)
    names: dict[str, str] = dict(conn.execute(people.where(members.c.session_id == global_id)).all())
    conn.execute(delete(members).where(members.c.session_id == global_id))
    conn.execute(delete(runs).where(runs.c.session_id == global_id))
    nothing = dict.fromkeys(("title", "title_source", "model", "provider", "system_prompt"))
    mine = sessions.c.global_id == global_id
    conn.execute(update(sessions).where(mine).values(owner_id=NOBODY, session_id=global_id, **nothing))
    _purge(conn, global_id, BATCH)
    return DeletedSession(global_id, names)


def has_removed(conn: Connection) -> bool:
    """Whether ``purge`` has something to do."""
    return _REMOVED.one(conn, {}) is not None


def purge(conn: Connection, limit: int = BATCH) -> int:
    """Remove up to ``limit`` messages of a removed session; return how many, 0 when nothing is left to do."""
    waiting = _REMOVED.one(conn, {})
    return 0 if waiting is None else max(1, _purge(conn, waiting[0], limit))


def _purge(conn: Connection, global_id: str, limit: int) -> int:
    # The newest first: a message is younger than its parent, so that none is left without one in between.
    mine = select(messages.c.sequence).where(messages.c.session_id == global_id)
    newest = mine.order_by(messages.c.sequence.desc()).limit(limit)
    removed = conn.execute(delete(messages).where(messages.c.sequence.in_(newest))).rowcount
    if removed < limit:
        conn.execute(delete(sessions).where(sessions.c.global_id == global_id))
    return removed


def _has_answer(gone: Iterable[str]) -> ColumnElement[bool]:
    """Whether a run has an answer that stays."""
    return exists().where(messages.c.message_id == runs.c.message_id, messages.c.message_id.not_in(gone))


def _left(parent: str | None, gone: Mapping[str, str | None]) -> str | None:
    while parent is not None and parent in gone:
        parent = gone[parent]
    return parent


_REMOVED = Prepared(lambda _: select(sessions.c.global_id).where(sessions.c.owner_id == NOBODY).limit(1))
