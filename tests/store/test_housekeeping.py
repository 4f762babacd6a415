import sqlite3

import psycopg
import pytest
import trio
from sqlalchemy import select

from scm_trio.config import Retention
from scm_trio.errors import StoreError
from scm_trio.store import files, housekeeping, schema
from scm_trio.store.blobs import Folder
from scm_trio.store.database import inline, open_database
from scm_trio.store.housekeeping import catch_up, erase_user, keep_house, purge_removed
from scm_trio.store.removal import BATCH
from scm_trio.store.search import SearchQuery, find, has_pending
from scm_trio.store.sessions import delete_session

from .talking import ask, bring_file, count_rows, open_session, say, talk


async def test_catching_up_takes_as_many_batches_as_it_needs(db, monkeypatch):
    monkeypatch.setattr("scm_trio.store.search.BATCH_CHARS", 30)
    await db.write(open_session)
    await db.write(talk, *(f"m{number}" for number in range(20)))
    await catch_up(db)
    assert await db.read(has_pending) is False
    assert await db.read(count_rows, schema.message_search) == 20
    await catch_up(db)
    assert await db.read(count_rows, schema.message_search) == 20


async def test_catching_up_ends_although_more_comes_all_the_time(db, monkeypatch):
    await db.write(open_session)
    await db.write(talk, "m0", "m1")
    real, more = housekeeping.index_pending, iter(range(2, 10))

    def index_and_say(conn):
        count = real(conn, 1)
        say(conn, f"m{next(more)}")
        return count

    monkeypatch.setattr(housekeeping, "index_pending", index_and_say)
    await catch_up(db)
    assert await db.read(count_rows, schema.message_search) == 2
    assert await db.read(has_pending) is True


async def test_what_another_process_is_indexing_is_not_waited_for_for_ever(postgres_url, monkeypatch, nursery):
    monkeypatch.setattr(housekeeping, "OTHERS_WAIT_S", 0)
    async with open_database(postgres_url) as db:
        await nursery.start(db.run_writer)
        await db.write(open_session)
        await db.write(say, "m1")
        with psycopg.connect(postgres_url) as other:
            other.execute("SELECT * FROM search_queue FOR UPDATE")
            await db.write(say, "m2")
            await catch_up(db)
            indexed = select(schema.message_search.c.rowid)
            assert await db.read(has_pending) is True
            assert len(await db.read(lambda conn: conn.execute(indexed).all())) == 1
        await catch_up(db)
        assert await db.read(has_pending) is False


async def test_all_that_is_left_of_deleted_sessions_is_removed(db):
    for session in ("g1", "g2"):
        await db.write(open_session, session)
        await db.write(talk, *(f"{session}-{number}" for number in range(BATCH + 1)), in_=session)
        await db.write(delete_session, "ann", session)
    await purge_removed(db)
    assert await db.read(count_rows, schema.messages) == 0
    assert await db.read(count_rows, schema.sessions) == 0


async def test_a_person_is_erased_to_the_last_row_and_byte(db, tmp_path):
    await db.write(open_session)
    await db.write(ask, "r1")
    await db.write(talk, *(f"m{number}" for number in range(BATCH)))
    await db.write(bring_file, "f1")
    await db.write(bring_file, "f2", "bob")
    await db.write(files.attach, "q-r1", ["f1"], 5.0)
    folder = Folder(tmp_path / "files", inline)
    for name in ("f1", "f2"):
        await folder.append(name, b"bytes", first=True)
    assert await erase_user(db, folder, "ann") is True
    for table in (schema.sessions, schema.messages, schema.runs, schema.members):
        assert await db.read(count_rows, table) == 0
    assert await db.read(count_rows, schema.files) == 1
    assert [await folder.read(name, 0, 9) for name in ("f1", "f2")] == [b"", b"bytes"]
    assert await erase_user(db, folder, "ann") is False


async def test_no_word_of_an_erased_person_is_left_in_the_file(tmp_path, nursery):
    path = tmp_path / "store.db"
    async with open_database(f"sqlite:///{path}") as db, trio.open_nursery() as writing:
        await writing.start(db.run_writer)
        for user in ("ann", "bob"):
            await db.write(open_session, user, by=user)
        for number in range(300):
            await db.write(say, f"b{number}", in_="bob", by="bob", content=f"common {number}")
            await db.write(say, f"a{number}", in_="ann", content=f"zqxjk{number}")
            if number % 50 == 0:
                await catch_up(db)
        await catch_up(db)
        await erase_user(db, Folder(tmp_path / "files", inline), "ann")
        assert await db.read(count_rows, schema.message_search) == 300
        assert len((await db.read(find, "bob", SearchQuery("common"))).items) == 20
        writing.cancel_scope.cancel()
    assert b"zqxjk" not in path.read_bytes()


def words_in(folder, word):
    """The files of a database in which a word stands."""
    return {path.name for path in folder.glob("store.db*") if word in path.read_bytes()}


@pytest.fixture
async def two(tmp_path, nursery):
    """A server's database, and the same one opened by a command; somebody has said zqxjk there."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    async with open_database(url, offload=inline) as server, open_database(url, offload=inline) as command:
        for each in (server, command):
            await nursery.start(each.run_writer)
        await server.write(open_session)
        await server.write(say, "m1", content="zqxjk")
        yield server, command


async def test_no_word_of_an_erased_person_is_left_in_the_log_while_a_server_has_the_database_open(
    two, tmp_path, autojump_clock
):
    server, command = two
    assert words_in(tmp_path, b"zqxjk") == {"store.db-wal"}
    await erase_user(command, Folder(tmp_path / "files", inline), "ann")
    assert words_in(tmp_path, b"zqxjk") == set()
    assert await server.read(count_rows, schema.messages) == 0
    await server.write(open_session, "g2")


@pytest.mark.parametrize("reads_s", [1.0, 1000.0])
async def test_who_reads_for_long_keeps_the_log_which_is_told(
    two, tmp_path, nursery, autojump_clock, monkeypatch, reads_s
):
    monkeypatch.setattr("scm_trio.store.engine.FOLD_WAIT_MS", 1)
    folder = Folder(tmp_path / "files", inline)
    reader = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM messages").fetchall()

    async def read_on():
        await trio.sleep(reads_s)
        reader.close()

    nursery.start_soon(read_on)
    began = trio.current_time()
    if reads_s > 100:
        with pytest.raises(StoreError, match="-wal"):
            await erase_user(two[1], folder, "ann")
        assert trio.current_time() - began < 60
        await trio.sleep(reads_s)
        assert await erase_user(two[1], folder, "ann") is False
    else:
        assert await erase_user(two[1], folder, "ann") is True
    assert words_in(tmp_path, b"zqxjk") == set()


# ---- for ever

DAY = 86_400.0


@pytest.fixture
async def memory(nursery):
    async with open_database("sqlite://", offload=inline) as database:
        await nursery.start(database.run_writer)
        await database.write(open_session)
        yield database


async def test_a_house_is_kept_in_order(memory, nursery, autojump_clock):
    await memory.write(say, "old", at=DAY)
    await memory.write(say, "new", at=99 * DAY)
    await memory.write(open_session, "g2")
    await memory.write(talk, *(f"m{number}" for number in range(BATCH + 1)), in_="g2")
    await memory.write(delete_session, "ann", "g2")
    nursery.start_soon(keep_house, memory, Retention(max_age_days=10), lambda: 100 * DAY, 30.0)
    await trio.sleep(29)
    assert await memory.read(count_rows, schema.messages) == 3
    await trio.sleep(2)
    assert await memory.read(count_rows, schema.messages) == 1
    assert await memory.read(count_rows, schema.message_search) == 1
    assert await memory.read(count_rows, schema.sessions) == 1


async def test_the_retention_is_looked_after_more_rarely(memory, nursery, autojump_clock):
    nursery.start_soon(keep_house, memory, Retention(max_messages_per_session=1), lambda: 0.0, 30.0)
    await trio.sleep(31)
    await memory.write(talk, "q1", "a1", "q2")
    await trio.sleep(590)
    assert await memory.read(count_rows, schema.messages) == 3
    assert await memory.read(has_pending) is False, "the search is not made to wait"
    await trio.sleep(30)
    assert await memory.read(count_rows, schema.messages) == 1


async def test_a_database_that_fails_is_tried_again(memory, nursery, autojump_clock, monkeypatch):
    answers = [StoreError("lost"), StoreError("lost")]

    async def fail_twice(database, *, pause_s):
        if answers:
            raise answers.pop()

    monkeypatch.setattr(housekeeping, "catch_up", fail_twice)
    nursery.start_soon(keep_house, memory, Retention(max_messages_per_session=1), lambda: 0.0, 30.0)
    await memory.write(talk, "q1", "a1", "q2")
    await trio.sleep(61)
    assert await memory.read(count_rows, schema.messages) == 3
    await trio.sleep(30)
    assert await memory.read(count_rows, schema.messages) == 1


async def test_a_round_of_retention_ends_although_there_is_always_one_message_too_many(
    memory, nursery, autojump_clock, monkeypatch
):
    async def keep_talking():
        for number in range(10**6):
            await memory.write(say, f"m{number}")
            await trio.sleep(housekeeping.PAUSE_S)

    monkeypatch.setattr(housekeeping, "RETENTION_LIMIT_S", 5.0)
    nursery.start_soon(keep_talking)
    nursery.start_soon(keep_house, memory, Retention(max_messages_per_session=1), lambda: 0.0, 30.0)
    await memory.write(open_session, "g2")
    await memory.write(talk, *(f"old{number}" for number in range(BATCH + 1)), in_="g2")
    await trio.sleep(31)
    await memory.write(delete_session, "ann", "g2")
    await trio.sleep(housekeeping.RETENTION_LIMIT_S)
    await trio.sleep(40)
    left = await memory.read(lambda conn: list(conn.execute(select(schema.sessions.c.global_id)).scalars()))
    assert left == ["g1"], "the other work is done again"
