"""Answers over the wire: their frames, their failures, cancelling and resuming."""

import hashlib

import pytest
import trio

from scm_trio.config import Streams
from scm_trio.errors import ProviderUnavailable
from scm_trio.model import Finish, FinishReason, Usage
from scm_trio.providers.scripted import Batch, Fail, Pause, Reasoning, Scripted, SlowClose, Stall

from .serving import answer, ask, check_contiguous, kinds, replies, said, serving, websocket


async def test_an_answer_is_one_start_its_data_and_one_end(autojump_clock):
    usage = Batch([Usage(prompt_tokens=3, completion_tokens=4), Finish(FinishReason.COMPLETED)])
    async with serving(Reasoning("hm"), Pause(1), "供应", Pause(1), "链", usage) as server, server.peer() as peer:
        messages = await answer(peer, "什么是供应链？")
    assert kinds(messages) == ["START", "DATA", "DATA", "DATA", "END"]
    start, thought, first, second, end = (message["data"] for message in messages)
    assert {message["requestId"] for message in messages} == {"r1"}
    assert {message["sessionId"] for message in messages} == {"session001"}
    assert {message["data"]["messageId"] for message in messages} == {start["messageId"]}
    assert start["userMessageId"] != start["messageId"]
    assert (start["model"], start["provider"], start["requestId"]) == ("scripted-1", "scripted", "r1")
    assert (start["rev"], start["resumed"], start["reset"]) == (0, False, False)
    assert (thought["content"], thought["reasoning"], thought["index"], thought["nextIndex"]) == ("", "hm", 0, 1)
    assert (first["content"], first["delta"], first["index"], first["nextIndex"]) == ("供应", "供应", 1, 2)
    assert (second["content"], second["index"]) == ("链", 2)
    assert (end["finished"], end["finishReason"], end["totalTokens"], end["duration"]) == (True, "completed", 7, 2000)
    assert end["usage"] == {"promptTokens": 3, "completionTokens": 4, "reasoningTokens": 0, "source": "provider"}
    assert (end["length"], end["sha256"]) == (3, hashlib.sha256("供应链".encode()).hexdigest())
    assert "upstreamClosed" not in end
    assert "cancelMs" not in end


async def test_an_answer_that_is_not_streamed_is_exactly_one_response(autojump_clock):
    async with serving(Pause(3), "供应", "链") as server, server.peer() as peer:
        await ask(peer, streaming=False)
        response = await peer.receive()
        await peer.send("HEARTBEAT")
        assert (await peer.receive())["type"] == "HEARTBEAT"
    assert (response["type"], response["requestId"]) == ("CHAT_RESPONSE", "r1")
    data = response["data"]
    assert (data["content"], data["finishReason"], data["duration"]) == ("供应链", "completed", 3000)
    assert (data["model"], data["provider"], data["usage"]["source"]) == ("scripted-1", "scripted", "estimated")


@pytest.mark.parametrize("steps", [[], ["half"]])
async def test_a_failure_is_told_right_before_the_end(autojump_clock, steps):
    async with (
        serving(*steps, *([Pause(1)] if steps else []), Fail(ProviderUnavailable("x"))) as server,
        server.peer() as peer,
    ):
        await ask(peer)
        messages = await peer.until("CHAT_STREAM_END")
    assert kinds(messages) == ["START", *["DATA"] * len(steps), "ERROR", "END"]
    error = messages[-2]
    assert error["data"] == "AI 服务暂时不可用，请稍后重试"
    assert error["error"] == {
        "code": "PROVIDER_UNAVAILABLE",
        "retryable": True,
        "generationStarted": bool(steps),
        "messageId": messages[0]["data"]["messageId"],
    }
    assert error["requestId"] == "r1"
    assert messages[-1]["data"]["finishReason"] == "error"


async def test_a_failure_of_an_answer_that_is_not_streamed_is_told_before_its_response(autojump_clock):
    async with serving(Fail(ProviderUnavailable("x"))) as server, server.peer() as peer:
        await ask(peer, streaming=False)
        assert [(await peer.receive())["type"] for _ in range(2)] == ["ERROR", "CHAT_RESPONSE"]


async def test_a_clients_own_time_limit_ends_its_answer(autojump_clock):
    async with serving("a", Stall()) as server, server.peer() as peer:
        await ask(peer, timeoutMs=2500)
        messages = await peer.until("CHAT_STREAM_END")
    assert (messages[-2]["error"]["code"], messages[-2]["error"]["field"]) == ("TIMEOUT", "total")
    assert (messages[-1]["data"]["finishReason"], messages[-1]["data"]["duration"]) == ("timeout", 2500)


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("script", [[], ["  \n"], [Reasoning("hm")], [Batch([Usage(9000, 0)])]])
async def test_an_empty_answer_is_not_told_as_an_ordinary_one(autojump_clock, script, streaming):
    async with serving(*script) as server, server.peer(query="&lang=en") as peer:
        await ask(peer, streaming=streaming)
        messages = await replies(peer, "r1", "CHAT_STREAM_END", "CHAT_RESPONSE")
        (info,) = (each["data"] for each in messages if each["type"] == "INFO")
        assert info["code"] == "EMPTY_ANSWER"
        assert (
            info["message"] == "scripted gave an empty answer; the question may be too long for it, try a shorter one"
        )
        assert messages[-1]["data"]["finishReason"] == "completed"


@pytest.mark.parametrize(
    "end", [Finish(FinishReason.LENGTH), Finish(FinishReason.TOOL_CALLS), Fail(ProviderUnavailable())]
)
async def test_what_explains_itself_is_not_called_empty(autojump_clock, end):
    async with serving(Reasoning("hm"), end) as server, server.peer() as peer:
        assert "INFO" not in [each["type"] for each in await answer(peer)]


async def test_several_answers_share_a_connection(autojump_clock):
    async with serving("a", Pause(1), "b", Pause(1), "c") as server, server.peer() as peer:
        await ask(peer, request_id="one")
        await ask(peer, request_id="two")
        messages = [*await peer.until("CHAT_STREAM_END"), *await peer.until("CHAT_STREAM_END")]
    for request_id in ("one", "two"):
        mine = [message for message in messages if message["requestId"] == request_id]
        assert said(mine) == "abc"
        check_contiguous(mine)


async def test_a_connection_may_have_so_many_answers_at_once(autojump_clock):
    config = websocket(stream=Streams(max_per_connection=2))
    async with serving("a", Stall(), config=config) as server, server.peer() as peer, server.peer() as other:
        for number in range(2):
            await ask(peer, request_id=f"r{number}")
            await peer.until("CHAT_STREAM_DATA")
        (error,) = await answer(peer, request_id="r2")
        assert (error["error"]["code"], error["requestId"]) == ("TOO_MANY_STREAMS", "r2")
        assert "2" in error["data"]
        # A repeated request is no new answer.
        await ask(peer, request_id="r1")
        await peer.send("CHAT_CANCEL", {"requestId": "r1"})
        (end,) = await peer.until("CHAT_STREAM_END", "ERROR")
        assert end["type"] == "CHAT_STREAM_END"
        await ask(other, request_id="r3")
        await other.until("CHAT_STREAM_DATA")


async def test_a_user_may_have_so_many_answers_at_once_over_all_connections(autojump_clock):
    config = websocket(stream=Streams(max_per_user=2))
    async with (
        serving("a", Stall(), config=config) as server,
        server.peer() as one,
        server.peer(session_id="session002") as two,
    ):
        await ask(one, request_id="r0")
        await ask(two, request_id="r1")
        await two.until("CHAT_STREAM_DATA")
        (error,) = await answer(two, request_id="r2")
        assert error["error"]["code"] == "TOO_MANY_STREAMS"


# ---- cancelling


@pytest.mark.parametrize("where", ["data", "envelope", "messageId"])
async def test_an_answer_is_cancelled_by_its_requests_id_or_its_own(autojump_clock, where):
    async with serving("a", Stall()) as server, server.peer() as peer:
        await ask(peer)
        start, _ = await peer.until("CHAT_STREAM_DATA")
        if where == "envelope":
            await peer.send("CHAT_CANCEL", request_id="r1")
        else:
            key = {"data": {"requestId": "r1"}, "messageId": {"messageId": start["data"]["messageId"]}}[where]
            await peer.send("CHAT_CANCEL", key)
        (end,) = await peer.until("CHAT_STREAM_END")
    data = end["data"]
    assert (data["finishReason"], data["upstreamClosed"], data["cancelMs"]) == ("cancelled", True, 0)
    assert data["length"] == 1


async def test_a_cancel_before_the_first_token_is_answered_by_start_and_end(autojump_clock):
    async with serving(Stall()) as server, server.peer() as peer:
        await ask(peer)
        await peer.send("CHAT_CANCEL", {"requestId": "r1"})
        assert kinds(await peer.until("CHAT_STREAM_END")) == ["START", "END"]


async def test_any_connection_of_the_user_may_cancel_and_no_other(autojump_clock):
    async with (
        serving("a", Stall()) as server,
        server.peer() as peer,
        server.peer(session_id="b") as other,
        server.peer("user002") as stranger,
    ):
        await ask(peer)
        await peer.until("CHAT_STREAM_DATA")
        await stranger.send("CHAT_CANCEL", {"requestId": "r1"})
        assert (await stranger.receive())["error"]["code"] == "NOT_FOUND"
        await other.send("CHAT_CANCEL", {"requestId": "r1"})
        (end,) = await peer.until("CHAT_STREAM_END")
        assert end["data"]["finishReason"] == "cancelled"


async def test_a_second_cancel_is_harmless_and_one_after_the_end_finds_nothing(autojump_clock):
    async with serving(SlowClose(1), "a", Stall()) as server, server.peer() as peer:
        await ask(peer)
        await peer.until("CHAT_STREAM_DATA")
        await peer.send("CHAT_CANCEL", {"requestId": "r1"})
        await peer.send("CHAT_CANCEL", {"requestId": "r1"})
        (end,) = await peer.until("CHAT_STREAM_END", "ERROR")
        assert end["data"]["cancelMs"] == 1000
        await peer.send("CHAT_CANCEL", {"requestId": "r1"})
        assert (await peer.receive())["error"]["code"] == "NOT_FOUND"


async def test_a_cancel_that_comes_while_an_end_is_about_to_be_sent_is_answered_by_that(autojump_clock):
    # The viewer keeps its distance between frames, so that END goes out 0.4 s after the answer has ended.
    async with serving("a", Stall()) as server, server.peer(query="&coalesceMs=500") as peer:
        await ask(peer)
        start, _ = await peer.until("CHAT_STREAM_DATA")
        await trio.sleep(0.1)
        for cancel in ({"requestId": "r1"}, {"requestId": "r1"}, {"messageId": start["data"]["messageId"]}):
            await peer.send("CHAT_CANCEL", cancel)
            await trio.sleep(0.1)
        assert not server.house.gate.service.find("user001", request_id="r1").is_live
        assert kinds(await peer.until("CHAT_STREAM_END", "ERROR")) == ["END"]


# ---- the same request again


async def test_the_same_request_again_on_the_same_connection_changes_nothing(autojump_clock):
    provider = Scripted(["a", Pause(2), "b"])
    async with serving(provider=provider) as server, server.peer() as peer:
        await ask(peer)
        await peer.until("CHAT_STREAM_DATA")
        await ask(peer)
        messages = await peer.until("CHAT_STREAM_END")
    assert kinds(messages) == ["DATA", "END"]
    assert len(provider.prompts) == 1


async def test_a_question_under_the_id_of_a_resume_is_a_question_of_its_own(autojump_clock):
    provider = Scripted(lambda prompt: [prompt.turns[-1].content, Stall()])
    async with serving(provider=provider) as server, server.peer() as one, server.peer(session_id="x") as two:
        await ask(one, "first")
        (start, _) = await one.until("CHAT_STREAM_DATA")
        await two.send("CHAT_RESUME", {"messageId": start["data"]["messageId"]}, request_id="1")
        await two.until("CHAT_STREAM_DATA")
        await ask(two, "second", "1")
        messages = await two.until("CHAT_STREAM_DATA")
        assert [each.get("requestId") for each in messages] == ["1", "1"]
        assert said(messages) == "second"
        assert messages[0]["data"]["messageId"] != start["data"]["messageId"]
        # The question that was resumed is still known by its own name, and so is the new one.
        await ask(two, "second", "1")
        await ask(two, "first", "r1")
        assert said(await replies(two, "r1", "CHAT_STREAM_DATA")) == "first"
    assert len(provider.prompts) == 2


async def test_the_same_request_from_another_connection_is_attached_to_the_same_answer(autojump_clock):
    provider = Scripted(["a", Pause(2), "b"])
    async with serving(provider=provider) as server, server.peer() as one, server.peer(session_id="x") as two:
        await ask(one)
        (start, _) = await one.until("CHAT_STREAM_DATA")
        messages = await answer(two)
        assert said(messages) == "ab"
        assert messages[0]["data"]["messageId"] == start["data"]["messageId"]
        assert said(await one.until("CHAT_STREAM_END")) == "b"
    assert len(provider.prompts) == 1


@pytest.mark.parametrize("later_s", [1, 1000])
async def test_the_same_request_after_the_end_is_answered_from_memory_or_from_the_store(autojump_clock, later_s):
    provider = Scripted([Reasoning("hm"), "供应", "链"])
    async with serving(provider=provider) as server, server.peer() as peer:
        first = await answer(peer)
        await trio.sleep(later_s)
        assert server.house.gate.service.has("user001", "r1") is (later_s < 300)
        async with server.peer() as again:
            second = await answer(again)
    assert said(second) == "供应链"
    assert second[0]["data"]["messageId"] == first[0]["data"]["messageId"]
    changed = ("usage", "totalTokens")
    for key in first[-1]["data"].keys() - changed:
        assert second[-1]["data"][key] == first[-1]["data"][key]
    assert len(provider.prompts) == 1


async def test_the_same_id_of_another_user_is_another_request(autojump_clock):
    provider = Scripted(["a"])
    async with serving(provider=provider) as server, server.peer() as peer, server.peer("user002") as other:
        one, two = await answer(peer), await answer(other)
    assert one[0]["data"]["messageId"] != two[0]["data"]["messageId"]
    assert len(provider.prompts) == 2


async def test_requests_without_an_id_are_never_the_same(autojump_clock):
    provider = Scripted(["a"])
    async with serving(provider=provider) as server, server.peer() as peer:
        for _ in range(2):
            assert "requestId" not in (await answer(peer, request_id=None))[-1]
    assert len(provider.prompts) == 2
