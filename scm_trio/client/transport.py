"""From a URL to a byte stream that is ready for the WebSocket handshake."""

from __future__ import annotations

import ssl
from typing import Self
from urllib.parse import parse_qsl, urlencode, urlsplit

import trio
from attrs import frozen

from scm_trio.client.failures import Unreachable

CHAT_PATH = "/scm/websocket/ai/chat"
_SECURE = {"ws": False, "http": False, "wss": True, "https": True}


@frozen
class Address:
    """Where a chat server is."""

    host: str
    port: int
    secure: bool
    resource: str
    """Path and query, as the handshake sends them."""

    @classmethod
    def parse(cls, url: str, **query: str | None) -> Self:
        """Read ``ws://host[:port][/path][?query]``; ``query`` values that are not None are added, or replace those there.

        Without a path it is the chat's own. ``http`` and ``https`` are taken for ``ws`` and ``wss``.

        Raises:
            ValueError: this is no such URL.
        """
        parts = urlsplit(url)
        if parts.scheme not in _SECURE or not parts.hostname:
            raise ValueError(f"not a WebSocket URL: {url!r} (expected ws://host:port or wss://host:port)")
        secure = _SECURE[parts.scheme]
        added = {name: value for name, value in query.items() if value is not None}
        pairs = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] not in added]
        pairs += added.items()
        path = parts.path if parts.path not in ("", "/") else CHAT_PATH
        return cls(
            parts.hostname,
            parts.port or (443 if secure else 80),
            secure,
            f"{path}?{urlencode(pairs)}" if pairs else path,
        )

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


def credentials(token: str | None) -> list[tuple[bytes, bytes]]:
    """The header that carries the token.

    Raises:
        ValueError: it cannot stand in a header.
    """
    if token is None:
        return []
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise ValueError("the token holds characters that cannot stand in a header")
    return [(b"Authorization", b"Bearer " + token.encode())]


async def connect(address: Address, ssl_context: ssl.SSLContext | None, timeout_s: float) -> trio.abc.Stream:
    """Open a TCP connection, with TLS where the address is secure.

    Raises:
        Unreachable: nobody there, TLS failed, or it took longer than ``timeout_s``.
    """
    where = address.host_header
    try:
        with trio.fail_after(timeout_s):
            stream = await trio.open_tcp_stream(address.host, address.port)
            return await _secured(stream, address.host, ssl_context) if address.secure else stream
    except trio.TooSlowError:
        raise Unreachable(f"{where} did not answer within {timeout_s:g} s") from None
    except trio.BrokenResourceError as exc:
        raise Unreachable(f"TLS with {where} failed: {exc.__cause__ or 'connection closed'}") from exc
    except OSError as exc:
        raise Unreachable(f"cannot connect to {where}: {exc}") from exc


async def _secured(
    stream: trio.SocketStream, host: str, ssl_context: ssl.SSLContext | None
) -> trio.SSLStream[trio.SocketStream]:
    context = ssl_context or ssl.create_default_context()
    secured = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
    try:
        await secured.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return secured


class ClosedEarly(Exception):
    """The other side ended the connection before it had answered the WebSocket handshake."""


class Metered(trio.abc.Stream):
    """A stream that counts inbound bytes and, until ``open`` is set, turns its own end into ``ClosedEarly``.

    Without that a handshake whose peer hangs up waits for ever.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.open = False
        self.received_bytes = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            data = bytes(await self._stream.receive_some(max_bytes))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            if self.open:
                raise
            raise ClosedEarly from None
        if not data and not self.open:
            raise ClosedEarly
        self.received_bytes += len(data)
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError:
            if self.open:
                raise
            raise ClosedEarly from None

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()
