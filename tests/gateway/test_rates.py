"""Messages per user and minute."""

import pytest
import trio

from scm_trio.config import Messages
from scm_trio.errors import StoreError
from scm_trio.providers.scripted import Scripted, Stall

from .serving import answer, ask, ended, serving, websocket

FIVE = websocket(message=Messages(rate_limit_per_minute=5))
THREE = websocket(message=Messages(rate_limit_per_minute=3))


async def spend(peer, times):
    for number in range(times):
        assert (await answer(peer, request_id=f"{peer.connect['data']['connectionId']}-{number}"))[-1][
            "type"
        ] != "ERROR"


async def test_a_message_above_the_limit_is_refused_and_told_when_to_come_back(autojump_clock):
    async with serving("a", config=FIVE) as server, server.peer() as peer:
        await spend(peer, 5)
        (error,) = await answer(peer, request_id="more")
        assert (error["requestId"], error["sessionId"]) == ("more", "session001")
        assert error["error"]["code"] == "RATE_LIMITED"
        assert error["error"]["retryable"] is True
        assert error["error"]["retryAfterMs"] == 12_000
        assert "12" in error["data"]
        await trio.sleep(12)
        assert (await answer(peer, request_id="more"))[-1]["type"] == "CHAT_STREAM_END"


async def test_a_refusal_echoes_the_id_that_stands_in_the_data(autojump_clock):
    async with serving("a", config=FIVE) as server, server.peer() as peer:
        await spend(peer, 5)
        await peer.send("CHAT_REQUEST", {"message": "Hi", "requestId": "inside"})
        (error,) = await peer.until("ERROR")
        assert (error["error"]["code"], error["requestId"]) == ("RATE_LIMITED", "inside")


async def test_the_limit_is_shared_by_all_connections_of_a_user_and_by_nobody_else(autojump_clock):
    async with (
        serving("a", config=FIVE) as server,
        server.peer() as one,
        server.peer(session_id="session002") as two,
        server.peer("user002") as other,
    ):
        await spend(one, 3)
        await spend(two, 2)
        (error,) = await answer(one, request_id="x")
        assert error["error"]["code"] == "RATE_LIMITED"
        await spend(other, 5)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("HEARTBEAT", None),
        ("CHAT_CANCEL", {"requestId": "none"}),
        ("CHAT_RESUME", {"messageId": "none"}),
        ("AUTH_REFRESH", {"token": "none"}),
    ],
)
async def test_whoever_is_limited_may_still_beat_cancel_resume_and_refresh(autojump_clock, kind, data):
    async with serving("a", config=FIVE) as server, server.peer() as peer:
        for _ in range(30):
            await peer.send(kind, data)
            answered = await peer.receive()
            assert answered["type"] == "HEARTBEAT" or answered["error"]["code"] in ("NOT_FOUND", "UNAUTHORIZED")
        await spend(peer, 5)


async def test_whoever_is_limited_may_leave(autojump_clock):
    async with serving("a", config=THREE) as server, server.peer() as peer:
        await spend(peer, 3)
        await peer.send("DISCONNECT")
        assert (await ended(peer))[1] == 1000


async def test_three_times_the_limit_closes_the_connection(autojump_clock):
    async with serving("a", config=THREE) as server, server.peer() as peer:
        await spend(peer, 3)
        for number in range(6):
            (error,) = await answer(peer, request_id=f"x{number}")
            assert error["error"]["code"] == "RATE_LIMITED"
        await ask(peer, request_id="x6")
        goodbye, code = await ended(peer)
    assert (goodbye["code"], goodbye["reconnect"], code) == ("FLOOD", False, 4429)
    assert goodbye["retryAfterMs"] == 20_000


async def test_repeating_oneself_is_free(autojump_clock):
    provider = Scripted(["a"])
    async with serving(provider=provider, config=THREE) as server, server.peer() as peer:
        await spend(peer, 2)
        for _ in range(20):
            assert (await answer(peer, request_id="same"))[-1]["type"] == "CHAT_STREAM_END"
    assert len(provider.prompts) == 3


async def test_typing_is_counted_too(autojump_clock):
    async with serving(config=THREE) as server, server.peer() as peer:
        codes = []
        for _ in range(4):
            await peer.send("TYPING_START", sessionId="nowhere")
            codes.append((await peer.receive())["error"]["code"])
    assert codes == ["NOT_FOUND"] * 3 + ["RATE_LIMITED"]


async def test_a_limit_of_nothing_is_no_limit(autojump_clock):
    config = websocket(message=Messages(rate_limit_per_minute=0))
    async with serving("a", config=config) as server, server.peer() as peer:
        assert peer.connect["data"]["limits"]["ratePerMinute"] == 0
        await spend(peer, 50)


async def test_the_sweeper_forgets_who_has_been_quiet(autojump_clock):
    async with serving("a", Stall(), config=FIVE) as server, server.peer() as peer:
        await ask(peer)
        await trio.sleep(200)
        assert server.house.gate.rates._by_user == {}


@pytest.mark.parametrize("later_s", [1, 1000])
async def test_a_request_that_had_its_answer_is_never_refused_and_costs_nothing(autojump_clock, later_s):
    provider = Scripted(["a"])
    async with serving(provider=provider, config=FIVE) as server:
        async with server.peer() as peer:
            for number in range(3):
                await answer(peer, request_id=f"old-{number}")
        await trio.sleep(later_s)
        server.house.gate.rates.sweep(trio.current_time() + 60)
        async with server.peer() as peer:
            assert (await answer(peer, request_id="old-0"))[-1]["type"] == "CHAT_STREAM_END"
            await spend(peer, 5)
            # Now nothing is left. They are answered all the same, which lends nothing for good.
            for number in range(3):
                assert (await answer(peer, request_id=f"old-{number}"))[-1]["type"] == "CHAT_STREAM_END"
            (error,) = await answer(peer, request_id="new")
            assert error["error"]["code"] == "RATE_LIMITED"
    assert len(provider.prompts) == 8


async def test_while_the_store_does_not_answer_a_limited_request_is_refused(autojump_clock, monkeypatch):
    async def fail(*_):
        raise StoreError("down")

    async with serving("a", config=THREE) as server, server.peer() as peer:
        await spend(peer, 3)
        monkeypatch.setattr(server.house.gate.service, "knows", fail)
        (error,) = await answer(peer, request_id="x")
        assert error["error"]["code"] == "RATE_LIMITED"
