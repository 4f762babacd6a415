from __future__ import annotations

import json
import ssl
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing
import trustme
from wsproto.utilities import generate_accept_token

from scm_trio import errors
from scm_trio.model import Delta, Finish, FinishReason, Prompt, ProviderEvent, Turn, Usage
from scm_trio.providers.connections import Dialer
from scm_trio.providers.spark_signing import Credentials, Endpoint
from scm_trio.providers.spark_socket import CLOSE_TIMEOUT_S, SocketUpstream
from scm_trio.providers.spark_websocket import Application, SparkWebSocket
from scm_trio.providers.spark_wire import MAX_FRAME_BYTES, MAX_HANDSHAKE_BYTES, Wire
from scm_trio.providers.upstream import MAX_BODY_BYTES
from scm_trio.testing import cancel_at_every_step

from .expected import SAMPLES, check
from .spark_server import APP_ID, KEY, SECRET, WEBSOCKET_SAMPLES, SparkServer, error_frame, frame, now_s

PROMPT = Prompt("4.0Ultra", (Turn("system", "Be brief."), Turn("user", "春")))
WHOLE = attrs.evolve(PROMPT, stream=False)
HERE = Endpoint.parse("ws://spark.example:8080/v4.0/chat")
COMPLETED = Finish(FinishReason.COMPLETED, "status=2")
FAREWELL, PING = b"\x88\x02\x03\xe8", b"\x89\x00"
LAST = frame("b", status=2, usage=(3, 2))


def provider_over(
    dialer: Dialer, *, max_concurrency: int = 64, credentials: Credentials | None = None, **application: object
) -> SparkWebSocket:
    upstream = SocketUpstream("spark", connect_timeout_s=3, max_concurrency=max_concurrency, dialer=dialer)
    given = {"endpoint": HERE, "now": now_s, **application}
    return SparkWebSocket(upstream, Application(credentials or Credentials(APP_ID, KEY, SECRET), **given))


async def answer(provider: SparkWebSocket, prompt: Prompt = PROMPT) -> list[ProviderEvent]:
    async with provider.stream(prompt) as events:
        return [event async for batch in events for event in batch]


async def failure_of(provider: SparkWebSocket, prompt: Prompt = PROMPT) -> errors.RequestFailed:
    with pytest.raises(errors.RequestFailed) as failure:
        await answer(provider, prompt)
    return failure.value


def fragment(first: bytes, payload: bytes) -> bytes:
    """A frame of WebSocket whose first byte says what it is."""
    size = len(payload)
    if size < 126:
        return first + bytes([size]) + payload
    if size < 65_536:
        return first + b"\x7e" + size.to_bytes(2, "big") + payload
    return first + b"\x7f" + size.to_bytes(8, "big") + payload


async def is_closed(stream: trio.abc.Stream) -> bool:
    try:
        await stream.send_all(b"x")
    except trio.ClosedResourceError:
        return True
    return False


@pytest.fixture
def server(nursery) -> SparkServer:
    return SparkServer(nursery)


# Answers


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("read_bytes", [None, 7, 1])
@pytest.mark.parametrize("name", WEBSOCKET_SAMPLES)
async def test_every_sample_comes_through_wherever_it_is_cut(server, autojump_clock, name, read_bytes, stream):
    frames = (SAMPLES / name).read_text().splitlines()
    server.read_bytes = read_bytes
    events, failure = [], None
    try:
        async with provider_over(server.saying(*frames)).stream(attrs.evolve(PROMPT, stream=stream)) as batches:
            async for batch in batches:
                events += batch
    except errors.RequestFailed as exc:
        failure = exc
    check(events, failure, WEBSOCKET_SAMPLES[name])


async def test_a_frame_is_a_batch_and_a_whole_answer_is_one(server, autojump_clock):
    provider = provider_over(server.saying(frame("a"), frame(""), LAST))
    async with provider.stream(PROMPT) as events:
        assert [batch async for batch in events] == [[Delta("a")], [Delta("b"), Usage(3, 2), COMPLETED]]
    async with provider.stream(WHOLE) as events:
        assert [batch async for batch in events] == [[Delta("a"), Delta("b"), Usage(3, 2), COMPLETED]]


async def test_the_vendor_is_asked_once_as_documented(server, autojump_clock):
    await answer(provider_over(server.saying(LAST)), attrs.evolve(PROMPT, max_tokens=9, temperature=0.0))
    (question,) = server.questions
    chat = question["parameter"]["chat"]
    assert (chat["domain"], chat["max_tokens"], chat["temperature"]) == ("4.0Ultra", 9, 0.01)
    assert [text["role"] for text in question["payload"]["message"]["text"]] == ["system", "user"]
    assert server.opened == [("spark.example", 8080)]


async def test_a_connection_is_closed_politely_after_the_answer(server, autojump_clock):
    async def script(session):
        await session.say(LAST)
        await session.websocket.get_message()

    await answer(provider_over(server.dialer(script)))
    await trio.testing.wait_all_tasks_blocked()
    assert server.ends == [(0, 1000)]


async def test_nobody_waits_long_for_a_server_that_does_not_close(server, autojump_clock):
    async def script(session):
        await session.say(LAST)
        session.websocket._reader_running = False  # it hears nothing any more
        await trio.sleep(60)

    await answer(provider_over(server.dialer(script)))
    assert trio.current_time() == pytest.approx(CLOSE_TIMEOUT_S)


async def test_a_ping_that_crosses_the_farewell_costs_nothing(server, autojump_clock):
    async def script(session):
        await session.say(LAST)
        await trio.testing.wait_all_tasks_blocked()
        await session.stream.send_all(PING)

    async def linger(session):
        session.websocket._wsproto.connection.receive_data = lambda data: None  # it does not see the farewell
        await script(session)

    assert await answer(provider_over(server.dialer(linger))) == [Delta("b"), Usage(3, 2), COMPLETED]


async def test_pings_are_answered_meanwhile(server, autojump_clock):
    async def script(session):
        await session.say(frame("a"))
        await session.websocket.ping()
        await session.say(LAST)

    assert (await answer(provider_over(server.dialer(script))))[0] == Delta("a")


async def test_every_question_is_signed_anew(server, autojump_clock):
    provider = provider_over(server.saying(LAST))
    for _ in range(3):
        assert await answer(provider)
        await trio.sleep(299)


async def test_the_signature_is_made_when_a_place_is_free(server, autojump_clock):
    async def slowly(session):
        await trio.sleep(400)
        await session.say(LAST)

    provider = provider_over(server.dialer(slowly), max_concurrency=1)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(answer, provider)
    assert [at for at, _ in server.ends] == [400, 800, 1200]


async def test_a_cancelled_wait_for_a_place_takes_none(server, autojump_clock):
    provider = provider_over(server.saying(LAST), max_concurrency=1)
    async with provider.stream(PROMPT):
        with trio.move_on_after(1) as scope:
            await answer(provider)
        assert scope.cancelled_caught
    assert await answer(provider)


async def test_models_have_addresses_of_their_own(server, autojump_clock):
    provider = provider_over(server.saying(LAST), endpoint=None, domain="x1")
    with pytest.raises(errors.ProviderUnavailable, match="no TLS"):
        await answer(provider)
    assert server.opened == [("spark-api.xf-yun.com", 443)]
    provider = provider_over(server.saying(LAST), endpoint=None)
    failure = await failure_of(provider, attrs.evolve(PROMPT, model="nobody"))
    assert (type(failure), failure.params) == (errors.ModelUnknown, {"model": "nobody"})


async def test_the_domain_answers_for_every_model(server, autojump_clock):
    provider = provider_over(server.saying(LAST), endpoint=Endpoint.parse("ws://spark.example/v1/x1"), domain="x1")
    assert await answer(provider, attrs.evolve(PROMPT, model="anything"))


async def test_closing_the_provider_has_nothing_to_do(server, autojump_clock):
    provider = provider_over(server.saying(LAST))
    await provider.aclose()
    assert await answer(provider)


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
        await spark._serve(peer.stream)

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


# Failures in the answer


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (10006, errors.ProviderRateLimited),
        (10013, errors.ContentFiltered),
        (10110, errors.ProviderUnavailable),
        (10163, errors.ProviderRejected),
        (10907, errors.ContextTooLong),
        (11201, errors.ProviderAuth),
        (12345, errors.ProviderRejected),
    ],
)
@pytest.mark.parametrize("before", [(), (frame("a"),)], ids=["at once", "in the middle"])
async def test_an_error_comes_after_what_was_said(server, autojump_clock, code, kind, before):
    async with provider_over(server.saying(*before, error_frame(code))).stream(PROMPT) as events:
        with pytest.raises(kind) as failure:
            assert [await anext(events) for _ in range(2)] == []
    assert type(failure.value) is kind
    assert failure.value.retryable is kind.retryable


async def test_a_wrong_application_or_domain_is_told_by_the_server(server, autojump_clock):
    wrong = Credentials("other", KEY, SECRET)
    assert type(await failure_of(provider_over(server.saying(LAST), credentials=wrong))) is errors.ProviderAuth
    failure = await failure_of(provider_over(server.saying(LAST)), attrs.evolve(PROMPT, model="lite"))
    assert type(failure) is errors.ProviderRejected
    assert "10404" in failure.detail


async def say_and_cut(session):
    await session.say(frame("a"))
    await session.cut()


def closing_with(code: int):
    async def script(session):
        await session.say(frame("a"))
        await session.websocket.aclose(code)

    return script


async def say_no_websocket(session):
    await session.say(frame("a"))
    await session.stream.send_all(b"\xff\xff\xff\xff")


@pytest.mark.parametrize(
    ("script", "how"),
    [
        (say_and_cut, "1006"),
        (closing_with(1000), "1000"),
        (closing_with(1001), "1001"),
        (closing_with(1011), "1011"),
        (closing_with(4000), "4000"),
        (say_no_websocket, "1002"),
    ],
    ids=["cut", "1000", "1001", "1011", "4000", "nonsense"],
)
async def test_a_stream_that_ends_before_its_last_frame_is_truncated(server, autojump_clock, script, how):
    async with provider_over(server.dialer(script)).stream(PROMPT) as events:
        assert list(await anext(events)) == [Delta("a")]
        with pytest.raises(errors.ProviderUnavailable) as failure:
            await anext(events)
    assert failure.value.detail == f"spark: truncated: closed with {how}"


async def test_a_whole_answer_that_breaks_off_is_a_failure_after_what_was_said(server, autojump_clock):
    async with provider_over(server.dialer(say_and_cut)).stream(WHOLE) as events:
        assert list(await anext(events)) == [Delta("a")]
        with pytest.raises(errors.ProviderUnavailable, match="truncated"):
            await anext(events)


async def test_a_server_that_listens_no_more_may_have_said_why(memory_net, autojump_clock):
    """The error frame and the end are there before the question is sent."""

    async def handler(peer):
        head = (await peer.stream.receive_some()).decode()
        said = json.dumps(error_frame(11203)).encode()
        await peer.stream.send_all(accepting(head) + fragment(b"\x81", said) + FAREWELL)

    failure = await failure_of(provider_over(memory_net.dialer(handler)))
    assert type(failure) is errors.ProviderRateLimited


@pytest.mark.parametrize("fragment_bytes", [MAX_FRAME_BYTES, 100_000])
async def test_a_frame_that_is_too_large_is_not_kept(server, autojump_clock, fragment_bytes):
    async def script(session):
        await session.say(frame("a"))
        text = json.dumps(frame("春" * (MAX_FRAME_BYTES // 3 + 1)), ensure_ascii=False).encode()
        pieces = [text[start : start + fragment_bytes] for start in range(0, len(text), fragment_bytes)]
        first = b"\x01"
        for piece in pieces:
            await session.stream.send_all(fragment(first, piece))
            first = b"\x00"

    async with provider_over(server.dialer(script)).stream(PROMPT) as events:
        assert list(await anext(events)) == [Delta("a")]
        with pytest.raises(errors.ResponseTooLarge, match="spark: one frame of more than"):
            await anext(events)


async def test_many_frames_may_be_more_than_one_may_be(server, autojump_clock):
    text = "a" * (MAX_FRAME_BYTES // 3)
    said = await answer(provider_over(server.saying(*[frame(text)] * 5, LAST)))
    assert sum(len(event.text) for event in said if isinstance(event, Delta)) > MAX_FRAME_BYTES


async def test_pings_count_too(server, autojump_clock):
    async def script(session):
        await session.stream.send_all(fragment(b"\x89", b"x" * 125) * (MAX_FRAME_BYTES // 125))

    assert type(await failure_of(provider_over(server.dialer(script)))) is errors.ResponseTooLarge


async def test_a_whole_answer_is_limited(server, autojump_clock):
    text = "a" * (MAX_BODY_BYTES // 2)
    failure = await failure_of(provider_over(server.saying(*[frame(text)] * 3, LAST)), WHOLE)
    assert type(failure) is errors.ResponseTooLarge


# Handshakes


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


def accepting(head: str, token: str | None = None) -> bytes:
    """A good answer to a client's handshake."""
    (key,) = [line.partition(": ")[2] for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key")]
    accept = token or generate_accept_token(key.encode()).decode()
    lines = ("HTTP/1.1 101 Switching", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {accept}")
    return "\r\n".join((*lines, "", "")).encode()


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


class Bug(Exception):
    """What nobody expects."""


class Broken(trio.abc.Stream):
    """A connection that fails after so many reads or writes."""

    def __init__(self, inner: trio.abc.Stream, *, reads: int = 99, writes: int = 99, bug: bool = False) -> None:
        self._inner = inner
        self._fault = Bug() if bug else trio.BrokenResourceError("reset")
        self._left = {"read": reads, "write": writes}

    def _count(self, what: str) -> None:
        self._left[what] -= 1
        if self._left[what] < 0:
            raise self._fault

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = await self._inner.receive_some(max_bytes)
        self._count("read")
        return data

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self._count("write")
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._inner.aclose()


def breaking(dialer: Dialer, **how: object) -> Dialer:
    async def open_stream(host: str, port: int) -> trio.abc.Stream:
        return Broken(await dialer.open_stream(host, port), **how)

    return Dialer(open_stream=open_stream)


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


# Deadlines and cancels


async def test_no_connection_in_time_is_a_timeout(autojump_clock):
    async def open_stream(host, port):
        await trio.sleep_forever()

    failure = await failure_of(provider_over(Dialer(open_stream=open_stream)))
    assert (type(failure), failure.field) == (errors.TimedOut, "connect")
    assert trio.current_time() == pytest.approx(3)


async def test_connecting_and_shaking_hands_have_one_deadline(memory_net, autojump_clock):
    async def handler(peer):
        await trio.sleep_forever()

    dialer = memory_net.dialer(handler)

    async def open_stream(host, port):
        await trio.sleep(2)
        return await dialer.open_stream(host, port)

    failure = await failure_of(provider_over(Dialer(open_stream=open_stream)))
    assert (type(failure), failure.field) == (errors.TimedOut, "connect")
    assert trio.current_time() == pytest.approx(3)
    assert await is_closed(memory_net.client_ends[0])


@pytest.mark.parametrize("fault", [OSError("no route"), UnicodeError("no name")])
async def test_no_connection_at_all_is_unavailable(autojump_clock, fault):
    async def open_stream(host, port):
        raise fault

    failure = await failure_of(provider_over(Dialer(open_stream=open_stream)))
    assert type(failure) is errors.ProviderUnavailable
    assert failure.detail == f"spark: {type(fault).__name__}: {fault}"


async def stall(session):
    await session.say(frame("a"))
    await session.websocket.get_message()


async def test_a_cancel_closes_the_connection_at_once(server, autojump_clock):
    provider = provider_over(server.dialer(stall))
    with trio.move_on_after(5) as scope:
        await answer(provider)
    assert scope.cancelled_caught
    assert trio.current_time() == 5
    assert await is_closed(server.client_ends[0])
    await trio.testing.wait_all_tasks_blocked()
    assert server.ends == [(5, 1006)]


async def test_a_cancel_while_shaking_hands_closes_the_connection(memory_net, autojump_clock):
    async def handler(peer):
        await peer.stream.receive_some()
        await trio.sleep_forever()

    with trio.move_on_after(1) as scope:
        await answer(provider_over(memory_net.dialer(handler)))
    assert scope.cancelled_caught
    assert await is_closed(memory_net.client_ends[0])


@pytest.mark.parametrize("server_reads", [True, False])
async def test_leaving_early_closes_the_connection(server, autojump_clock, server_reads):
    async def script(session):
        await session.say(frame("a"))
        if server_reads:
            await session.websocket.get_message()
        await trio.sleep(60)

    async with provider_over(server.dialer(script)).stream(PROMPT) as events:
        await anext(events)
    assert trio.current_time() <= CLOSE_TIMEOUT_S
    assert await is_closed(server.client_ends[0])


class Boom(Exception):
    """The consumer's own failure."""


async def test_what_the_consumer_raises_leaves_as_it_is(server, autojump_clock):
    boom = Boom()
    with pytest.raises(Boom) as raised:
        async with provider_over(server.dialer(stall)).stream(PROMPT):
            raise boom
    assert raised.value is boom
    assert await is_closed(server.client_ends[0])


async def test_a_failure_of_the_reading_task_is_not_hidden(server, autojump_clock):
    with pytest.raises(Bug):
        await answer(provider_over(breaking(server.dialer(stall), reads=1, bug=True)))
    assert await is_closed(server.client_ends[0])


async def test_the_consumers_own_failure_comes_before_that_of_the_reading_task(server, autojump_clock):
    async def consume(provider: SparkWebSocket) -> None:
        async with provider.stream(PROMPT):
            try:
                await trio.sleep_forever()
            finally:
                raise Boom

    with pytest.raises(Boom):
        await consume(provider_over(breaking(server.dialer(stall), reads=1, bug=True)))


async def test_a_cancel_from_outside_comes_before_a_failure_of_the_reading_task(server, autojump_clock):
    async def script(session):
        await trio.sleep(5)
        await stall(session)

    with trio.CancelScope() as scope:
        async with provider_over(breaking(server.dialer(script), reads=1, bug=True)).stream(PROMPT):
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
                scope.cancel()
                await trio.testing.wait_all_tasks_blocked()
            await trio.sleep_forever()
    assert scope.cancelled_caught


def test_a_cancel_at_any_step_leaves_nothing_behind():
    @asynccontextmanager
    async def serving():
        async with trio.open_nursery() as nursery:
            yield SparkServer(nursery)
            nursery.cancel_scope.cancel()

    async def scenario(scope):
        async with serving() as server:
            provider = provider_over(server.saying(frame("a"), LAST), max_concurrency=1)
            said = []
            with scope:
                said = await answer(provider)
            assert scope.cancelled_caught or said[-1] == COMPLETED
            for stream in server.client_ends:
                assert await is_closed(stream)
            assert provider._upstream._limiter.borrowed_tokens == 0
            assert trio.current_time() <= CLOSE_TIMEOUT_S

    assert cancel_at_every_step(scenario) > 20
