"""CHAT_RESUME: a cursor in a log."""

import orjson
import pytest
import trio
import trio.testing

from scm_trio.config import Streams
from scm_trio.errors import ProviderUnavailable
from scm_trio.providers.scripted import Fail, Pause, Scripted, SlowClose, Stall

from .serving import (
    answer,
    ask,
    check_contiguous,
    kinds,
    parse_frames,
    replies,
    said,
    serving,
    text,
    upgrade,
    websocket,
)

WORDS = [step for word in "abcdefgh" for step in (word, Pause(1))]


async def start_of(peer):
    await ask(peer)
    return (await peer.until("CHAT_STREAM_START"))[-1]["data"]["messageId"]


@pytest.mark.parametrize("at", [0, 1, 3])
async def test_a_reconnected_client_goes_on_where_it_was(autojump_clock, at):
    async with serving(*WORDS) as server:
        async with server.peer() as peer:
            message_id = await start_of(peer)
            await trio.sleep(3.5)
        async with server.peer(session_id="elsewhere") as again:
            await again.send("CHAT_RESUME", {"messageId": message_id, "rev": 0, "fromIndex": at}, request_id="x1")
            messages = await again.until("CHAT_STREAM_END")
    start = messages[0]["data"]
    assert (start["resumed"], start["reset"], start["messageId"]) == (True, False, message_id)
    assert messages[0]["requestId"] == "x1"
    assert said(messages) == "abcdefgh"[at:]
    check_contiguous(messages, at)
    # What is there already comes in one frame.
    assert messages[1]["data"]["nextIndex"] == 4


@pytest.mark.parametrize("place", [{"rev": 1}, {"fromIndex": 100}])
async def test_an_unknown_place_is_reset_to_the_beginning(autojump_clock, place):
    async with (
        serving("a", "b", Stall()) as server,
        server.peer() as peer,
        server.peer(session_id="elsewhere") as other,
    ):
        message_id = await start_of(peer)
        await peer.until("CHAT_STREAM_DATA")
        await other.send("CHAT_RESUME", {"messageId": message_id, **place})
        # The request's own id stands where the resume has none.
        start, data = await replies(other, "r1", "CHAT_STREAM_DATA")
    assert (start["data"]["resumed"], start["data"]["reset"]) == (False, True)
    assert data["data"]["index"] == 0


async def test_nothing_is_left_out_for_who_began_anew_here_and_asks_for_a_place_that_was_not_sent_yet(autojump_clock):
    quickly = [step for word in "abcdefgh" for step in (word, Pause(0.1))]
    async with serving(*quickly) as server, server.peer(query="&coalesceMs=500") as peer:
        message_id = await start_of(peer)
        first = (await peer.until("CHAT_STREAM_DATA"))[-1]["data"]
        assert first["nextIndex"] == 1
        await trio.sleep(0.25)
        # There are three by now. Whoever asks for the fourth has the first three from before, and has just forgotten them.
        await peer.send("CHAT_RESUME", {"messageId": message_id, "rev": 0, "fromIndex": 3}, request_id="x1")
        messages = await peer.until("CHAT_STREAM_END")
    assert messages[0]["data"]["reset"] is True
    assert said(messages) == "abcdefgh"
    check_contiguous(messages, 0)


@pytest.mark.parametrize("later_s", [1, 1000])
async def test_a_finished_answer_resumes_and_ends_at_once(autojump_clock, later_s):
    async with serving("供应", "链") as server:
        async with server.peer() as peer:
            first = await answer(peer)
        await trio.sleep(later_s)
        async with server.peer(session_id="elsewhere") as again:
            message_id = first[0]["data"]["messageId"]
            await again.send("CHAT_RESUME", {"messageId": message_id})
            messages = await again.until("CHAT_STREAM_END", "ERROR")
    assert kinds(messages) == ["START", "DATA", "END"]
    assert said(messages) == "供应链"
    assert messages[-1]["data"]["sha256"] == first[-1]["data"]["sha256"]


@pytest.mark.parametrize("later_s", [1, 1000])
async def test_anothers_answer_is_not_found(autojump_clock, later_s):
    async with serving("a") as server:
        async with server.peer() as peer:
            message_id = (await answer(peer))[0]["data"]["messageId"]
        await trio.sleep(later_s)
        async with server.peer("user002") as stranger:
            await stranger.send("CHAT_RESUME", {"messageId": message_id}, request_id="x")
            error = await stranger.receive()
    assert (error["error"]["code"], error["requestId"]) == ("NOT_FOUND", "x")


@pytest.mark.parametrize("name", [None, "x1"])
async def test_a_connection_has_one_cursor_per_answer(autojump_clock, name):
    async with serving(*WORDS) as server, server.peer() as peer:
        message_id = await start_of(peer)
        await trio.sleep(2.5)
        await peer.send("CHAT_RESUME", {"messageId": message_id, "fromIndex": 1}, request_id=name)
        messages = await peer.until("CHAT_STREAM_END")
    starts = [index for index, message in enumerate(messages) if message["type"] == "CHAT_STREAM_START"]
    (moved,) = starts
    check_contiguous(messages[:moved])
    check_contiguous(messages[moved:], 1)
    assert said(messages[moved:]) == "bcdefgh"
    assert kinds(messages).count("END") == 1
    # What moved it tells it apart from what was on its way.
    assert {message["requestId"] for message in messages[:moved]} == {"r1"}
    assert {message["requestId"] for message in messages[moved:]} == {name or "r1"}


async def test_a_resume_that_comes_with_the_end_is_answered_too(autojump_clock):
    async with serving("a", "b") as server, server.peer() as peer:
        message_id = (await answer(peer))[0]["data"]["messageId"]
        for _ in range(2):
            await peer.send("CHAT_RESUME", {"messageId": message_id, "fromIndex": 1})
            assert said(await peer.until("CHAT_STREAM_END")) == "b"


async def test_an_answer_that_is_not_streamed_resumes_as_one_response(autojump_clock):
    async with serving(Pause(5), "whole") as server:
        async with server.peer() as peer:
            await ask(peer, streaming=False)
            await trio.sleep(1)
        async with server.peer(session_id="elsewhere") as again:
            (run,) = again.connect["data"]["activeRuns"]
            await again.send("CHAT_RESUME", {"messageId": run["messageId"]})
            response = await again.receive()
    assert (response["type"], response["data"]["content"]) == ("CHAT_RESPONSE", "whole")


@pytest.mark.parametrize(
    ("on_orphan", "lives_s"), [("cancel", 0), ({"graceMs": 20_000}, 20), (None, 60), ("continue", 150)]
)
async def test_an_answer_nobody_watches_lives_as_long_as_its_asker_said(autojump_clock, on_orphan, lives_s):
    provider = Scripted([step for _ in range(150) for step in ("w", Pause(1))])
    async with serving(provider=provider) as server:
        async with server.peer() as peer:
            await ask(peer, **({"onOrphan": on_orphan} if on_orphan else {}))
            await peer.until("CHAT_STREAM_DATA")
        left_at = trio.current_time()
        service = server.house.gate.service
        await service.find("user001", request_id="r1").ended.wait()
        assert trio.current_time() - left_at == pytest.approx(lives_s, abs=1.5)
        run = service.find("user001", request_id="r1")
    assert run.ending.reason.value == ("completed" if on_orphan == "continue" else "cancelled")


async def test_what_an_orphan_said_is_stored(autojump_clock):
    config = websocket(stream=Streams(orphan_grace_s=3.0, resume_window_s=10.0))
    async with serving(*WORDS, config=config) as server:
        async with server.peer() as peer:
            message_id = await start_of(peer)
        await trio.sleep(100)
        async with server.peer(session_id="elsewhere") as again:
            await again.send("CHAT_RESUME", {"messageId": message_id})
            messages = await again.until("CHAT_STREAM_END")
    assert messages[-1]["data"]["finishReason"] == "cancelled"
    assert 0 < len(said(messages)) < 8


async def test_a_failed_answer_that_is_read_back_tells_its_failure_again(autojump_clock):
    provider = Scripted(["half", Fail(ProviderUnavailable("cut"))])
    config = websocket(stream=Streams(resume_window_s=0.0))
    async with serving(provider=provider, config=config) as server, server.peer() as peer:
        await peer.send("CHAT_REQUEST", {"message": "Hi"}, request_id="r1")
        first = await peer.until("CHAT_STREAM_END")
        await trio.sleep(60)
        await peer.send("CHAT_RESUME", {"messageId": first[0]["data"]["messageId"]})
        again = await peer.until("CHAT_STREAM_END")
    assert [m["type"] for m in again if m["type"] != "HEARTBEAT"] == [
        "CHAT_STREAM_START",
        "CHAT_STREAM_DATA",
        "ERROR",
        "CHAT_STREAM_END",
    ]
    assert next(m for m in again if m["type"] == "ERROR")["error"]["code"] == "PROVIDER_UNAVAILABLE"
    assert again[-1]["data"]["sha256"] == first[-1]["data"]["sha256"]


async def test_how_an_answer_was_stopped_is_known_as_long_as_the_answer(autojump_clock):
    config = websocket(stream=Streams(resume_window_s=1.0))
    async with serving("a", SlowClose(0.5), Stall(), config=config) as server, server.peer() as peer:
        message_id = await start_of(peer)
        await peer.until("CHAT_STREAM_DATA")
        await peer.send("CHAT_CANCEL", {"messageId": message_id})
        first = (await peer.until("CHAT_STREAM_END"))[-1]["data"]
        assert (first["upstreamClosed"], first["cancelMs"]) == (True, 500)
        await trio.sleep(120)
        await peer.send("CHAT_RESUME", {"messageId": message_id})
        again = (await peer.until("CHAT_STREAM_END"))[-1]["data"]
    assert {name: again[name] for name in ("finishReason", "upstreamClosed", "cancelMs", "usage")} == {
        name: first[name] for name in ("finishReason", "upstreamClosed", "cancelMs", "usage")
    }


async def test_an_end_that_waits_for_the_socket_belongs_to_the_resume_that_moved_the_stream(autojump_clock):
    async with serving("hello") as server:
        async with server.peer() as peer:
            message_id = (await answer(peer))[0]["data"]["messageId"]
        stream = server.dial(reading_nothing)
        await stream.send_all(upgrade(token=server.token(), session="elsewhere"))
        data = b""
        while b"SYSTEM_MESSAGE" not in data:
            data += bytes(await stream.receive_some())
        for name in "xy":
            await stream.send_all(text("CHAT_RESUME", {"messageId": message_id}, requestId=name))
            while name == "x" and b"CHAT_STREAM_START" not in data:
                data += bytes(await stream.receive_some())
            await trio.sleep(1)  # what comes next waits to be taken
        with trio.move_on_after(5):
            while True:
                data += bytes(await stream.receive_some())
        await trio.aclose_forcefully(stream)
    frames, _ = parse_frames(data.partition(b"\r\n\r\n")[2])
    told = [orjson.loads(payload) for opcode, payload in frames if opcode == 1]
    named = [(each["type"], each["requestId"]) for each in told if each["type"].startswith("CHAT_STREAM")]
    assert named[0] == ("CHAT_STREAM_START", "x")
    assert named[-3:] == [("CHAT_STREAM_START", "y"), ("CHAT_STREAM_DATA", "y"), ("CHAT_STREAM_END", "y")]
    assert [kind for kind, _ in named].count("CHAT_STREAM_END") == 1


def reading_nothing():
    """What the peer says is never held up; what he is told waits until he reads it."""
    to_server, from_peer = trio.testing.memory_stream_one_way_pair()
    to_peer, from_server = trio.testing.lockstep_stream_one_way_pair()
    return trio.StapledStream(to_server, from_server), trio.StapledStream(to_peer, from_peer)
