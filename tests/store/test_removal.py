from sqlalchemy import select

from scm_trio.model import FinishReason
from scm_trio.store import runs, schema
from scm_trio.store.messages import branch, find_message
from scm_trio.store.removal import purge, remove_messages

from .talking import answer, ask, count_rows, open_session, say, talk


def remove(conn, *ids):
    wanted = select(schema.messages.c.sequence).where(schema.messages.c.message_id.in_(ids))
    return remove_messages(conn, conn.execute(wanted).scalars().all())


async def way_to(db, leaf):
    return [message.message_id for message in await db.read(branch, leaf, 99)]


async def test_an_answer_goes_with_its_question_and_what_followed_moves_up(db):
    await db.write(open_session)
    await db.write(talk, "q1", "a1", "q2", "a2", "q3", "a3")
    await db.write(answer, "b2", "q2")
    await db.write(say, "q4", "b2")
    assert await db.write(remove, "q2") == 3
    assert await way_to(db, "a3") == ["q1", "a1", "q3", "a3"]
    assert await way_to(db, "q4") == ["q1", "a1", "q4"]


async def test_what_hung_below_a_whole_removed_row_moves_up_to_the_nearest_that_is_left(db):
    await db.write(open_session)
    await db.write(talk, "q1", "a1", "q2", "a2", "q3", "a3")
    await db.write(say, "side", "a1")
    assert await db.write(remove, "a1", "q2", "a2") == 3
    assert await way_to(db, "a3") == ["q1", "q3", "a3"]
    assert await way_to(db, "side") == ["q1", "side"]
    assert await db.write(remove, "q1") == 1
    assert await way_to(db, "a3") == ["q3", "a3"]
    assert await way_to(db, "side") == ["side"]


async def test_runs_go_with_their_messages(db):
    await db.write(open_session)
    await db.write(ask, "r1")
    await db.write(ask, "r2")
    failed = runs.NewRun("r3", "a3", "q-r1", "g1", "c1", "ann", "gpt", "openai", 10.0)
    await db.write(runs.open_run, failed)
    await db.write(runs.end_run, runs.EndedRun("r3", FinishReason.ERROR, 12.0, error_code="TIMEOUT"))
    assert await db.write(remove, "q-r1") == 2
    assert await db.read(runs.find_run, "a-r1") is None
    assert await db.read(runs.find_run, "a3") is None
    assert await db.read(runs.find_run, "a-r2")


async def test_the_answer_to_a_question_that_was_removed_meanwhile_is_not_stored(db):
    await db.write(open_session)
    await db.write(ask, "r1", end=False)
    await db.write(remove, "q-r1")
    await db.write(runs.end_run, runs.EndedRun("r1", FinishReason.COMPLETED, 12.0, "because"))
    assert await db.read(find_message, "a-r1") is None


async def test_removing_nothing_is_allowed(db):
    assert await db.write(remove) == 0
    assert await db.write(remove_messages, [1, 2, 3]) == 0
    assert await db.write(purge) == 0


async def test_a_long_conversation_is_removed_from_its_root(db):
    await db.write(open_session)
    await db.write(talk, *(f"m{number}" for number in range(1200)))
    for _ in range(2):
        oldest = select(schema.messages.c.sequence).order_by(schema.messages.c.sequence).limit(500)
        await db.write(lambda conn, oldest=oldest: remove_messages(conn, conn.execute(oldest).scalars().all()))
    assert await db.read(count_rows, schema.messages) == 200
    assert await way_to(db, "m1199") == [f"m{number}" for number in range(1101, 1200)]
