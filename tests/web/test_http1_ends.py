"""The bridge when a peer leaves, falls silent or does not read."""

import pytest
import structlog
import trio
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from trio.testing import memory_stream_pair

from scm_trio.web.http1 import HttpInfo, serve_http


async def hello(scope, receive, send):
    await PlainTextResponse("hello")(scope, receive, send)


async def echo(scope, receive, send):
    body = await Request(scope, receive).body()
    await PlainTextResponse(body)(scope, receive, send)


async def test_an_idle_connection_ends_after_the_keep_alive_timeout(connected, autojump_clock) -> None:
    async with connected(hello, keep_alive_timeout_s=15.0) as peer:
        await peer.ask("GET", "/")
        start = trio.current_time()
        assert await peer.everything() == b""
        assert trio.current_time() - start == 15.0


async def test_a_slow_head_ends_the_connection(connected, autojump_clock) -> None:
    async with connected(hello, head_timeout_s=10.0) as peer:
        for byte in "GET / HTTP":
            await trio.sleep(0.9)
            await peer.say(byte)
        assert await peer.everything() == b""
        # The first byte starts the head's own time, the others do not move it.
        assert trio.current_time() == pytest.approx(10.9)


async def test_half_a_pipelined_head_is_waited_for_no_longer_than_a_head(connected, autojump_clock) -> None:
    async with connected(hello, head_timeout_s=3.0, keep_alive_timeout_s=100.0) as peer:
        await peer.say("GET / HTTP/1.1\nHost: test\n\nGET / HT")
        await peer.answer()
        assert await peer.everything() == b""
        assert trio.current_time() == 3.0


async def test_a_peer_that_leaves_in_its_head_is_not_answered(connected) -> None:
    async with connected(hello) as peer:
        await peer.say("GET / HTTP/1.1\nHos")
        await peer.stream.send_eof()
        assert await peer.everything() == b""


async def test_receive_tells_that_the_peer_has_left(connected) -> None:
    messages = []

    async def app(scope, receive, send):
        messages.extend([await receive(), await receive()])

    async with connected(app) as peer:
        await peer.say("GET / HTTP/1.1\nHost: test\n\n")
        await peer.stream.send_eof()
        await peer.done.wait()

    assert messages == [{"type": "http.request", "body": b"", "more_body": False}, {"type": "http.disconnect"}]


async def test_a_peer_that_closed_only_its_side_still_gets_its_answer(connected) -> None:
    async def app(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass
        await hello(scope, receive, send)

    async with connected(app) as peer:
        await peer.say("GET / HTTP/1.1\nHost: test\n\n")
        await peer.stream.send_eof()
        assert (await peer.answer()).body == b"hello"


async def test_receive_after_the_answer_tells_a_disconnect(connected) -> None:
    messages = []

    async def app(scope, receive, send):
        await hello(scope, receive, send)
        messages.append(await receive())

    async with connected(app) as peer:
        await peer.ask("GET", "/")
        await peer.ask("GET", "/")

    assert messages == [{"type": "http.disconnect"}] * 2


async def test_requests_pipelined_during_a_long_answer_are_kept_within_bounds(connected, autojump_clock) -> None:
    async def app(scope, receive, send):
        with trio.move_on_after(1):
            while True:
                await receive()
        await hello(scope, receive, send)

    request = "GET / HTTP/1.1\nHost: test\n\n"
    async with connected(app) as peer:
        await peer.say(request * 10)
        await peer.say(request * 10_000)
        assert [(await peer.answer()).body for _ in range(20)] == [b"hello"] * 20


async def test_sending_to_a_peer_that_is_gone_is_an_oserror(connected) -> None:
    caught = []

    async def app(scope, receive, send):
        await receive()
        try:
            while True:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
                await receive()
        except OSError as exc:
            caught.append(exc)
            assert await receive() == {"type": "http.disconnect"}
            raise

    with structlog.testing.capture_logs() as logs:
        async with connected(app) as peer:
            await peer.say("GET / HTTP/1.1\nHost: test\n\n")
            await peer.stream.aclose()
            await peer.done.wait()

    assert len(caught) == 1
    assert logs == []


async def test_a_peer_that_resets_the_connection_is_just_gone() -> None:
    theirs, ours = memory_stream_pair()
    await theirs.send_all(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nab")
    messages = []

    async def app(scope, receive, send):
        messages.append(await receive())
        ours.receive_stream.close()
        messages.append(await receive())
        messages.append(await receive())

    await serve_http(app, ours, HttpInfo())

    assert [message["type"] for message in messages] == ["http.request", "http.disconnect", "http.disconnect"]


async def test_a_peer_that_leaves_in_its_body_disconnects(connected) -> None:
    with structlog.testing.capture_logs() as logs:
        async with connected(echo) as peer:
            await peer.say("POST / HTTP/1.1\nHost: test\nContent-Length: 5\n\nab")
            await peer.stream.send_eof()
            assert await peer.everything() == b""

    assert logs == []


async def test_a_peer_gone_before_100_continue_disconnects() -> None:
    theirs, ours = memory_stream_pair()
    await theirs.send_all(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    theirs.receive_stream.close()

    await serve_http(echo, ours, HttpInfo())

    with pytest.raises(trio.BrokenResourceError):
        await ours.send_all(b"x")


async def test_a_peer_that_does_not_read_is_given_up_after_the_write_timeout(stuck, autojump_clock) -> None:
    stream = stuck(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")

    await serve_http(hello, stream, HttpInfo(write_timeout_s=10.0))

    assert trio.current_time() == 10.0


async def test_each_piece_of_a_long_answer_has_its_own_write_timeout(stuck, autojump_clock) -> None:
    class Slow(stuck):
        async def send_all(self, data) -> None:
            await trio.sleep(9)
            self.taken += len(data)

    async def app(scope, receive, send):
        await PlainTextResponse(b"x" * 300_000)(scope, receive, send)

    stream = Slow(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
    await serve_http(app, stream, HttpInfo(write_timeout_s=10.0))

    assert stream.taken > 300_000
    assert trio.current_time() == 45.0


async def test_a_refusal_that_nobody_reads_is_given_up_too(stuck, autojump_clock) -> None:
    too_large = stuck(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 99\r\n\r\n")
    await serve_http(hello, too_large, HttpInfo(body_limit_bytes=10))
    assert trio.current_time() == 10.0

    malformed = stuck(b"no http\r\n\r\n")
    await serve_http(hello, malformed, HttpInfo())
    assert trio.current_time() == 20.0
