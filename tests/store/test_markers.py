import pytest
import trio
from sqlalchemy import insert

from scm_trio.errors import NotFound
from scm_trio.model import Message
from scm_trio.store import schema
from scm_trio.store.access import enter
from scm_trio.store.database import open_database
from scm_trio.store.markers import mark_delivered, mark_read, status_of, take_undelivered
from scm_trio.store.members import Markers, markers_of
from scm_trio.store.runs import seal_interrupted
from scm_trio.store.sessions import SessionChanges, update_session

from .talking import answer, ask, member, open_session, owner, say, viewer


async def taken(db, user, limit=100):
    return [each.message.message_id for each in await db.write(take_undelivered, user, limit)]


# ---- reading


async def test_a_readers_marker_moves_forward_only_and_what_is_read_was_delivered(db):
    await db.write(open_session, others=[member("bob")])
    for number in range(3):
        await db.write(say, f"q{number}")
    mark = await db.write(mark_read, "bob", "g1", "q1")
    assert (mark.moved, mark.access.global_id, mark.access.user_id) == (True, "g1", "bob")
    assert await db.read(markers_of, "g1") == {"ann": Markers(0, 0), "bob": Markers(mark.sequence, mark.sequence)}
    for message in ("q0", "q1"):
        assert (await db.write(mark_read, "bob", "g1", message)).moved is False
    assert (await db.read(markers_of, "g1"))["bob"].read_to == mark.sequence
    assert await taken(db, "bob") == ["q2"]


async def test_reading_does_not_take_back_what_was_delivered(db):
    await db.write(open_session, others=[viewer("bob")])
    await db.write(say, "q0")
    await db.write(say, "q1")
    assert await taken(db, "bob") == ["q0", "q1"]
    await db.write(mark_read, "bob", "g1", "q0")
    marks = (await db.read(markers_of, "g1"))["bob"]
    assert marks.delivered_to > marks.read_to > 0


async def test_only_what_stands_in_ones_own_session_can_be_read(db):
    await db.write(open_session)
    await db.write(open_session, "g2", by="bob")
    await db.write(say, "q1", in_="g2", by="bob")
    for user, session, message in (("ann", "g1", "q1"), ("ann", "g2", "q1"), ("ann", "g1", "q9"), ("ann", "g9", "q1")):
        with pytest.raises(NotFound):
            await db.write(mark_read, user, session, message)


# ---- delivering


async def test_what_came_while_one_was_away_is_given_once_in_order_from_all_sessions(db):
    await db.write(enter, "ann", "s1", "g1", 1.0)
    await db.write(update_session, "ann", "s1", SessionChanges(members=[owner("ann"), member("bob")]), 2.0)
    await db.write(open_session, "g2", others=[member("bob")])
    await db.write(say, "q1", in_="g2", at=90.0)
    await db.write(say, "q2", in_="g1", at=50.0)
    await db.write(say, "own", in_="g1", by="bob")
    await db.write(answer, "a1", "q1", in_="g2", at=10.0)
    first = await db.write(take_undelivered, "bob", 2)
    assert [(each.message.message_id, each.session_id) for each in first] == [("q1", "g2"), ("q2", "g1")]
    assert await taken(db, "bob", 2) == ["a1"]
    assert await taken(db, "bob", 2) == []
    mine = await db.write(take_undelivered, "ann", 9)
    assert [(each.message.message_id, each.session_id) for each in mine] == [("own", "s1"), ("a1", "g2")]
    assert mine[0].sequence < mine[1].sequence
    assert await taken(db, "eve") == []


async def test_a_new_member_is_not_given_what_was_said_before(db):
    await db.write(open_session)
    await db.write(say, "q1")
    await db.write(update_session, "ann", "g1", SessionChanges(members=[owner("ann"), member("bob")]), 2.0)
    await db.write(say, "q2")
    assert await taken(db, "bob") == ["q2"]


async def test_an_answer_that_a_crash_cut_off_is_given_to_who_asked(db):
    await db.write(open_session)
    await db.write(ask, "r1", end=False)
    await db.write(seal_interrupted, 50.0, len)
    assert await taken(db, "ann") == ["a-r1"]


async def test_what_members_were_given_live_is_not_given_again(db):
    await db.write(open_session, others=[member("bob"), viewer("eve")])
    await db.write(say, "q1")
    assert await db.write(mark_delivered, "g1", ["bob", "dan"], "q1") == {"bob"}
    await db.write(answer, "a1", "q1")
    assert await db.write(mark_delivered, "g1", ["ann", "bob"], "a1") == {"ann", "bob"}
    assert await taken(db, "ann") == await taken(db, "bob") == []
    assert await taken(db, "eve") == ["q1", "a1"]


async def test_nothing_is_skipped_by_a_member_who_missed_something(db):
    await db.write(open_session, others=[member("bob"), viewer("eve")])
    for number in range(3):
        await db.write(say, f"q{number}")
    assert await db.write(mark_delivered, "g1", ["bob"], "q0") == {"bob"}
    assert await db.write(mark_delivered, "g1", ["bob", "eve"], "q2") == set()
    assert await taken(db, "bob") == ["q1", "q2"]
    assert await taken(db, "eve") == ["q0", "q1", "q2"]
    assert await db.write(mark_delivered, "g1", ["bob", "eve"], "q0") == {"bob", "eve"}, "given long ago"


async def test_ones_own_questions_in_between_are_not_missed(db):
    await db.write(open_session, others=[member("bob")])
    await db.write(say, "q1", by="bob")
    await db.write(answer, "a1", "q1")
    assert await db.write(mark_delivered, "g1", ["bob"], "a1") == {"bob"}


async def test_nobody_was_given_a_message_that_is_not_there(db):
    await db.write(open_session)
    await db.write(open_session, "g2")
    await db.write(say, "q1", in_="g2")
    assert await db.write(mark_delivered, "g1", ["ann"], "q1") == set()
    assert await db.write(mark_delivered, "g1", ["ann"], "q9") == set()


async def test_two_nodes_never_give_out_the_same_message_and_leave_none(shared_url, nursery):
    got = {"one": [], "other": []}

    async def collect(node, name):
        while True:
            batch = await node.write(take_undelivered, "bob", 3)
            got[name] += [each.message.message_id for each in batch]
            if not batch and wrote.is_set():
                return

    async with open_database(shared_url) as one, open_database(shared_url) as other:
        for node in (one, other):
            await nursery.start(node.run_writer)
        for session in ("g1", "g2"):
            await one.write(open_session, session, others=[member("bob")])
        wrote = trio.Event()
        async with trio.open_nursery() as busy:
            busy.start_soon(collect, one, "one")
            busy.start_soon(collect, other, "other")
            async with trio.open_nursery() as writing:
                for number in range(40):
                    node = (one, other)[number % 2]
                    writing.start_soon(node.write, lambda conn, n=number: say(conn, f"m{n}", in_=f"g{n % 4 // 2 + 1}"))
            wrote.set()
    assert sorted(got["one"] + got["other"]) == sorted(f"m{number}" for number in range(40))


async def test_messages_of_a_session_appear_in_the_order_of_their_numbers(postgres_url, nursery):
    """PostgreSQL hands numbers out before the commit; a marker must not pass one that appears later."""
    inserted, over, given = trio.Event(), trio.Event(), []

    def begin_slowly(conn):
        row = {"message_id": "slow", "session_id": "g1", "conversation_id": "c1", "role": "user", "user_id": "ann"}
        conn.execute(insert(schema.messages), {**row, "content": "", "reasoning": "", "created_at": 1.0})
        trio.from_thread.run_sync(inserted.set)
        trio.from_thread.run(until_the_other_waits_or_is_over)

    async def until_the_other_waits_or_is_over():
        while not over.is_set() and not await one.read(lambda conn: conn.exec_driver_sql(WAITING).first()):
            pass

    async def overtake():
        await inserted.wait()
        await other.write(say, "quick")
        given.extend(await taken(other, "bob"))
        over.set()

    async with open_database(postgres_url) as one, open_database(postgres_url) as other:
        for node in (one, other):
            await nursery.start(node.run_writer)
        await one.write(open_session, others=[member("bob")])
        async with trio.open_nursery() as both:
            both.start_soon(one.write, begin_slowly)
            both.start_soon(overtake)
        given += await taken(one, "bob")
    assert given == ["slow", "quick"]


WAITING = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


# ---- status


@pytest.mark.parametrize(
    ("bob", "eve", "status"),
    [
        ((0, 0), (0, 0), "sent"),
        ((9, 9), (0, 0), "sent"),
        ((9, 0), (9, 0), "delivered"),
        ((9, 9), (9, 8), "delivered"),
        ((9, 9), (9, 9), "read"),
    ],
)
def test_ones_own_question_is_as_far_as_the_last_of_the_others(bob, eve, status):
    markers = {"ann": Markers(0, 0), "bob": Markers(*bob), "eve": Markers(*eve)}
    question = Message("q1", "g1", "c1", None, "user", "ann", "why?")
    assert status_of(question, 9, "ann", markers) == status


def test_alone_with_the_assistant_a_question_is_read():
    assert status_of(Message("q1", "g1", "c1", None, "user", "ann", "?"), 9, "ann", {"ann": Markers(0, 0)}) == "read"


@pytest.mark.parametrize(("mine", "status"), [((8, 8), "sent"), ((9, 8), "delivered"), ((9, 9), "read")])
@pytest.mark.parametrize(("role", "author"), [("assistant", "ann"), ("user", "bob")])
def test_everything_else_is_as_far_as_oneself(role, author, mine, status):
    markers = {"ann": Markers(*mine), "bob": Markers(99, 99)}
    assert status_of(Message("m1", "g1", "c1", None, role, author, "?"), 9, "ann", markers) == status
