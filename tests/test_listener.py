"""One port: chat, plain HTTP, TLS, and what is none of them."""

import ssl
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing
import trustme

from scm_trio import listener
from scm_trio.config import Connections, Store, WebSocket
from scm_trio.listener import Replay
from scm_trio.providers.scripted import Scripted
from scm_trio.testing import Server, open_server, quiet_config
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


# ---- a server that drains

PART = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\nContent-Type: text/plain\r\n\r\nhalf '
REST = b"and half\r\n--B--\r\n"
ALIVE = PLAIN.replace(b"Connection: close\r\n", b"")


async def begin_upload(server, stream):
    """Send half of a file."""
    head = [
        "POST /scm/ai/files HTTP/1.1",
        "Host: chat.example",
        f"Authorization: Bearer {server.token()}",
        "Content-Type: multipart/form-data; boundary=B",
        f"Content-Length: {len(PART + REST)}",
    ]
    await stream.send_all("\r\n".join([*head, "", ""]).encode() + PART)
    await trio.sleep(1)


async def hold_connections(*, task_status):
    async with trio.open_nursery() as nursery:
        task_status.started(nursery)
        await trio.sleep_forever()


@asynccontextmanager
async def draining(tmp_path, grace_s):
    """A server, what makes it drain and then cuts what is left, as a process does, and the time that this took."""
    config = quiet_config(store=Store(f"sqlite:///{tmp_path / 'house.db'}"))
    async with serving(config) as whole, trio.open_nursery() as nursery:
        connections = await nursery.start(hold_connections)
        server = Server(whole.house, connections)
        hurry, ended_at = trio.Event(), []

        async def drain():
            began = trio.current_time()
            await server.house.drain(grace_s, hurry)
            ended_at.append(trio.current_time() - began)
            connections.cancel_scope.cancel()

        yield server, nursery, drain, hurry, ended_at


async def test_an_upload_that_is_under_way_when_a_server_drains_has_its_answer(autojump_clock, tmp_path):
    async with draining(tmp_path, 30.0) as (server, nursery, drain, _, ended_at):
        stream = server.dial()
        await stream.send_all(ALIVE)
        assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 200")
        await begin_upload(server, stream)
        nursery.start_soon(drain)
        await trio.sleep(5)
        assert ended_at == []
        await stream.send_all(REST)
        answer = await read_all(stream)
    assert answer.startswith(b"HTTP/1.1 201")
    assert b"connection: close" in answer.lower()
    assert ended_at == [pytest.approx(5, abs=0.1)]


async def test_a_connection_that_is_kept_for_a_next_request_is_not_waited_for(autojump_clock, tmp_path):
    async with draining(tmp_path, 30.0) as (server, nursery, drain, _, ended_at):
        idle, curious, busy = (server.dial() for _ in range(3))
        for stream in (idle, curious):
            await stream.send_all(ALIVE)
            assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 200")
        await begin_upload(server, busy)
        nursery.start_soon(drain)
        await trio.sleep(1)
        # As long as others are waited for, it may still ask.
        await curious.send_all(ALIVE.replace(b"healthz", b"readyz"))
        assert (await read_all(curious)).startswith(b"HTTP/1.1 503")
        await busy.send_all(REST)
        await read_all(busy)
        assert await read_all(idle) == b""
    assert ended_at == [pytest.approx(1, abs=0.1)]


@pytest.mark.parametrize(("hurry_after_s", "ends_after_s"), [(None, 10), (2, 2.5)])
async def test_an_upload_that_does_not_end_is_cut_with_the_grace(autojump_clock, tmp_path, hurry_after_s, ends_after_s):
    async with draining(tmp_path, 10.0) as (server, nursery, drain, hurry, ended_at):
        stream = server.dial()
        await begin_upload(server, stream)
        nursery.start_soon(drain)
        if hurry_after_s is not None:
            await trio.sleep(hurry_after_s)
            hurry.set()
        assert await read_all(stream) == b""
    assert ended_at == [pytest.approx(ends_after_s, abs=0.1)]


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
