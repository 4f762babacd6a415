"""The simulated network and the client's checks are themselves held to what they promise."""

from random import Random

import pytest
import trio

from .network import CLEAR, Fate, Line, Weather
from .socket import LOST, NO_CODE, Closed, Refused, Socket, frame


async def read(stream, size):
    data = b""
    while len(data) < size:
        data += await stream.receive_some()
    return data


async def test_bytes_come_in_order_and_whole_in_any_weather(autojump_clock):
    weather = Weather(latency_s=0.5, bytes_per_s=1000, buffer_bytes=64, piece_bytes=7, stalls=((1.0, 4.0),))
    line = Line(weather, Random(1))
    sent = bytes(range(256)) * 8
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.client.send_all, sent)
        assert await read(line.server, len(sent)) == sent
    # Two kilobytes at one per second, half a second on the way, and a stall of three.
    assert trio.current_time() >= 5.5


async def test_a_full_buffer_holds_its_sender_up(autojump_clock):
    line = Line(Weather(buffer_bytes=10))
    with trio.move_on_after(1) as limit:
        await line.server.send_all(b"x" * 11)
    assert limit.cancelled_caught
    with trio.move_on_after(1) as limit:
        await line.server.wait_send_all_might_not_block()
    assert limit.cancelled_caught
    # Like a socket's: what was cancelled is half sent.
    assert await read(line.client, 10) == b"x" * 10
    await line.server.wait_send_all_might_not_block()


async def test_a_reset_is_told_to_both_sides_at_the_byte(autojump_clock):
    line = Line(Weather(fate=Fate.RESET, fate_at_bytes=(float("inf"), 5)))
    await line.server.send_all(b"abcdefgh")
    assert await line.client.receive_some() == b"abcde"
    assert line.is_broken
    for end in (line.client, line.server):
        with pytest.raises(trio.BrokenResourceError):
            await end.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await end.send_all(b"x")


async def test_who_vanishes_tells_nobody(autojump_clock):
    line = Line(Weather(fate=Fate.VANISH, fate_at_s=3.0, buffer_bytes=10))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.watch)
        await trio.sleep(4)
        await line.server.send_all(b"x" * 10)
        await line.client.aclose()
        for wait in (line.server.receive_some, line.server.wait_send_all_might_not_block):
            with trio.move_on_after(100) as limit:
                await wait()
            assert limit.cancelled_caught
    with pytest.raises(trio.ClosedResourceError):
        await line.client.receive_some()


async def test_what_was_sent_before_a_close_arrives(autojump_clock):
    line = Line(Weather(latency_s=2.0))
    await line.server.send_all(b"last words")
    await line.server.aclose()
    assert await read(line.client, 10) == b"last words"
    assert await line.client.receive_some() == b""
    with pytest.raises(trio.BrokenResourceError):
        await line.client.send_all(b"too late")
    with pytest.raises(trio.ClosedResourceError):
        await line.server.send_all(b"more")


async def test_what_the_server_sends_is_seen_when_it_does(autojump_clock):
    line, seen = Line(Weather(latency_s=9.0)), []
    line.on_server_send = lambda data: seen.append((trio.current_time(), data))
    await line.server.send_all(b"frame")
    await line.client.send_all(b"not this")
    line.strike()
    with pytest.raises(trio.BrokenResourceError):
        await line.server.send_all(b"never sent")
    assert seen == [(0.0, b"frame")]


# ---- the client's WebSocket


def served(*parts):
    """A server's bytes, unmasked."""
    line = Line(CLEAR)
    return line, Socket(line.client), b"".join(parts)


def unmasked(opcode, payload):
    masked = frame(opcode, payload)
    head = masked[: len(masked) - len(payload) - 4]
    return bytes([head[0], head[1] & 0x7F]) + head[2:] + payload


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
async def test_messages_of_every_length_are_read(autojump_clock, size):
    line, socket, data = served(unmasked(1, b"x" * size), unmasked(8, b"\x03\xe9why"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.server.send_all, data)
        assert await socket.receive() == b"x" * size
        with pytest.raises(Closed) as closed:
            await socket.receive()
    assert closed.value.code == 1001


async def test_pings_and_closes_are_answered(autojump_clock):
    line, socket, data = served(unmasked(9, b"hi"), unmasked(8, b""))
    await line.server.send_all(data)
    with pytest.raises(Closed) as closed:
        await socket.receive()
    assert closed.value.code == NO_CODE
    assert await read(line.server, 14) == frame(10, b"hi") + frame(8, b"")


async def test_an_end_without_a_close_is_a_loss(autojump_clock):
    line, socket, data = served(unmasked(1, b"whole"), unmasked(1, b"torn")[:-1])
    await line.server.send_all(data)
    await line.server.aclose()
    assert await socket.receive() == b"whole"
    with pytest.raises(Closed) as closed:
        await socket.receive()
    assert closed.value.code == LOST
    with pytest.raises(Closed):
        await socket.send(b"x")


async def test_a_refusal_has_its_status(autojump_clock):
    line, socket, _ = served()
    await line.server.send_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
    with pytest.raises(Refused) as refused:
        await socket.open("/", "token")
    assert refused.value.status == 503
