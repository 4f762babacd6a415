"""What is too old, or too much for one session, goes: ``sessions_due`` finds it, ``expire`` removes it batch by batch.

A session in which nothing happened for the whole time goes as a whole. Of the others messages go, the oldest first and no
younger one with them; what followed them is a beginning then, also an answer whose question was too old. A session with a
running answer is left alone until later. The ledger is kept.
"""

from __future__ import annotations

from attrs import frozen
from sqlalchemy import Connection, Select, and_, exists, func, literal, select

from scm_trio.config import Retention
from scm_trio.store.access import lock
from scm_trio.store.removal import BATCH, NOBODY, DeletedSession, remove_messages, remove_session
from scm_trio.store.schema import messages, run_is_running, runs, sessions

MAX_DUE = 500
"""Sessions that are found at once."""


@frozen
class Expired:
    """What a batch has removed.

    Attributes:
        count: how many messages, or 1 for a whole session.
        session: the session, where it went as a whole.
    """

    count: int = 0
    session: DeletedSession | None = None


def sessions_due(conn: Connection, now: float, keep: Retention) -> list[str]:
    """Sessions of which something has to go, by their global ids; not all of them where there are many."""
    busy = _busy()
    due: list[str] = []
    if keep.max_age_days:
        too_old = now - keep.max_age_s
        quiet = sessions.c.updated_at < too_old, sessions.c.owner_id != NOBODY, sessions.c.global_id.not_in(busy)
        due += conn.execute(select(sessions.c.global_id).where(*quiet).limit(MAX_DUE)).scalars()
        some = select(messages.c.session_id).where(messages.c.created_at < too_old, messages.c.session_id.not_in(busy))
        oldest = some.order_by(messages.c.created_at).limit(BATCH).subquery()
        due += conn.execute(select(oldest.c.session_id).distinct()).scalars()
    if keep.max_messages_per_session:
        full = select(messages.c.session_id).where(messages.c.session_id.not_in(busy)).group_by(messages.c.session_id)
        full = full.having(func.count() > keep.max_messages_per_session)
        due += conn.execute(full.limit(MAX_DUE)).scalars()
    return list(dict.fromkeys(due))


def expire(conn: Connection, now: float, keep: Retention, global_id: str) -> Expired:
    """Remove the next batch of what is too much of a session; nothing when there is no more."""
    lock(conn, global_id)
    mine = messages.c.session_id == global_id
    if conn.execute(select(literal(global_id).in_(_busy()))).scalar_one():
        return Expired()
    if keep.max_age_days:
        too_old = now - keep.max_age_s
        quiet = and_(sessions.c.global_id == global_id, sessions.c.updated_at < too_old, sessions.c.owner_id != NOBODY)
        if conn.execute(select(exists().where(quiet))).scalar_one():
            return Expired(1, remove_session(conn, global_id))
        oldest = select(messages.c.sequence).where(mine, messages.c.created_at < too_old).order_by(messages.c.sequence)
        removed = _remove(conn, oldest.limit(BATCH))
        if removed:
            return Expired(removed)
    if keep.max_messages_per_session:
        count = conn.execute(select(func.count()).select_from(messages).where(mine)).scalar_one()
        too_many = min(count - keep.max_messages_per_session, BATCH)
        if too_many > 0:
            oldest_first = select(messages.c.sequence).where(mine).order_by(messages.c.sequence)
            return Expired(_remove(conn, oldest_first.limit(too_many)))
    return Expired()


def _remove(conn: Connection, some: Select[int]) -> int:
    # Without the answers: somebody may have had an old question answered again a minute ago.
    return remove_messages(conn, conn.execute(some).scalars().all(), with_answers=False)


def _busy() -> Select[str]:
    return select(runs.c.session_id).where(run_is_running)
