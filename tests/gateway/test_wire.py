"""What a socket takes at once is written at once; here a pipe stands for the socket."""

import os
from contextlib import suppress

import pytest
import trio
import trio.testing

from scm_trio.gateway.meter import FrameMeter
from scm_trio.gateway.wire import Wire, text_frame


@pytest.fixture
def pipe():
    reading, writing = os.pipe2(os.O_NONBLOCK)
    ends = {reading, writing}

    def close(end):
        ends.discard(end)
        os.close(end)

    yield reading, writing, close
    for end in ends:
        os.close(end)


def wire_over(writing):
    ours, theirs = trio.testing.memory_stream_pair()
    wire = Wire(theirs, b"", FrameMeter(1000), 5.0)
    wire._fd = writing
    return ours, wire


async def test_what_fits_is_written_at_once_and_the_rest_by_the_writer_in_order(pipe, autojump_clock):
    reading, writing, _ = pipe
    ours, wire = wire_over(writing)
    big = b"x" * 1_000_000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.write_loop)
        await wire.send(lambda: b"small")
        assert os.read(reading, 100) == b"small"
        await wire.send(lambda: big)
        taken = os.read(reading, 2_000_000)
        rest = b""
        while len(taken) + len(rest) < len(big):
            rest += await ours.receive_some()
        assert taken
        assert taken + rest == big
        # The pipe is not asked while it is full.
        await wire.send(lambda: None)
        nursery.cancel_scope.cancel()


async def test_a_full_socket_leaves_the_whole_frame_to_the_writer(pipe, autojump_clock):
    _, writing, _ = pipe
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 65_536)
    ours, wire = wire_over(writing)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.write_loop)
        await wire.send(lambda: b"frame")
        assert await ours.receive_some() == b"frame"
        nursery.cancel_scope.cancel()


async def test_a_peer_that_is_gone_is_noticed_once(pipe, autojump_clock):
    reading, writing, close = pipe
    close(reading)
    _, wire = wire_over(writing)
    ends = []
    wire.on_end = ends.append
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError):
            await wire.send(lambda: b"frame")
    assert ends == [None]
    assert wire.is_broken


async def test_frames_wait_for_their_turn_and_hold_the_newest_then(autojump_clock):
    ours, theirs = trio.testing.lockstep_stream_pair()
    wire, sent = Wire(theirs, b"", FrameMeter(1000), 100.0), []

    def newest():
        sent.append(trio.current_time())
        return b"second"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.write_loop)
        await wire.send(lambda: b"first")
        nursery.start_soon(wire.send, newest)
        await trio.sleep(5)
        assert sent == []
        assert await ours.receive_some() == b"first"
        assert await ours.receive_some() == b"second"
        assert sent == [5.0]
        nursery.cancel_scope.cancel()


async def test_a_frame_that_could_not_be_made_blocks_nobody(autojump_clock):
    ours, theirs = trio.testing.memory_stream_pair()
    wire = Wire(theirs, b"", FrameMeter(1000), 5.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.write_loop)
        with pytest.raises(ZeroDivisionError):
            await wire.send(lambda: 1 // 0)
        await wire.send(lambda: b"next")
        assert await ours.receive_some() == b"next"
        await wire.wait_send_all_might_not_block()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("size", "head"), [(125, b"\x81\x7d"), (126, b"\x81\x7e\x00\x7e"), (65_535, b"\x81\x7e\xff\xff")]
)
def test_a_frame_tells_its_length_in_the_shortest_form(size, head):
    assert text_frame(b"a" * size) == head + b"a" * size


def test_a_very_long_frame_tells_its_length_in_eight_bytes():
    assert text_frame(b"a" * 65_536)[:10] == b"\x81\x7f" + (65_536).to_bytes(8, "big")
