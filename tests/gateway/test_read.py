"""MESSAGE_READ: the reader's marker, who hears of it, and what is unread then."""

import pytest
import trio

from scm_trio.providers.scripted import Scripted

from .serving import answer, serving
from .together import BOB, EVE, code, create, nothing_more, request

pytestmark = pytest.mark.usefixtures("both_databases")


async def read(peer, session_id, message_id, **more):
    return await request(peer, "MESSAGE_READ", {"sessionId": session_id, "messageId": message_id, **more}, "read")


async def unread(peer):
    items = (await request(peer, "SESSION_LIST"))["data"]["items"]
    return {each["sessionId"]: each["unread"] for each in items}


async def test_a_mark_is_answered_and_told_to_the_others_and_to_ones_other_devices(autojump_clock):
    async with serving("a") as server, server.peer() as ann, server.peer(BOB) as bob, server.peer(BOB) as phone:
        session_id = (await create(ann, {BOB: "viewer"}))["sessionId"]
        start = (await answer(ann, session_id=session_id))[0]["data"]
        for peer in (bob, phone):
            await peer.until("SESSION_CREATE")
            await peer.receive()
            await peer.receive()
        assert await unread(bob) == {session_id: 2}
        reply = await read(bob, session_id, start["userMessageId"])
        data = {"sessionId": session_id, "messageId": start["userMessageId"], "userId": BOB}
        assert (reply["data"], reply["requestId"], reply["userId"]) == (data, "read", BOB)
        for peer in (ann, phone):
            told = await peer.receive()
            assert (told["type"], told["data"], told["userId"]) == ("MESSAGE_READ", data, BOB)
            assert "requestId" not in told
        assert await unread(phone) == {session_id: 1}
        await nothing_more(bob)


async def test_each_is_told_by_his_own_name_for_the_session(autojump_clock):
    async with serving("a") as server, server.peer() as ann, server.peer(BOB) as bob:
        start = (await answer(ann))[0]["data"]
        members = [{"userId": "user001", "role": "owner"}, {"userId": BOB}]
        shared = (await request(ann, "SESSION_UPDATE", {"sessionId": "session001", "members": members}))["data"]
        await bob.receive()
        await answer(ann, request_id="r2")
        await bob.receive()
        await bob.receive()
        assert (await read(bob, shared["globalId"], start["messageId"]))["data"]["sessionId"] == shared["globalId"]
        # What a member found when he came counts as read: nobody is told twice.
        await nothing_more(ann)
        newest = (await request(ann, "SESSION_LIST"))["data"]["items"][0]
        assert newest["unread"] == 2
        await read(ann, shared["globalId"], start["messageId"])
        told = await bob.receive()
        assert (told["sessionId"], told["data"]["userId"]) == (shared["globalId"], "user001")


async def test_a_marker_only_moves_forward_and_is_told_when_it_moves(autojump_clock):
    async with serving("a") as server, server.peer() as ann, server.peer(BOB) as bob:
        session_id = (await create(ann, {BOB: "viewer"}))["sessionId"]
        starts = [(await answer(ann, request_id=f"r{n}", session_id=session_id))[0]["data"] for n in range(2)]
        await bob.until("SESSION_CREATE")
        for _ in range(4):
            await bob.receive()
        for message_id in (starts[1]["messageId"], starts[0]["messageId"], starts[1]["messageId"]):
            assert (await read(bob, session_id, message_id))["type"] == "MESSAGE_READ"
        assert await unread(bob) == {session_id: 0}
        assert (await ann.receive())["data"]["messageId"] == starts[1]["messageId"]
        await nothing_more(ann)


async def test_what_is_read_was_delivered(autojump_clock):
    async with serving("a") as server, server.peer() as ann:
        session_id = (await create(ann, {BOB: "viewer", EVE: "viewer"}))["sessionId"]
        start = (await answer(ann, session_id=session_id))[0]["data"]
        async with server.peer(BOB) as bob:
            await read(bob, session_id, start["messageId"])
        async with server.peer(BOB) as bob:
            await nothing_more(bob)


async def test_alone_a_mark_is_answered_and_nobody_else_is_told(autojump_clock):
    async with serving("a") as server, server.peer() as ann, server.peer("user009") as stranger:
        start = (await answer(ann))[0]["data"]
        reply = await read(ann, "session001", start["messageId"], userId="user001")
        assert reply["data"]["sessionId"] == "session001"
        assert await unread(ann) == {"session001": 0}
        await nothing_more(stranger)


@pytest.mark.parametrize(
    ("data", "error", "field"),
    [
        ({"messageId": "m"}, "INVALID_MESSAGE", "data.sessionId"),
        ({"sessionId": "session001"}, "INVALID_MESSAGE", "data.messageId"),
        ({"sessionId": "session001", "messageId": "m", "userId": BOB}, "INVALID_MESSAGE", "data.userId"),
        ({"sessionId": "session001", "messageId": "m"}, "NOT_FOUND", None),
    ],
)
async def test_an_impossible_mark_is_refused(autojump_clock, data, error, field):
    async with serving(provider=Scripted(["a"])) as server, server.peer() as peer:
        await answer(peer)
        reply = await request(peer, "MESSAGE_READ", data)
        assert (code(reply), reply["error"].get("field")) == (error, field)


async def test_marks_count_for_the_rate(autojump_clock):
    async with serving("a") as server, server.peer() as peer:
        start = (await answer(peer))[0]["data"]
        replies = [await read(peer, "session001", start["messageId"]) for _ in range(100)]
        assert [each["type"] for each in replies] == ["MESSAGE_READ"] * 99 + ["ERROR"]
        assert code(replies[-1]) == "RATE_LIMITED"
        await trio.sleep(1)
        assert (await read(peer, "session001", start["messageId"]))["type"] == "MESSAGE_READ"
