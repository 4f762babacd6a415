import pytest
from sqlalchemy import select

from scm_trio.config import Retention
from scm_trio.model import FinishReason
from scm_trio.store import ledger, retention, schema
from scm_trio.store.access import enter
from scm_trio.store.history import HistoryFilter, history_page
from scm_trio.store.housekeeping import apply_retention, purge_removed
from scm_trio.store.messages import branch
from scm_trio.store.removal import DeletedSession
from scm_trio.store.retention import Expired, expire, sessions_due
from scm_trio.store.runs import EndedRun, NewRun, end_run, find_run, open_run
from scm_trio.store.sessions import SessionChanges, update_session

from .talking import answer, ask, count_rows, member, open_session, owner, say, talk

DAY = 86_400.0
NOW = 100 * DAY
AGE = Retention(max_age_days=10)
COUNT = Retention(max_messages_per_session=4)


async def ids(db, session="g1"):
    def stored(conn):
        mine = schema.messages.c.session_id == session
        return conn.execute(select(schema.messages.c.message_id).where(mine).order_by(schema.messages.c.sequence))

    return await db.read(lambda conn: stored(conn).scalars().all())


async def way_to(db, leaf):
    return [message.message_id for message in await db.read(branch, leaf, 99)]


async def test_everything_is_kept_unless_something_is_configured(db):
    await db.write(open_session)
    await db.write(talk, "q1", "a1")
    assert await apply_retention(db, NOW, Retention()) == 0
    assert await ids(db) == ["q1", "a1"]


async def test_a_session_in_which_nothing_happened_for_so_long_goes_as_a_whole(db):
    await db.write(open_session, "g1")
    await db.write(open_session, "g2")
    await db.write(ask, "r1", in_="g1", at=NOW - 10 * DAY - 2)
    await db.write(ask, "r2", in_="g2", at=NOW - 10 * DAY)
    assert await apply_retention(db, NOW, AGE) == 1
    await purge_removed(db)
    assert await ids(db, "g1") == []
    assert await ids(db, "g2") == ["q-r2", "a-r2"]
    assert await db.read(count_rows, schema.sessions) == 1
    assert len(await db.read(ledger.attempts, "ann", 0.0, NOW)) == 2


async def test_old_messages_of_a_living_session_go_with_their_runs_and_what_follows_can_be_read(db):
    await db.write(open_session)
    await db.write(ask, "r1", at=NOW - 12 * DAY)
    await db.write(ask, "r2", at=NOW - 11 * DAY, parent_id="a-r1")
    await db.write(ask, "r3", at=NOW - 9 * DAY, parent_id="a-r2")
    await db.write(say, "edit", "a-r1", at=NOW)
    assert await apply_retention(db, NOW, AGE) == 4
    assert await ids(db) == ["q-r3", "a-r3", "edit"]
    assert await way_to(db, "a-r3") == ["q-r3", "a-r3"]
    assert await way_to(db, "edit") == ["edit"]
    assert await db.read(find_run, "a-r1") is None
    assert await db.read(find_run, "a-r3")


async def test_of_a_session_with_too_many_messages_the_oldest_go_and_so_many_stay(db):
    await db.write(open_session)
    await db.write(open_session, "g2")
    await db.write(talk, "q1", "a1", "q2", "a2", "q3", "a3", "q4")
    await db.write(talk, "q9", "a9", "q8", "a8", in_="g2")
    assert await apply_retention(db, NOW, COUNT) == 3
    assert await ids(db) == ["a2", "q3", "a3", "q4"]
    assert await way_to(db, "q4") == ["a2", "q3", "a3", "q4"], "the answer begins what is left"
    assert await ids(db, "g2") == ["q9", "a9", "q8", "a8"]


async def test_an_answer_of_today_to_an_old_question_stays_and_can_be_asked_for(db):
    await db.write(open_session)
    await db.write(ask, "r1", at=NOW - 11 * DAY)
    again = NewRun("r2", "a-r2", "q-r1", "g1", "c1", "ann", "gpt", "openai", NOW - 60)
    await db.write(open_run, again)
    await db.write(end_run, EndedRun("r2", FinishReason.COMPLETED, NOW - 59, "again"))
    assert await apply_retention(db, NOW, AGE) == 2
    assert await ids(db) == ["a-r2"]
    assert await way_to(db, "a-r2") == ["a-r2"]
    assert await db.read(find_run, "a-r2")
    assert await db.read(find_run, "a-r1") is None


async def test_of_many_answers_to_one_question_the_newest_stay_and_are_alternatives_of_each_other(db):
    await db.write(open_session)
    await db.write(say, "q1")
    for number in range(6):
        await db.write(answer, f"a{number}", "q1", at=11.0 + number)
    await db.write(say, "q2", "a5", at=20.0)
    assert await apply_retention(db, NOW, COUNT) == 4
    assert await ids(db) == ["a3", "a4", "a5", "q2"]
    assert await way_to(db, "q2") == ["a5", "q2"]
    page = await db.read(history_page, "ann", "g1", HistoryFilter())
    assert {said.message.message_id: said.siblings for said in page.items} == {
        **dict.fromkeys(("a3", "a4", "a5"), ("a3", "a4", "a5")),
        "q2": ("q2",),
    }
    assert await apply_retention(db, NOW, COUNT) == 0


async def test_an_attempt_without_an_answer_goes_with_its_question(db):
    await db.write(open_session)
    await db.write(ask, "r1", at=NOW - 11 * DAY)
    await db.write(open_run, NewRun("r2", "a-r2", "q-r1", "g1", "c1", "ann", "gpt", "openai", NOW - 60))
    await db.write(end_run, EndedRun("r2", FinishReason.ERROR, NOW - 59, error_code="TIMEOUT"))
    await db.write(say, "new", at=NOW)
    await apply_retention(db, NOW, AGE)
    assert await ids(db) == ["new"]
    assert await db.read(count_rows, schema.runs) == 0


async def test_whole_sessions_that_go_are_told_with_what_their_members_call_them(db):
    await db.write(enter, "ann", "s1", "g1", 1.0)
    await db.write(update_session, "ann", "s1", SessionChanges(members=[owner("ann"), member("bob")]), 2.0)
    await db.write(open_session, "g2", at=3.0)
    await db.write(say, "old", in_="g2")
    await db.write(say, "new", in_="g2", at=NOW)
    told = []
    assert await apply_retention(db, NOW, AGE, tell=told.append) == 2
    assert told == [DeletedSession("g1", {"ann": "s1", "bob": "g1"})]


async def test_both_rules_hold_together(db):
    await db.write(open_session)
    await db.write(ask, "r1", at=NOW - 12 * DAY)
    for number in range(2, 6):
        await db.write(ask, f"r{number}", at=NOW - DAY)
    assert await apply_retention(db, NOW, Retention(max_age_days=10, max_messages_per_session=4)) == 6
    assert await ids(db) == ["q-r4", "a-r4", "q-r5", "a-r5"]


@pytest.mark.parametrize("keep", [AGE, COUNT])
async def test_a_session_with_a_running_answer_is_left_alone_until_it_has_ended(db, keep):
    await db.write(open_session)
    await db.write(talk, "q1", "a1", "q2", "a2", "q3", "a3")
    await db.write(ask, "r1", end=False, parent_id="a3")
    assert await apply_retention(db, NOW, keep) == 0
    assert await db.write(expire, NOW, keep, "g1") == Expired(), "also when it began after the session was found"
    assert len(await ids(db)) == 7
    await db.write(lambda conn: conn.execute(schema.runs.update().values(state="ended")) and None)
    assert await apply_retention(db, NOW, keep) > 0
    assert len(await ids(db)) <= 4


async def test_a_busy_session_does_not_keep_the_others_from_being_found(db, monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 2)
    await db.write(open_session)
    await db.write(open_session, "g2")
    await db.write(ask, "r1", at=NOW - 20 * DAY, end=False)
    await db.write(ask, "r2", in_="g2", at=NOW - 20 * DAY)
    await db.write(say, "new", in_="g2", at=NOW)
    assert await db.read(sessions_due, NOW, AGE) == ["g2"]


async def test_what_has_to_go_goes_in_batches(db, monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 3)
    await db.write(open_session)
    for number in range(5):
        await db.write(say, f"old{number}", at=NOW - 20 * DAY)
    for number in range(8):
        await db.write(say, f"new{number}", at=NOW)
    keep = Retention(max_age_days=10, max_messages_per_session=4)
    batches = []
    while not batches or batches[-1]:
        batches.append((await db.write(expire, NOW, keep, "g1")).count)
    assert batches == [3, 2, 3, 1, 0]
    assert await ids(db) == ["new4", "new5", "new6", "new7"]


async def test_many_sessions_are_found_a_part_at_a_time_and_all_dealt_with(db, monkeypatch):
    monkeypatch.setattr(retention, "MAX_DUE", 2)
    for number in range(5):
        await db.write(open_session, f"g{number}", at=1.0)
        await db.write(talk, *(f"{number}-{place}" for place in range(6)), in_=f"g{number}", at=NOW)
    assert len(await db.read(sessions_due, NOW, COUNT)) == 2
    assert await apply_retention(db, NOW, COUNT) == 10
    assert await db.read(sessions_due, NOW, COUNT) == []


async def test_a_session_that_was_deleted_is_not_found_again(db):
    await db.write(open_session)
    await db.write(lambda conn: conn.execute(schema.sessions.update().values(owner_id="")) and None)
    assert await db.read(sessions_due, NOW, AGE) == []
    assert await db.write(expire, NOW, AGE, "g1") == Expired()
