"""A running answer is seen by every connection that has its session open."""

import pytest
import trio

from scm_trio.config import Streams
from scm_trio.errors import ProviderUnavailable
from scm_trio.gateway import link
from scm_trio.providers.scripted import Fail, Pause, Scripted, Stall

from .serving import answer, ask, check_contiguous, kinds, said, serving, websocket

WORDS = [step for word in "abcdefgh" for step in (word, Pause(1))]


def chat(messages):
    return [each for each in messages if each["type"] not in ("HEARTBEAT", "CHAT_MESSAGE")]


async def test_another_device_sees_the_question_and_the_answer_as_they_come(autojump_clock):
    async with serving(*WORDS) as server, server.peer() as phone, server.peer() as desk:
        await ask(phone, "What is it?")
        seen = await desk.until("CHAT_STREAM_END")
        own = await phone.until("CHAT_STREAM_END")
    question, start = seen[0], seen[1]
    assert question["type"] == "CHAT_MESSAGE"
    assert (question["data"]["content"], question["data"]["role"]) == ("What is it?", "user")
    assert question["data"]["messageId"] == start["data"]["userMessageId"]
    assert (start["data"]["resumed"], start["data"]["reset"], start["data"]["requestId"]) == (False, False, "r1")
    assert said(seen) == said(own) == "abcdefgh"
    check_contiguous(chat(seen))
    assert seen[-1]["data"] == own[-1]["data"]
    # A push answers no request of this connection.
    assert not any("requestId" in each for each in seen)
    assert "CHAT_MESSAGE" not in [each["type"] for each in own]


async def test_who_opens_the_session_later_is_shown_what_there_is_and_then_the_rest(autojump_clock):
    async with serving(*WORDS) as server, server.peer() as first:
        await ask(first)
        await trio.sleep(3.5)
        async with server.peer() as late:
            seen = await late.until("CHAT_STREAM_END")
    assert kinds(seen)[0] == "START"
    assert seen[0]["data"]["resumed"] is True
    assert seen[1]["data"]["content"] == "abcd"
    assert said(seen) == "abcdefgh"
    check_contiguous(seen)


async def test_a_request_in_a_session_opens_it(autojump_clock):
    async with serving("a", Stall()) as server, server.peer() as one, server.peer(session_id="elsewhere") as two:
        await ask(one)
        await one.until("CHAT_STREAM_DATA")
        await two.send("CHAT_REQUEST", {"message": "Me too"}, request_id="r2", sessionId="session001")
        starts = [await two.until("CHAT_STREAM_START") for _ in range(2)]
        assert {each[-1]["data"]["requestId"] for each in starts} == {"r1", "r2"}


async def test_the_same_name_of_another_user_is_another_session(autojump_clock):
    async with serving("a") as server, server.peer() as peer, server.peer("user002") as same_name:
        await answer(peer)
        await same_name.send("HEARTBEAT")
        assert (await same_name.receive())["type"] == "HEARTBEAT"


async def test_ones_other_connections_are_told_what_was_asked_and_answered(autojump_clock):
    async with serving("a", Pause(1), "b") as server, server.peer() as phone, server.peer(session_id="s2") as desk:
        start = (await answer(phone, "What?"))[0]["data"]
        created, asked, answered = [await desk.receive() for _ in range(3)]
        await desk.send("HEARTBEAT")
        assert (await desk.receive())["type"] == "HEARTBEAT"
    assert (created["type"], created["data"]["sessionId"]) == ("SESSION_CREATE", "session001")
    assert [each["type"] for each in (asked, answered)] == ["CHAT_MESSAGE"] * 2
    assert (asked["data"]["content"], asked["data"]["status"]) == ("What?", "read")
    assert (answered["data"]["content"], answered["data"]["status"]) == ("ab", "delivered")
    assert answered["data"]["messageId"] == start["messageId"]
    assert {each["sessionId"] for each in (created, asked, answered)} == {"session001"}
    assert not any("requestId" in each for each in (created, asked, answered))


async def test_an_answer_can_be_stopped_from_any_of_them(autojump_clock):
    async with serving("a", Stall()) as server, server.peer() as phone, server.peer() as desk:
        await ask(phone)
        start = (await desk.until("CHAT_STREAM_START"))[-1]
        await desk.send("CHAT_CANCEL", {"messageId": start["data"]["messageId"]})
        for peer in (desk, phone):
            end = (await peer.until("CHAT_STREAM_END"))[-1]["data"]
            assert (end["finishReason"], end["upstreamClosed"]) == ("cancelled", True)


async def test_an_answer_that_others_watch_is_no_orphan(autojump_clock):
    provider = Scripted([step for _ in range(100) for step in ("w", Pause(1))])
    async with serving(provider=provider) as server, server.peer() as desk:
        async with server.peer() as phone:
            await ask(phone, onOrphan="cancel")
            await phone.until("CHAT_STREAM_DATA")
        end = (await desk.until("CHAT_STREAM_END"))[-1]["data"]
    assert (end["finishReason"], end["length"]) == ("completed", 100)


async def test_an_answer_in_one_piece_is_pushed_as_a_message(autojump_clock):
    async with serving(Pause(3), "whole") as server, server.peer() as phone, server.peer() as desk:
        await ask(phone, streaming=False)
        response = (await phone.until("CHAT_RESPONSE"))[-1]["data"]
        question, pushed = await desk.receive(), await desk.receive()
    assert (question["type"], question["data"]["role"]) == ("CHAT_MESSAGE", "user")
    assert (pushed["type"], pushed["data"]["role"], pushed["data"]["content"]) == ("CHAT_MESSAGE", "assistant", "whole")
    assert pushed["data"]["messageId"] == response["messageId"]
    assert pushed["data"]["parentMessageId"] == question["data"]["messageId"]
    assert pushed["data"]["finishReason"] == "completed"


async def test_a_failure_without_a_word_pushes_no_answer(autojump_clock):
    async with serving(Fail(ProviderUnavailable("down"))) as server, server.peer() as phone, server.peer() as desk:
        await ask(phone, streaming=False)
        await phone.until("CHAT_RESPONSE")
        assert (await desk.receive())["data"]["role"] == "user"
        await desk.send("HEARTBEAT")
        assert (await desk.receive())["type"] == "HEARTBEAT"


async def test_a_failure_is_told_to_all(autojump_clock):
    async with (
        serving("half", Fail(ProviderUnavailable("cut"))) as server,
        server.peer() as phone,
        server.peer() as desk,
    ):
        await ask(phone)
        seen = chat(await desk.until("CHAT_STREAM_END"))
    assert kinds(seen) == ["START", "DATA", "ERROR", "END"]
    assert "requestId" not in seen[2]


async def test_the_same_request_on_a_connection_that_is_shown_the_answer_becomes_its_own(autojump_clock):
    async with serving(*WORDS) as server, server.peer() as phone, server.peer() as desk:
        await ask(phone)
        await trio.sleep(2.5)
        await ask(desk)
        seen = chat(await desk.until("CHAT_STREAM_END"))
        assert server.house.gate.service.live_runs == 0
    (again,) = [
        index for index, each in enumerate(seen) if each.get("requestId") == "r1" and each["type"].endswith("START")
    ]
    assert seen[again]["data"]["resumed"] is True
    assert said(seen[again:]) == "abcdefgh"
    assert kinds(seen).count("END") == 1


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_resume_on_a_connection_that_is_shown_the_answer_moves_its_cursor(autojump_clock, streaming):
    async with serving(Pause(1), "a", Pause(1), "b") as server, server.peer() as phone, server.peer() as desk:
        await ask(phone, streaming=streaming)
        await trio.sleep(0.5)
        (run,) = server.house.gate.service.active("user001")
        await desk.send("CHAT_RESUME", {"messageId": run.key}, request_id="x1")
        seen = chat(await desk.until("CHAT_STREAM_END", "CHAT_RESPONSE"))
    assert seen[-1]["requestId"] == "x1"
    if streaming:
        assert said(seen) == "ab"


async def test_answers_shown_unasked_do_not_count_as_ones_own(autojump_clock):
    config = websocket(stream=Streams(max_per_connection=1))
    async with serving("a", Stall(), config=config) as server, server.peer() as phone, server.peer() as desk:
        await ask(phone)
        await desk.until("CHAT_STREAM_DATA")
        await ask(desk, request_id="r2")
        assert (await desk.until("CHAT_STREAM_START"))[-1]["requestId"] == "r2"
        (error,) = (await answer(desk, request_id="r3"))[-1:]
        assert error["error"]["code"] == "TOO_MANY_STREAMS"


async def test_only_so_many_answers_are_shown_unasked(autojump_clock, monkeypatch):
    monkeypatch.setattr(link, "MAX_UNASKED", 2)
    async with serving("a", Stall()) as server, server.peer() as phone, server.peer() as desk:
        for number in range(3):
            await ask(phone, request_id=f"r{number}")
        await trio.sleep(1)
        await desk.send("HEARTBEAT")
        seen = await desk.until("HEARTBEAT")
    assert kinds(seen).count("START") == 2


async def test_a_connection_watches_only_so_many_sessions(autojump_clock, monkeypatch):
    monkeypatch.setattr(link, "MAX_OPEN_SESSIONS", 2)
    async with serving("a") as server, server.peer() as phone, server.peer() as desk:
        for name in ("s2", "s3"):
            await desk.send("CHAT_REQUEST", {"message": "Hi"}, sessionId=name)
            await desk.until("CHAT_STREAM_END")
        await answer(phone)
        seen = [(await desk.receive())["type"] for _ in range(3)]
    # The one opened first was left: it is told what happens there, and shown nothing.
    assert seen == ["SESSION_CREATE", "CHAT_MESSAGE", "CHAT_MESSAGE"]


async def test_nothing_is_left_of_a_connection_in_the_hub(autojump_clock):
    async with serving("a") as server:
        async with server.peer() as peer:
            await answer(peer)
            assert server.house.gate.hub.watching([("user001", "session001")])
        await trio.sleep(1)
        assert not server.house.gate.hub.watching([("user001", "session001")])
        assert not server.house.gate.hub._by_session
