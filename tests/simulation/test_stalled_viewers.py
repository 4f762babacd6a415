"""Viewers who take nothing: five thousand of them on one answer cost no memory for what is said, and nobody else notices."""

import gc
import os
import re
from pathlib import Path

import orjson
import structlog.testing
import trio

from scm_trio.config import Connections, Heartbeat, Messages, Streams
from scm_trio.protocol import frames
from scm_trio.providers.scripted import Pause, Scripted
from scm_trio.testing import open_server
from tests.gateway.serving import upgrade, websocket

from .answers import Copy
from .network import Line, Weather
from .socket import Socket

STALLED = 5000
MEBIBYTE = 2**20
WRITE_TIMEOUT_S = 1000.0
BUFFER_BYTES = 4096
PIECE = "chain " * 171  # a good thousand characters
EARLY, LATE = 10, 1000
"""Pieces that are said before and after the stalled ones come: ten kilobytes, and a megabyte."""


def resident_bytes():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def speaker():
    early = [step for _ in range(EARLY) for step in (PIECE, Pause(0.1))]
    late = [step for _ in range(LATE) for step in (PIECE, Pause(0.1))]
    return Scripted([*early, Pause(100.0), *late])


def config(viewers):
    return websocket(
        heartbeat=Heartbeat(timeout_s=10_000.0),
        session=Connections(max_connections=viewers, max_connections_per_user=viewers),
        message=Messages(write_timeout_s=WRITE_TIMEOUT_S),
        stream=Streams(max_response_bytes=8 * MEBIBYTE, idle_timeout_s=500.0),
    )


async def come(server, token):
    """A connection that has the session open; what it is sent stays in the network until somebody reads."""
    line = Line(Weather(buffer_bytes=BUFFER_BYTES))
    server.nursery.start_soon(server.house.listener.welcome, line.server)
    await line.client.send_all(upgrade(token=token, query="?sessionId=session001"))
    return line


async def follow(peer, frames_seen, copy):
    """Read an answer to its end; notes when each frame came and from where to where it went."""
    began = trio.current_time()
    while copy.end is None:
        message = await peer.receive()
        if message["type"] == "CHAT_STREAM_DATA":
            data = message["data"]
            copy.take(data)
            frames_seen.append((round(trio.current_time() - began, 6), data["index"], data["nextIndex"]))
        elif message["type"] == "CHAT_STREAM_END":
            copy.end = message["data"]


async def shown(stalled):
    """Ask, let so many viewers come and take nothing, and follow the answer; returns what a fast viewer saw, and the rest."""
    seen, copy, grown = [], Copy(), 0
    async with open_server({"openai": speaker()}, config(stalled + 10)) as server, server.peer() as peer:
        await peer.send("CHAT_REQUEST", {"message": "Hi"}, request_id="r1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow, peer, seen, copy)
            await trio.sleep(10)
            token = server.token()
            lines = [await come(server, token) for _ in range(stalled)]
            await trio.sleep(50)
            before = resident_bytes()
            await trio.sleep(130)
            grown = resident_bytes() - before
            assert server.house.gate.hub.active == stalled + 1
        released = await catch_up(lines[0]) if lines else None
        await trio.sleep(WRITE_TIMEOUT_S)
        page, _ = server.house.gate.metrics.render()
        slow = re.search(rb'scm_closes_total\{code="4410"\} (\d+)', page)
        assert server.house.gate.hub.active == 1 + (released is not None)
    return seen, copy, grown, released, int(slow[1]) if slow else 0


async def catch_up(line):
    """Begin to read at last; returns the answer and the frames that it came in."""
    socket, copy, sizes = Socket(line.client), Copy(), []
    assert await socket.read_head() == 101
    while copy.end is None:
        message = orjson.loads(await socket.receive())
        if message["type"] == "CHAT_STREAM_DATA":
            copy.take(message["data"])
            sizes.append(len(message["data"]["content"]))
        elif message["type"] == "CHAT_STREAM_END":
            copy.end = message["data"]
    return copy, sizes


async def test_five_thousand_viewers_who_take_nothing_cost_no_memory_and_nobody_else(autojump_clock):
    with structlog.testing.capture_logs():
        alone, *_ = await shown(0)
        seen, copy, grown, (late, sizes), slow = await shown(STALLED)
    whole = PIECE * (EARLY + LATE)
    # The text is there once: a frame's worth for each viewer would be 150 MiB, the text for each 5 GiB.
    assert grown < 48 * MEBIBYTE
    # A fast viewer is served as if it were alone: the same frames at the same times.
    assert copy.text == whole
    assert seen == alone
    assert len(seen) == EARLY + LATE
    # A released one has what was under way, and then everything in frames as full as they may be.
    assert late.text == whole
    assert (late.end["sha256"], late.end["length"]) == (copy.end["sha256"], len(whole))
    full = [size for size in sizes if size > frames.MAX_FRAME_CHARS - len(PIECE)]
    assert len(full) >= len(whole) // frames.MAX_FRAME_CHARS - 1
    assert len(sizes) <= len(whole) // (frames.MAX_FRAME_CHARS - len(PIECE)) + EARLY + BUFFER_BYTES // len(PIECE) + 2
    # All others have had their time.
    assert slow == STALLED - 1


async def test_viewers_who_come_late_and_take_nothing_hold_one_frame_each(autojump_clock):
    viewers = 200
    text = "链" * 1000
    provider = Scripted([*(step for _ in range(500) for step in (text, Pause(0.01))), Pause(400.0)])
    with structlog.testing.capture_logs():
        async with open_server({"openai": provider}, config(viewers + 10)) as server, server.peer() as peer:
            await peer.send("CHAT_REQUEST", {"message": "Hi"}, request_id="r1")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow, peer, [], Copy())
                await trio.sleep(20)
                before, token = resident_bytes(), server.token()
                for _ in range(viewers):
                    await come(server, token)
                await trio.sleep(20)
                grown = resident_bytes() - before
                assert server.house.gate.hub.active == viewers + 1
                nursery.cancel_scope.cancel()
    # Three bytes a character, as content and as delta; here the simulated network holds it once more.
    frame_bytes = 2 * 3 * frames.MAX_FRAME_CHARS
    assert grown / viewers < 2 * frame_bytes + 100_000
