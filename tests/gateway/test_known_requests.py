"""A request that is known gets its answer, whatever has changed since, and long after its run has left memory."""

import pytest
import trio
import trio.testing

from scm_trio.config import Streams
from scm_trio.providers.scripted import Scripted, Stall

from .serving import answer, ask, check_contiguous, kinds, replies, said, serving, websocket
from .sharing import GLOBAL_ID, set_members, share

pytestmark = pytest.mark.usefixtures("both_databases")

SHORT = websocket(stream=Streams(resume_window_s=1.0))
LATER_S = 120


async def rows(server, query):
    return await server.house.database.read(lambda conn: conn.exec_driver_sql(query).all())


@pytest.mark.parametrize("later_s", [0, LATER_S])
async def test_who_may_only_read_there_by_now_is_told_it_again(autojump_clock, later_s):
    provider = Scripted(["a"])
    async with serving(provider=provider, config=SHORT) as server:
        await share(server, "user002")
        async with server.peer("user002", GLOBAL_ID) as bob:
            await answer(bob, "first", "r1")
            await set_members(server, user001="owner", user002="viewer")
            await trio.sleep(later_s)
            again = await answer(bob, "first", "r1")
            assert (again[-1]["type"], said(again)) == ("CHAT_STREAM_END", "a")
            # A new question is another matter.
            assert (await answer(bob, "second", "r2"))[-1]["error"]["code"] == "FORBIDDEN"
    assert len(provider.prompts) == 1


@pytest.mark.parametrize("later_s", [0, LATER_S])
async def test_repeating_it_from_another_session_makes_no_session(autojump_clock, later_s):
    provider = Scripted(["a"])
    async with serving(provider=provider, config=SHORT) as server:
        async with server.peer() as peer:
            await answer(peer, "first", "r1")
        await trio.sleep(later_s)
        async with server.peer(session_id="of-a-new-tab") as tab:
            again = await answer(tab, "first", "r1")
            assert said(again) == "a"
            assert {each["sessionId"] for each in again} == {"session001"}
        assert await rows(server, "SELECT session_id FROM sessions") == [("session001",)]
    assert len(provider.prompts) == 1


async def test_what_it_went_on_from_may_be_gone(autojump_clock):
    provider = Scripted(["a"])
    async with serving(provider=provider, config=SHORT) as server, server.peer() as peer:
        first = await answer(peer, "first", "r1")
        place = {"parentMessageId": first[0]["data"]["messageId"]}
        await answer(peer, "second", "r2", **place)
        await trio.sleep(LATER_S)
        again = await answer(peer, "second", "r2", parentMessageId="msg-of-nobody")
        assert said(again) == "a"
        assert (await answer(peer, "third", "r3", parentMessageId="msg-of-nobody"))[-1]["error"]["code"] == "NOT_FOUND"


async def test_of_a_lost_session_it_is_not_told(autojump_clock):
    provider = Scripted(["a"])
    async with serving(provider=provider, config=SHORT) as server:
        await share(server, "user002")
        async with server.peer("user002", GLOBAL_ID) as bob, server.peer("user002", "mine") as elsewhere:
            await answer(bob, "first", "r1")
            await set_members(server, user001="owner")
            await trio.sleep(LATER_S)
            assert (await answer(elsewhere, "first", "r1"))[-1]["error"]["code"] == "NOT_FOUND"
        assert len(await rows(server, "SELECT session_id FROM sessions")) == 1


async def test_it_takes_no_place_among_the_answers_that_run(autojump_clock):
    provider = Scripted(lambda prompt: ["a"] if prompt.turns[-1].content == "first" else ["b", Stall()])
    config = websocket(stream=Streams(resume_window_s=1.0, max_per_user=1))
    async with serving(provider=provider, config=config) as server, server.peer() as peer, server.peer() as other:
        await answer(peer, "first", "r1")
        await trio.sleep(LATER_S)
        await ask(peer, "second", "r2")
        await peer.until("CHAT_STREAM_DATA")
        assert said(await answer(other, "first", "r1")) == "a"
        await ask(other, "third", "r3")
        assert (await replies(other, "r3", "ERROR"))[-1]["error"]["code"] == "TOO_MANY_STREAMS"


async def test_a_connection_is_told_it_once_however_it_asks(autojump_clock):
    words = [f"word {number} " for number in range(200)]
    async with serving(*words, config=SHORT) as server:
        async with server.peer() as peer:
            message_id = (await answer(peer, "first", "r1"))[0]["data"]["messageId"]
        await trio.sleep(LATER_S)
        for order in ("again first", "resume first"):
            async with server.peer(pair=trio.testing.lockstep_stream_pair) as peer:
                for what in (0, 1) if order == "again first" else (1, 0):
                    if what:
                        await peer.send("CHAT_RESUME", {"messageId": message_id}, request_id="z")
                    else:
                        await ask(peer, "first", "r1")
                messages = []
                with trio.move_on_after(5):
                    while True:
                        message = await peer.receive()
                        if message["type"].startswith("CHAT_STREAM"):
                            messages.append(message)
                assert kinds(messages).count("END") == 1
                last = max(index for index, each in enumerate(messages) if each["type"] == "CHAT_STREAM_START")
                check_contiguous(messages[last:])
                assert said(messages[last:]) == "".join(words)


async def test_it_goes_on_there_where_its_answer_is_being_sent_already(autojump_clock):
    words = [f"word {number} " for number in range(200)]
    provider = Scripted(lambda prompt: words if prompt.turns[-1].content == "first" else ["b", Stall()])
    config = websocket(stream=Streams(resume_window_s=1.0, max_per_user=1))
    async with serving(provider=provider, config=config) as server, server.peer() as peer:
        message_id = (await answer(peer, "first", "r1"))[0]["data"]["messageId"]
        await trio.sleep(LATER_S)
        await ask(peer, "second", "r2")
        await peer.until("CHAT_STREAM_DATA")
        await peer.send("CHAT_RESUME", {"messageId": message_id}, request_id="x")
        await ask(peer, "first", "r1")
        again = await replies(peer, "r1", "CHAT_STREAM_END")
        check_contiguous(again)
        assert said(again) == "".join(words)
        # Nothing follows: it was sent by one viewer alone.
        with trio.move_on_after(5):
            while (message := await peer.receive())["type"] in ("HEARTBEAT", "CHAT_STREAM_START"):
                pass
            pytest.fail(f"{message}")
