"""The bridge when a request is not HTTP, too much or too slow, and when the application fails."""

import structlog
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from trio.testing import memory_stream_pair

from scm_trio.web.http1 import HttpInfo, serve_http


async def hello(scope, receive, send):
    await PlainTextResponse("hello")(scope, receive, send)


async def echo(scope, receive, send):
    body = await Request(scope, receive).body()
    await PlainTextResponse(body)(scope, receive, send)


async def test_something_that_is_not_http_gets_a_400(connected) -> None:
    async with connected(hello) as peer:
        await peer.say("\x16\x03\x01 this is not http\n\n")
        answer = await peer.answer()
        assert (answer.status, answer.json["code"]) == (400, "BAD_REQUEST")
        assert answer.headers["connection"] == "close"
        await peer.stream.send_eof()
        assert await peer.everything() == b""


async def test_a_head_without_end_gets_a_431(connected) -> None:
    async with connected(hello) as peer:
        await peer.say("GET / HTTP/1.1\nHost: test\nX: " + "x" * 70_000)
        answer = await peer.answer()
        assert (answer.status, answer.json["code"]) == (431, "MESSAGE_TOO_LARGE")


async def test_an_unknown_transfer_encoding_gets_a_501(connected) -> None:
    async with connected(hello) as peer:
        await peer.say("POST / HTTP/1.1\nHost: test\nTransfer-Encoding: gzip\n\n")
        assert (await peer.answer()).status == 501


async def test_a_body_declared_too_large_is_refused_before_it_is_sent(connected) -> None:
    async with connected(echo, body_limit_bytes=10) as peer:
        await peer.say("POST /?lang=en HTTP/1.1\nHost: test\nContent-Length: 11\nExpect: 100-continue\n\n")
        answer = await peer.answer()
        assert answer.status == 413
        assert answer.json == {"code": "MESSAGE_TOO_LARGE", "message": "The message is too large: at most 10 bytes"}
        assert answer.headers["connection"] == "close"


async def test_a_chunked_body_is_refused_once_it_is_too_large(connected) -> None:
    with structlog.testing.capture_logs() as logs:
        async with connected(echo, body_limit_bytes=10) as peer:
            await peer.say("POST / HTTP/1.1\nHost: test\nTransfer-Encoding: chunked\n\n6\n123456\n6\n123456\n")
            assert (await peer.answer()).status == 413

    assert logs == []


async def test_an_application_that_answers_a_refused_request_all_the_same_is_not_heard(connected) -> None:
    async def app(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass
        await hello(scope, receive, send)

    async with connected(app, body_limit_bytes=10) as peer:
        await peer.say("POST / HTTP/1.1\nHost: test\nTransfer-Encoding: chunked\n\nb\n12345678901\n")
        assert (await peer.answer()).status == 413


async def test_a_refused_peer_whose_stream_cannot_be_half_closed_has_time_to_read(stuck, autojump_clock) -> None:
    stream = stuck(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 99\r\n\r\n", room=1000)

    await serve_http(hello, stream, HttpInfo(body_limit_bytes=10))

    assert trio.current_time() == 2.0


async def test_the_rest_of_a_refused_body_is_read_so_that_the_answer_arrives(connected) -> None:
    async with connected(echo, body_limit_bytes=10) as peer:
        await peer.say("POST / HTTP/1.1\nHost: test\nContent-Length: 300000\n\n")
        await peer.say(b"x" * 300_000)
        assert (await peer.answer()).status == 413
        await peer.stream.send_eof()
        await peer.done.wait()


async def test_a_peer_that_goes_on_sending_after_a_refusal_is_cut_off(connected, autojump_clock) -> None:
    async with connected(echo, body_limit_bytes=10) as peer:
        await peer.say("POST / HTTP/1.1\nHost: test\nContent-Length: 300000\n\n")
        await peer.done.wait()
        assert trio.current_time() == 2.0


async def test_a_body_within_the_limit_that_the_application_leaves_may_still_be_too_large(connected) -> None:
    async with connected(hello, body_limit_bytes=10) as peer:
        await peer.say("POST / HTTP/1.1\nHost: test\nTransfer-Encoding: chunked\n\n")
        assert (await peer.answer()).status == 200
        await peer.say("b\n12345678901\n")
        await peer.stream.send_eof()
        assert await peer.everything() == b""


async def test_a_slow_body_gets_a_408(connected, autojump_clock) -> None:
    async with connected(echo, body_timeout_s=60.0) as peer:
        await peer.say("POST / HTTP/1.1\nHost: test\nContent-Length: 3\nAccept-Language: en\n\na")
        answer = await peer.answer()
        assert (answer.status, answer.json) == (408, {"code": "TIMEOUT", "message": "It took too long: body"})
        assert trio.current_time() == 60.0


async def test_a_body_that_keeps_coming_has_a_second_more_for_each_share(connected, autojump_clock) -> None:
    async with connected(echo, body_timeout_s=10.0, body_bytes_per_s=1000) as peer:
        await peer.say("POST / HTTP/1.1\nHost: test\nContent-Length: 30000\n\n")
        for _ in range(15):
            await trio.sleep(1)
            await peer.say(b"x" * 1000)
        answer = await peer.answer()
        assert (answer.status, trio.current_time()) == (408, 25.0)


async def test_a_path_may_take_larger_bodies_than_others(connected) -> None:
    async with connected(echo, body_limit_bytes=10, body_limits={"/large": 20}) as peer:
        assert (await peer.ask("POST", "/large", b"x" * 20)).body == b"x" * 20
        assert (await peer.ask("POST", "/large?x=y", b"x" * 21)).status == 413
    async with connected(echo, body_limit_bytes=10, body_limits={"/large": 20}) as peer:
        assert (await peer.ask("POST", "/larger", b"x" * 11)).status == 413


async def test_of_a_large_body_that_nobody_wants_little_is_read(connected) -> None:
    async with connected(hello, body_limit_bytes=10, body_limits={"/large": 1_000_000}) as peer:
        await peer.say("POST /large HTTP/1.1\nHost: test\nContent-Length: 500000\n\n")
        assert (await peer.answer()).status == 200
        await peer.say(b"x" * 100)
        await peer.stream.send_eof()
        assert await peer.everything() == b""


async def test_broken_chunks_get_a_400(connected) -> None:
    async with connected(echo) as peer:
        await peer.say("POST / HTTP/1.1\nHost: test\nTransfer-Encoding: chunked\n\nnonsense\n")
        assert (await peer.answer()).status == 400


FRAGMENTS = [
    b"GET / HTTP/1.1\r\n",
    b"POST /a?lang=%ff HTTP/1.1\r\n",
    b"OPTIONS http://[x HTTP/1.0\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n",
    b"Host: a\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Upgrade: h2c\r\nConnection: upgrade\r\n",
    b"Expect: 100-continue\r\n",
    b"Accept-Language: \xff\r\n",
    b"\r\n",
    b"abc",
    b"3\r\nabc\r\n",
    b"0\r\n\r\n",
]


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=8), max_size=14))
async def test_nothing_a_peer_sends_gets_through_the_bridge(fragments) -> None:
    theirs, ours = memory_stream_pair()
    await theirs.send_all(b"".join(fragments) or b"x")
    await theirs.send_eof()

    await serve_http(echo, ours, HttpInfo(body_limit_bytes=5))
    await ours.aclose()

    answer = await theirs.receive_some()
    assert not answer or answer.startswith(b"HTTP/1.1 ")
    assert b" 500 " not in answer


# ---- failures of the application


async def test_a_failing_application_gives_a_500_and_a_log_without_the_query(connected) -> None:
    async def app(scope, receive, send):
        raise ZeroDivisionError

    with structlog.testing.capture_logs() as logs:
        async with connected(app) as peer:
            answer = await peer.ask("GET", "/path?token=secret&lang=en")

    assert answer.status == 500
    assert answer.json == {"code": "INTERNAL", "message": "Something went wrong on the server"}
    assert [(entry["event"], entry["path"]) for entry in logs] == [("http request failed", "/path")]
    assert "secret" not in repr(logs)


async def test_a_failure_between_head_and_body_is_still_a_500(connected) -> None:
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    async with connected(app) as peer:
        answer = await peer.ask("HEAD", "/")
        assert (answer.status, answer.body) == (500, b"")


async def test_a_failure_in_the_body_cuts_the_answer(connected) -> None:
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        raise ZeroDivisionError

    async with connected(app) as peer:
        await peer.say("GET / HTTP/1.1\nHost: test\n\n")
        answer = await peer.everything()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert not answer.endswith(b"0\r\n\r\n")


async def test_an_application_that_answers_nothing_gives_a_500(connected) -> None:
    async def app(scope, receive, send):
        await send({"type": "http.response.trailers"})

    with structlog.testing.capture_logs() as logs:
        async with connected(app) as peer:
            assert (await peer.ask("GET", "/")).status == 500

    assert [entry["event"] for entry in logs] == ["http response incomplete"]


async def test_an_application_that_breaks_the_order_costs_its_connection(connected) -> None:
    async def app(scope, receive, send):
        await send({"type": "http.response.body", "body": b"no head"})

    async with connected(app) as peer:
        await peer.say("GET / HTTP/1.1\nHost: test\n\n")
        assert await peer.everything() == b""


async def test_a_header_with_a_newline_never_leaves(connected) -> None:
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"a\r\nSet-Cookie: b")]})

    async with connected(app) as peer:
        assert (await peer.ask("GET", "/")).status == 500


async def test_a_failure_after_the_answer_costs_nothing(connected) -> None:
    async def app(scope, receive, send):
        await hello(scope, receive, send)
        raise ZeroDivisionError

    async with connected(app) as peer:
        assert (await peer.ask("GET", "/")).body == b"hello"
        assert (await peer.ask("GET", "/")).body == b"hello"


async def test_cancelling_the_connection_cancels_the_application(autojump_clock) -> None:
    theirs, ours = memory_stream_pair()
    await theirs.send_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    cancelled = []

    async def app(scope, receive, send):
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(trio.current_time())

    with trio.move_on_after(5):
        await serve_http(app, ours, HttpInfo())

    assert cancelled == [5.0]


async def test_every_answer_carries_its_date(connected) -> None:
    async with connected(hello) as peer:
        assert (await peer.ask("GET", "/")).headers["date"].endswith("GMT")
