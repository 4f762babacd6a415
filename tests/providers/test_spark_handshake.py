from __future__ import annotations

import ssl

import pytest
import trio
import trio.testing
import trustme

from scm_trio import errors
from scm_trio.model import ProviderEvent
from scm_trio.providers.connections import Dialer
from scm_trio.providers.spark_signing import Credentials, Endpoint
from scm_trio.providers.spark_websocket import SparkWebSocket
from scm_trio.providers.spark_wire import MAX_HANDSHAKE_BYTES, Wire

from .spark_memory import COMPLETED, LAST, accepting, answer, breaking, failure_of, is_closed, provider_over
from .spark_server import APP_ID, KEY, SECRET, SparkServer


@pytest.fixture
def server(nursery) -> SparkServer:
    return SparkServer(nursery)


@pytest.mark.parametrize("skew_s", [-300, 299])
async def test_clocks_may_differ_by_five_minutes(server, autojump_clock, skew_s):
    server.skew_s = skew_s
    assert await answer(provider_over(server.saying(LAST)))


@pytest.mark.parametrize("skew_s", [-302, 302])
async def test_a_clock_that_is_wrong_is_named(server, autojump_clock, skew_s):
    server.skew_s = skew_s
    failure = await failure_of(provider_over(server.saying(LAST)))
    assert (type(failure), failure.field, failure.retryable) == (errors.ProviderAuth, "clock", False)


@pytest.mark.parametrize(
    ("credentials", "words"),
    [
        (Credentials(APP_ID, "other", SECRET), "apikey not found"),
        (Credentials(APP_ID, KEY, "other"), "HMAC signature does not match"),
    ],
)
async def test_wrong_credentials_are_no_matter_of_trying_again(server, autojump_clock, credentials, words):
    failure = await failure_of(provider_over(server.saying(LAST), credentials=credentials))
    assert (type(failure), failure.retryable, failure.field) == (errors.ProviderAuth, False, None)
    assert failure.detail.startswith("spark: status 401 HMAC")
    assert words in failure.detail


def answering(memory_net, *pieces: bytes) -> SparkWebSocket:
    """A provider whose server answers every handshake with these bytes, and closes."""

    async def handler(peer):
        await peer.stream.receive_some()
        await peer.send(*pieces)

    return provider_over(memory_net.dialer(handler))


JSON_401 = b'HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\n%b\r\n{"message":"Unauthorized"}'


@pytest.mark.parametrize(
    ("response", "kind", "words"),
    [
        (JSON_401 % b"Content-Length: 26\r\n", errors.ProviderAuth, "401 Unauthorized"),
        (JSON_401 % b"", errors.ProviderAuth, "401 Unauthorized"),
        (JSON_401 % b"Content-Length: 99\r\n", errors.ProviderAuth, "401 Unauthorized"),
        (b"HTTP/1.1 429 X\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", errors.ProviderRateLimited, "429"),
        (b"HTTP/1.1 302 X\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", errors.ProviderRejected, "302"),
        (b"HTTP/1.1 404 X\r\nContent-Length: 2\r\n\r\nno", errors.ProviderRejected, "404 no"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", errors.ProviderRejected, "200 hi"),
        (b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n", errors.ProviderUnavailable, "503"),
        (b"", errors.ProviderUnavailable, "ended during the handshake"),
        (b"HTTP/1.1 4", errors.ProviderUnavailable, "ended during the handshake"),
        (b"HTTP/1.1 101 X\r\nUpgrade: web", errors.ProviderUnavailable, "ended during the handshake"),
        (b"220 mail ready\r\n", errors.ProviderUnavailable, "spark: "),
        (b"HTTP/1.1 101 X\r\n\r\n", errors.ProviderUnavailable, "bad WebSocket"),
        (b"HTTP/1.1 101 X\r\nSec-WebSocket-Protocol: \xff\r\n\r\n", errors.ProviderUnavailable, "bad WebSocket"),
    ],
)
async def test_every_other_answer_to_a_handshake_is_a_failure(memory_net, autojump_clock, response, kind, words):
    failure = await failure_of(answering(memory_net, response))
    assert type(failure) is kind
    assert words in failure.detail
    assert await is_closed(memory_net.client_ends[0])
    assert trio.current_time() < 3


async def test_a_refusal_may_say_how_long_to_wait(memory_net, autojump_clock):
    response = b"HTTP/1.1 429 X\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"
    assert (await failure_of(answering(memory_net, response))).retry_after_s == 7


async def test_an_endless_refusal_is_cut(memory_net, autojump_clock):
    head = b"HTTP/1.1 500 X\r\nContent-Length: 99999999\r\n\r\n"
    failure = await failure_of(answering(memory_net, head, b"x" * MAX_HANDSHAKE_BYTES, b"x"))
    assert type(failure) is errors.ProviderUnavailable
    assert "status 500" in failure.detail


async def test_a_wrong_token_is_no_websocket(memory_net, autojump_clock):
    async def handler(peer):
        head = (await peer.stream.receive_some()).decode()
        await peer.send(accepting(head, "wrong"))

    assert "bad WebSocket" in (await failure_of(provider_over(memory_net.dialer(handler)))).detail


async def test_an_end_right_after_the_handshake_is_a_truncated_answer(memory_net, autojump_clock):
    async def handler(peer):
        head = (await peer.stream.receive_some()).decode()
        await peer.send(accepting(head))

    failure = await failure_of(provider_over(memory_net.dialer(handler)))
    assert failure.detail == "spark: truncated: closed with 1006"


@pytest.mark.parametrize(
    ("reads", "writes", "words"),
    [
        (0, 9, "ended during the handshake"),
        (1, 9, "truncated: closed with 1006"),
        (9, 1, "truncated: closed with 1006"),
    ],
)
async def test_a_reset_is_unavailable_at_any_time(server, autojump_clock, reads, writes, words):
    failure = await failure_of(provider_over(breaking(server.saying(LAST), reads=reads, writes=writes)))
    assert type(failure) is errors.ProviderUnavailable
    assert words in failure.detail


async def test_who_refuses_may_not_have_read_it_all(memory_net, autojump_clock):
    async def handler(peer):
        await peer.send(JSON_401 % b"Content-Length: 26\r\n")
        await trio.sleep_forever()

    provider = provider_over(breaking(memory_net.dialer(handler), writes=0))
    assert type(await failure_of(provider)) is errors.ProviderAuth


async def test_a_wire_knows_when_it_can_send(server, autojump_clock):
    ours, _ = trio.testing.memory_stream_pair()
    wire = Wire(ours)
    await wire.wait_send_all_might_not_block()
    await wire.aclose()
    assert await is_closed(ours)


def server_context(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def answer_over_tls(listen, spark: SparkServer, certified: str) -> list[ProviderEvent]:
    async def serve(peer):
        await spark.serve(peer.stream)

    authority = trustme.CA()
    port = await listen(serve, server_context(authority, certified))
    dialer = Dialer(ssl_context=client_context(authority))
    return await answer(provider_over(dialer, endpoint=Endpoint.parse(f"wss://127.0.0.1:{port}/v4.0/chat")))


async def test_it_speaks_tls(listen, server):
    server.saying(LAST)
    assert (await answer_over_tls(listen, server, "127.0.0.1"))[-1] == COMPLETED


async def test_it_checks_the_name_of_the_server(listen, server):
    with pytest.raises(errors.ProviderUnavailable, match="no TLS"):
        await answer_over_tls(listen, server, "elsewhere.example")
