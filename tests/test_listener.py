"""One port: chat, plain HTTP, TLS, and what is none of them."""

import ssl
from contextlib import suppress

import pytest
import trio
import trio.testing
import trustme

from scm_trio import listener
from scm_trio.config import Connections, WebSocket
from scm_trio.listener import Replay
from scm_trio.providers.scripted import Scripted
from scm_trio.testing import open_server, quiet_config
from tests.gateway.serving import upgrade

PLAIN = b"GET /healthz HTTP/1.1\r\nHost: chat.example\r\nConnection: close\r\n\r\n"


async def read_all(stream):
    data = b""
    while True:
        try:
            more = bytes(await stream.receive_some())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return data
        if not more:
            return data
        data += more


def serving(config=None):
    return open_server({"openai": Scripted(["a"])}, config)


async def test_a_plain_request_goes_to_the_http_app(autojump_clock):
    async with serving() as server:
        stream = server.dial()
        await stream.send_all(PLAIN)
        assert (await read_all(stream)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"HELLO\r\n\r\n", b"GET  / HTTP/9\r\n\r\n"]
)
async def test_garbage_is_answered_as_a_malformed_request(autojump_clock, garbage):
    async with serving() as server:
        stream = server.dial()
        await stream.send_all(garbage)
        answer = await read_all(stream)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b'"code":"INVALID_MESSAGE"' in answer


async def test_a_head_that_never_ends_is_too_long(autojump_clock):
    async with serving() as server:
        stream = server.dial()
        await stream.send_all(b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000)
        assert (await read_all(stream)).startswith(b"HTTP/1.1 431")


async def test_garbage_from_a_peer_that_reads_nothing_is_given_up(autojump_clock):
    async with serving() as server:
        stream = server.dial(trio.testing.lockstep_stream_pair)
        await stream.send_all(b"HELLO\r\n\r\n")
        await trio.sleep(5)
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")


async def test_a_peer_that_is_gone_before_its_answer_is_nobodys_trouble(autojump_clock):
    async with serving() as server:
        for request in (b"HELLO\r\n\r\n", upgrade()):
            stream = server.dial()
            await stream.send_all(request)
            await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        async with server.peer():
            pass


@pytest.mark.parametrize("sent", [b"", b"GET / HT", PLAIN[:-2]])
async def test_a_head_that_is_not_there_in_time_ends_the_connection(autojump_clock, sent):
    async with serving() as server:
        stream = server.dial()
        await stream.send_all(sent)
        began = trio.current_time()
        assert await read_all(stream) == b""
        assert trio.current_time() - began == 10.0


async def test_a_byte_now_and_then_does_not_buy_more_time(autojump_clock):
    config = quiet_config(websocket=WebSocket(session=Connections(handshake_timeout_s=3.0)))
    async with serving(config) as server:
        stream = server.dial()
        with suppress(trio.BrokenResourceError):
            for byte in PLAIN:
                await stream.send_all(bytes([byte]))
                await trio.sleep(0.5)
        assert trio.current_time() in (3.0, 3.5)


async def test_silent_strangers_keep_nobody_out(autojump_clock, monkeypatch):
    monkeypatch.setattr(listener, "MAX_STRANGERS", 3)
    async with serving() as server:
        silent = []
        for _ in range(3):
            silent.append(server.dial())
            await trio.testing.wait_all_tasks_blocked()
        async with server.peer() as peer:
            assert peer.connect["type"] == "CONNECT"
            # The oldest has made room; a chat connection is no stranger.
            await read_all(silent[0])
            stream = server.dial()
            await stream.send_all(PLAIN)
            assert (await read_all(stream)).startswith(b"HTTP/1.1 200")
        assert trio.current_time() < 1.0


async def test_chat_and_http_work_over_tls_as_well(autojump_clock):
    authority = trustme.CA()
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("chat.example").configure_cert(server_side)
    client_side = ssl.create_default_context()
    authority.configure_trust(client_side)
    async with serving() as server:
        server.house.listener.tls = server_side
        stream = trio.SSLStream(server.dial(), client_side, server_hostname="chat.example", https_compatible=True)
        await stream.send_all(PLAIN)
        assert (await read_all(stream)).startswith(b"HTTP/1.1 200")

        plain = server.dial()
        await plain.send_all(PLAIN)
        assert not (await read_all(plain)).startswith(b"HTTP/1.1 200")

        silent = server.dial()
        began = trio.current_time()
        await read_all(silent)
        assert trio.current_time() - began == 10.0


async def test_a_replayed_head_is_read_first_and_in_pieces_where_asked():
    ours, theirs = trio.testing.memory_stream_pair()
    stream = Replay(theirs, b"head")
    await ours.send_all(b"body")
    assert await stream.receive_some(2) == b"he"
    assert await stream.receive_some() == b"ad"
    assert await stream.receive_some() == b"body"
    await stream.wait_send_all_might_not_block()
    await stream.send_all(b"back")
    assert await ours.receive_some() == b"back"
    await stream.aclose()
    assert await ours.receive_some() == b""
