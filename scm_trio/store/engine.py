"""From ``store.url`` to an SQLAlchemy engine, with what each database needs to behave the same.

An engine of ours begins writing transactions; ``reading(engine)`` begins read-only ones that see one snapshot.
"""

from __future__ import annotations

import os
from typing import Any

from sqlalchemy import URL, Connection, Engine, StaticPool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from scm_trio.errors import ConfigError
from scm_trio.store.failures import described

MAX_CONNECTIONS = 8
"""Also the number of worker threads, so that no thread ever waits for a connection."""

LOCK_WAIT_S = 10
FOLD_WAIT_MS = 100
CONNECT_TIMEOUT_S = 10
STATEMENT_TIMEOUT_S = 30

_READ_ONLY = "scm_trio_read_only"
_POSTGRES = {"postgresql", "postgres", "postgresql+psycopg"}
_SQLITE = {"sqlite", "sqlite+pysqlite"}


def parse_url(text: str) -> URL:
    """Check ``store.url``.

    Raises:
        ConfigError: it is no URL of SQLite or PostgreSQL. The text does not repeat it, for it may hold a password.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigError("store.url: not a database URL; expected sqlite:///FILE or postgresql://…") from None
    if url.drivername in _POSTGRES:
        return url.set(drivername="postgresql+psycopg")
    if url.drivername not in _SQLITE:
        raise ConfigError(f"store.url: {url.drivername} is not supported; expected sqlite or postgresql")
    if url.host or url.query or (url.database or "").startswith("file:"):
        raise ConfigError("store.url: expected sqlite:///RELATIVE/FILE or sqlite:////ABSOLUTE/FILE and nothing more")
    return url


def in_memory(url: URL) -> bool:
    return url.drivername in _SQLITE and url.database in {None, "", ":memory:"}


def place(url: URL) -> str:
    """Return where the database is, without anything secret."""
    if url.drivername in _SQLITE:
        return f"sqlite {url.database or ':memory:'}"
    return f"postgresql {url.database or ''} at {url.host or url.query.get('host') or 'localhost'}"


def secrets(url: URL) -> list[str]:
    """Return the passwords that an error's text must not show."""
    given = (url.query.get(name, ()) for name in ("password", "sslpassword"))
    words = (word for each in given for word in ([each] if isinstance(each, str) else each))
    return [word for word in (url.password, *words) if word]


def make_engine(url: URL) -> Engine:
    """Make the engine of a parsed URL; nothing is opened yet.

    Raises:
        ConfigError: the driver is not installed, or the URL has options that it does not know.
    """
    # Parameters are the rows' contents; they stay out of whatever SQLAlchemy may print.
    options: dict[str, Any] = {"hide_parameters": True}
    if in_memory(url):
        options |= {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
    else:
        options |= {"pool_size": MAX_CONNECTIONS, "max_overflow": 0, "pool_use_lifo": True}
    if url.drivername in _SQLITE:
        options.setdefault("connect_args", {"check_same_thread": False, "timeout": LOCK_WAIT_S})
    else:
        limits = {"connect_timeout": CONNECT_TIMEOUT_S, "tcp_user_timeout": CONNECT_TIMEOUT_S * 1000}
        options |= {"pool_pre_ping": True, "connect_args": {k: v for k, v in limits.items() if k not in url.query}}
    try:
        engine = create_engine(url, **options)
    except ImportError:
        raise ConfigError("store.url: PostgreSQL needs the extra scm-trio[postgres]") from None
    if url.drivername in _SQLITE:
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        event.listen(engine, "connect", _set_up_postgres)
    return engine


def reading(engine: Engine) -> Engine:
    """Return the same engine, on the same pool, for reading transactions."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(**{_READ_ONLY: True})
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def create_file(url: URL) -> None:
    """Create the file of a new SQLite database, readable by its owner alone; SQLite's side files inherit that.

    Raises:
        OSError: it cannot be created.
    """
    if url.drivername in _SQLITE and not in_memory(url):
        try:
            # O_EXCL: opening and closing a database that is in use would drop this process's locks on it.
            os.close(os.open(str(url.database), os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            return


def fold_log(engine: Engine) -> bool:
    """Move what SQLite's log (WAL) holds into the database's file, and empty it; return whether that could be done.

    What was deleted stays readable in the log until then. It cannot be done while others read what was there before, or
    write: they are waited for so shortly that they wait no longer themselves. Other databases have no such log here.

    Raises:
        StoreError: the database failed.
    """
    if engine.dialect.name != "sqlite":
        return True
    dbapi: Any = engine.dialect.loaded_dbapi
    failures: type[Exception] = dbapi.Error
    with engine.connect() as connection:
        # On the driver's own connection, because SQLAlchemy would begin a transaction, in which this is not possible.
        driver: Any = connection.connection.driver_connection
        driver.execute(f"PRAGMA busy_timeout = {FOLD_WAIT_MS}").close()
        try:
            (is_busy, *_) = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except failures as exc:
            raise described(exc) from None
        finally:
            driver.execute(f"PRAGMA busy_timeout = {LOCK_WAIT_S * 1000}").close()
    return not is_busy


def _set_up_sqlite(dbapi_connection: Any, _record: object) -> None:
    # sqlite3's own idea of transactions begins them late and knows no savepoints: we send BEGIN ourselves.
    dbapi_connection.isolation_level = None
    for pragma in (
        f"busy_timeout = {LOCK_WAIT_S * 1000}",
        "journal_mode = WAL",
        "synchronous = NORMAL",
        "foreign_keys = ON",
        # What is deleted is overwritten: some builds of SQLite do it anyway, others not.
        "secure_delete = ON",
    ):
        dbapi_connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    read_only = connection.get_execution_options().get(_READ_ONLY, False)
    # Only when it changes: the pragma makes SQLite compile every statement of the connection anew.
    if connection.info.get(_READ_ONLY, False) is not read_only:
        connection.exec_driver_sql(f"PRAGMA query_only = {int(read_only)}")
        connection.info[_READ_ONLY] = read_only
    # A writer takes the lock at once, since a reader that becomes a writer fails when another one was faster.
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def _set_up_postgres(dbapi_connection: Any, _record: object) -> None:
    # A thread cannot be cancelled, so that a statement must end by itself.
    dbapi_connection.execute(f"SET statement_timeout = {STATEMENT_TIMEOUT_S * 1000}")
    dbapi_connection.commit()
