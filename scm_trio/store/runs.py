"""The journal of runs: a row per answer, opened with its question, checkpointed while it is generated, ended once.

A run that the process did not live to end is found by ``seal_interrupted``. Functions take a connection first, as in
``messages.py``; those of ``ledger.py`` can be called through this module too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from attrs import asdict, evolve, field, frozen
from sqlalchemy import Connection, Select, bindparam, delete, exists, func, select, update
from sqlalchemy.sql.dml import ReturningUpdate

from scm_trio.model import FinishReason, Message, Usage
from scm_trio.store.ledger import (
    Attempt,
    AttemptRow,
    SettledAttempt,
    open_attempt,
    settle_attempt,
    spoken_before,
    unsettled,
    usage_by_day,
)
from scm_trio.store.messages import add_message
from scm_trio.store.prepared import Prepared, Row
from scm_trio.store.quota import release, release_dead
from scm_trio.store.schema import ENDED, RUNNING, insert_unless_there, messages, run_is_running, runs, usage

__all__ = [
    "Attempt",
    "Checkpoint",
    "EndedRun",
    "NewRun",
    "RunRow",
    "SettledAttempt",
    "checkpoint",
    "discard_run",
    "end_run",
    "find_run",
    "find_run_by_request",
    "is_there",
    "open_attempt",
    "open_run",
    "seal_interrupted",
    "settle_attempt",
    "usage_by_day",
]


@frozen
class NewRun:
    """A run about to begin. ``user_message`` is the question to store, None where it is stored already (regenerate)."""

    run_id: str
    message_id: str
    user_message_id: str
    session_id: str
    conversation_id: str
    user_id: str
    model: str
    provider: str
    started_at: float
    request_id: str | None = None
    streaming: bool = True
    user_message: Message | None = None


@frozen
class Checkpoint:
    """What a running answer says so far."""

    run_id: str
    content: str = field(repr=False)
    reasoning: str = field(repr=False)
    rev: int


@frozen
class EndedRun:
    """How a run ended. ``model`` and ``provider`` are who answered in the end, None: as it began."""

    run_id: str
    finish_reason: FinishReason
    ended_at: float
    content: str = ""
    reasoning: str = ""
    rev: int = 0
    usage: Usage | None = None
    error_code: str | None = None
    model: str | None = None
    provider: str | None = None
    upstream_closed: bool | None = None
    cancel_s: float | None = None


@frozen
class RunRow:
    """A run as it is stored. ``content`` and ``reasoning`` are its last checkpoint and empty once it has ended.

    Told by ``open_run`` alone: ``existing``, the request was known, and nothing was inserted; ``question``, as it was
    stored with the run.
    """

    run_id: str
    message_id: str
    user_message_id: str
    session_id: str
    conversation_id: str
    user_id: str
    request_id: str | None
    model: str
    provider: str
    streaming: bool
    state: str
    finish_reason: str | None
    error_code: str | None
    rev: int
    content: str
    reasoning: str
    started_at: float
    ended_at: float | None
    upstream_closed: bool | None
    cancel_s: float | None
    existing: bool = False
    question: Message | None = field(default=None, eq=False)


def open_run(conn: Connection, new: NewRun) -> RunRow:
    """Store the question and the run, or return the run that the same user's same request began before."""
    values = {**asdict(new, recurse=False), **_FRESH}
    question = values.pop("user_message")
    # The run goes first: where another node was faster with the same request, the question is not stored twice.
    if _OPEN.one(conn, values) is None:
        known = runs.c.user_id == new.user_id, runs.c.request_id == new.request_id
        return RunRow(**conn.execute(select(runs).where(*known)).mappings().one(), existing=True)
    return RunRow(**values, question=None if question is None else add_message(conn, question))


def find_run(conn: Connection, message_id: str) -> RunRow | None:
    """Return the run whose answer has that message id, or None."""
    return _one(conn, select(runs).where(runs.c.message_id == message_id))


def is_there(conn: Connection, message_id: str) -> bool:
    """Whether there is a run whose answer has that message id; without its texts."""
    return conn.execute(select(exists().where(runs.c.message_id == message_id))).scalar_one()


def find_run_by_request(conn: Connection, user_id: str, request_id: str) -> RunRow | None:
    """Return the run that this request of this user began, or None."""
    return _one(conn, select(runs).where(runs.c.user_id == user_id, runs.c.request_id == request_id))


def checkpoint(conn: Connection, texts: Iterable[Checkpoint]) -> None:
    """Keep the texts so far, in case the process dies; an ended run stays as it is."""
    for text in texts:
        _CHECKPOINT.run(conn, asdict(text))


def end_run(conn: Connection, ended: EndedRun) -> Message | None:
    """End the run, store its answer and return it; a run that is ended already, or was deleted with its session, stays so.

    An error before the first word leaves no message; the run's row alone tells of it.
    """
    ending = {**asdict(ended, recurse=False), "finish_reason": ended.finish_reason.value}
    row = _END.one(conn, {**ending, "state": ENDED, "content": "", "reasoning": ""})
    if row is None or not (ended.content or ended.finish_reason is not FinishReason.ERROR):
        return None
    return add_message(conn, _answer(row, ended))


def discard_run(conn: Connection, run_id: str) -> None:
    """Forget a running run whose asker was refused, with all that was stored for it; one that has ended stays as it is.

    The question stays where somebody has gone on from it meanwhile, or had asked it before.
    """
    this_one = delete(runs).where(runs.c.run_id == run_id, run_is_running).returning(runs.c.user_message_id)
    question_id = conn.execute(this_one).scalar_one_or_none()
    if question_id is None:
        return
    conn.execute(delete(usage).where(usage.c.run_id == run_id))
    release(conn, run_id)
    other = messages.alias()
    is_parent = exists().where(other.c.parent_id == messages.c.message_id)
    has_runs = exists().where(runs.c.user_message_id == messages.c.message_id)
    conn.execute(delete(messages).where(messages.c.message_id == question_id, ~is_parent, ~has_runs))


def seal_interrupted(
    conn: Connection,
    now: float,
    estimate: Callable[[str], int],
    price: Callable[[str, str, Usage], float | None] = lambda *_: None,
) -> int:
    """End every run that is still running as interrupted, with the text of its last checkpoint; return how many.

    Attempts that nobody settled are settled too, their tokens estimated, and nothing stays reserved for them. To be called before the first run is opened,
    since it cannot tell a dead run from a living one.

    Args:
        conn: where to write.
        now: the time at which they count as ended.
        estimate: guesses the tokens of a text.
        price: what these tokens cost at a provider and model; None: nobody knows.
    """
    left = {row["run_id"]: RunRow(**row) for row in conn.execute(select(runs).where(run_is_running)).mappings()}
    speakers: dict[str, AttemptRow] = {}
    for attempt in unsettled(conn):
        run = left.get(attempt.run_id)
        spent = attempt.usage
        if run is not None:
            speaker = speakers[run.run_id] = _speaker(conn, run, attempt, estimate)
            spent = speaker.usage if speaker.attempt_id == attempt.attempt_id else spent
        cost = price(attempt.provider, attempt.model, spent)
        settle_attempt(conn, SettledAttempt(attempt.attempt_id, FinishReason.INTERRUPTED.value, None, spent, cost))
    for run in left.values():
        ended = EndedRun(run.run_id, FinishReason.INTERRUPTED, now, run.content, run.reasoning, run.rev)
        if (said_by := speakers.get(run.run_id)) is not None:
            ended = evolve(ended, usage=said_by.usage, model=said_by.model, provider=said_by.provider)
        end_run(conn, ended)
    release_dead(conn)
    return len(left)


def _speaker(conn: Connection, run: RunRow, attempt: AttemptRow, estimate: Callable[[str], int]) -> AttemptRow:
    """The attempt that said what the run's checkpoint holds: the unsettled one, or one before it that broke off."""
    before = spoken_before(conn, attempt, run.started_at)
    if run.rev < len(before):
        return before[run.rev]
    thought = estimate(run.reasoning)
    said = evolve(attempt.usage, completion_tokens=estimate(run.content) + thought, reasoning_tokens=thought)
    return evolve(attempt, usage=said)


def _one(conn: Connection, query: Select[Any]) -> RunRow | None:
    row = conn.execute(query).mappings().one_or_none()
    return None if row is None else RunRow(**row)


def _answer(run: Row, ended: EndedRun) -> Message:
    message_id, session_id, conversation_id, user_message_id, user_id, model, provider = run
    return Message(
        message_id=message_id,
        session_id=session_id,
        conversation_id=conversation_id,
        parent_id=user_message_id,
        role="assistant",
        user_id=user_id,
        content=ended.content,
        reasoning=ended.reasoning,
        model=model,
        provider=provider,
        finish_reason=ended.finish_reason.value,
        usage=ended.usage,
        created_at=ended.ended_at,
    )


def _ending() -> ReturningUpdate[Any]:
    answered_by: dict[str, Any] = {name: func.coalesce(bindparam(name), runs.c[name]) for name in ("model", "provider")}
    update_one = update(runs).where(runs.c.run_id == bindparam("run_id"), run_is_running).values(answered_by)
    names = ("message_id", "session_id", "conversation_id", "user_message_id", "user_id", "model", "provider")
    return update_one.returning(*(runs.c[name] for name in names))


_FRESH: dict[str, Any] = {
    "state": RUNNING,
    "finish_reason": None,
    "error_code": None,
    "rev": 0,
    "content": "",
    "reasoning": "",
    "ended_at": None,
    "upstream_closed": None,
    "cancel_s": None,
}
_TEXT = ("content", "reasoning", "rev")
_OPEN = Prepared(
    lambda dialect: insert_unless_there(dialect, runs, "user_id", "request_id").returning(runs.c.run_id),
    tuple(column.name for column in runs.c),
)
_CHECKPOINT = Prepared(lambda _: update(runs).where(runs.c.run_id == bindparam("run_id"), run_is_running), _TEXT)
_HOW = ("state", "finish_reason", "error_code", "ended_at", "upstream_closed", "cancel_s")
_END = Prepared(lambda _: _ending(), (*_HOW, *_TEXT))
