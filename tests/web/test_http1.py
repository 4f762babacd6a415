"""The bridge between h11 and ASGI: framing and keep-alive."""

import pytest
import trio
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse


async def hello(scope, receive, send):
    await PlainTextResponse("hello")(scope, receive, send)


async def echo(scope, receive, send):
    body = await Request(scope, receive).body()
    await PlainTextResponse(body)(scope, receive, send)


# ---- requests


async def test_a_request_is_described_as_asgi_wants_it(connected) -> None:
    seen = {}

    async def app(scope, receive, send):
        seen.update(scope)
        await hello(scope, receive, send)

    async with connected(app, scheme="https") as peer:
        await peer.say("GET /caf%C3%A9/x?q=%20 HTTP/1.1\nHost: test\nX-Mixed-Case: Value\n\n")
        await peer.answer()

    assert seen["type"] == "http"
    assert seen["asgi"] == {"version": "3.0", "spec_version": "2.4"}
    assert (seen["method"], seen["http_version"], seen["scheme"]) == ("GET", "1.1", "https")
    assert (seen["path"], seen["raw_path"], seen["query_string"]) == ("/café/x", b"/caf%C3%A9/x", b"q=%20")
    assert (b"x-mixed-case", b"Value") in seen["headers"]
    assert seen["client"] == ("192.0.2.1", 4711)
    assert seen["server"] == ("test", 80)


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("http://test/a?b=c", "/a", b"b=c"),
        ("http://test", "/", b""),
        ("http://test?b=c", "/", b"b=c"),
        ("http://[::1", "/", b""),
        ("test:80", "/", b""),
        ("*", "*", b""),
    ],
)
async def test_other_forms_of_target_are_understood(connected, target, path, query) -> None:
    seen = {}

    async def app(scope, receive, send):
        seen.update(scope)
        await hello(scope, receive, send)

    async with connected(app) as peer:
        await peer.ask("OPTIONS", target)

    assert (seen["path"], seen["query_string"]) == (path, query)


async def test_requests_follow_each_other_on_one_connection(connected) -> None:
    async with connected(echo) as peer:
        assert (await peer.ask("POST", "/", b"one")).body == b"one"
        assert (await peer.ask("POST", "/", b"two")).body == b"two"


async def test_pipelined_requests_are_answered_in_order(connected) -> None:
    head = "POST / HTTP/1.1\nHost: test\nContent-Length: 1\n\n"
    async with connected(echo) as peer:
        await peer.say(head + "1" + head + "2" + head + "3")
        assert [(await peer.answer()).body for _ in range(3)] == [b"1", b"2", b"3"]


async def test_a_chunked_body_is_put_together(connected) -> None:
    async with connected(echo) as peer:
        await peer.say("POST / HTTP/1.1\nHost: test\nTransfer-Encoding: chunked\n\n5\nhello\n6\n world\n0\n\n")
        assert (await peer.answer()).body == b"hello world"


async def test_a_body_in_single_bytes_is_put_together(connected) -> None:
    async with connected(echo) as peer:
        for byte in b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc":
            await peer.say(bytes([byte]))
        assert (await peer.answer()).body == b"abc"


async def test_100_continue_is_sent_once_the_application_wants_the_body(connected) -> None:
    async with connected(echo) as peer:
        await peer.say("POST / HTTP/1.1\nHost: test\nContent-Length: 3\nExpect: 100-continue\n\n")
        assert (await peer.stream.receive_some()).startswith(b"HTTP/1.1 100 ")
        await peer.say("abc")
        assert (await peer.answer()).body == b"abc"


async def test_a_peer_whose_100_continue_never_came_gets_a_closed_connection(connected) -> None:
    async with connected(hello) as peer:
        await peer.say("POST / HTTP/1.1\nHost: test\nContent-Length: 3\nExpect: 100-continue\n\n")
        answer = await peer.answer()
        assert answer.headers["connection"] == "close"
        await peer.stream.send_eof()
        await peer.done.wait()


async def test_what_the_application_leaves_of_a_body_is_skipped(connected) -> None:
    async with connected(hello) as peer:
        assert (await peer.ask("POST", "/", b"x" * 200_000)).body == b"hello"
        assert (await peer.ask("GET", "/")).body == b"hello"


async def test_an_upgrade_nobody_takes_is_a_plain_request(connected) -> None:
    async with connected(hello) as peer:
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
        assert (await peer.ask("GET", "/", headers=upgrade)).status == 200
        assert (await peer.ask("GET", "/")).status == 200


# ---- responses


async def test_a_response_without_length_is_chunked(connected) -> None:
    async def app(scope, receive, send):
        async def parts():
            yield b"one "
            yield b"two"

        await StreamingResponse(parts())(scope, receive, send)

    async with connected(app) as peer:
        answer = await peer.ask("GET", "/")
        assert answer.headers["transfer-encoding"] == "chunked"
        assert answer.body == b"one two"
        assert (await peer.ask("GET", "/")).body == b"one two"


async def test_head_and_body_leave_in_one_piece(connected) -> None:
    async with connected(hello) as peer:
        await peer.say("GET / HTTP/1.1\nHost: test\n\n")
        assert (await peer.stream.receive_some()).endswith(b"hello")


async def test_head_requests_get_the_headers_alone(connected) -> None:
    async with connected(hello) as peer:
        answer = await peer.ask("HEAD", "/")
        assert (answer.headers["content-length"], answer.body) == ("5", b"")
        assert (await peer.ask("GET", "/")).body == b"hello"


async def test_http_1_0_gets_its_answer_and_the_end(connected) -> None:
    async with connected(hello) as peer:
        await peer.say("GET / HTTP/1.0\n\n")
        answer = await peer.everything()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\nhello")


async def test_connection_close_is_obeyed(connected) -> None:
    async with connected(hello) as peer:
        assert (await peer.ask("GET", "/", headers={"Connection": "close"})).headers["connection"] == "close"
        assert await peer.everything() == b""


async def test_the_last_answer_ends_the_connection_at_once(connected, autojump_clock) -> None:
    async with connected(hello) as peer:
        await peer.ask("POST", "/", b"unread", headers={"Connection": "close"})
        await peer.done.wait()
        assert trio.current_time() == 0.0


async def test_while_draining_every_answer_is_the_last(connected) -> None:
    draining = False
    async with connected(hello, draining=lambda: draining) as peer:
        assert "connection" not in (await peer.ask("GET", "/")).headers
        draining = True
        assert (await peer.ask("GET", "/")).headers["connection"] == "close"
        assert await peer.everything() == b""
