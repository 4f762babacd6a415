import pytest

from scm_trio.errors import InvalidMessage, NotFound
from scm_trio.store import files
from scm_trio.store.access import enter
from scm_trio.store.history import HistoryFilter, history_page, newest_leaf
from scm_trio.store.housekeeping import catch_up
from scm_trio.store.markers import mark_read
from scm_trio.store.removal import remove_messages
from scm_trio.store.search import SearchQuery, find

from .talking import answer, bring_file, give_all, member, open_session, say, talk


def ids(page):
    return [said.message.message_id for said in page.items]


async def pages(db, user="ann", reference="g1", **wanted):
    """The ids on each page, the newest page first."""
    found, cursor = [], None
    while True:
        page = await db.read(history_page, user, reference, HistoryFilter(before=cursor, **wanted))
        found.append(ids(page))
        cursor = page.next
        if cursor is None:
            return found


def grow(conn):
    """q1 has the answers a1 and b1; after a1 came q2 and its edit r2, both answered."""
    open_session(conn, others=[member("bob")])
    talk(conn, "q1", "a1", "q2", "a2")
    answer(conn, "b1", "q1")
    say(conn, "r2", "a1")
    answer(conn, "c2", "r2")


async def test_everything_comes_in_pages_the_newest_first_and_each_in_the_order_of_storing(db):
    await db.write(grow)
    assert await pages(db, limit=3) == [["b1", "r2", "c2"], ["a1", "q2", "a2"], ["q1"]]
    assert await pages(db, limit=7) == [["q1", "a1", "q2", "a2", "b1", "r2", "c2"]]
    assert await pages(db, "bob", limit=4) == [["a2", "b1", "r2", "c2"], ["q1", "a1", "q2"]]


async def test_one_branch_comes_in_pages_from_its_leaf_to_its_root(db):
    await db.write(grow)
    assert await pages(db, leaf="c2", limit=3) == [["a1", "r2", "c2"], ["q1"]]
    assert await pages(db, leaf="c2", limit=2) == [["r2", "c2"], ["q1", "a1"]]
    assert await pages(db, leaf="b1") == [["q1", "b1"]]
    assert await pages(db, leaf="q1") == [["q1"]]


async def test_messages_that_come_between_two_pages_disturb_neither(db):
    await db.write(grow)
    for leaf in (None, "c2"):
        first = await db.read(history_page, "ann", "g1", HistoryFilter(leaf=leaf, limit=2))
        before = await db.read(history_page, "ann", "g1", HistoryFilter(leaf=leaf, before=first.next, limit=2))
        await db.write(say, f"new {leaf}", "c2")
        assert await db.read(history_page, "ann", "g1", HistoryFilter(leaf=leaf, before=first.next, limit=2)) == before


async def test_a_page_whose_messages_are_gone_by_now_is_empty(db):
    await db.write(grow)
    for leaf in (None, "c2"):
        page = await db.read(history_page, "ann", "g1", HistoryFilter(leaf=leaf, limit=1))
        assert ids(page) == ["c2"]
    await db.write(remove_messages, range(1, 100))
    for leaf in (None, "c2"):
        await db.write(say, "c2")
        cursor = HistoryFilter(leaf=leaf, before=page.next)
        assert ids(await db.read(history_page, "ann", "g1", cursor)) == []
        await db.write(remove_messages, range(1, 100))


async def test_each_message_tells_its_alternatives(db):
    await db.write(grow)
    page = await db.read(history_page, "ann", "g1", HistoryFilter())
    assert {said.message.message_id: said.siblings for said in page.items} == {
        "q1": ("q1",),
        "a1": ("a1", "b1"),
        "b1": ("a1", "b1"),
        "q2": ("q2", "r2"),
        "r2": ("q2", "r2"),
        "a2": ("a2",),
        "c2": ("c2",),
    }
    (only,) = (await db.read(history_page, "ann", "g1", HistoryFilter(leaf="q2", limit=1))).items
    assert only.siblings == ("q2", "r2")


async def test_first_questions_are_alternatives_within_their_conversation_only(db):
    await db.write(open_session)
    await db.write(open_session, "g2")
    await db.write(say, "q1")
    await db.write(say, "q2")
    await db.write(answer, "lost", None)
    await db.write(say, "q3", conversation_id="c2")
    await db.write(say, "q4", in_="g2")
    page = await db.read(history_page, "ann", "g1", HistoryFilter())
    assert [said.siblings for said in page.items] == [("q1", "q2"), ("q1", "q2"), ("lost",), ("q3",)]


async def test_the_branch_below_a_message_follows_the_newest_alternative_at_every_fork(db):
    await db.write(grow)
    ends = {"q1": "b1", "a1": "c2", "q2": "a2", "r2": "c2", "b1": "b1"}
    assert {start: await db.read(newest_leaf, "ann", "g1", start) for start in ends} == ends


async def test_each_reader_sees_how_far_a_message_has_come(db):
    await db.write(grow)

    async def statuses(user):
        return [said.status for said in (await db.read(history_page, user, "g1", HistoryFilter(leaf="a2"))).items]

    assert await statuses("ann") == ["sent", "sent", "sent", "sent"]
    await db.write(give_all, "bob")
    assert await statuses("ann") == ["delivered", "sent", "delivered", "sent"]
    await db.write(mark_read, "bob", "g1", "a1")
    assert await statuses("ann") == ["read", "sent", "delivered", "sent"]
    assert await statuses("bob") == ["read", "read", "delivered", "delivered"]


async def test_messages_come_with_their_files_wherever_they_are_read(db):
    await db.write(grow)
    shown = await db.write(bring_file, "f1")
    await db.write(files.attach, "q2", ["f1"], 5.0)
    await catch_up(db)
    page = await db.read(history_page, "ann", "g1", HistoryFilter(leaf="a2"))
    (hit,) = (await db.read(find, "ann", SearchQuery("q2"))).items
    (undelivered,) = [each for each in await db.write(give_all, "bob") if each.message.message_id == "q2"]
    for message in (page.items[2].message, hit.message, undelivered.message):
        assert (message.message_id, message.attachments) == ("q2", (shown,))


async def test_nobody_else_sees_anything(db):
    await db.write(grow)
    await db.write(open_session, "g2", by="eve")
    for user, session, leaf in (("eve", "g1", None), ("eve", "g1", "c2"), ("eve", "g2", "c2"), ("ann", "g1", "q9")):
        with pytest.raises(NotFound):
            await db.read(history_page, user, session, HistoryFilter(leaf=leaf))
        with pytest.raises(NotFound):
            await db.read(newest_leaf, user, session, leaf or "q1")


async def test_ones_own_name_and_an_empty_session_will_do(db):
    await db.write(enter, "ann", "s1", "g1", 1.0)
    assert await pages(db, reference="s1") == [[]]


async def test_the_cursor_of_another_list_is_refused(db):
    await db.write(open_session)
    with pytest.raises(InvalidMessage):
        await db.read(history_page, "ann", "g1", HistoryFilter(before="WzEuMCwiZzEiXQ"))
