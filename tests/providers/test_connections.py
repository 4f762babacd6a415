from __future__ import annotations

import ssl

import pytest
import trio
import trio.testing

from scm_trio.providers.connections import Dialer, IdleConnections, Origin

HERE = Origin("here", 80, tls=False)
THERE = Origin("there", 80, tls=False)


def stream() -> trio.StapledStream:
    return trio.testing.memory_stream_pair()[0]


async def is_closed(stream: trio.StapledStream) -> bool:
    try:
        await stream.send_all(b"")
    except trio.ClosedResourceError:
        return True
    return False


async def test_the_newest_connection_of_an_origin_is_taken_first():
    idle, old, new = IdleConnections(), stream(), stream()
    await idle.put(HERE, old)
    await idle.put(HERE, new)
    assert await idle.take(THERE) is None
    assert [await idle.take(HERE), await idle.take(HERE), await idle.take(HERE)] == [new, old, None]


async def test_a_connection_that_has_idled_too_long_is_closed(mock_clock):
    idle, one = IdleConnections(max_idle_s=30), stream()
    await idle.put(HERE, one)
    mock_clock.jump(30)
    assert await idle.take(HERE) is None
    assert await is_closed(one)


async def test_old_connections_are_closed_when_another_comes_back(mock_clock):
    idle, old, new = IdleConnections(max_idle_s=30), stream(), stream()
    await idle.put(HERE, old)
    mock_clock.jump(31)
    await idle.put(HERE, new)
    assert await is_closed(old)
    assert not await is_closed(new)


async def test_no_more_than_so_many_are_kept():
    idle, first, second = IdleConnections(max_idle=1), stream(), stream()
    await idle.put(HERE, first)
    await idle.put(HERE, second)
    assert await is_closed(first)
    assert await idle.take(HERE) is second


async def test_a_limit_of_none_keeps_none():
    idle, one = IdleConnections(max_idle=0), stream()
    await idle.put(HERE, one)
    assert await is_closed(one)


async def test_closing_closes_what_idles_and_what_comes_back_later():
    idle, one, late = IdleConnections(), stream(), stream()
    await idle.put(HERE, one)
    await idle.aclose()
    await idle.put(HERE, late)
    assert await is_closed(one)
    assert await is_closed(late)
    assert await idle.take(HERE) is None


async def test_a_connection_that_the_peer_has_closed_is_not_taken(listen):
    async def hang_up(peer):
        pass

    port = await listen(hang_up)
    idle, one = IdleConnections(), await trio.open_tcp_stream("127.0.0.1", port)
    await trio.lowlevel.wait_readable(one.socket)
    await idle.put(HERE, one)
    assert await idle.take(HERE) is None
    assert one.socket.fileno() == -1


async def test_a_quiet_connection_is_taken(listen):
    async def keep_quiet(peer):
        await peer.stream.receive_some()

    port = await listen(keep_quiet)
    idle, one = IdleConnections(), await trio.open_tcp_stream("127.0.0.1", port)
    await idle.put(HERE, one)
    assert await idle.take(HERE) is one
    await one.aclose()


async def test_a_failed_handshake_closes_the_connection(memory_net):
    async def speak_no_tls(peer):
        await peer.stream.receive_some()
        await peer.send(b"220 mail ready\r\n")

    dialer = memory_net.dialer(speak_no_tls)
    with pytest.raises(trio.BrokenResourceError) as failure:
        await dialer.open(Origin("here", 443, tls=True))
    assert isinstance(failure.value.__cause__, ssl.SSLError)
    assert await is_closed(memory_net.client_ends[0])


async def test_a_cancelled_handshake_closes_the_connection(memory_net):
    reached = trio.Event()

    async def stay_silent(peer):
        await peer.stream.receive_some()
        reached.set()
        await trio.sleep_forever()

    dialer = memory_net.dialer(stay_silent)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(dialer.open, Origin("here", 443, tls=True))
        await reached.wait()
        nursery.cancel_scope.cancel()
    assert await is_closed(memory_net.client_ends[0])


async def test_the_context_of_all_connections_checks_names():
    context = Dialer().ssl_context
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
