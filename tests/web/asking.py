"""One plain HTTP request to a whole server."""

import trio

from scm_trio.testing import Server

from .conftest import Answer
from .contract import Contract


def request(server: Server, target: str, user: str | None, method: str = "GET") -> bytes:
    """The bytes of a request with this user's token; None: without one."""
    token = [] if user is None else [f"Authorization: Bearer {server.token(user)}"]
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: x", *token, "Connection: close", "", ""]).encode()


async def ask(server: Server, target: str, user: str | None = "user001", method: str = "GET") -> Answer:
    """The whole answer, held against the document; the server is done with the connection then."""
    stream = server.dial()
    await stream.send_all(request(server, target, user, method))
    data = b""
    with trio.fail_after(3600):
        while more := await stream.receive_some():
            data += more
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    answer = Answer(int(first.split()[1]), headers, body)
    Contract(server.house.listener.app.state.openapi()).check(method, target, answer)
    return answer
