from __future__ import annotations

import pytest
import trio
import trio.testing

from scm_trio.errors import ConfigError, ProviderUnavailable, ResponseTooLarge, TimedOut
from scm_trio.providers.connections import Dialer
from scm_trio.providers.http1_transport import Http1Transport
from scm_trio.providers.upstream import (
    DRAIN_TIMEOUT_S,
    ERROR_BODY_TIMEOUT_S,
    MAX_BODY_BYTES,
    MAX_ERROR_BODY_BYTES,
    Upstream,
)

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b"3\r\nabc\r\n"
END = b"0\r\n\r\n"


@pytest.fixture
def upstream_to(memory_net):
    """Makes an upstream whose server answers every request with ``pieces``, and then only waits."""

    def make(*pieces: bytes, seen: list[bytes] | None = None, **options) -> Upstream:
        async def handler(peer):
            while data := await peer.request():
                if seen is not None:
                    seen.append(data)
                await peer.send(*pieces)

        transport = Http1Transport(memory_net.dialer(handler))
        return Upstream("acme", "http://acme.example/v1/", transport=transport, **options)

    return make


async def test_a_request_says_what_it_is(upstream_to):
    seen = []
    upstream = upstream_to(CHUNKED + CHUNK + END, seen=seen)
    async with upstream.post_stream("/chat?v=1", b'{"a":1}', {"Authorization": "Bearer k"}) as response:
        assert response.status == 200
        assert [chunk async for chunk in response] == [b"abc"]
    head, _, body = seen[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /v1/chat?v=1 HTTP/1.1"
    assert b"Host: acme.example" in lines
    assert b"Authorization: Bearer k" in lines
    assert b"Accept-Encoding: identity" in lines
    assert b"Content-Type: application/json" in lines
    assert any(line.startswith(b"User-Agent: scm-trio/") for line in lines)
    assert body == b'{"a":1}'


@pytest.mark.parametrize(
    ("value", "media_type"),
    [(b"Text/HTML; charset=utf-8", "text/html"), (b"application/json", "application/json"), (b"", "")],
)
async def test_the_media_type_has_no_parameters(upstream_to, value, media_type):
    upstream = upstream_to(b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: 0\r\n\r\n" % value)
    async with upstream.post_stream("/", b"") as response:
        assert response.media_type == media_type


@pytest.mark.parametrize("base_url", ["", "acme.example", "ftp://acme.example", "http://", "http://acme:port"])
def test_a_base_url_has_to_be_a_web_address(base_url):
    with pytest.raises(ConfigError, match="acme"):
        Upstream("acme", base_url)


def test_a_base_url_is_refused_without_a_word_of_it():
    with pytest.raises(ConfigError) as refused:
        Upstream("acme", "http://acme:hunter2")
    assert "hunter2" not in str(refused.value)
    assert refused.value.__suppress_context__


async def test_no_connection_in_time_is_a_timeout_that_says_so(autojump_clock):
    async def open_stream(host, port):
        await trio.sleep_forever()

    transport = Http1Transport(Dialer(open_stream=open_stream))
    upstream = Upstream("acme", "https://acme.example", connect_timeout_s=10, transport=transport)
    with pytest.raises(TimedOut) as failure:
        async with upstream.post_stream("/", b""):
            pytest.fail("there is no connection")
    assert failure.value.field == "connect"
    assert trio.current_time() == pytest.approx(10)


async def test_no_connection_at_all_is_unavailable(autojump_clock):
    async def open_stream(host, port):
        raise OSError("no route")

    transport = Http1Transport(Dialer(open_stream=open_stream))
    upstream = Upstream("acme", "https://acme.example", transport=transport)
    with pytest.raises(ProviderUnavailable, match="acme: ConnectError: no route"):
        async with upstream.post_stream("/", b""):
            pytest.fail("there is no connection")


async def test_a_body_that_is_cut_is_unavailable(memory_net):
    async def handler(peer):
        await peer.request()
        await peer.send(CHUNKED + CHUNK)

    upstream = Upstream("acme", "http://acme.example", transport=Http1Transport(memory_net.dialer(handler)))
    async with upstream.post_stream("/", b"") as response:
        assert await anext(response) == b"abc"
        with pytest.raises(ProviderUnavailable, match="acme: RemoteProtocolError"):
            await anext(response)


async def test_a_whole_body_is_limited(upstream_to):
    body = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd"
    upstream = upstream_to(body)
    async with upstream.post_stream("/", b"") as response:
        assert await response.read(limit_bytes=4) == b"abcd"
    async with upstream.post_stream("/", b"") as response:
        with pytest.raises(ResponseTooLarge):
            await response.read(limit_bytes=3)
    assert MAX_BODY_BYTES == 1_048_576


async def test_an_error_body_is_cut(upstream_to):
    upstream = upstream_to(b"HTTP/1.1 500 No\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000)
    async with upstream.post_stream("/", b"") as response:
        assert await response.read_error() == b"x" * MAX_ERROR_BODY_BYTES


async def test_an_error_body_that_breaks_off_is_taken_as_it_is(memory_net):
    async def handler(peer):
        await peer.request()
        await peer.send(b"HTTP/1.1 500 No\r\nContent-Length: 9\r\n\r\n{}")

    upstream = Upstream("acme", "http://acme.example", transport=Http1Transport(memory_net.dialer(handler)))
    async with upstream.post_stream("/", b"") as response:
        assert await response.read_error() == b"{}"


async def test_an_error_body_that_hangs_is_not_waited_for_long(upstream_to, autojump_clock):
    upstream = upstream_to(b"HTTP/1.1 429 No\r\nContent-Length: 9\r\n\r\n{}")
    async with upstream.post_stream("/", b"") as response:
        assert await response.read_error() == b"{}"
    assert trio.current_time() == pytest.approx(ERROR_BODY_TIMEOUT_S)


async def test_draining_makes_a_connection_reusable(upstream_to, memory_net):
    upstream = upstream_to(CHUNKED + CHUNK, CHUNK, END)
    for _ in range(2):
        async with upstream.post_stream("/", b"") as response:
            assert await anext(response) == b"abc"
            await response.drain()
    assert len(memory_net.opened) == 1


async def test_draining_gives_up_soon(upstream_to, memory_net, autojump_clock):
    upstream = upstream_to(CHUNKED + CHUNK)
    for _ in range(2):
        async with upstream.post_stream("/", b"") as response:
            assert await anext(response) == b"abc"
            await response.drain()
    assert trio.current_time() == pytest.approx(2 * DRAIN_TIMEOUT_S)
    assert len(memory_net.opened) == 2


async def test_draining_takes_no_flood(upstream_to, memory_net):
    big = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    upstream = upstream_to(CHUNKED + CHUNK, *[big] * 5, END)
    for _ in range(2):
        async with upstream.post_stream("/", b"") as response:
            assert await anext(response) == b"abc"
            await response.drain()
    assert len(memory_net.opened) == 2


async def test_draining_a_broken_connection_is_quiet(memory_net):
    async def handler(peer):
        await peer.request()
        await peer.send(CHUNKED + CHUNK)

    upstream = Upstream("acme", "http://acme.example", transport=Http1Transport(memory_net.dialer(handler)))
    async with upstream.post_stream("/", b"") as response:
        await response.drain()
    assert len(memory_net.opened) == 1


async def test_closing_closes_idle_connections(upstream_to, memory_net):
    upstream = upstream_to(CHUNKED + CHUNK + END)
    async with upstream.post_stream("/", b"") as response:
        await response.read()
    await upstream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await memory_net.client_ends[0].send_all(b"x")


async def test_an_upstream_has_a_transport_of_its_own_by_default():
    upstream = Upstream("acme", "https://acme.example")
    await upstream.aclose()
    assert upstream.name == "acme"
