"""The session verbs, and who is told of them."""

import pytest
import trio

from scm_trio.errors import StoreError
from scm_trio.providers.scripted import Scripted, Stall
from scm_trio.store import access
from scm_trio.store.members import MAX_MEMBERS
from scm_trio.store.sessions import MAX_SYSTEM_PROMPT_CHARS, MAX_TITLE_CHARS
from scm_trio.testing import open_server

from .serving import answer, replies, said, serving
from .together import ANN, BOB, EVE, code, create, nothing_more, request, set_members

pytestmark = pytest.mark.usefixtures("both_databases")

# ---- create


async def test_a_created_session_has_an_unguessable_id_and_what_was_said_about_it(autojump_clock):
    wanted = {"title": " 采购 ", "model": "scripted-1", "provider": "openai", "systemPrompt": "Be brief."}
    async with serving() as server, server.peer() as peer:
        await peer.send("SESSION_CREATE", wanted, request_id="c1")
        reply = await peer.receive()
    session = reply["data"]
    assert (reply["type"], reply["requestId"], reply["userId"]) == ("SESSION_CREATE", "c1", ANN)
    assert reply["sessionId"] == session["sessionId"] == session["globalId"]
    assert access.is_global_id(session["globalId"])
    assert {key: session[key] for key in wanted} == {**wanted, "title": "采购"}
    assert (session["role"], session["members"]) == ("owner", [{"userId": ANN, "role": "owner"}])
    assert (session["archived"], session["unread"]) == (False, 0)


async def test_everybody_in_a_new_session_is_told_as_what_he_is_in_it(autojump_clock):
    async with (
        serving() as server,
        server.peer() as peer,
        server.peer(session_id="elsewhere") as own,
        server.peer(BOB) as bob,
        server.peer(EVE) as eve,
    ):
        session = await create(peer, {BOB: "viewer"}, title="t")
        for other, role in ((own, "owner"), (bob, "viewer")):
            told = await other.receive()
            assert (told["type"], told["data"]) == ("SESSION_CREATE", {**session, "role": role})
            assert "requestId" not in told
        await nothing_more(eve)
        await nothing_more(peer)


async def test_a_session_made_without_anything_said_is_possible(autojump_clock):
    async with serving() as server, server.peer() as peer:
        await peer.send("SESSION_CREATE")
        session = (await peer.receive())["data"]
    assert (session["title"], session["model"], session["systemPrompt"]) == (None, None, None)


@pytest.mark.parametrize(
    ("data", "error", "field"),
    [
        ({"title": "x" * (MAX_TITLE_CHARS + 1)}, "INVALID_MESSAGE", "data.title"),
        ({"systemPrompt": "x" * (MAX_SYSTEM_PROMPT_CHARS + 1)}, "INVALID_MESSAGE", "data.systemPrompt"),
        ({"members": [{"userId": f"u{n}"} for n in range(MAX_MEMBERS)]}, "INVALID_MESSAGE", "data.members"),
        ({"members": [{"userId": "u1"}, {"userId": "u1"}]}, "INVALID_MESSAGE", "data.members"),
        ({"members": [{"userId": "u1", "role": "boss"}]}, "INVALID_MESSAGE", "data.members[0].role"),
        ({"members": [{}]}, "INVALID_MESSAGE", "data.members[0].userId"),
        ({"provider": "nobody"}, "PROVIDER_UNKNOWN", "data.provider"),
        ({"model": "gpt-9"}, "MODEL_UNKNOWN", "data.model"),
    ],
)
async def test_an_impossible_session_is_refused_with_the_field(autojump_clock, data, error, field):
    async with serving() as server, server.peer() as peer:
        reply = await request(peer, "SESSION_CREATE", data)
        assert (code(reply), reply["error"]["field"]) == (error, field)
        assert (await request(peer, "SESSION_LIST"))["data"]["items"] == []


async def test_who_has_too_many_sessions_is_told_so(autojump_clock, monkeypatch):
    monkeypatch.setattr(access, "MAX_SESSIONS", 1)
    async with serving("a") as server, server.peer(query="&lang=en") as peer:
        await create(peer)
        reply = await request(peer, "SESSION_CREATE", {})
        assert (code(reply), reply["data"]) == (
            "CONFLICT",
            "You have too many sessions (at most 1); delete some first",
        )
        assert code((await answer(peer))[-1]) == "CONFLICT"


# ---- update


async def test_a_change_is_answered_and_told_to_everybody_in_the_session(autojump_clock):
    async with serving() as server, server.peer() as peer, server.peer(BOB) as bob, server.peer(BOB) as other:
        session = await create(peer, {BOB: "member"})
        for each in (bob, other):
            await each.receive()
        await trio.sleep(10)
        reply = await request(
            bob, "SESSION_UPDATE", {"sessionId": session["globalId"], "title": "new", "archived": True}
        )
        assert (reply["data"]["title"], reply["data"]["archived"], reply["data"]["role"]) == ("new", True, "member")
        assert reply["data"]["updatedAt"] > session["updatedAt"]
        for each, role in ((peer, "owner"), (other, "member")):
            told = await each.receive()
            assert (told["type"], told["data"]) == ("SESSION_UPDATE", {**reply["data"], "role": role})
        cleared = await request(peer, "SESSION_UPDATE", {"sessionId": session["sessionId"], "title": ""})
        assert (cleared["data"]["title"], cleared["data"]["archived"]) == (None, True)


async def test_each_member_calls_the_session_by_his_own_name(autojump_clock):
    async with serving("a") as server, server.peer() as peer, server.peer(BOB) as bob:
        await answer(peer)
        mine = await set_members(peer, "session001", user001="owner", user002="member")
        assert (mine["sessionId"], mine["data"]["sessionId"]) == ("session001", "session001")
        told = await bob.receive()
        global_id = mine["data"]["globalId"]
        assert (told["type"], told["sessionId"], told["data"]["sessionId"]) == ("SESSION_CREATE", global_id, global_id)
        # However the owner says it, the answer has his own name.
        again = await request(peer, "SESSION_UPDATE", {"sessionId": global_id, "title": "t"})
        assert (again["sessionId"], again["data"]["sessionId"]) == ("session001", "session001")


async def test_members_come_and_go_and_each_is_told_what_it_is_to_him(autojump_clock):
    async with serving() as server, server.peer() as ann, server.peer(BOB) as bob, server.peer(EVE) as eve:
        session_id = (await create(ann, {BOB: "member"}))["sessionId"]
        await bob.receive()
        reply = await set_members(ann, session_id, user001="owner", user003="viewer")
        assert [each["userId"] for each in reply["data"]["members"]] == [ANN, EVE]
        gone, new = await bob.receive(), await eve.receive()
        assert (gone["type"], gone["data"]) == ("SESSION_DELETE", {"sessionId": session_id, "globalId": session_id})
        assert (new["type"], new["data"]["role"]) == ("SESSION_CREATE", "viewer")
        await nothing_more(ann)


async def test_who_leaves_is_answered_that_the_session_is_gone(autojump_clock):
    async with serving() as server, server.peer() as ann, server.peer(BOB) as bob, server.peer(BOB) as other:
        session_id = (await create(ann, {BOB: "member"}))["sessionId"]
        for each in (bob, other):
            await each.receive()
        reply = await set_members(bob, session_id, user001="owner")
        assert (reply["type"], reply["requestId"], reply["data"]["globalId"]) == (
            "SESSION_DELETE",
            "members",
            session_id,
        )
        told = await other.receive()
        assert (told["type"], "requestId" in told) == ("SESSION_DELETE", False)
        left = await ann.receive()
        assert (left["type"], [each["userId"] for each in left["data"]["members"]]) == ("SESSION_UPDATE", [ANN])
        assert code(await request(bob, "SESSION_UPDATE", {"sessionId": session_id, "title": "t"})) == "NOT_FOUND"


async def test_a_session_whose_owner_leaves_goes_on_and_his_name_is_free_again(autojump_clock):
    provider = Scripted(lambda prompt: [f"{len(prompt.turns)} turns"])
    async with serving(provider=provider) as server, server.peer() as ann, server.peer(BOB) as bob:
        await answer(ann)
        shared = await set_members(ann, "session001", user001="owner", user002="owner")
        global_id = shared["data"]["globalId"]
        gone = await set_members(ann, "session001", user002="owner")
        assert (gone["type"], gone["sessionId"]) == ("SESSION_DELETE", "session001")
        assert gone["data"] == {"sessionId": "session001", "globalId": global_id}
        # The other owner goes on where the old one stopped; the old one begins anew under his old name.
        assert said(await answer(bob, "And?", "b1", session_id=global_id)) == "3 turns"
        assert said(await answer(ann, "Hello?", "r2")) == "1 turns"
        assert (await request(ann, "SESSION_LIST"))["data"]["items"][0]["globalId"] != global_id


async def test_changes_that_come_at_once_are_told_in_one_order(autojump_clock):
    async with serving() as server, server.peer() as ann, server.peer(BOB) as bob:
        session_id = (await create(ann, {BOB: "member"}))["sessionId"]
        await bob.receive()
        for number in range(5):
            for peer, name in ((ann, "a"), (bob, "b")):
                title = {"sessionId": session_id, "title": f"{name}{number}"}
                await peer.send("SESSION_UPDATE", title, request_id=f"{name}{number}")
        seen = {peer: [(await peer.receive())["data"]["title"] for _ in range(10)] for peer in (ann, bob)}
        assert seen[ann] == seen[bob]
        assert (await request(ann, "SESSION_LIST"))["data"]["items"][0]["title"] == seen[ann][-1]


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({}, "data.sessionId"),
        ({"title": "x" * (MAX_TITLE_CHARS + 1)}, "data.title"),
        ({"members": []}, "data.members"),
        ({"members": [{"userId": ANN, "role": "viewer"}]}, "data.members"),
        ({"archived": "yes"}, "data.archived"),
    ],
)
async def test_an_impossible_change_is_refused_with_the_field(autojump_clock, data, field):
    async with serving() as server, server.peer() as peer:
        session_id = (await create(peer))["sessionId"]
        given = {"sessionId": session_id, **data} if data else {}
        reply = await request(peer, "SESSION_UPDATE", given)
        assert (code(reply), reply["error"]["field"]) == ("INVALID_MESSAGE", field)
        await nothing_more(peer)


async def test_a_change_takes_effect_though_its_author_is_gone(autojump_clock):
    async with serving("a", Stall()) as server, server.peer() as ann, server.peer(BOB) as bob:
        session_id = (await create(ann, {BOB: "member"}))["sessionId"]
        await bob.receive()
        link = next(iter(server.house.gate.hub.of_user(ANN)))
        await ann.send("SESSION_UPDATE", {"sessionId": session_id, "members": [{"userId": ANN, "role": "owner"}]})
        writer = server.house.database._writer
        while not writer._queue:
            await trio.lowlevel.checkpoint()
        link.disconnect(None)
        assert (await bob.receive())["type"] == "SESSION_DELETE"


# ---- delete


async def test_a_deleted_session_is_gone_for_all_its_members(autojump_clock):
    async with serving("a") as server, server.peer() as ann, server.peer(BOB) as bob:
        await answer(ann)
        shared = (await set_members(ann, "session001", user001="owner", user002="member"))["data"]
        await bob.receive()
        reply = await request(ann, "SESSION_DELETE", {"sessionId": "session001"})
        assert (reply["sessionId"], reply["data"]) == (
            "session001",
            {"sessionId": "session001", "globalId": shared["globalId"]},
        )
        told = await bob.receive()
        assert (told["type"], told["data"]["sessionId"]) == ("SESSION_DELETE", shared["globalId"])
        assert code(await request(ann, "SESSION_DELETE", {"sessionId": "session001"})) == "NOT_FOUND"
        assert (await request(bob, "SESSION_LIST"))["data"]["items"] == []


async def test_deleting_a_session_cancels_what_runs_in_it_and_nothing_of_it_is_kept(autojump_clock):
    provider = Scripted(["some", Stall()])
    async with (
        serving(provider=provider) as server,
        server.peer() as ann,
        server.peer() as desk,
        server.peer(BOB) as bob,
    ):
        session_id = (await create(ann, {BOB: "member"}))["sessionId"]
        await bob.send("CHAT_REQUEST", {"message": "Hi"}, request_id="b1", sessionId=session_id)
        await ann.send("CHAT_REQUEST", {"message": "Ho"}, request_id="a1", sessionId=session_id)
        await replies(bob, "b1", "CHAT_STREAM_DATA")
        await replies(ann, "a1", "CHAT_STREAM_DATA")
        await desk.send("SESSION_DELETE", {"sessionId": session_id})
        for peer, request_id in ((bob, "b1"), (ann, "a1")):
            end = (await replies(peer, request_id, "CHAT_STREAM_END", "ERROR"))[-1]
            assert (end["data"]["finishReason"], end["data"]["upstreamClosed"]) == ("cancelled", True)
            assert end["sessionId"] == session_id
        left = await server.house.database.read(
            lambda conn: [conn.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() for table in TABLES]
        )
        attempts = await server.house.database.read(lambda conn: conn.exec_driver_sql(OUTCOMES).scalars().all())
    assert left == [0] * len(TABLES)
    assert attempts == ["cancelled"] * 2, "what it cost stays known"
    assert provider.open_streams == 0


TABLES = ("sessions", "messages", "members", "runs")
OUTCOMES = "SELECT outcome FROM usage"


async def test_a_deleted_sessions_name_can_be_used_again(autojump_clock):
    provider = Scripted(lambda prompt: [f"{len(prompt.turns)} turns"])
    async with serving(provider=provider) as server, server.peer() as peer, server.peer() as desk:
        await answer(peer)
        await request(peer, "SESSION_DELETE", {"sessionId": "session001"})
        assert said(await answer(peer, "Again", "r2")) == "1 turns"
        # Whoever has it open under that name sees the new one.
        seen = [each for each in [await desk.receive() for _ in range(9)] if each["type"] == "CHAT_STREAM_END"]
        assert len(seen) == 2


# ---- list


async def test_sessions_are_listed_in_pages_the_one_used_last_first(autojump_clock):
    async with serving("a") as server, server.peer() as peer:
        for number in range(5):
            await trio.sleep(1)
            await create(peer, title=f"number {number}")
        await trio.sleep(1)
        first = (await request(peer, "SESSION_LIST", {"limit": 3}))["data"]
        second = (await request(peer, "SESSION_LIST", {"limit": 3, "before": first["next"]}))["data"]
    assert [each["title"] for each in first["items"]] == ["number 4", "number 3", "number 2"]
    assert [each["title"] for each in second["items"]] == ["number 1", "number 0"]
    assert second["next"] is None


async def test_a_list_can_be_filtered_by_title_and_by_being_archived(autojump_clock):
    async with serving() as server, server.peer() as peer:
        for title in ("供应链", "采购计划", "other"):
            session = await create(peer, title=title)
        await request(peer, "SESSION_UPDATE", {"sessionId": session["sessionId"], "archived": True})
        found = []
        for wanted in ({"query": "供应"}, {"archived": True}, {"archived": False}, {"query": "OTHER"}):
            items = (await request(peer, "SESSION_LIST", wanted))["data"]["items"]
            found.append(sorted(each["title"] for each in items))
    assert found == [["供应链"], ["other"], ["供应链", "采购计划"], ["other"]]


async def test_a_list_has_nobody_elses_sessions(autojump_clock):
    async with serving() as server, server.peer() as ann, server.peer(BOB) as bob:
        await create(ann)
        shared = await create(ann, {BOB: "viewer"})
        items = (await request(bob, "SESSION_LIST"))["data"]["items"]
    assert [(each["globalId"], each["role"]) for each in items] == [(shared["globalId"], "viewer")]


@pytest.mark.parametrize(
    ("data", "field"),
    [({"before": "x"}, "data.before"), ({"query": "x" * 201}, "data.query"), ({"limit": -1}, "data.limit")],
)
async def test_an_impossible_list_is_refused_with_the_field(autojump_clock, data, field):
    async with serving() as server, server.peer() as peer:
        reply = await request(peer, "SESSION_LIST", data)
        assert (code(reply), reply["error"]["field"]) == ("INVALID_MESSAGE", field)


# ---- defaults


async def test_a_sessions_own_model_and_system_prompt_count_where_a_request_names_none(autojump_clock):
    default, other = Scripted(["d"], name="default"), Scripted(["o"], name="other", models=("m1", "m2"))
    async with open_server({"default": default, "other": other}) as server, server.peer() as peer:
        session = await create(peer, provider="other", model="m2", systemPrompt="Be brief.")
        where = {"session_id": session["sessionId"]}
        start = (await answer(peer, "Hi", "r1", **where))[0]["data"]
        assert (start["provider"], start["model"]) == ("other", "m2")
        assert [turn.content for turn in other.prompts[-1].turns] == ["Be brief.", "Hi"]
        start = (await answer(peer, "Hi", "r2", model="m1", **where))[0]["data"]
        assert (start["provider"], start["model"]) == ("other", "m1")
        start = (await answer(peer, "Hi", "r3", provider="default", **where))[0]["data"]
        assert (start["provider"], start["model"]) == ("default", "scripted-1")
        attempts = await server.house.database.read(
            lambda conn: conn.exec_driver_sql("SELECT provider, model FROM usage ORDER BY started_at, attempt_id").all()
        )
    assert [tuple(each) for each in attempts] == [("other", "m2"), ("other", "m1"), ("default", "scripted-1")]


async def test_a_model_that_is_not_on_offer_any_more_gives_way_to_the_default(autojump_clock):
    provider, other = Scripted(["d"]), Scripted(["o"], name="other", models=("m1",))
    async with open_server({"openai": provider, "other": other}) as server, server.peer() as peer:
        session = await create(peer, provider="other", model="m1")
        other.models = ("m2",)
        start = (await answer(peer, "Hi", "r1", session_id=session["sessionId"]))[0]["data"]
    assert (start["provider"], start["model"]) == ("scripted", "scripted-1")


# ---- failures


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("SESSION_CREATE", {}),
        ("SESSION_UPDATE", {"sessionId": "session001"}),
        ("SESSION_DELETE", {"sessionId": "session001"}),
        ("SESSION_LIST", {}),
        ("MESSAGE_READ", {"sessionId": "session001", "messageId": "m"}),
    ],
)
async def test_a_store_that_fails_is_the_servers_fault(autojump_clock, monkeypatch, kind, data):
    async def fail(*_, **__):
        raise StoreError("down")

    async with serving() as server, server.peer() as peer:
        for name in ("change", "read"):
            monkeypatch.setattr(server.house.database, name, fail)
        reply = await request(peer, kind, data)
        assert (code(reply), reply["error"]["retryable"]) == ("INTERNAL", True)
        await nothing_more(peer)
        monkeypatch.undo()
