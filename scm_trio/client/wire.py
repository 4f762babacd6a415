"""One WebSocket that speaks typed messages: no routing, no heartbeat, nothing by itself.

``chat.py`` builds the comfortable client on it; test harnesses that must see every frame use it directly.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TypedDict, Unpack

import orjson
import trio
from attrs import frozen
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, wrap_client_stream
from wsproto.utilities import LocalProtocolError

from scm_trio import errors
from scm_trio.client.background import background
from scm_trio.client.failures import ABNORMAL, ConnectionLost, HandshakeRefused, Unreachable, lost_by_close
from scm_trio.client.pending import Word
from scm_trio.client.transport import Address, ClosedEarly, Metered, connect, credentials
from scm_trio.protocol import codec, messages

log = logging.getLogger(__name__)

CONNECT_S = 10.0
"""Seconds for TCP and TLS, and again for the handshake, unless the user says otherwise."""
GOODBYE_S = 2.0
"""Seconds for DISCONNECT and its answer when a connection is left."""


class OpenOptions(TypedDict, total=False):
    """How a connection is opened.

    session_id, user_id and lang (``zh`` or ``en``) go into the URL. Seconds: ``connect_timeout_s`` for TCP with TLS,
    and again for handshake and CONNECT; ``write_timeout_s`` for one frame. Larger messages than ``max_message_chars``
    are refused.
    """

    session_id: str | None
    user_id: str | None
    lang: str | None
    connect_timeout_s: float
    write_timeout_s: float
    max_message_chars: int


@frozen
class _Settings:
    session_id: str | None = None
    user_id: str | None = None
    lang: str | None = None
    connect_timeout_s: float = CONNECT_S
    write_timeout_s: float = 10.0
    max_message_chars: int = 16 * 1024 * 1024

    def address(self, url: str) -> Address:
        return Address.parse(url, userId=self.user_id, sessionId=self.session_id, lang=self.lang)


class Wire:
    """An open connection; made by ``open_wire``.

    Attributes:
        connection: the server's CONNECT.
        lost: why the connection is over; None while it is open.
    """

    connection: messages.Connect

    def __init__(self, stream: Metered, settings: _Settings) -> None:
        self._stream = stream
        self._settings = settings
        self._socket: WebSocketConnection
        self._turn = trio.Lock()
        self._farewell: messages.Disconnect | None = None
        self.lost: ConnectionLost | None = None

    @property
    def received_bytes(self) -> int:
        """Bytes that came in so far, handshake and framing included, before TLS."""
        return self._stream.received_bytes

    async def send(
        self, kind: str, data: object, *, request_id: str | None = None, limit_s: float | None = None
    ) -> None:
        """Send one message; see ``say``.

        Raises:
            ConnectionLost: there is no connection any more.
        """
        await self.say(lambda: (Word(kind, data, request_id),), limit_s=limit_s)

    async def say(self, words: Callable[[], Iterable[Word]], *, limit_s: float | None = None) -> None:
        """Send messages; ``words`` is called when it is their turn.

        A cancelled caller either has not called it or has sent all of them: waiting for one's turn can be cancelled,
        a frame cannot, and one that is not taken within ``limit_s`` ends the connection.

        Raises:
            ConnectionLost: there is no connection any more.
        """
        async with self._turn:
            if self.lost is not None:
                raise self.lost
            for word in words():
                await self._send(word, self._settings.write_timeout_s if limit_s is None else limit_s)

    async def _send(self, word: Word, limit_s: float) -> None:
        at = codec.timestamp(time.time())
        text = codec.encode(word.kind, word.data, at=at, request_id=word.request_id).decode()
        # Shielded: half a frame would end the whole connection.
        with trio.move_on_after(limit_s, shield=True) as scope:
            try:
                await self._socket.send_message(text)
            except (ConnectionClosed, LocalProtocolError):
                raise self._closed() from None
        if scope.cancelled_caught:
            await self.abort("the server takes no data")
            raise self._closed()

    async def receive(self) -> codec.Received:
        """The next message, in order. Messages that nobody can read are left out.

        Raises:
            ConnectionLost: there is no connection any more.
        """
        while True:
            try:
                text = await self._socket.get_message()
            except ConnectionClosed:
                raise self._closed(heard_all=True) from None
            try:
                message = codec.decode_server(text)
            except errors.RequestFailed as exc:
                # A newer server may say things this client does not know; a frame of an answer that is
                # missing shows up as a gap.
                log.warning("unreadable message left out: %s %s", exc.code, exc.field or "")
                continue
            if isinstance(message.data, messages.Disconnect):
                self._farewell = message.data
            return message

    async def abort(self, reason: str = "aborted by this client") -> None:
        """Close the TCP connection at once, without a goodbye."""
        if self.lost is None:
            self.lost = ConnectionLost(None, reason, reconnect=True)
        await trio.aclose_forcefully(self._stream)

    async def goodbye(self) -> None:
        """Send DISCONNECT and wait until the server has closed; at most ``GOODBYE_S`` seconds."""
        with trio.move_on_after(GOODBYE_S, shield=True), suppress(ConnectionLost):
            await self.send("DISCONNECT", messages.ClientDisconnect(), limit_s=GOODBYE_S)
            while True:
                await self.receive()

    def _closed(self, *, heard_all: bool = False) -> ConnectionLost:
        # Whoever sends may meet the end before the server's farewell has been read.
        if self.lost is None or (heard_all and self._farewell is not None and self.lost.code is None):
            reason = self._socket.closed
            code, text = (reason.code, reason.reason) if reason else (ABNORMAL, None)
            self.lost = lost_by_close(code, text, self._farewell)
        return self.lost

    async def run(
        self, address: Address, headers: list[tuple[bytes, bytes]], task_status: trio.TaskStatus[None]
    ) -> None:
        """Shake hands, report readiness, then move bytes until the connection ends."""
        try:
            async with trio.open_nursery() as nursery:
                self._socket = await wrap_client_stream(
                    nursery,
                    self._stream,  # type: ignore[arg-type]  # any stream will do; the annotation is too narrow
                    address.host_header,
                    address.resource,
                    extra_headers=headers,
                    max_message_size=self._settings.max_message_chars,
                )
                self._stream.open = True
                task_status.started()
        except BaseExceptionGroup as group:
            expected, rest = group.split((ConnectionRejected, ConnectionClosed, ClosedEarly, LocalProtocolError))
            if expected is None or rest is not None:
                raise
            failure = expected.exceptions[0]
            if isinstance(failure, ConnectionRejected):
                raise _refused(failure) from None
            if isinstance(failure, ClosedEarly):
                raise Unreachable(f"{address.host_header} closed the connection during the handshake") from None
            # A ping that crossed the Close, or nonsense before the end: nothing is lost but the goodbye.
            log.debug("websocket closed abruptly")


@asynccontextmanager
async def open_wire(
    url: str, token: str | None, *, ssl_context: ssl.SSLContext | None = None, **options: Unpack[OpenOptions]
) -> AsyncIterator[Wire]:
    """Connect, shake hands, wait for CONNECT; on leaving send DISCONNECT and close, within two seconds.

    Raises:
        ValueError: no WebSocket URL, or a token that cannot stand in a header.
        Unreachable: no connection came about.
        HandshakeRefused: the server answered with an HTTP error.
        ConnectionLost: the server closed before it said CONNECT.
    """
    settings = _Settings(**options)
    stream = await connect(settings.address(url), ssl_context, settings.connect_timeout_s)
    async with open_wire_over(stream, url, token, **options) as wire:
        yield wire


@asynccontextmanager
async def open_wire_over(
    stream: trio.abc.Stream, url: str, token: str | None, **options: Unpack[OpenOptions]
) -> AsyncIterator[Wire]:
    """``open_wire`` over a stream that is connected already, and is closed at the end; ``url`` names the resource."""
    settings = _Settings(**options)
    wire = Wire(Metered(stream), settings)
    try:
        address, headers = settings.address(url), credentials(token)
        async with background() as crew:
            try:
                with trio.fail_after(settings.connect_timeout_s):
                    await crew.start(partial(wire.run, address, headers))
                    wire.connection = await _first_word(wire)
            except trio.TooSlowError:
                limit = f"{settings.connect_timeout_s:g} s"
                raise Unreachable(f"{address.host_header} did not shake hands within {limit}") from None
            try:
                yield wire
            finally:
                if wire.lost is None:
                    await wire.goodbye()
    finally:
        await trio.aclose_forcefully(stream)


async def _first_word(wire: Wire) -> messages.Connect:
    while True:
        message = await wire.receive()
        if isinstance(message.data, messages.Connect):
            return message.data


def _refused(rejection: ConnectionRejected) -> HandshakeRefused:
    body = (rejection.body or b"").decode(errors="replace")
    code, message = "", body[:200].strip()
    with suppress(orjson.JSONDecodeError, TypeError, KeyError):
        content = orjson.loads(body)
        code, message = str(content["code"]), str(content["message"])
    headers = {bytes(name).lower(): bytes(value) for name, value in rejection.headers}
    retry_after_s = _retry_after_s(headers.get(b"retry-after", b"").decode(errors="replace"))
    return HandshakeRefused(rejection.status_code, code, message, retry_after_s=retry_after_s)


def _retry_after_s(text: str) -> float | None:
    """The seconds of a ``Retry-After``, which holds a number or a date."""
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
