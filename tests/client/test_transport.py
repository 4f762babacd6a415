"""URLs, and real sockets of this machine: no virtual clock here."""

import ssl

import pytest
import trio
import trustme
from trio.testing import memory_stream_pair

from scm_trio.client import HandshakeRefused, Unreachable, open_chat
from scm_trio.client.transport import Address, ClosedEarly, Metered
from scm_trio.client.wire import open_wire
from tests.client.fake_server import FakeServer


@pytest.mark.parametrize(
    ("url", "wanted", "host_header"),
    [
        ("ws://h", Address("h", 80, False, "/scm/websocket/ai/chat"), "h"),
        ("ws://h:8088/", Address("h", 8088, False, "/scm/websocket/ai/chat"), "h:8088"),
        ("https://h", Address("h", 443, True, "/scm/websocket/ai/chat"), "h"),
        ("wss://h:80/other?a=1&b=", Address("h", 80, True, "/other?a=1&b="), "h:80"),
        ("ws://[::1]:8088/x", Address("::1", 8088, False, "/x"), "[::1]:8088"),
    ],
)
def test_an_address_is_read_from_a_url(url, wanted, host_header):
    assert Address.parse(url) == wanted
    assert Address.parse(url).host_header == host_header


def test_query_values_are_added_and_escaped():
    assert Address.parse("ws://h/x?a=1", userId="张 三", lang=None).resource == "/x?a=1&userId=%E5%BC%A0+%E4%B8%89"


def test_a_query_value_that_is_there_is_replaced():
    assert Address.parse("ws://h/x?sessionId=a&b=1", sessionId="c").resource == "/x?b=1&sessionId=c"


@pytest.mark.parametrize("url", ["localhost:8088", "ftp://h", "ws://", ""])
def test_another_url_is_refused(url):
    with pytest.raises(ValueError, match="not a WebSocket URL"):
        Address.parse(url)


async def serve_one(listener):
    stream = await listener.accept()
    await FakeServer().serve(stream)


async def test_a_chat_over_a_real_socket_opens_and_closes():
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_one, listener)
        async with open_chat(f"ws://127.0.0.1:{port}", "token") as chat:
            assert chat.connection.user_id == "ann"
            assert await chat.ping() < 5
    await listener.aclose()


async def test_a_wire_over_a_real_socket_opens_and_closes():
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_one, listener)
        async with open_wire(f"ws://127.0.0.1:{listener.socket.getsockname()[1]}", "token") as wire:
            assert wire.connection.user_id == "ann"
    await listener.aclose()


async def test_tls_is_verified_against_the_callers_context():
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server_context)
    [tcp] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = tcp.socket.getsockname()[1]
    listener = trio.SSLListener(tcp, server_context, https_compatible=True)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)

    async def refuse_tls(listener):
        stream = await listener.accept()
        with pytest.raises(trio.BrokenResourceError):
            await stream.do_handshake()
        await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_one, listener)
        async with open_chat(f"wss://localhost:{port}", "token", ssl_context=trusting) as chat:
            assert chat.connection.user_id == "ann"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(refuse_tls, listener)
        with pytest.raises(Unreachable, match=r"TLS .* failed: .*certificate verify failed"):
            async with open_chat(f"wss://localhost:{port}", "token"):
                raise AssertionError
    await listener.aclose()


async def test_a_port_where_nobody_listens_is_unreachable():
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    with pytest.raises(Unreachable, match=r"cannot connect to 127\.0\.0\.1") as caught:
        async with open_chat(f"ws://127.0.0.1:{port}", "token"):
            raise AssertionError
    assert not isinstance(caught.value, HandshakeRefused)


async def test_a_host_that_does_not_answer_in_time_is_unreachable(autojump_clock, monkeypatch):
    async def never(host, port):
        await trio.sleep_forever()

    monkeypatch.setattr(trio, "open_tcp_stream", never)
    with pytest.raises(Unreachable, match="did not answer within 2 s"):
        async with open_chat("ws://h", "token", connect_timeout_s=2):
            raise AssertionError


@pytest.mark.parametrize(("is_open", "wanted"), [(False, ClosedEarly), (True, trio.BrokenResourceError)])
async def test_a_broken_stream_is_closed_early_only_until_the_handshake_is_done(is_open, wanted):
    client_end, server_end = memory_stream_pair()
    stream = Metered(client_end)
    await stream.wait_send_all_might_not_block()
    stream.open = is_open
    await server_end.aclose()
    with pytest.raises(wanted):
        await stream.send_all(b"x")
    await stream.aclose()
    with pytest.raises(ClosedEarly if not is_open else trio.ClosedResourceError):
        await stream.receive_some()
