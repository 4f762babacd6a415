"""The search route, asked of a whole server."""

from base64 import urlsafe_b64encode
from urllib.parse import quote

import pytest
import trio

from scm_trio.chat import searching
from scm_trio.errors import StoreError
from scm_trio.model import File, Message
from scm_trio.providers.scripted import Scripted
from scm_trio.store import files, housekeeping
from scm_trio.store.database import Database
from scm_trio.store.markers import mark_read
from scm_trio.store.members import Member
from scm_trio.store.messages import add_message
from scm_trio.store.sessions import NewSession, create_session, delete_session
from scm_trio.testing import open_server

from .asking import ask, request

pytestmark = pytest.mark.usefixtures("both_databases")

DAY_S = 86_400.0
NEW_YEAR_S = 1_767_225_600.0  # 2026-01-01T00:00:00Z
SHARED, OWN = f"s-{1:024x}", f"s-{2:024x}"
TEXTS = ["Supply chains & <b>stock</b>", "供应链管理的核心", "Supply of nothing", "A chain of supplies"]


def fill(conn):
    """A shared session of ann's with one message a day, and one of eve's."""
    people = (Member("bob", "viewer"),)
    create_session(conn, "ann", SHARED, NewSession(members=people), NEW_YEAR_S)
    create_session(conn, "eve", OWN, NewSession(), NEW_YEAR_S)
    for number, text in enumerate(TEXTS):
        say(conn, f"m{number}", SHARED, "ann", text, NEW_YEAR_S + number * DAY_S)
    say(conn, "eves", OWN, "eve", "A supply of secrets", NEW_YEAR_S)


def say(conn, message_id, global_id, user, text, at):
    add_message(conn, Message(message_id, global_id, "c1", None, "user", user, text, created_at=at))


@pytest.fixture
async def server(autojump_clock):
    async with open_server({"openai": Scripted([])}) as server:
        await server.house.database.write(fill)
        yield server


async def find(server, text, user="ann", **more):
    query = "&".join(f"{name}={quote(str(value))}" for name, value in {"q": text, **more}.items())
    answer = await ask(server, f"/scm/ai/search?{query}", user)
    assert answer.status == 200
    return answer.json


async def ids(server, *args, **more):
    return [hit["message"]["messageId"] for hit in (await find(server, *args, **more))["items"]]


async def test_a_hit_has_the_message_and_its_place_with_the_match_marked(autojump_clock, server):
    await server.house.database.write(mark_read, "bob", SHARED, "m0")
    found = await find(server, "stock")
    assert found["next"] is None
    (hit,) = found["items"]
    assert hit["snippet"] == "Supply chains &amp; &lt;b&gt;<mark>stock</mark>&lt;/b&gt;"
    assert hit["message"] == {
        "messageId": "m0",
        "sessionId": SHARED,
        "conversationId": "c1",
        "parentMessageId": None,
        "role": "user",
        "userId": "ann",
        "content": TEXTS[0],
        "status": "read",
        "createdAt": "2026-01-01T00:00:00.000Z",
        "attachments": [],
    }


async def test_a_hit_has_its_attachments(autojump_clock, server):
    file = File("f-1", "ann", "stock.csv", "text/csv", 7, NEW_YEAR_S)

    def attach(conn):
        files.announce(conn, file)
        files.complete(conn, file)
        files.attach(conn, "m0", ["f-1"], NEW_YEAR_S)

    await server.house.database.write(attach)
    (hit,) = (await find(server, "stock"))["items"]
    assert [each["fileId"] for each in hit["message"]["attachments"]] == ["f-1"]


async def test_only_what_one_may_read_is_found_and_deleted_things_are_gone(autojump_clock, server):
    assert await ids(server, "supply") == ["m2", "m0"]
    assert await ids(server, "supply", "bob") == ["m2", "m0"]
    assert await ids(server, "supply", "eve") == ["eves"]
    assert await ids(server, "supply", "nobody") == []
    await server.house.database.write(delete_session, "ann", SHARED)
    assert await ids(server, "supply", "bob") == []


async def test_chinese_is_found_at_any_length(autojump_clock, server):
    for text in ("链", "供应", "供应链管理的核心"):
        assert await ids(server, text) == ["m1"]


async def test_filters_by_session_and_by_time(autojump_clock, server):
    assert await ids(server, "supply", sessionId=SHARED) == ["m2", "m0"]
    assert await ids(server, "suppl", **{"from": "2026-01-02"}) == ["m3", "m2"]
    assert await ids(server, "suppl", to="2026-01-03") == ["m2", "m0"]
    assert await ids(server, "suppl", **{"from": "2026-01-02T00:00:00Z", "to": "2026-01-03T00:00:00Z"}) == []
    assert await ids(server, "suppl", **{"from": "2026-01-01T08:00:00+08:00", "to": "2026-01-01"}) == ["m0"]


async def test_pages_follow_one_another(autojump_clock, server):
    pages, cursor = [], {}
    while True:
        page = await find(server, "suppl", limit=1, **cursor)
        pages.append([hit["message"]["messageId"] for hit in page["items"]])
        if page["next"] is None:
            break
        cursor = {"before": page["next"]}
    assert pages == [["m3"], ["m2"], ["m0"]]


async def test_what_was_said_a_moment_ago_is_found(autojump_clock, server):
    for number in range(3):
        await server.house.database.write(say, f"new{number}", SHARED, "ann", f"brandnew {number}", NEW_YEAR_S)
        assert len(await ids(server, "brandnew")) == number + 1


async def test_punctuation_alone_finds_nothing(autojump_clock, server):
    assert await find(server, "?! \x00") == {"items": [], "next": None}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "q"),
        ("q=", "q"),
        ("q=%20%20", "q"),
        ("q=" + 201 * "a", "q"),
        ("q=" + "+".join("abcdefghijk"), "q"),
        ("q=a&sessionId=", "sessionId"),
        ("q=a&sessionId=a%0Ab", "sessionId"),
        ("q=a&from=yesterday", "from"),
        ("q=a&to=2026-13-01", "to"),
        ("q=a&from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "to"),
        ("q=a&before=x", "before"),
        ("q=a&before=", "before"),
        ("q=a&before=%E4%BE%9B", "before"),
        ("q=a&before=" + urlsafe_b64encode(b"[18446744073709551615]").decode().rstrip("="), "before"),
        ("q=a&limit=0", "limit"),
        ("q=a&limit=101", "limit"),
        ("q=a&limit=-1", "limit"),
        ("q=a&limit=ten", "limit"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_name(autojump_clock, server, query, field):
    answer = await ask(server, f"/scm/ai/search?{query}&lang=en", "ann")
    assert (answer.status, answer.json["code"]) == (400, "INVALID_MESSAGE")
    assert answer.json["message"].startswith(f"Field {field} is invalid: ")


@pytest.mark.parametrize("reference", [OWN, f"s-{9:024x}", "session001"])
async def test_another_s_session_is_not_found_and_neither_is_one_that_is_not_there(autojump_clock, server, reference):
    answer = await ask(server, f"/scm/ai/search?q=supply&sessionId={reference}", "ann")
    assert (answer.status, answer.json["code"]) == (404, "NOT_FOUND")


async def test_nobody_searches_without_a_token(autojump_clock, server):
    assert (await ask(server, "/scm/ai/search?q=supply", None)).status == 401


async def test_a_store_that_fails_is_a_busy_server(autojump_clock, server, monkeypatch):
    async def broken(*_args, **_more):
        raise StoreError("down")

    monkeypatch.setattr(Database, "read", broken)
    answer = await ask(server, "/scm/ai/search?q=supply", "ann")
    assert (answer.status, answer.json["code"], answer.headers["retry-after"]) == (503, "SERVER_BUSY", "2")


async def test_a_search_does_not_wait_for_ever_until_everything_is_indexed(autojump_clock, server, monkeypatch):
    async def endless(_database):
        await trio.sleep_forever()

    await find(server, "supply")
    monkeypatch.setattr(searching, "catch_up", endless)
    await server.house.database.write(say, "late", SHARED, "ann", "late supply", NEW_YEAR_S)
    began = trio.current_time()
    assert await ids(server, "supply") == ["m2", "m0"]
    assert trio.current_time() - began == pytest.approx(searching.CATCH_UP_LIMIT_S)


async def test_searches_index_one_after_the_other(autojump_clock, server, monkeypatch):
    working, most = 0, 0

    async def slow(database):
        nonlocal working, most
        working += 1
        most = max(most, working)
        await trio.sleep(0.1)
        await housekeeping.catch_up(database)
        working -= 1

    monkeypatch.setattr(searching, "catch_up", slow)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ids, server, "supply")
    assert most == 1


async def test_long_hits_come_in_pages_that_clients_can_take(autojump_clock, server):
    for number in range(5):
        text = f"verbose {number} " + 80_000 * '"'
        await server.house.database.write(say, f"long{number}", SHARED, "ann", text, NEW_YEAR_S)
    pages, cursor = [], {}
    while True:
        page = await find(server, "verbose", **cursor)
        pages.append([hit["message"]["messageId"] for hit in page["items"]])
        if page["next"] is None:
            break
        cursor = {"before": page["next"]}
    assert pages == [["long4", "long3", "long2"], ["long1", "long0"]]


async def test_a_search_whose_client_has_left_is_not_done(autojump_clock, server, monkeypatch):
    searched, read = [], Database.read

    async def slow(self, fn, *args):
        if fn is searching._find:
            await trio.sleep(10)
            searched.append(args[1].text)
        return await read(self, fn, *args)

    monkeypatch.setattr(Database, "read", slow)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ids, server, "supply")
        await trio.sleep(1)
        gone = server.dial()
        await gone.send_all(request(server, "/scm/ai/search?q=chain", "ann"))
        await trio.sleep(1)
        await gone.aclose()
        nursery.start_soon(ids, server, "stock")
    assert searched == ["supply", "stock"]
