import threading
from collections import Counter

import pytest
import trio
from sqlalchemy import event, func, select, text
from trio.testing import wait_all_tasks_blocked

from scm_trio.errors import NotFound, StoreError
from scm_trio.model import Message
from scm_trio.store import migrate
from scm_trio.store.database import inline, open_database
from scm_trio.store.engine import make_engine, parse_url
from scm_trio.store.failures import Deadlocked
from scm_trio.store.messages import add_message, ensure_session
from scm_trio.store.schema import sessions
from scm_trio.store.writer import BATCH_LIMIT, FLUSH_LIMIT_S, MAX_TRIES, Writer, commit


def add(conn, name):
    return ensure_session(conn, "ann", name, f"g-{name}", 1.0).session_id


def names(conn):
    return set(conn.execute(select(sessions.c.session_id)).scalars())


@pytest.fixture
def commits(db):
    counted = []
    event.listen(db._writer._engine, "commit", counted.append)
    return counted


@pytest.fixture
def engine():
    """An in-memory database for a writer of one's own."""
    made = make_engine(parse_url("sqlite://"))
    migrate.upgrade(made)
    yield made
    made.dispose()


async def test_fifty_producers_share_few_transactions(db, commits):
    got = []

    async def produce(name):
        got.append(await db.write(add, name))

    async with trio.open_nursery() as producers:
        for number in range(50):
            producers.start_soon(produce, f"s{number}")
    assert set(got) == await db.read(names) == {f"s{number}" for number in range(50)}
    assert len(commits) <= 5


async def test_a_batch_is_bounded(db, commits):
    async with trio.open_nursery() as producers:
        for number in range(2 * BATCH_LIMIT + 1):
            producers.start_soon(db.write, add, f"s{number}")
    assert len(await db.read(names)) == 2 * BATCH_LIMIT + 1
    assert len(commits) >= 3


async def test_nobody_hears_of_success_before_the_commit(db):
    returned, seen_at_commit = [], []
    event.listen(db._writer._engine, "commit", lambda _: seen_at_commit.append(list(returned)))

    async def produce(name):
        returned.append(await db.write(add, name))

    async with trio.open_nursery() as producers:
        for name in "abc":
            producers.start_soon(produce, name)
    assert seen_at_commit[0] == []
    assert sorted(returned) == ["a", "b", "c"]


async def test_one_failing_producer_fails_alone_and_leaves_nothing(db):
    def refuse(conn):
        add(conn, "half")
        raise NotFound("no such thing")

    outcome = {}

    async def produce(key, fn, *args):
        try:
            outcome[key] = await db.write(fn, *args)
        except (NotFound, StoreError) as exc:
            outcome[key] = type(exc)

    async with trio.open_nursery() as producers:
        producers.start_soon(produce, "first", add, "first")
        producers.start_soon(produce, "refused", refuse)
        producers.start_soon(produce, "broken", lambda conn: conn.execute(text("SELECT nonsense FROM nowhere")))
        producers.start_soon(produce, "last", add, "last")
    assert outcome == {"first": "first", "refused": NotFound, "broken": StoreError, "last": "last"}
    assert await db.read(names) == {"first", "last"}


async def test_a_write_that_fails_on_its_own_leaves_nothing(db):
    def refuse(conn):
        add(conn, "half")
        raise NotFound("no such thing")

    with pytest.raises(NotFound):
        await db.write(refuse)
    await db.write(add, "whole")
    assert await db.read(names) == {"whole"}


async def test_a_cancelled_producer_does_not_disturb_the_batch(db):
    with trio.CancelScope() as gone:
        gone.cancel()
        await db.write(add, "cancelled")
    assert gone.cancelled_caught
    assert await db.write(add, "patient") == "patient"
    assert await db.read(names) == {"cancelled", "patient"}


async def test_a_cancelled_writer_commits_what_is_queued(url):
    got = []

    async def produce(name):
        got.append(await db.write(add, name))

    async with open_database(url) as db, trio.open_nursery() as producers, trio.open_nursery() as nursery:
        await nursery.start(db.run_writer)
        for name in "abc":
            producers.start_soon(produce, name)
        # One step: they have queued their writes, the writer has not taken them yet or is just about to.
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert sorted(got) == ["a", "b", "c"]


async def test_a_writer_cancelled_before_its_transaction_begins_commits_it_once(engine):
    """The batch in hand goes back to the queue, it is neither lost nor done twice."""
    calls = []

    async def offload(fn, *args):
        calls.append(fn)
        if len(calls) == 1:
            await trio.sleep_forever()
        return fn(*args)

    writer, got = Writer(engine, offload), []

    async def produce():
        got.append(await writer.submit(lambda conn: add(conn, "once")))

    async with trio.open_nursery() as producers, trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        producers.start_soon(produce)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert got == ["once"]
    assert len(calls) == 2


async def test_a_flush_that_hangs_is_given_up_after_its_limit(engine, autojump_clock):
    async def hanging(fn, *args):
        await trio.sleep_forever()

    writer, failures = Writer(engine, hanging), []

    async def produce():
        with pytest.raises(StoreError) as caught:
            await writer.submit(lambda conn: add(conn, "late"))
        failures.append(str(caught.value))

    async with trio.open_nursery() as producers:
        async with trio.open_nursery() as nursery:
            await nursery.start(writer.run)
            for _ in range(2):
                producers.start_soon(produce)
            await wait_all_tasks_blocked()
            began = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began == FLUSH_LIMIT_S
    assert failures == ["the store was closed before the write"] * 2


async def test_without_a_writer_a_write_fails_instead_of_hanging(url):
    async with open_database(url) as db:
        with pytest.raises(StoreError, match="not running"):
            await db.write(add, "early")
        async with trio.open_nursery() as nursery:
            await nursery.start(db.run_writer)
            await db.write(add, "between")
            nursery.cancel_scope.cancel()
        with pytest.raises(StoreError, match="not running"):
            await db.write(add, "late")
        assert await db.read(names) == {"between"}


async def test_a_store_has_one_writer(engine, nursery):
    writer = Writer(engine, inline)
    await nursery.start(writer.run)
    with pytest.raises(RuntimeError, match="one writer"):
        await writer.run()
    assert await writer.submit(lambda conn: add(conn, "still")) == "still"


def leave_a_violation(conn):
    """Do something that only the COMMIT finds fault with."""
    if conn.dialect.name == "sqlite":
        conn.execute(text("PRAGMA defer_foreign_keys = ON"))
        add_message(conn, Message("m", "nowhere", "c", None, "user", "ann", "hello"))
    else:
        conn.execute(text("CREATE TEMPORARY TABLE twice (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)"))
        conn.execute(text("INSERT INTO twice VALUES (1), (1)"))


async def test_when_the_commit_fails_every_producer_of_the_batch_hears_of_it(db):
    failed = []

    async def produce(fn, *args):
        with pytest.raises(StoreError) as caught:
            await db.write(fn, *args)
        failed.append(caught.value)

    async with trio.open_nursery() as producers:
        producers.start_soon(produce, add, "innocent")
        producers.start_soon(produce, leave_a_violation)
    assert len({id(each) for each in failed}) == 2
    assert await db.read(names) == set()
    assert await db.write(add, "next") == "next"


async def test_a_lone_commit_that_fails_is_told(db):
    with pytest.raises(StoreError):
        await db.write(leave_a_violation)


async def test_a_lost_connection_fails_its_batch_and_the_next_one_gets_a_new_connection(postgres_url, nursery):
    failed = []

    async def produce(fn, *args):
        with pytest.raises(StoreError) as caught:
            await db.write(fn, *args)
        failed.append(str(caught.value))

    def die(conn):
        conn.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    async with open_database(postgres_url) as db:
        await nursery.start(db.run_writer)
        async with trio.open_nursery() as producers:
            producers.start_soon(produce, add, "innocent")
            producers.start_soon(produce, die)
            producers.start_soon(produce, add, "innocent too")
        assert len(failed) == 3
        await produce(die)
        assert await db.write(add, "next") == "next"
        assert await db.read(names) == {"next"}


async def test_an_error_of_the_database_shows_no_row(db):
    def add_twice(conn):
        for _ in range(2):
            ensure_session(conn, "secret owner", "secret name", "g", 1.0)
            conn.execute(
                sessions.insert(),
                {
                    "global_id": "secret id",
                    "owner_id": "secret owner",
                    "session_id": "secret name",
                    "archived": False,
                    "created_at": 0.0,
                    "updated_at": 0.0,
                },
            )

    with pytest.raises(StoreError) as caught:
        await db.write(add_twice)
    assert "secret" not in str(caught.value)
    assert any(word in str(caught.value) for word in ("uq_sessions_owner_id_session_id", "SQLITE_CONSTRAINT_UNIQUE"))
    assert caught.value.__suppress_context__


async def test_text_that_no_database_can_hold_is_a_store_error(db):
    with pytest.raises(StoreError, match="UnicodeEncodeError"):
        await db.write(add, "\ud800")


def test_a_batch_is_one_transaction_for_any_number_of_writes(engine):
    counted = []
    event.listen(engine, "commit", counted.append)
    for size in (1, 2, 7):
        commit(engine, [lambda conn, name=f"{size}-{n}": add(conn, name) for n in range(size)])
    assert len(counted) == 3
    with engine.connect() as conn:
        assert conn.execute(select(func.count()).select_from(sessions)).scalar() == 10


# ---- deadlocks, which only several processes on one PostgreSQL can have


class Crossing:
    """Two writes that lock the same two sessions, each in its own order, and meet half way."""

    def __init__(self):
        self.half_way = threading.Barrier(2)
        self.runs = Counter()

    def write(self, conn, first, then):
        conn.execute(text("SET LOCAL deadlock_timeout = '10ms'"))
        self.runs[first] += 1
        conn.execute(select(sessions).where(sessions.c.session_id == first).with_for_update())
        if self.runs[first] == 1:
            self.half_way.wait(timeout=30)
        conn.execute(select(sessions).where(sessions.c.session_id == then).with_for_update())
        conn.execute(sessions.update().where(sessions.c.session_id == first).values(title=f"by {first}"))


@pytest.mark.parametrize("company", [0, 3])
async def test_a_write_that_gets_into_a_deadlock_is_done_again(postgres_url, nursery, company):
    crossing, others = Crossing(), []
    async with open_database(postgres_url) as one, open_database(postgres_url) as other:
        for node in (one, other):
            await nursery.start(node.run_writer)
        for name in ("a", "b"):
            await one.write(add, name)
        async with trio.open_nursery() as both:
            for node, first, then in ((one, "a", "b"), (other, "b", "a")):
                both.start_soon(node.write, crossing.write, first, then)
                for number in range(company):
                    both.start_soon(node.write, add, f"{first}{number}")
                    others.append(f"{first}{number}")
        titles = await one.read(lambda conn: conn.execute(select(sessions.c.title)).scalars().all())
        assert {title for title in titles if title} == {"by a", "by b"}
        assert await one.read(names) == {"a", "b", *others}
    assert sum(crossing.runs.values()) > 2


async def test_a_write_that_always_gets_into_a_deadlock_fails_in_the_end(db):
    tries = []

    def unlucky(conn):
        tries.append(1)
        raise Deadlocked("DeadlockDetected 40P01")

    with pytest.raises(StoreError):
        await db.write(unlucky)
    assert len(tries) == MAX_TRIES
    assert await db.write(add, "s1") == "s1"


# ---- effects


async def test_effects_come_in_the_order_of_the_writes_and_before_anybody_goes_on(db):
    written, order = [], []

    def write(conn, name):
        written.append(add(conn, name))
        return name

    async def produce(name):
        got = await db.change(lambda result: order.append(("effect", result)) or f"{result}!", write, name)
        order.append(("answer", got))

    async with trio.open_nursery() as producers:
        for number in range(20):
            producers.start_soon(produce, f"s{number}")
    assert [name for kind, name in order if kind == "effect"] == written
    for name in written:
        assert order.index(("effect", name)) < order.index(("answer", f"{name}!"))


async def test_a_write_has_its_effect_also_when_its_producer_is_gone(db):
    seen = []
    with trio.CancelScope() as scope:
        scope.cancel()
        await db.change(seen.append, add, "s1")
    for _ in range(10_000):  # threads are none of the tasks that can be waited for
        if seen:
            break
        await wait_all_tasks_blocked(0.001)
    assert seen == ["s1"]
    assert "s1" in await db.read(names)


async def test_a_failed_write_has_no_effect(db):
    seen = []

    def refuse(conn):
        add(conn, "half")
        raise NotFound("no such thing")

    with pytest.raises(NotFound):
        await db.change(seen.append, refuse)
    assert (seen, await db.read(names)) == ([], set())


async def test_an_effect_that_breaks_is_its_producers_alone(db):
    outcome = {}

    async def produce(name, effect):
        try:
            outcome[name] = await db.change(effect, add, name)
        except ZeroDivisionError as exc:
            outcome[name] = exc

    async with trio.open_nursery() as producers:
        producers.start_soon(produce, "a", lambda _: 1 / 0)
        producers.start_soon(produce, "b", str.upper)
    assert isinstance(outcome["a"], ZeroDivisionError)
    assert outcome["b"] == "B"
    assert await db.write(add, "c") == "c"
    assert await db.read(names) == {"a", "b", "c"}
