"""One port for everything: read a request's head, then hand the peer to the chat gateway or to plain HTTP."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus

import h11
import trio
from attrs import define, field, frozen
from starlette.types import ASGIApp, Receive, Scope, Send

from scm_trio.errors import InvalidMessage
from scm_trio.gateway.door import receive_visitor
from scm_trio.gateway.gate import Gate
from scm_trio.gateway.handshake import refusal
from scm_trio.web.http1 import HttpInfo, serve_http

CHAT_PATH = b"/scm/websocket/ai/chat"
MAX_HEAD_BYTES = 65_536
MAX_STRANGERS = 512
"""Sockets that are no chat connections: requests being read and plain HTTP. For more, the oldest is closed."""
RECEIVE_BYTES = 65_536


class _Unreadable(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Replay(trio.abc.Stream):
    """A stream whose first bytes have been read already; they are read again from here."""

    def __init__(self, stream: trio.abc.Stream, head: bytes) -> None:
        self._stream = stream
        self._head = head

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._head:
            size = len(self._head) if max_bytes is None else max_bytes
            head, self._head = self._head[:size], self._head[size:]
            await trio.lowlevel.checkpoint()
            return head
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


@frozen
class _Visitor:
    stream: trio.abc.Stream
    head: bytes
    request: h11.Request


@define(eq=False)
class _Stranger:
    """A socket that is no chat connection: its request is being read, or answered over plain HTTP.

    Attributes:
        patience: around everything that is done for it.
        is_served: a request of it is being answered.
    """

    patience: trio.CancelScope = field(factory=trio.CancelScope)
    is_served: bool = False


@define
class Listener:
    """Handles one accepted stream after the other; ``welcome`` is the handler.

    ``body_limits``: bytes of a request's body, for paths that take more than others.
    """

    gate: Gate
    app: ASGIApp
    tls: ssl.SSLContext | None = None
    body_limits: Mapping[str, int] = field(factory=dict)
    _strangers: dict[_Stranger, None] = field(factory=dict, init=False)
    _answered: trio.Event = field(factory=trio.Event, init=False)

    async def welcome(self, stream: trio.abc.Stream) -> None:
        """Serve a peer from its first byte to its last, and close the stream. Never raises over what a peer does."""
        try:
            visitor = await self._meet(stream)
            if visitor is not None:
                await receive_visitor(visitor.stream, visitor.head, visitor.request, self.gate)
        finally:
            await trio.aclose_forcefully(stream)

    async def finish(self) -> None:
        """Return when no HTTP request is being answered.

        Connections that are kept for a next request are not waited for. Until they are cut they may ask whether the
        server is ready, since nobody can connect any more.
        """
        while any(stranger.is_served for stranger in self._strangers):
            self._answered = trio.Event()
            await self._answered.wait()

    async def _meet(self, transport: trio.abc.Stream) -> _Visitor | None:
        """Find out what a stranger wants, and serve plain HTTP; returns who wants to chat."""
        while len(self._strangers) >= MAX_STRANGERS:
            # Whoever has been silent for longest makes room; or else silent sockets could keep everybody out.
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.patience.cancel()
            self.gate.metrics.connection_refused("STRANGERS")
        stranger = _Stranger()
        self._strangers[stranger] = None
        try:
            with stranger.patience:
                return await self._listen(transport, stranger)
        finally:
            self._strangers.pop(stranger, None)
            self._answered.set()
        return None

    async def _listen(self, transport: trio.abc.Stream, stranger: _Stranger) -> _Visitor | None:
        stream = transport
        try:
            with trio.move_on_after(self.gate.settings.session.handshake_timeout_s) as limit:
                stream = await self._secure(transport)
                request, head = await _read_head(stream)
            if limit.cancelled_caught:
                return None
            if request.target.partition(b"?")[0] == CHAT_PATH:
                return _Visitor(stream, head, request)
            app = partial(self._answer, stranger)
            await serve_http(app, Replay(stream, head), self._http_info(transport))
        except _Unreadable as exc:
            await _complain(stream, exc.status)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # Gone before it said anything, or a TLS handshake that failed.
            return None
        return None

    async def _answer(self, stranger: _Stranger, scope: Scope, receive: Receive, send: Send) -> None:
        stranger.is_served = True
        try:
            await self.app(scope, receive, send)
        finally:
            stranger.is_served = False
            self._answered.set()

    async def _secure(self, stream: trio.abc.Stream) -> trio.abc.Stream:
        if self.tls is None:
            return stream
        secured = trio.SSLStream(stream, self.tls, server_side=True, https_compatible=True)
        await secured.do_handshake()
        return secured

    def _http_info(self, transport: trio.abc.Stream) -> HttpInfo:
        client = None
        if isinstance(transport, trio.SocketStream):
            try:
                client = transport.socket.getpeername()[:2]
            except OSError:
                client = None
        return HttpInfo(
            client=client,
            scheme="https" if self.tls else "http",
            head_timeout_s=self.gate.settings.session.handshake_timeout_s,
            write_timeout_s=self.gate.settings.message.write_timeout_s,
            body_limits=self.body_limits,
            draining=lambda: self.gate.service.draining,
        )


async def _read_head(stream: trio.abc.Stream) -> tuple[h11.Request, bytes]:
    """Read up to the end of a request's head; returns it parsed, and all bytes that were read for it.

    Raises:
        _Unreadable: it is no HTTP, too long, or a chat request that does not wait for its answer.
        trio.BrokenResourceError: the peer left.
    """
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
    head = b""
    while True:
        data = bytes(await stream.receive_some(RECEIVE_BYTES))
        if not data:
            raise trio.BrokenResourceError("closed before a request")
        head += data
        try:
            parser.receive_data(data)
            event = parser.next_event()
        except h11.RemoteProtocolError as exc:
            raise _Unreadable(exc.error_status_hint) from None
        if isinstance(event, h11.Request):
            if parser.trailing_data[0] and event.target.startswith(CHAT_PATH):
                # Frames before our answer (RFC 6455, section 4.1) would get past the meter.
                raise _Unreadable(HTTPStatus.BAD_REQUEST)
            return event, head


async def _complain(stream: trio.abc.Stream, status: int) -> None:
    failure = InvalidMessage(notice="BAD_REQUEST")
    with trio.move_on_after(1):
        try:
            await stream.send_all(refusal(status, failure, "zh"))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
