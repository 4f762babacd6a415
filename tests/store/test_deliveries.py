import pytest
import trio
from sqlalchemy import insert

from scm_trio.store import schema
from scm_trio.store.access import enter
from scm_trio.store.database import open_database
from scm_trio.store.deliveries import arrive, mark_given, waiting_for
from scm_trio.store.markers import mark_read
from scm_trio.store.members import Markers, markers_of
from scm_trio.store.runs import seal_interrupted
from scm_trio.store.sessions import SessionChanges, update_session
from scm_trio.store.unread import Unread

from .talking import answer, ask, member, open_session, owner, say, sequence_of, talk, viewer, waiting


async def give(db, user, *message_ids, session="g1"):
    """Mark these as given; returns what is left, by number of the messages."""
    sequences = [await db.read(sequence_of, each) for each in message_ids]
    left = await db.write(mark_given, {(user, session): sequences})
    return {place: len(rest) for place, rest in left.items()}


async def test_what_came_while_one_was_away_waits_in_order_from_all_sessions(db):
    await db.write(enter, "ann", "s1", "g1", 1.0)
    await db.write(update_session, "ann", "s1", SessionChanges(members=[owner("ann"), member("bob")]), 2.0)
    await db.write(open_session, "g2", others=[member("bob")])
    await db.write(say, "q1", in_="g2", at=90.0)
    await db.write(say, "q2", in_="g1", at=50.0)
    await db.write(say, "own", in_="g1", by="bob")
    await db.write(answer, "a1", "q1", in_="g2", at=10.0)
    first = await db.read(waiting_for, "bob", 0, 2)
    assert [(each.message.message_id, each.session_id) for each in first] == [("q1", "g2"), ("q2", "g1")]
    assert first[0].message.sequence < first[1].message.sequence
    rest = await db.read(waiting_for, "bob", first[-1].message.sequence, 2)
    assert [each.message.message_id for each in rest] == ["a1"]
    mine = await db.read(waiting_for, "ann", 0, 9)
    assert [(each.message.message_id, each.session_id) for each in mine] == [("own", "s1"), ("a1", "g2")]
    assert await db.read(waiting, "eve") == []


async def test_a_new_member_is_not_given_what_was_said_before(db):
    await db.write(open_session)
    await db.write(say, "q1")
    await db.write(update_session, "ann", "g1", SessionChanges(members=[owner("ann"), member("bob")]), 2.0)
    await db.write(say, "q2")
    assert await db.read(waiting, "bob") == ["q2"]


async def test_an_answer_that_a_crash_cut_off_waits_for_who_asked(db):
    await db.write(open_session)
    await db.write(ask, "r1", end=False)
    await db.write(seal_interrupted, 50.0, len)
    assert await db.read(waiting, "ann") == ["a-r1"]


async def test_what_members_were_given_does_not_wait_for_them(db):
    await db.write(open_session, others=[member("bob"), viewer("eve")])
    await db.write(say, "q1")
    await db.write(answer, "a1", "q1")
    assert await give(db, "bob", "q1", "a1") == {}
    assert await give(db, "ann", "a1") == {}
    assert await db.read(waiting, "ann") == await db.read(waiting, "bob") == []
    assert await db.read(waiting, "eve") == ["q1", "a1"]
    assert (await db.read(markers_of, "g1"))["bob"].read_to == 0


async def test_nothing_is_skipped_for_a_member_who_missed_something(db):
    await db.write(open_session, others=[member("bob")])
    for number in range(4):
        await db.write(say, f"q{number}")
    assert await give(db, "bob", "q0", "q2", "q3") == {("bob", "g1"): 2}
    assert await db.read(waiting, "bob") == ["q1", "q2", "q3"]
    # When what was missing has come as well, the rest can be marked.
    assert await give(db, "bob", "q1") == {}
    assert await give(db, "bob", "q2", "q3") == {}
    assert await db.read(waiting, "bob") == []
    assert await give(db, "bob", "q0") == {}, "given long ago"


async def test_ones_own_questions_in_between_are_not_missed(db):
    await db.write(open_session, others=[member("bob")])
    await db.write(say, "q1", by="bob")
    await db.write(answer, "a1", "q1")
    assert await give(db, "bob", "a1") == {}
    assert await db.read(waiting, "bob") == []


async def test_who_is_no_member_any_more_is_forgotten(db):
    await db.write(open_session)
    await db.write(talk, "q1", "a1")
    assert await give(db, "bob", "q1", "a1") == {}
    assert set(await db.read(markers_of, "g1")) == {"ann"}


async def test_an_arrival_is_told_its_session_what_is_unread_and_where_it_is_behind(db):
    await db.write(enter, "ann", "s1", "g1", 1.0)
    await db.write(open_session, "g2", by="bob", others=[viewer("ann")])
    await db.write(open_session, "g3", by="bob")
    await db.write(talk, "q1", "a1", in_="g1")
    await db.write(talk, "q2", "a2", in_="g2", by="bob", at=50.0)
    await give(db, "ann", "a1")
    found = await db.read(arrive, "ann", "s1", ["g2", "g3", "g4"])
    assert found.access is not None
    assert (found.access.name, found.access.global_id) == ("s1", "g1")
    assert found.unread == [Unread("g2", "g2", 2), Unread("s1", "g1", 1)]
    assert (found.seen, found.behind) == ({"g2"}, {"g2"})
    await db.write(mark_read, "ann", "g2", "a2")
    again = await db.read(arrive, "ann", "g3", [])
    assert (again.access, again.behind, [each.global_id for each in again.unread]) == (None, set(), ["g1"])


@pytest.mark.parametrize("name", ["nothing", "g1"])
async def test_a_stranger_arrives_without_a_session(db, name):
    await db.write(open_session)
    found = await db.read(arrive, "eve", name, ["g1"])
    assert (found.access, list(found.unread), found.seen, found.behind) == (None, [], set(), set())


async def test_messages_of_a_session_appear_in_the_order_of_their_numbers(postgres_url, nursery):
    """PostgreSQL hands numbers out before the commit; a marker must not pass one that appears later."""
    inserted, over, seen = trio.Event(), trio.Event(), []

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
        seen.extend(await other.read(waiting, "bob"))
        over.set()

    async with open_database(postgres_url) as one, open_database(postgres_url) as other:
        for node in (one, other):
            await nursery.start(node.run_writer)
        await one.write(open_session, others=[member("bob")])
        async with trio.open_nursery() as both:
            both.start_soon(one.write, begin_slowly)
            both.start_soon(overtake)
        assert seen == ["slow", "quick"]
        assert await one.read(waiting, "bob") == seen


WAITING = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


async def test_two_nodes_may_note_the_same_at_once(shared_url, nursery):
    async with open_database(shared_url) as one, open_database(shared_url) as other:
        for node in (one, other):
            await nursery.start(node.run_writer)
        await one.write(open_session, others=[member("bob")])
        for number in range(10):
            await one.write(say, f"q{number}")
        sequences = [await one.read(sequence_of, f"q{number}") for number in range(10)]
        async with trio.open_nursery() as busy:
            for node in (one, other):
                for upto in range(1, 11):
                    busy.start_soon(node.write, mark_given, {("bob", "g1"): sequences[:upto]})
        assert (await one.read(markers_of, "g1"))["bob"] == Markers(sequences[-1], 0)
