import httpx
import pytest
import trio

from scm_trio.jwks import MAX_BODY_BYTES, FetchFailed, fetch_jwks


async def serve(answer, test, *, timeout_s=5.0):
    """Answer one request on loopback with these bytes, None: never, and return its head with the test's result."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    heads = []

    async def one():
        async with listener, await listener.accept() as stream:
            head = b""
            while b"\r\n\r\n" not in head:
                data = await stream.receive_some()
                if not data:
                    return  # on a busy machine the client may give up before it has asked
                head += data
            heads.append(head)
            if answer is None:
                await stream.receive_some()
                return
            try:
                await stream.send_all(answer)
            except trio.BrokenResourceError:
                return  # too large an answer is not read to its end

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one)
        try:
            result = await test(f"http://127.0.0.1:{port}/keys?tenant=1", timeout_s=timeout_s)
        except FetchFailed as exc:
            result = exc
        nursery.cancel_scope.cancel()
    return result, heads[0] if heads else b""


def response(body=b"", status="200 OK", headers=()):
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(head).encode() + body


async def test_a_key_set_is_fetched_without_compression():
    body, head = await serve(response(b'{"keys": []}'), fetch_jwks)
    assert body == b'{"keys": []}'
    assert head.startswith(b"GET /keys?tenant=1 HTTP/1.1\r\n")
    assert b"accept-encoding: identity" in head.lower()


async def test_a_body_of_just_the_limit_is_taken():
    body, _ = await serve(response(b"x" * MAX_BODY_BYTES), fetch_jwks)
    assert len(body) == MAX_BODY_BYTES


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (response(b"x" * (MAX_BODY_BYTES + 1)), "too large"),
        (response(b"x" * (8 * MAX_BODY_BYTES)), "too large"),
        (response(status="500 No"), "status 500"),
        (response(status="302 Found", headers=["Location: /other"]), "status 302"),
        (b"nonsense\r\n\r\n", "RemoteProtocolError"),
        (b"", "RemoteProtocolError"),
        (response(b"cut")[:-1], "RemoteProtocolError"),
    ],
)
async def test_any_other_answer_is_a_failed_fetch(answer, reason):
    failure, _ = await serve(answer, fetch_jwks)
    assert isinstance(failure, FetchFailed)
    assert str(failure) == reason


async def test_an_answer_that_never_comes_is_a_failed_fetch():
    failure, _ = await serve(None, fetch_jwks, timeout_s=0.05)
    assert str(failure) in ("too slow", "ReadTimeout")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/keys",
        "ftp://localhost/keys",
        "https://",
        "keys",
        "",
        "http://[::1/keys",
        "http://localhost.evil/",
    ],
)
async def test_keys_are_not_fetched_over_an_open_line(url):
    with pytest.raises(FetchFailed, match="expected https, or http on loopback"):
        await fetch_jwks(url)


async def test_proxies_of_the_environment_are_not_used(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    body, _ = await serve(response(b"{}"), fetch_jwks)
    assert body == b"{}"


async def test_a_url_that_is_none_is_a_failed_fetch_without_its_text():
    url = "https://user:secret@exa mple.com\x00/"
    with pytest.raises(FetchFailed) as caught:
        await fetch_jwks(url)
    assert str(caught.value) == httpx.InvalidURL.__name__
