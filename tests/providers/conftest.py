"""Hand-written HTTP servers: in memory, for exact reads and virtual time, and on loopback sockets."""

from __future__ import annotations

import re
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from attrs import define, field

from scm_trio.providers.connections import Dialer


@define
class Peer:
    """The server's end of one connection."""

    stream: trio.abc.Stream
    _rest: bytes = field(default=b"", init=False)

    async def request(self) -> bytes:
        """Read one request, head and body; empty when the client has closed."""
        data = self._rest
        while b"\r\n\r\n" not in data:
            more = await self.stream.receive_some()
            if not more:
                return b""
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        told = re.search(rb"(?i)content-length: (\d+)", head)
        length = int(told[1]) if told else 0
        while len(body) < length:
            body += await self.stream.receive_some()
        self._rest = body[length:]
        return head + b"\r\n\r\n" + body[:length]

    async def send(self, *pieces: bytes) -> None:
        """Send pieces so that each is a read of its own, as far as the stream allows."""
        for piece in pieces:
            await self.stream.send_all(piece)
            await trio.testing.wait_all_tasks_blocked()

    async def respond(self, body: bytes, content_type: str = "text/event-stream", status: str = "200 OK") -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        await self.stream.send_all(head.encode() + body)


Handler = Callable[[Peer], Awaitable[None]]


async def _serve(handler: Handler, stream: trio.abc.Stream) -> None:
    async with stream:
        with suppress(trio.BrokenResourceError):
            await handler(Peer(stream))


def answering(*answers: bytes | tuple[bytes, ...], seen: list[bytes] | None = None) -> Handler:
    """A server that answers each request with the next of ``answers``, noting it in ``seen``, and then closes."""
    waiting = list(answers)

    async def handler(peer: Peer) -> None:
        while waiting and (request := await peer.request()):
            if seen is not None:
                seen.append(request)
            answer = waiting.pop(0)
            await peer.send(*([answer] if isinstance(answer, bytes) else answer))

    return handler


@define
class MemoryNet:
    """Connections without a network; every one that is opened is served by ``handler``."""

    nursery: trio.Nursery
    handler: Handler | None = None
    opened: list[tuple[str, int]] = field(factory=list)
    client_ends: list[trio.StapledStream] = field(factory=list)

    async def open_stream(self, host: str, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        client, server = trio.testing.memory_stream_pair()
        self.opened.append((host, port))
        self.client_ends.append(client)
        self.nursery.start_soon(_serve, self.handler, server)
        return client

    def dialer(self, handler: Handler) -> Dialer:
        self.handler = handler
        return Dialer(open_stream=self.open_stream)


@pytest.fixture
def memory_net(nursery: trio.Nursery) -> MemoryNet:
    return MemoryNet(nursery)


@pytest.fixture
def listen(nursery: trio.Nursery) -> Callable[..., Awaitable[int]]:
    """Start a loopback server: ``port = await listen(handler, ssl_context)``."""

    async def start(handler: Handler, ssl_context: ssl.SSLContext | None = None) -> int:
        async def serve(stream: trio.SocketStream) -> None:
            if ssl_context is None:
                await _serve(handler, stream)
            else:
                tls = trio.SSLStream(stream, ssl_context, server_side=True, https_compatible=True)
                await _serve(handler, tls)

        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        return listeners[0].socket.getsockname()[1]

    return start


@pytest.fixture(scope="session")
def samples() -> Path:
    return Path(__file__).parent / "samples"
