import psycopg
import pytest
import trio
from sqlalchemy import delete

from scm_trio.errors import InvalidMessage, NotFound
from scm_trio.store import paging, schema, search
from scm_trio.store.access import enter
from scm_trio.store.database import open_database
from scm_trio.store.housekeeping import catch_up
from scm_trio.store.messages import find_message
from scm_trio.store.removal import remove_messages
from scm_trio.store.search import SearchQuery, find, has_pending, index_pending
from scm_trio.store.sessions import SessionChanges, delete_session, update_session

from .talking import count_rows, member, open_session, owner, say, viewer

TEXTS = {
    "zh": "供应链管理是对商品流动的管理。",
    "en": "Supply-chain management, explained <b>briefly</b> & well",
    "mixed": "用AI模型GPT-4预测供应链需求",
    "accents": "Café Zürich, naïve résumé",
    "emoji": "well done 🎉",
    "signs": '100% of snake_case\\path "quoted" it\'s',
    "empty": "?!",
}


@pytest.fixture(params=["read", "index"])
def way(request, monkeypatch):
    """Both ways of searching: a user with few messages is searched by reading them, others through the index."""
    monkeypatch.setattr(search, "FEW", 4000 if request.param == "read" else -1)


def write_texts(conn):
    open_session(conn, others=[viewer("bob")])
    for number, (name, text) in enumerate(TEXTS.items()):
        say(conn, name, content=text, at=10.0 + number)


async def look(db, text, user="ann", **wanted):
    await catch_up(db)
    page = await db.read(find, user, SearchQuery(text, **wanted))
    return [hit.message.message_id for hit in page.items]


FOUND = {
    "链": ["mixed", "zh"],
    "供应链": ["mixed", "zh"],
    "管理": ["zh"],
    "供应链管理是对商品": ["zh"],
    "链应": [],
    "供应 需求": ["mixed"],
    "供应 流动 需求": [],
    "supply": ["en"],
    "SUPP": ["en"],
    "upply": [],
    "supply-chain": ["en"],
    "supply man": ["en"],
    '"chain management"': ["en"],
    '"management chain"': [],
    "gpt": ["mixed"],
    "AI模型": ["mixed"],
    "gpt-4预测": ["mixed"],
    "cafe": ["accents"],
    "CAFÉ zur": ["accents"],
    "🎉": ["emoji"],
    "well": ["emoji", "en"],
    "\uff57\uff45\uff4c\uff4c": ["emoji", "en"],
    "100%": ["signs"],
    "%": [],
    "_": [],
    "snake_case": ["signs"],
    "snakeXcase": [],
    "\\path": ["signs"],
    "it's": ["signs"],
    "": [],
    "  ?! ": [],
    '" OR 1=1 --': [],
    "NEAR(supply chain)": [],
    "words:supply": [],
    "supply* AND NOT": [],
    '"""': [],
    "^supply": ["en"],
    "(supply": ["en"],
    "a" * 200: [],
}


async def test_texts_are_found_by_what_is_in_them_whatever_is_typed(db, way):
    await db.write(write_texts)
    assert {query: await look(db, query) for query in FOUND} == FOUND


async def test_a_phrase_of_any_length_is_found_by_all_of_its_words(db, way):
    said = "one two three four five six seven eight nine ten"
    await db.write(open_session)
    await db.write(say, "whole", content=f"{said}th")
    await db.write(say, "other", content=said.replace("nine", "nein"))
    await db.write(say, "zh", content="一二三四五六七八九十")
    assert await look(db, f'"{said}"') == ["whole"]
    assert await look(db, f'"{said}" nine') == ["whole"]
    assert await look(db, '"one two three four five six seven eig"') == ["other", "whole"]
    assert await look(db, "一二三四五六七八") == await look(db, "一二三四五六七八九") == ["zh"]
    assert await look(db, "一二三四五六七八十") == []


async def test_a_hit_has_the_message_and_ones_own_name_of_its_session(db, way):
    await db.write(enter, "ann", "s1", "g1", 1.0)
    await db.write(update_session, "ann", "s1", SessionChanges(members=[owner("ann"), member("bob")]), 2.0)
    await db.write(say, "en", content=TEXTS["en"])
    await catch_up(db)
    (hit,) = (await db.read(find, "ann", SearchQuery("brief"))).items
    assert hit.message == await db.read(find_message, "en")
    assert hit.session_id == "s1"
    (theirs,) = (await db.read(find, "bob", SearchQuery("brief"))).items
    assert (theirs.session_id, theirs.message) == ("g1", hit.message)


async def test_only_members_find_anything(db, way):
    await db.write(write_texts)
    await db.write(open_session, "g2", by="eve")
    await db.write(say, "hers", in_="g2", by="eve", content="供应链")
    assert await look(db, "供应链", "bob") == ["mixed", "zh"]
    assert await look(db, "供应链", "eve") == ["hers"]
    assert await look(db, "供应链", "dan") == []
    await db.write(update_session, "ann", "g1", SessionChanges(members=[owner("ann"), owner("eve")]), 9.0)
    assert await look(db, "供应链", "bob") == []
    assert await look(db, "供应链", "eve") == ["hers", "mixed", "zh"], "a new member may read, so he may search"


async def test_a_search_can_be_kept_to_a_session_and_a_time(db, way):
    await db.write(write_texts)
    await db.write(enter, "ann", "s2", "g2", 1.0)
    await db.write(say, "later", in_="g2", content="供应链", at=50.0)
    assert await look(db, "供应链") == ["later", "mixed", "zh"]
    assert await look(db, "供应链", session="s2") == await look(db, "供应链", session="g2") == ["later"]
    assert await look(db, "供应链", session="g1") == ["mixed", "zh"]
    assert await look(db, "供应链", since=12.0) == ["later", "mixed"]
    assert await look(db, "供应链", until=12.0) == ["zh"]
    assert await look(db, "供应链", since=12.0, until=50.0) == ["mixed"]
    for user, session in (("bob", "g2"), ("bob", "s2"), ("ann", "g9")):
        with pytest.raises(NotFound):
            await look(db, "供应链", user, session=session)


async def test_a_message_that_was_stored_under_a_wrong_clock_hides_no_other(db, way):
    day = 86_400.0
    await db.write(open_session)
    for number in range(10):
        await db.write(say, f"d{number}", content="needle", at=number * day)
    await db.write(say, "wrong", content="needle", at=4 * day + 1)
    assert await look(db, "needle", since=5 * day) == ["d9", "d8", "d7", "d6", "d5"]
    assert await look(db, "needle", until=2 * day) == ["d1", "d0"]
    assert await look(db, "needle", since=4 * day, until=5 * day) == ["wrong", "d4"]
    assert await look(db, "needle", since=99 * day) == await look(db, "needle", until=-9 * day) == []


async def test_hits_come_in_pages_the_newest_first(db, way):
    await db.write(open_session)
    for number in range(7):
        await db.write(say, f"m{number}", content=f"needle {number}", at=100.0 - number)
    await catch_up(db)
    found, cursor = [], None
    while True:
        page = await db.read(find, "ann", SearchQuery("needle", before=cursor, limit=3))
        found.append([hit.message.message_id for hit in page.items])
        cursor = page.next
        if cursor is None:
            break
        await db.write(say, f"new{len(found)}", content="needle")
        await catch_up(db)
    assert found == [["m6", "m5", "m4"], ["m3", "m2", "m1"], ["m0"]]


async def test_long_hits_come_in_short_pages_and_no_other_text_is_read(db, way, monkeypatch):
    monkeypatch.setattr(paging, "MAX_PAGE_CHARS", 100)
    read, make = [], search.message_from
    monkeypatch.setattr(search, "message_from", lambda row: read.append(row) or make(row))
    lengths = [10, 90, 10, 200, 30, 30, 30, 30, 101, 1]
    await db.write(open_session)
    for number, length in enumerate(lengths):
        await db.write(say, f"m{number}", content=f"needle {number}".ljust(length - 2, "."), reasoning="hm")
    await catch_up(db)
    found, cursor = [], None
    while True:
        page = await db.read(find, "ann", SearchQuery("needle", before=cursor))
        found.append([hit.message.message_id for hit in page.items])
        cursor = page.next
        if cursor is None:
            break
        await db.write(say, f"new{len(found)}", content="needle")
        await catch_up(db)
    assert found == [["m9"], ["m8"], ["m7", "m6", "m5"], ["m4"], ["m3"], ["m2", "m1"], ["m0"]]
    assert len(read) == len(lengths)


async def test_a_page_that_is_cut_goes_on_where_it_was_cut_also_when_the_index_was_left_early(db, monkeypatch):
    for name, value in {"FEW": -1, "FIRST_MATCHES": 3, "MAX_MATCHES": 3}.items():
        monkeypatch.setattr(search, name, value)
    await db.write(open_session)
    for number in range(8):
        await db.write(say, f"m{number}", content=f"needle {number}")
    await catch_up(db)
    for chars in (1, 20, 1000):
        monkeypatch.setattr(paging, "MAX_PAGE_CHARS", chars)
        found, cursor = [], None
        while cursor is not None or not found:
            page = await db.read(find, "ann", SearchQuery("needle", before=cursor))
            found += [hit.message.message_id for hit in page.items]
            cursor = page.next
        assert found == [f"m{number}" for number in reversed(range(8))]


async def test_what_is_deleted_is_found_no_more_whatever_deletes_it(db, way):
    await db.write(write_texts)
    await db.write(open_session, "g2")
    await db.write(say, "other", in_="g2", content="供应链")
    assert await look(db, "供应链") == ["other", "mixed", "zh"]
    await db.write(remove_messages, [1, 2])
    removed = [name for name in ("zh", "en", "mixed") if await db.read(find_message, name) is None]
    left = [name for name in ("other", "mixed", "zh") if name not in removed]
    assert removed
    assert await look(db, "供应链") == left
    await db.write(delete_session, "ann", "g1")
    assert await look(db, "供应链") == ["other"]
    await db.write(lambda conn: conn.execute(delete(schema.sessions)) and None)
    assert await db.read(count_rows, schema.message_search) == 0


async def test_a_deleted_message_that_was_not_indexed_yet_does_no_harm(db):
    await db.write(write_texts)
    await db.write(lambda conn: conn.execute(delete(schema.messages)) and None)
    await catch_up(db)
    assert await db.read(count_rows, schema.message_search) == 0
    await db.write(say, "m1", content="供应链")
    assert await look(db, "供应链") == ["m1"]
    assert await db.read(has_pending) is False


async def test_the_index_is_filled_in_batches_the_oldest_first(db):
    await db.write(write_texts)
    assert await db.read(has_pending) is True
    assert await db.write(index_pending, 3) == 3
    page = await db.read(find, "ann", SearchQuery("well"))
    assert [hit.message.message_id for hit in page.items] == ["en"]
    assert await db.write(index_pending, 100) == len(TEXTS) - 3
    assert await db.write(index_pending, 100) == 0
    assert await db.read(has_pending) is False
    assert await db.read(count_rows, schema.message_search) == len(TEXTS)


async def test_a_batch_is_short_where_texts_are_long(db, monkeypatch):
    monkeypatch.setattr(search, "BATCH_CHARS", 10)
    await db.write(open_session)
    for number, length in enumerate((4, 4, 4, 50, 1)):
        await db.write(say, f"m{number}", content="x" * length)
    assert [await db.write(index_pending) for _ in range(5)] == [2, 1, 1, 1, 0]


async def test_where_others_have_most_matches_a_search_takes_more_and_more_of_them(db, monkeypatch):
    monkeypatch.setattr(search, "FEW", -1)
    monkeypatch.setattr(search, "FIRST_MATCHES", 2)
    monkeypatch.setattr(search, "GROWTH", 2)

    def write_many(conn):
        for user in ("ann", "bob"):
            open_session(conn, f"of {user}", by=user)
        say(conn, "oldest", in_="of ann", content="needle")
        for number in range(20):
            say(conn, f"b{number}", in_="of bob", by="bob", content="needle")

    await db.write(write_many)
    assert await look(db, "needle") == ["oldest"]
    assert await look(db, "needle", limit=1) == ["oldest"]
    assert len(await look(db, "needle", "bob")) == 20

    monkeypatch.setattr(search, "MAX_MATCHES", 5)
    page = await db.read(find, "ann", SearchQuery("needle"))
    assert page.items == ()
    steps = 0
    while page.next is not None:
        page = await db.read(find, "ann", SearchQuery("needle", before=page.next))
        steps += 1
    assert [hit.message.message_id for hit in page.items] == ["oldest"]
    assert steps > 1


@pytest.mark.parametrize("cursor", ["", "WzEuMCwiZzEiXQ"])
async def test_the_cursor_of_another_list_is_refused(db, cursor):
    with pytest.raises(InvalidMessage):
        await db.read(find, "ann", SearchQuery("x", before=cursor))


async def test_two_nodes_index_everything_once(shared_url, nursery):
    async with open_database(shared_url) as one, open_database(shared_url) as other:
        for node in (one, other):
            await nursery.start(node.run_writer)
        await one.write(open_session)

        def say_some(conn, start):
            for number in range(start, start + 50):
                say(conn, f"m{number}", content=f"needle {number}")

        for start in range(0, 500, 50):
            await one.write(say_some, start)
        async with trio.open_nursery() as both:
            both.start_soon(catch_up, one)
            both.start_soon(catch_up, other)
        assert await one.read(has_pending) is False
        assert await one.read(count_rows, schema.message_search) == 500


# ---- PostgreSQL's trigrams


def plan(conn):
    conn.exec_driver_sql("SET LOCAL enable_seqscan = off")
    conn.exec_driver_sql("SET LOCAL enable_indexscan = off")
    query = "EXPLAIN SELECT rowid FROM message_search WHERE words LIKE '%% needle %%'"
    return " ".join(conn.exec_driver_sql(query).scalars())


async def test_postgres_searches_by_trigrams(postgres_url, nursery):
    async with open_database(postgres_url) as db:
        assert "ix_message_search_words" in await db.read(plan)


async def test_without_the_right_to_create_the_extension_the_search_works_all_the_same(postgres, postgres_url):
    name = postgres_url.rpartition("/")[2]
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE guest LOGIN PASSWORD 'gast'")
        connection.execute("GRANT CREATE ON SCHEMA public TO guest")
    try:
        async with open_database(f"postgresql://guest:gast@127.0.0.1:{postgres.port}/{name}") as db:
            async with trio.open_nursery() as writing:
                await writing.start(db.run_writer)
                await db.write(write_texts)
                assert await look(db, "供应链") == ["mixed", "zh"]
                writing.cancel_scope.cancel()
            assert "ix_message_search_words" not in await db.read(plan)
    finally:
        postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")
        postgres.execute("DROP ROLE guest")
