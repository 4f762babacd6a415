"""HTTP/1.1 for httpx on Trio: what the providers need of it, and little CPU per token.

All the payload of one network read comes out as one piece of bytes, where stock httpx would yield chunk by chunk and
spend two fifths of a token's time on it.
"""

from __future__ import annotations

import os

import httpx
import trio

from scm_trio.providers.connections import Dialer, IdleConnections, Origin
from scm_trio.providers.http1_response import MalformedResponse, ResponseParser

READ_BYTES = 65_536
_DEFAULT_PORTS = {"http": 80, "https": 443}


STALE_S = 1.0
"""A connection that died while it was idle fails at once; within this time a request on it is sent again."""


class Http1Transport(httpx.AsyncBaseTransport):
    """Sends requests over pooled HTTP/1.1 connections.

    Of httpx's timeouts only ``connect`` (TCP and TLS together) is kept here; the others would be per read, which says
    nothing about a stream. No proxies, no redirects, no HTTP/2, whose cancelled streams would go on upstream.
    """

    def __init__(self, dialer: Dialer | None = None, idle: IdleConnections | None = None) -> None:
        self._dialer = dialer or Dialer()
        self._idle = idle or IdleConnections()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send ``request``; return as soon as the head of its response is there.

        Leaving the response's stream before its end closes the connection, and so does a cancel anywhere here.

        Raises:
            httpx.TransportError: as httpx's own transport would; a connection that had been idle and turns out to be
                dead before the response begins is replaced once.
        """
        message = _serialize(request, await request.aread())
        origin = _origin(request.url)
        if (stream := await self._idle.take(origin)) is not None:
            exchange = _Exchange(stream, origin, self._idle)
            began = trio.current_time()
            try:
                return await exchange.perform(message)
            except (httpx.NetworkError, httpx.RemoteProtocolError):
                # Later than this the server had taken the request and may have worked on it: asking again may bill twice.
                if exchange.answered or trio.current_time() - began > STALE_S:
                    raise
        return await _Exchange(await self._dial(origin, request), origin, self._idle).perform(message)

    async def aclose(self) -> None:
        """Close the idle connections; those in use close with their responses."""
        await self._idle.aclose()

    async def _dial(self, origin: Origin, request: httpx.Request) -> trio.abc.Stream:
        timeout_s = request.extensions.get("timeout", {}).get("connect")
        try:
            with trio.fail_after(float("inf") if timeout_s is None else timeout_s):
                return await self._dialer.open(origin)
        except trio.TooSlowError as exc:
            raise httpx.ConnectTimeout(f"no connection within {timeout_s} s") from exc
        except (OSError, UnicodeError) as exc:  # the latter for a name that no DNS could hold
            raise httpx.ConnectError(str(exc)) from exc
        except trio.BrokenResourceError as exc:
            raise httpx.ConnectError(f"no TLS: {exc.__cause__}") from exc


class _Exchange(httpx.AsyncByteStream):
    """One request and its response on one connection; then the connection goes back, or is closed.

    A class with ``__anext__`` rather than an async generator, which would need closing of its own wherever a reader
    stops early.
    """

    def __init__(self, stream: trio.abc.Stream, origin: Origin, idle: IdleConnections) -> None:
        self._stream = stream
        self._origin = origin
        self._idle = idle
        self._parser = ResponseParser()
        self._first = b""
        self._closed = False
        self._fd = stream.socket.fileno() if isinstance(stream, trio.SocketStream) else None
        self._is_drained = True
        self.answered = False

    async def perform(self, message: bytes) -> httpx.Response:
        try:
            await self._send(message)
            while not self._parser.head_complete:
                self._first = await self._read()
        except BaseException:
            await self.aclose()
            raise
        return httpx.Response(self._parser.status, headers=self._parser.headers, stream=self)

    def __aiter__(self) -> _Exchange:
        return self

    async def __anext__(self) -> bytes:
        if payload := self._first:
            self._first = b""
            return payload
        while not self._parser.complete:
            if payload := await self._read():
                return payload
        raise StopAsyncIteration

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._parser.close()
        if self._parser.complete and self._parser.reusable:
            await self._idle.put(self._origin, self._stream)
        else:
            await trio.aclose_forcefully(self._stream)

    async def _send(self, message: bytes) -> None:
        try:
            await self._stream.send_all(message)
        except trio.BrokenResourceError as exc:
            # A server that refuses a request may answer and close before it has read it all: first look for that.
            try:
                self._first = await self._read()
            except httpx.TransportError:
                raise httpx.WriteError(str(exc.__cause__ or exc)) from exc

    async def _read(self) -> bytes:
        """Read once; the payload may be empty."""
        try:
            data = await (self._stream.receive_some(READ_BYTES) if self._fd is None else self._receive(self._fd))
        except trio.BrokenResourceError as exc:
            raise httpx.ReadError(str(exc.__cause__ or exc)) from exc
        except OSError as exc:
            raise httpx.ReadError(str(exc)) from exc
        try:
            if data:
                self.answered = True
                return self._parser.feed(bytes(data))
            self._parser.feed_eof()
        except MalformedResponse as exc:
            raise httpx.RemoteProtocolError(str(exc)) from exc
        return b""

    async def _receive(self, fd: int) -> bytes:
        """Do what ``receive_some`` of a plain socket does, for less.

        Trio's tries to read before it waits; for a token that is still on its way that costs a system call and an
        exception each time.
        """
        if self._is_drained:
            await trio.lowlevel.wait_readable(fd)
        else:
            await trio.lowlevel.checkpoint()
        while True:
            try:
                data = os.read(fd, READ_BYTES)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(fd)
            else:
                self._is_drained = len(data) < READ_BYTES
                return data


def _origin(url: httpx.URL) -> Origin:
    if url.scheme not in _DEFAULT_PORTS or not url.raw_host:
        raise httpx.UnsupportedProtocol("only http:// and https:// URLs")
    return Origin(url.raw_host.decode("ascii"), url.port or _DEFAULT_PORTS[url.scheme], url.scheme == "https")


def _serialize(request: httpx.Request, body: bytes) -> bytes:
    method, target = request.method.encode("ascii"), request.url.raw_path
    lines = [b"%b %b HTTP/1.1" % (method, target), *(b"%b: %b" % pair for pair in request.headers.raw), b"\r\n"]
    head = b"\r\n".join(lines)
    # An api key with a line break in it must not become a header of its own.
    if not head.count(b"\n") == head.count(b"\r") == len(lines):
        raise httpx.LocalProtocolError("a line break in a header")
    return head + body
