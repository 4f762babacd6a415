"""The door of the store: open it, read from it, write to it.

The functions that know the tables (``messages.py``, ``runs.py``, ``ledger.py``) are synchronous and take a connection
first; ``Database.read`` and ``Database.write`` carry them to where blocking is allowed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import Any, Concatenate, ParamSpec, TypeVar, TypeVarTuple

import trio
from alembic.util import CommandError
from outcome import Outcome, capture
from sqlalchemy import URL, Connection, Engine, text

from scm_trio.errors import StoreError
from scm_trio.store import engine as engines
from scm_trio.store import migrate
from scm_trio.store.failures import FOREIGN, translated
from scm_trio.store.writer import Offload, Writer

__all__ = ["Database", "Offload", "in_thread", "inline", "open_database", "threads"]

P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E")
Ts = TypeVarTuple("Ts")

CLOSE_LIMIT_S = 10.0

_threads: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("scm_trio_store_threads")


async def in_thread(fn: Callable[[*Ts], T], *args: *Ts) -> T:
    """Run ``fn`` in a worker thread, never more at once than there are connections.

    A cancel is seen before the thread starts or after it has ended, never in between.

    Raises:
        StoreError: the system gives no thread.
        Exception: whatever ``fn`` raised.
    """
    try:
        limiter = _threads.get()
    except LookupError:
        limiter = trio.CapacityLimiter(engines.MAX_CONNECTIONS)
        _threads.set(limiter)
    try:
        done: Outcome[T] = await trio.to_thread.run_sync(partial(capture, fn, *args), limiter=limiter)
    except RuntimeError as exc:
        raise StoreError(f"no thread for the database: {exc}") from exc
    return done.unwrap()


def threads(count: int) -> Offload:
    """Return an ``Offload`` with so many threads of its own, for what must not hold up the database."""
    limiter = trio.CapacityLimiter(count)

    async def offload(fn: Callable[[*Ts], T], *args: *Ts) -> T:
        return await trio.to_thread.run_sync(fn, *args, limiter=limiter)

    return offload


async def inline(fn: Callable[[*Ts], T], *args: *Ts) -> T:
    """Run ``fn`` right here after one checkpoint: for tests, where a thread would leave virtual time behind."""
    await trio.lowlevel.checkpoint()
    return fn(*args)


class Database:
    """An open database at the newest schema. Made by ``open_database``."""

    def __init__(self, engine: Engine, offload: Offload) -> None:
        self._engine = engine
        self._reading = engines.reading(engine)
        self._offload = offload
        self._writer = Writer(engine, offload)

    async def run_writer(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve ``write`` until cancelled; to be started once, and to be ended after everyone who writes."""
        await self._writer.run(task_status=task_status)

    async def read(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return ``fn(connection, ...)``, run in a read-only transaction that sees one snapshot.

        Raises:
            StoreError: the database failed, or ``fn`` tried to write.
        """
        result: T = await self._offload(self._read_now, lambda connection: fn(connection, *args, **kwargs))
        return result

    async def write(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return ``fn(connection, ...)`` after its changes are committed, together with those of other producers.

        ``fn`` is synchronous, leaves the transaction alone and either takes effect as a whole or, when it raises, not
        at all. A cancelled caller does not know which: its write may still be committed. After a deadlock with another
        process it is called again, so it does nothing but to read and write the database.

        Raises:
            StoreError: the writer is not running, or the database failed.
            Exception: whatever else ``fn`` raised.
        """
        result: T = await self._writer.submit(lambda connection: fn(connection, *args, **kwargs))
        return result

    async def change(
        self,
        effect: Callable[[T], E],
        fn: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> E:
        """As ``write``, and what the change means for those who are connected happens with it.

        ``effect`` is called with what ``fn`` returned, right after the commit and in the order of the commits, also
        when the caller is cancelled meanwhile; it does not wait. So no task can see one change and miss an earlier one.

        Returns:
            What ``effect`` returned.
        """
        result: E = await self._writer.submit(lambda connection: fn(connection, *args, **kwargs), effect)
        return result

    async def ping(self) -> None:
        """Ask the database for a sign of life.

        Raises:
            StoreError: it gave none.
        """
        await self.read(_ping)

    async def fold_log(self) -> bool:
        """Leave nothing that was deleted in SQLite's log; see ``engine.fold_log``.

        Raises:
            StoreError: the database failed.
        """
        is_done: bool = await self._offload(self._fold_now)
        return is_done

    def _fold_now(self) -> bool:
        with translated():
            return engines.fold_log(self._engine)

    def _read_now(self, fn: Callable[[Connection], Any]) -> Any:
        # Begun here, because a prepared statement begins nothing by itself.
        with translated(), self._reading.connect() as connection, connection.begin():
            return fn(connection)


@asynccontextmanager
async def open_database(url: str, *, offload: Offload = in_thread) -> AsyncIterator[Database]:
    """Open the database of ``store.url``, create it where it is a missing SQLite file, migrate it to the newest schema.

    ``sqlite://`` lives in memory and has a single connection: no threads are used there.

    Raises:
        ConfigError: the URL is wrong or its driver is missing.
        StoreError: the database cannot be opened or migrated.
    """
    parsed = engines.parse_url(url)
    engine = engines.make_engine(parsed)
    if engines.in_memory(parsed) and offload is in_thread:
        offload = inline
    try:
        await offload(_prepare, engine, parsed)
        yield Database(engine, offload)
    finally:
        # Shielded, because SQLite folds its log into the file when it is closed.
        with trio.move_on_after(CLOSE_LIMIT_S, shield=True):
            await offload(engine.dispose)


def _prepare(engine: Engine, url: URL) -> None:
    try:
        engines.create_file(url)
        if engines.in_memory(url):
            _copy(_migrated_memory(url), engine)
        else:
            migrate.upgrade(engine)
    except (*FOREIGN, OSError, CommandError) as exc:
        # No rows are involved yet: the database's own words may be told, apart from passwords.
        reason = str(getattr(exc, "orig", None) or exc).strip()
        for secret in engines.secrets(url):
            reason = reason.replace(secret, "***")
        raise StoreError(f"cannot open the store ({engines.place(url)}): {reason}") from None


@cache
def _migrated_memory(url: URL) -> Engine:
    """An empty database; to migrate takes twenty times as long as to copy what came of it, and tests open thousands."""
    engine = engines.make_engine(url)
    migrate.upgrade(engine)
    return engine


def _copy(source: Engine, target: Engine) -> None:
    with source.connect() as full, target.connect() as empty:
        driver: Any = full.connection.driver_connection
        driver.backup(empty.connection.driver_connection)


def _ping(connection: Connection) -> None:
    connection.execute(text("SELECT 1"))
