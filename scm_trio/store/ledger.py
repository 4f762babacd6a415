"""The ledger: one row per upstream attempt, opened before the provider is asked and settled once.

Rows are never deleted with their session. Functions take a connection first, as in ``messages.py``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from attrs import asdict, fields, frozen
from sqlalchemy import Connection, RowMapping, bindparam, distinct, func, insert, not_, select, update

from scm_trio.model import Usage
from scm_trio.store.prepared import Prepared
from scm_trio.store.schema import RUNNING, attempt_is_running, insert_unless_there, usage

DAY_S = 86_400


@frozen
class Attempt:
    """An upstream attempt that is about to begin. ``prompt_tokens`` is an estimate, kept if the process dies."""

    attempt_id: str
    run_id: str
    message_id: str
    user_id: str
    provider: str
    model: str
    started_at: float
    prompt_tokens: int = 0


@frozen
class SettledAttempt:
    """How an attempt ended. ``outcome`` is a finish reason or an error code; ``duration_ms`` and ``cost`` are None where nobody knows."""

    attempt_id: str
    outcome: str
    duration_ms: int | None
    usage: Usage
    cost: float | None = None


@frozen
class AttemptRow:
    """A line of the ledger; an attempt still under way has the outcome ``running`` and no duration."""

    attempt_id: str
    run_id: str
    message_id: str
    user_id: str
    provider: str
    model: str
    started_at: float
    duration_ms: int | None
    outcome: str
    usage: Usage
    cost: float | None


@frozen
class UsageDay:
    """What a user spent on one model in one UTC day (``YYYY-MM-DD``); ``requests`` counts answers, not attempts."""

    day: str
    provider: str
    model: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None


def open_attempt(conn: Connection, attempt: Attempt) -> None:
    """Write the attempt down as running."""
    _OPEN.run(conn, _values(attempt))


def note_attempt(conn: Connection, attempt: Attempt) -> None:
    """Write a further attempt down as running, or who is really asked in one that is there; a settled one stays as it is."""
    conn.execute(insert_unless_there(conn.dialect.name, usage, "attempt_id"), _values(attempt))
    asked = {"provider": attempt.provider, "model": attempt.model}
    conn.execute(update(usage).where(usage.c.attempt_id == attempt.attempt_id, attempt_is_running).values(asked))


def settle_attempt(conn: Connection, settled: SettledAttempt) -> None:
    """Write down how the attempt ended; one that is settled already stays as it is."""
    _SETTLE.run(conn, {**asdict(settled, recurse=False), **asdict(settled.usage)})


def _values(attempt: Attempt) -> dict[str, Any]:
    estimate = Usage(prompt_tokens=attempt.prompt_tokens, source="estimated")
    began = {"day": int(attempt.started_at // DAY_S), "duration_ms": None, "cost": None, "outcome": RUNNING}
    return {**asdict(attempt), **asdict(estimate), **began}


def unsettled(conn: Connection) -> list[AttemptRow]:
    """Return every attempt that nobody settled yet."""
    return [_attempt(row) for row in conn.execute(select(usage).where(attempt_is_running)).mappings()]


def spoken_before(conn: Connection, attempt: AttemptRow, since: float) -> list[AttemptRow]:
    """Return the settled attempts of the same run that had said something before they failed, in their order.

    Args:
        conn: where to read.
        attempt: a later one.
        since: when the run began.
    """
    # By user and time, which there is an index for.
    query = select(usage).where(
        usage.c.user_id == attempt.user_id,
        usage.c.started_at >= since,
        usage.c.run_id == attempt.run_id,
        usage.c.completion_tokens > 0,
        not_(attempt_is_running),
    )
    return [_attempt(row) for row in conn.execute(query.order_by(usage.c.started_at, usage.c.attempt_id)).mappings()]


def attempts(conn: Connection, user_id: str, since: float, until: float, limit: int = 1000) -> list[AttemptRow]:
    """Return the user's newest ``limit`` attempts that began in ``since <= t < until``, newest first."""
    query = select(usage).where(usage.c.user_id == user_id, usage.c.started_at >= since, usage.c.started_at < until)
    newest_first = query.order_by(usage.c.started_at.desc(), usage.c.attempt_id.desc()).limit(limit)
    return [_attempt(row) for row in conn.execute(newest_first).mappings()]


def usage_by_day(conn: Connection, user_id: str, since: float, until: float) -> list[UsageDay]:
    """Return what the user's attempts that began in ``since <= t < until`` cost, by day, provider and model."""
    keys = (usage.c.day, usage.c.provider, usage.c.model)
    query = select(
        *keys,
        func.count(distinct(usage.c.run_id)),
        func.sum(usage.c.prompt_tokens),
        func.sum(usage.c.completion_tokens),
        func.sum(usage.c.cost),
    ).where(usage.c.user_id == user_id, usage.c.started_at >= since, usage.c.started_at < until)
    # Sorted here: the databases' collations order names differently.
    rows = sorted(conn.execute(query.group_by(*keys)), key=lambda row: tuple(row[:3]))
    return [UsageDay(_date(day), *rest) for day, *rest in rows]


def _attempt(row: RowMapping) -> AttemptRow:
    values = {name: value for name, value in row.items() if name != "day"}
    spent = Usage(**{field.name: values.pop(field.name) for field in fields(Usage)})
    return AttemptRow(**values, usage=spent)


def _date(day: int) -> str:
    return datetime.fromtimestamp(day * DAY_S, UTC).date().isoformat()


_SPENT = tuple(column.name for column in fields(Usage))
_OPEN = Prepared(lambda _: insert(usage), tuple(column.name for column in usage.c))
_SETTLE = Prepared(
    lambda _: update(usage).where(usage.c.attempt_id == bindparam("attempt_id"), attempt_is_running),
    ("outcome", "duration_ms", "cost", *_SPENT),
)
