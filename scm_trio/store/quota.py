"""What a user has spent on one UTC day, and what running answers have set aside of it.

Spent is what the ledger says of settled attempts. An answer that is being given has a reservation instead, from the
transaction that opens its run to the one that ends it. Functions take a connection first, as in ``messages.py``.
"""

from __future__ import annotations

from attrs import asdict, frozen
from sqlalchemy import (
    BigInteger,
    Connection,
    bindparam,
    case,
    cast,
    delete,
    distinct,
    func,
    insert,
    literal_column,
    select,
)
from sqlalchemy.sql import CompoundSelect

from scm_trio.store.ledger import DAY_S
from scm_trio.store.prepared import Prepared
from scm_trio.store.schema import attempt_is_running, reservations, run_is_running, runs, usage

_ROOM = 0x5C30
"""Ours among PostgreSQL's advisory locks."""


class Contended(Exception):
    """Another server process is deciding about this user at this moment. Try again shortly; nothing has changed."""


@frozen
class Amounts:
    """Of one user and day: tokens of prompts and answers, requests, and what they cost."""

    tokens: int = 0
    requests: int = 0
    cost: float = 0.0


@frozen
class Reservation:
    """What an answer may come to. ``day`` counts UTC days since the epoch."""

    run_id: str
    user_id: str
    day: int
    tokens: int
    cost: float


def claim(conn: Connection, user_id: str) -> None:
    """Be the only one who decides about this user until the transaction ends.

    SQLite has one writer at a time anyway. PostgreSQL has one per process; there it takes a lock, and never waits for
    one: a batch that holds one user's lock and waits for another's could wait for a batch that does the opposite.

    Raises:
        Contended: somebody else is.
    """
    if conn.dialect.name == "postgresql" and not conn.execute(_CLAIM, {"user_id": user_id}).scalar_one():
        raise Contended


def amounts(conn: Connection, user_id: str, day: int) -> Amounts:
    """Return what the user has spent on that day, together with what is reserved of it."""
    period = {"user_id": user_id, "day": day, "since": day * DAY_S, "until": (day + 1) * DAY_S}
    rows = _AMOUNTS.run(conn, period).fetchall()
    requests, tokens, cost = (sum(column) for column in zip(*rows, strict=True))
    return Amounts(int(tokens), int(requests), float(cost))


def reserve(conn: Connection, reservation: Reservation) -> None:
    """Set an answer's amounts aside; its user has been claimed, and its run is being opened."""
    _RESERVE.run(conn, asdict(reservation))


def release(conn: Connection, run_id: str) -> None:
    """Let a reservation go: the run is over, and its attempts are settled in the same transaction."""
    _RELEASE.run(conn, {"run_id": run_id})


def release_dead(conn: Connection) -> None:
    """Let the reservations go whose runs are over or gone: those that a crash left behind."""
    running = select(runs.c.run_id).where(run_is_running)
    conn.execute(delete(reservations).where(reservations.c.run_id.not_in(running)))


def _amounts() -> CompoundSelect[tuple[int, int, float]]:
    of_user = usage.c.user_id == bindparam("user_id")
    # As large numbers: one nonsensical count must not keep its user out for a day.
    tokens = cast(usage.c.prompt_tokens, BigInteger) + usage.c.completion_tokens
    spent = case((attempt_is_running, 0), else_=tokens)
    settled = select(
        func.count(distinct(usage.c.run_id)),
        func.coalesce(func.sum(spent), 0),
        func.coalesce(func.sum(usage.c.cost), 0.0),
    ).where(of_user, usage.c.started_at >= bindparam("since"), usage.c.started_at < bindparam("until"))
    reserved = select(
        literal_column("0"),
        func.coalesce(func.sum(reservations.c.tokens), 0),
        func.coalesce(func.sum(reservations.c.cost), 0.0),
    ).where(reservations.c.user_id == bindparam("user_id"), reservations.c.day == bindparam("day"))
    return settled.union_all(reserved)


_CLAIM = select(func.pg_try_advisory_xact_lock(literal_column(str(_ROOM)), func.hashtext(bindparam("user_id"))))
_AMOUNTS = Prepared(lambda _: _amounts())
_RESERVE = Prepared(lambda _: insert(reservations), tuple(column.name for column in reservations.c))
_RELEASE = Prepared(lambda _: delete(reservations).where(reservations.c.run_id == bindparam("run_id")))
