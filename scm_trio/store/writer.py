"""Group commit: many producers, one transaction, one trip to a worker thread per batch.

While a batch is being committed the next producers queue up, so that the batches grow with the load. Inside a batch
every write has its own savepoint: one that fails takes nothing with it but itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Any

import structlog
import trio
from attrs import define, field
from outcome import Error, Outcome, Value, capture
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from scm_trio.errors import StoreError
from scm_trio.store.failures import Deadlocked, described, translated

log = structlog.get_logger(__name__)

Work = Callable[[Connection], object]
Offload = Callable[..., Awaitable[Any]]
"""``await offload(fn, *args)`` runs a blocking function and returns its result.

It may raise ``Cancelled`` only as long as the function has not begun.
"""

BATCH_LIMIT = 256
"""Writes per transaction: bounds how long the first one of a batch waits for the last one."""

MAX_TRIES = 5
"""How often a write is tried that gets into a deadlock with one of another process."""

FLUSH_LIMIT_S = 10.0


Effect = Callable[[Any], object]
"""Called with a write's result right after its commit, in the order of the commits. Does not wait."""


@define(eq=False)
class _Job:
    work: Work
    tries: int = 0
    effect: Effect | None = None
    done: trio.Event = field(factory=trio.Event)
    outcome: Outcome[Any] = field(factory=lambda: Error(StoreError("the store was closed before the write")))

    def settle(self, outcome: Outcome[Any]) -> None:
        if self.effect is not None and isinstance(outcome, Value):
            outcome = capture(self.effect, outcome.value)
            if isinstance(outcome, Error):
                # Whoever waits is told, but may be gone; the writer has to go on.
                log.error("effect of a write broke", exc_info=outcome.error)
        self.outcome = outcome
        self.done.set()


class Writer:
    """The queue of one database and the task that empties it."""

    def __init__(self, engine: Engine, offload: Offload) -> None:
        self._engine = engine
        self._offload = offload
        self._queue: deque[_Job] = deque()
        self._arrival = trio.Event()
        self._running = False

    async def submit(self, work: Callable[[Connection], Any], effect: Effect | None = None) -> Any:
        """Have ``work`` run in the next transaction and return its result once that is committed.

        Cancelling the caller gives up the answer only: the write may still be committed, and has its effect then.

        Args:
            work: what to do.
            effect: called with its result, right after the commit; what it returns is returned instead.

        Raises:
            StoreError: the writer is not running, the statement failed or the commit did.
            Exception: whatever else ``work`` raised; its changes are undone. Or what ``effect`` raised.
        """
        if not self._running:
            raise StoreError("the store's writer is not running")
        job = _Job(work, effect=effect)
        self._queue.append(job)
        self._arrival.set()
        await job.done.wait()
        with translated():
            return job.outcome.unwrap()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit batches until cancelled, then what is still queued, for at most ``FLUSH_LIMIT_S``.

        Raises:
            RuntimeError: it is running already.
        """
        if self._running:
            raise RuntimeError("a store has one writer")
        self._running = True
        task_status.started()
        try:
            while True:
                await self._wait_for_work()
                await self._commit_next()
        finally:
            # Shielded: what producers were promised is written; new ones are still let in while it lasts.
            with trio.move_on_after(FLUSH_LIMIT_S, shield=True):
                while self._queue:
                    await self._commit_next()
            self._running = False
            while self._queue:
                self._queue.popleft().done.set()

    async def _wait_for_work(self) -> None:
        while not self._queue:
            self._arrival = trio.Event()
            await self._arrival.wait()

    async def _commit_next(self) -> None:
        batch = tuple(islice(self._queue, BATCH_LIMIT))
        # They leave the queue afterwards: a cancel before the transaction began leaves them to the flush.
        try:
            outcomes = await self._offload(commit, self._engine, [job.work for job in batch])
        except StoreError as exc:
            log.error("commit not begun", error=str(exc), writes=len(batch))  # noqa: TRY400
            outcomes = [Error(StoreError(*exc.args)) for _ in batch]
        again = []
        for job, result in zip(batch, outcomes, strict=True):
            self._queue.popleft()
            job.tries += 1
            if _is_deadlocked(result) and job.tries < MAX_TRIES:
                again.append(job)
            else:
                job.settle(result)
        # In front of all others, for who begins holds nothing that somebody else could wait for.
        self._queue.extendleft(reversed(again))


def commit(engine: Engine, batch: Sequence[Work]) -> list[Outcome[Any]]:
    """Run a batch in one transaction; return, after the commit, one outcome per write in the same order."""
    try:
        with engine.connect() as connection, connection.begin() as transaction:
            if len(batch) > 1:
                return [_in_savepoint(connection, work) for work in batch]
            # Alone in its transaction a write needs no savepoint, which saves PostgreSQL two round trips.
            result = capture(batch[0], connection)
            if isinstance(result, Error):
                transaction.rollback()
            return [result]
    except SQLAlchemyError as exc:
        failure = described(exc)
    log.error("commit failed", error=str(failure), writes=len(batch))
    return [Error(type(failure)(*failure.args)) for _ in batch]


def _in_savepoint(connection: Connection, work: Work) -> Outcome[Any]:
    # Plain SQL: begin_nested() costs as much as the write itself.
    connection.exec_driver_sql("SAVEPOINT one_write")
    result = capture(work, connection)
    if isinstance(result, Error):
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT one_write")
    connection.exec_driver_sql("RELEASE SAVEPOINT one_write")
    return result


def _is_deadlocked(outcome: Outcome[Any]) -> bool:
    if not isinstance(outcome, Error):
        return False
    failure = outcome.error
    return isinstance(described(failure) if isinstance(failure, SQLAlchemyError) else failure, Deadlocked)
