import pytest
import trio
from sqlalchemy import text

from scm_trio.errors import NotFound, StoreError
from scm_trio.store.database import in_thread, open_database
from scm_trio.store.engine import MAX_CONNECTIONS
from scm_trio.store.messages import ensure_session, find_session


async def test_what_is_written_can_be_read(db):
    session = await db.write(ensure_session, "ann", "s1", global_id_if_new="g1", now=1.0)
    assert await db.read(find_session, "ann", session_id="s1") == session


async def test_reading_cannot_write(db):
    with pytest.raises(StoreError):
        await db.read(ensure_session, "ann", "s1", "g1", 1.0)
    assert await db.read(find_session, "ann", "s1") is None
    assert await db.write(ensure_session, "ann", "s1", "g1", 1.0)


async def test_an_exception_of_a_reader_is_passed_on(db):
    def refuse(conn):
        raise NotFound("no such thing")

    with pytest.raises(NotFound):
        await db.read(refuse)


async def test_a_read_sees_one_snapshot(shared_url, nursery):
    async with open_database(shared_url) as db:
        await nursery.start(db.run_writer)

        def read_around_a_write(conn):
            before = find_session(conn, "ann", "s1")
            trio.from_thread.run(db.write, ensure_session, "ann", "s1", "g1", 1.0)
            return before, find_session(conn, "ann", "s1")

        assert await db.read(read_around_a_write) == (None, None)
        assert await db.read(find_session, "ann", "s1")


async def test_many_readers_at_once_all_get_their_turn(shared_url):
    async with open_database(shared_url) as db, trio.open_nursery() as readers:
        for _ in range(5 * MAX_CONNECTIONS):
            readers.start_soon(db.ping)


async def test_a_ping_is_answered(db):
    await db.ping()


async def test_a_ping_of_a_lost_database_is_a_store_error(postgres, postgres_url):
    async with open_database(postgres_url) as db:
        await db.ping()
        postgres.execute(f"DROP DATABASE {postgres_url.rpartition('/')[2]} WITH (FORCE)")
        with pytest.raises(StoreError):
            await db.ping()


async def test_a_dropped_connection_is_replaced_without_anyone_noticing(postgres, postgres_url):
    async with open_database(postgres_url) as db:
        await db.ping()
        postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname <> current_database()")
        await db.ping()


async def test_statements_on_postgres_have_a_time_limit(postgres_url):
    async with open_database(postgres_url) as db:
        assert await db.read(lambda conn: conn.execute(text("SHOW statement_timeout")).scalar()) == "30s"


async def test_sqlite_runs_in_wal_mode_with_foreign_keys(tmp_path):
    def pragmas(conn):
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "secure_delete")
        return [conn.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]

    async with open_database(f"sqlite:///{tmp_path / 'store.db'}") as db:
        assert await db.read(pragmas) == ["wal", 1, 1, 10_000, 1]


async def test_a_thread_is_not_abandoned_when_its_caller_is_cancelled():
    finished = []

    def work():
        trio.from_thread.run_sync(scope.cancel)
        finished.append("work")

    with trio.CancelScope() as scope:
        await in_thread(work)
    assert finished == ["work"]


async def test_where_the_system_gives_no_thread_that_is_a_failure_of_the_store(monkeypatch, tmp_path):
    async def refuse(*_, **__):
        raise RuntimeError("can't start new thread")

    async with open_database(f"sqlite:///{tmp_path / 'store.db'}") as db, trio.open_nursery() as nursery:
        await nursery.start(db.run_writer)
        with monkeypatch.context() as patch:
            patch.setattr(trio.to_thread, "run_sync", refuse)
            with pytest.raises(StoreError, match="no thread"):
                await db.read(lambda conn: 1)
            with pytest.raises(StoreError, match="no thread"):
                await db.write(lambda conn: 1)
        # The writer has lived on.
        assert await db.write(lambda conn: 2) == 2
        nursery.cancel_scope.cancel()


async def test_what_the_work_raises_is_its_own():
    def work():
        raise RuntimeError("of the work")

    with pytest.raises(RuntimeError, match="of the work"):
        await in_thread(work)
