"""Sessions over HTTP: the same as over the socket, and told to whoever is connected there."""

import json
from contextlib import asynccontextmanager
from urllib.parse import quote

import pytest
import trio

from scm_trio.config import Messages, WebSocket
from scm_trio.errors import StoreError
from scm_trio.providers.scripted import Scripted, Stall
from scm_trio.store import access
from scm_trio.testing import open_server, quiet_config

pytestmark = pytest.mark.usefixtures("both_databases")

ANN, BOB = "user001", "user002"
PATH = "/scm/ai/sessions"


@asynccontextmanager
async def serving(calling, *steps, config=None):
    """A server, and what asks it over HTTP as one user or another."""
    async with open_server({"openai": Scripted(steps or ["a"])}, config or quiet_config()) as server:

        async def call(user, method, path="", body=None, **query):
            text = "&".join(f"{name}={quote(str(value))}" for name, value in query.items())
            target = f"{PATH}{path}" + (f"?{text}" if text else "")
            data = None if body is None else json.dumps(body).encode()
            return await calling(server).ask(method, target, data, {"Authorization": f"Bearer {server.token(user)}"})

        yield server, call


def members(**roles):
    return [{"userId": user, "role": role} for user, role in roles.items()]


# ---- one after the other


async def test_a_session_is_created_found_changed_and_deleted(calling, autojump_clock):
    async with serving(calling) as (server, call), server.peer() as socket:
        created = await call(ANN, "POST", body={"title": "采购", "members": members(user002="viewer")})
        session = created.json
        assert (created.status, session["title"], session["role"]) == (201, "采购", "owner")
        assert created.headers["location"] == f"{PATH}/{session['globalId']}"
        assert (await socket.receive())["data"] == session
        one = f"/{session['globalId']}"
        assert (await call(BOB, "GET", one)).json == {**session, "role": "viewer"}
        changed = await call(ANN, "PATCH", one, {"title": "新", "archived": True})
        assert (changed.status, changed.json["title"], changed.json["archived"]) == (200, "新", True)
        assert (await socket.receive())["data"] == changed.json
        gone = await call(ANN, "DELETE", one)
        ids = {"sessionId": session["globalId"], "globalId": session["globalId"]}
        assert (gone.status, gone.json) == (200, ids)
        told = await socket.receive()
        assert (told["type"], told["data"], "requestId" in told) == ("SESSION_DELETE", ids, False)
        assert (await call(ANN, "GET", one)).status == 404


async def test_an_empty_body_makes_an_empty_session(calling, autojump_clock):
    async with serving(calling) as (_, call):
        created = await call(ANN, "POST")
    assert (created.status, created.json["title"]) == (201, None)


async def test_sessions_are_listed_in_pages_and_filtered(calling, autojump_clock):
    async with serving(calling) as (_, call):
        for number in range(5):
            await trio.sleep(1)
            await call(ANN, "POST", body={"title": f"number {number}"})
        first = (await call(ANN, "GET", limit=3)).json
        second = (await call(ANN, "GET", limit=3, before=first["next"])).json
        titles = [each["title"] for each in first["items"] + second["items"]]
        assert titles == [f"number {number}" for number in (4, 3, 2, 1, 0)]
        assert second["next"] is None
        await call(ANN, "PATCH", f"/{first['items'][0]['sessionId']}", {"archived": True})
        assert [each["title"] for each in (await call(ANN, "GET", archived="true")).json["items"]] == ["number 4"]
        assert len((await call(ANN, "GET", archived="false")).json["items"]) == 4
        assert [each["title"] for each in (await call(ANN, "GET", query="R 2")).json["items"]] == ["number 2"]
        assert (await call(BOB, "GET")).json == {"items": [], "next": None}


async def test_who_leaves_has_the_ids_alone(calling, autojump_clock):
    async with serving(calling) as (server, call), server.peer(BOB) as socket:
        session = (await call(ANN, "POST", body={"members": members(user002="member")})).json
        await socket.receive()
        left = await call(BOB, "PATCH", f"/{session['globalId']}", {"members": members(user001="owner")})
        assert (left.status, left.json) == (200, {"sessionId": session["globalId"], "globalId": session["globalId"]})
        assert (await socket.receive())["type"] == "SESSION_DELETE"


async def test_deleting_ends_what_is_being_answered(calling, autojump_clock):
    async with serving(calling, "a", Stall()) as (server, call), server.peer() as socket:
        await socket.send("CHAT_REQUEST", {"message": "Hi"}, request_id="r1")
        await socket.until("CHAT_STREAM_DATA")
        assert (await call(ANN, "DELETE", "/session001")).status == 200
        end = (await socket.until("CHAT_STREAM_END"))[-1]["data"]
        assert end["finishReason"] == "cancelled"


# ---- names


@pytest.mark.parametrize("name", ["session001", "供应链 计划", "a/b", "100%", "%2F", "a?b#c&d", "+", "x/messages", "."])
async def test_a_session_is_found_by_its_quoted_name_and_by_its_global_id(calling, autojump_clock, name):
    async with serving(calling) as (server, call), server.peer() as socket:
        await socket.send("CHAT_REQUEST", {"message": "Hi"}, sessionId=name)
        await socket.until("CHAT_STREAM_END")
        quoted = quote(name, safe="").replace(".", "%2E")
        found = (await call(ANN, "GET", f"/{quoted}")).json
        assert found["sessionId"] == name
        assert (await call(ANN, "GET", f"/{found['globalId']}")).json == found
        said = (await call(ANN, "GET", f"/{quoted}/messages")).json["items"]
        assert [each["sessionId"] for each in said] == [name] * 2
        assert (await call(BOB, "GET", f"/{quoted}")).status == 404


# ---- refusals


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ({"title": "x" * 201}, "INVALID_MESSAGE", "Field title is invalid: it is too long"),
        ({"title": 7}, "INVALID_MESSAGE", "Field title is invalid: a text without NUL is expected"),
        ({"members": [{"userId": "u", "role": "boss"}]}, "INVALID_MESSAGE", "Field members[0].role is invalid"),
        ({"members": members(u1="viewer") * 2}, "INVALID_MESSAGE", "Field members is invalid"),
        ({"provider": "none"}, "PROVIDER_UNKNOWN", "No such provider is configured: none"),
        ([], "BAD_JSON", "The message is not a valid JSON object (at 0)"),
    ],
)
async def test_what_cannot_be_is_refused_with_the_field(calling, autojump_clock, body, code, said):
    async with serving(calling) as (_, call):
        answer = await call(ANN, "POST", "", body, lang="en")
        assert (answer.status, answer.json["code"]) == (400, code)
        assert answer.json["message"].startswith(said)
        assert (await call(ANN, "GET")).json["items"] == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "٣"}, "limit"),
        ({"before": "x"}, "before"),
        ({"archived": "perhaps"}, "archived"),
        ({"query": "x" * 201}, "query"),
    ],
)
async def test_a_parameter_that_cannot_be_is_refused(calling, autojump_clock, query, field):
    async with serving(calling) as (_, call):
        answer = await call(ANN, "GET", **query)
    assert (answer.status, answer.json["code"]) == (400, "INVALID_MESSAGE")
    assert field in answer.json["message"]


async def test_who_has_too_many_sessions_is_told_so(calling, autojump_clock, monkeypatch):
    monkeypatch.setattr(access, "MAX_SESSIONS", 1)
    async with serving(calling) as (_, call):
        await call(ANN, "POST")
        answer = await call(ANN, "POST")
    assert (answer.status, answer.json["code"]) == (409, "CONFLICT")


async def test_a_store_that_fails_is_told_as_busy(calling, autojump_clock, monkeypatch):
    async def fail(*_, **__):
        raise StoreError("down")

    async with serving(calling) as (server, call):
        with monkeypatch.context() as patch:
            patch.setattr(server.house.database, "read", fail)
            answer = await call(ANN, "GET")
        assert (answer.status, answer.json["code"]) == (503, "SERVER_BUSY")


async def test_the_rate_is_the_users_over_http_and_sockets_together(calling, autojump_clock):
    config = quiet_config(websocket=WebSocket(message=Messages(rate_limit_per_minute=3)))
    async with serving(calling, config=config) as (server, call), server.peer() as socket:
        await socket.send("SESSION_LIST")
        await socket.receive()
        assert [(await call(ANN, "GET")).status for _ in range(2)] == [200, 200]
        refused = await call(ANN, "POST", lang="en")
        assert (refused.status, refused.json["code"], refused.headers["retry-after"]) == (429, "RATE_LIMITED", "20")
        assert refused.json["message"] == "Too many messages; try again in 20 s"
        await socket.send("SESSION_LIST")
        assert (await socket.receive())["error"]["code"] == "RATE_LIMITED"
        assert (await call(BOB, "GET")).status == 200
        await trio.sleep(20)
        assert (await call(ANN, "GET")).status == 200
        # However long he goes on, over HTTP he is only refused.
        assert {(await call(ANN, "GET")).status for _ in range(20)} == {429}
