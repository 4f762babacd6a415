from itertools import chain

import pytest

from scm_trio.errors import InvalidMessage
from scm_trio.store.access import enter
from scm_trio.store.paging import MAX_PAGE, encode_cursor
from scm_trio.store.session_list import MAX_QUERY_CHARS, SessionFilter, list_sessions
from scm_trio.store.sessions import SessionChanges, update_session

from .talking import answer, member, open_session, owner, say


def names(page):
    return [view.session_id for view in page.items]


async def pages(db, user="ann", **wanted):
    """The names on each page of the whole list."""
    found, cursor = [], None
    while True:
        page = await db.read(list_sessions, user, SessionFilter(before=cursor, **wanted))
        found.append(names(page))
        cursor = page.next
        if cursor is None:
            return found


async def test_sessions_come_in_pages_the_one_updated_last_first(db):
    for number in range(5):
        await db.write(open_session, f"g{number}", at=float(number))
    await db.write(say, "q1", in_="g1", at=50.0)
    assert await pages(db, limit=2) == [["g1", "g4"], ["g3", "g2"], ["g0"]]
    assert await pages(db, limit=5) == [["g1", "g4", "g3", "g2", "g0"]]
    assert await pages(db, limit=0) == [[f"g{number}"] for number in (1, 4, 3, 2, 0)], "at least one"
    assert await pages(db, "bob") == [[]]


async def test_sessions_of_one_moment_are_neither_left_out_nor_told_twice(db):
    for number in range(7):
        await db.write(open_session, f"g{number}", at=1.5)
    found = await pages(db, limit=3)
    assert list(chain.from_iterable(found)) == [f"g{number}" for number in reversed(range(7))]


async def test_a_session_that_is_updated_between_two_pages_disturbs_no_other(db):
    for number in range(4):
        await db.write(open_session, f"g{number}", at=float(number))
    first = await db.read(list_sessions, "ann", SessionFilter(limit=2))
    await db.write(say, "q1", in_="g0", at=50.0)
    await db.write(open_session, "g9", at=51.0)
    second = await db.read(list_sessions, "ann", SessionFilter(limit=2, before=first.next))
    assert (names(first), names(second), second.next) == (["g3", "g2"], ["g1"], None)


async def test_a_page_is_never_longer_than_the_limit_of_all_lists(db):
    def open_many(conn):
        for number in range(MAX_PAGE + 5):
            open_session(conn, f"g{number}")

    await db.write(open_many)
    page = await db.read(list_sessions, "ann", SessionFilter(limit=10_000))
    assert len(page.items) == MAX_PAGE
    assert page.next is not None


async def test_everybody_sees_his_own_name_role_and_unread_messages(db):
    await db.write(enter, "ann", "s1", "g1", 1.0)
    await db.write(open_session, "g2", by="bob", at=2.0)
    change = SessionChanges(members=[owner("ann"), member("bob")])
    await db.write(update_session, "ann", "s1", change, 3.0)
    await db.write(say, "q1")
    await db.write(answer, "a1", "q1")
    (mine,) = (await db.read(list_sessions, "ann", SessionFilter())).items
    assert (mine.session_id, mine.role, mine.unread) == ("s1", "owner", 1)
    shared, own = (await db.read(list_sessions, "bob", SessionFilter())).items
    assert (shared.session_id, shared.global_id, shared.role, shared.unread) == ("g1", "g1", "member", 2)
    assert shared.members == mine.members == (owner("ann"), member("bob"))
    assert (own.session_id, own.members, own.unread) == ("g2", (owner("bob"),), 0)


async def test_titles_are_searched_for_text_and_for_nothing_more(db):
    titles = ["供应链管理", "Supply Chain", "100% chain_link", r"back\slash", None]
    for number, title in enumerate(titles):
        await db.write(open_session, f"g{number}", title=title, at=float(number))
    wanted = {"链": ["g0"], "应链管": ["g0"], "CHAIN": ["g2", "g1"], "0%": ["g2"], "n_l": ["g2"], "\\": ["g3"]}
    for query, expected in wanted.items():
        assert await pages(db, query=query) == [expected], query
    assert await pages(db, query="%") == [["g2"]]
    assert await pages(db, query="_") == [["g2"]]
    assert await pages(db, query="") == [["g4", "g3", "g2", "g1", "g0"]]
    for query, expected in (("x" * (MAX_QUERY_CHARS + 1), "too_long"), ("a\0", "text")):
        with pytest.raises(InvalidMessage) as caught:
            await pages(db, query=query)
        assert (caught.value.field, caught.value.params["expected"]) == ("query", expected)


async def test_archived_sessions_can_be_asked_for_or_left_out(db):
    for number in range(3):
        await db.write(open_session, f"g{number}", at=float(number))
    await db.write(update_session, "ann", "g1", SessionChanges(archived=True), 1.0)
    assert await pages(db) == [["g2", "g1", "g0"]]
    assert await pages(db, archived=True) == [["g1"]]
    assert await pages(db, archived=False) == [["g2", "g0"]]


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "?",
        "WzEuMF0",
        "ünïcode",
        "x" * 1000,
        encode_cursor(5),
        encode_cursor("g1", 1.0),
        encode_cursor(1, "g1"),
        encode_cursor(1.0, "g\0"),
        encode_cursor(1e300, "g1"),
    ],
)
async def test_a_foreign_cursor_is_refused(db, cursor):
    with pytest.raises(InvalidMessage) as caught:
        await db.read(list_sessions, "ann", SessionFilter(before=cursor))
    assert (caught.value.field, caught.value.params["expected"]) == ("before", "cursor")
