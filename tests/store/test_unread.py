from scm_trio.store import unread as counting
from scm_trio.store.access import enter
from scm_trio.store.markers import mark_read
from scm_trio.store.sessions import SessionChanges, update_session
from scm_trio.store.unread import Unread, unread, unread_by_member, unread_counts

from .talking import answer, member, open_session, owner, say


async def test_ones_own_questions_are_read_and_everything_else_is_not(db):
    await db.write(open_session, others=[member("bob")])
    await db.write(say, "q1")
    await db.write(answer, "a1", "q1")
    await db.write(say, "q2", "a1", by="bob")
    await db.write(answer, "a2", "q2", by="bob")
    assert await db.read(unread_by_member, "g1") == {"ann": 3, "bob": 3}
    assert await db.read(unread_counts, "ann", ["g1", "g9"]) == {"g1": 3}


async def test_reading_leaves_what_came_later(db):
    await db.write(open_session, others=[member("bob")])
    await db.write(say, "q1")
    await db.write(answer, "a1", "q1")
    await db.write(say, "q2", "a1")
    await db.write(answer, "a2", "q2")
    await db.write(mark_read, "ann", "g1", "a1")
    assert await db.read(unread_by_member, "g1") == {"ann": 1, "bob": 4}
    await db.write(mark_read, "ann", "g1", "a2")
    assert await db.read(unread_by_member, "g1") == {"bob": 4}
    assert await db.read(unread_counts, "ann", ["g1"]) == {}


async def test_all_sessions_with_news_are_told_under_ones_own_names_the_last_one_first(db):
    await db.write(enter, "ann", "s1", "g1", 1.0)
    await db.write(update_session, "ann", "s1", SessionChanges(members=[owner("ann"), member("bob")]), 2.0)
    for session in ("g2", "g3", "g4"):
        await db.write(open_session, session)
    await db.write(answer, "a1", None, in_="g1", at=20.0)
    await db.write(answer, "a2", None, in_="g2", at=30.0)
    await db.write(say, "q3", in_="g3", at=40.0)
    assert await db.read(unread, "ann") == [Unread("g2", "g2", 1), Unread("s1", "g1", 1)]
    assert await db.read(unread, "bob") == [Unread("g1", "g1", 1)]
    assert await db.read(unread, "eve") == []


async def test_counting_stops_at_a_number_that_says_many(db, monkeypatch):
    monkeypatch.setattr(counting, "MAX_UNREAD", 3)
    await db.write(open_session)
    for number in range(5):
        await db.write(answer, f"a{number}", None)
    assert await db.read(unread_counts, "ann", ["g1"]) == {"g1": 3}


async def test_no_more_sessions_are_counted_than_the_limit(db, monkeypatch):
    monkeypatch.setattr(counting, "MAX_SESSIONS", 2)
    for number in range(4):
        await db.write(open_session, f"g{number}")
        await db.write(answer, f"a{number}", None, in_=f"g{number}", at=20.0 + number)
    assert [each.global_id for each in await db.read(unread, "ann")] == ["g3", "g2"]
