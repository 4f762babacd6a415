"""One HTTP/1.1 connection as events: h11 on a Trio stream, with a deadline on every wait."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

import h11
import trio
from attrs import field, frozen

_READ_BYTES = 65_536
_WRITE_BYTES = 65_536
_LINGER_S = 2.0
MAX_HEAD_BYTES = 65_536

BodyEvent = h11.Data | h11.EndOfMessage


@frozen
class HttpInfo:
    """What the listener knows about a connection, and how patient to be with it.

    ``client`` and ``server`` are (host, port). ``head_timeout_s`` runs from the first byte of a request to the end of
    its head, ``keep_alive_timeout_s`` from an answer to the next request, ``body_timeout_s`` over a whole request body,
    and a second more for every ``body_bytes_per_s`` that have come; ``write_timeout_s`` over each piece of 64 KiB that is
    sent. A body has ``body_limit_bytes`` at most, or what ``body_limits`` says of its path. While ``draining()`` is true,
    every answer is the last one of its connection.
    """

    client: tuple[str, int] | None = None
    server: tuple[str, int] | None = None
    scheme: str = "http"
    head_timeout_s: float = 10.0
    keep_alive_timeout_s: float = 15.0
    body_timeout_s: float = 60.0
    body_bytes_per_s: int = 16_384
    write_timeout_s: float = 10.0
    body_limit_bytes: int = 1_048_576
    body_limits: Mapping[str, int] = field(factory=dict)
    draining: Callable[[], bool] = lambda: False


class PeerGone(OSError):
    """The peer closed the connection or stopped reading. An OSError, since ASGI wants one from ``send``."""


class Malformed(Exception):
    """The peer does not speak HTTP; ``status`` is the answer that it gets."""

    def __init__(self, status: int) -> None:
        super().__init__(f"malformed request: {status}")
        self.status = status


class Wire:
    """Requests in, responses out. It never closes the stream: whoever opened it does."""

    def __init__(self, stream: trio.abc.Stream, info: HttpInfo) -> None:
        self._stream = stream
        self._info = info
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._ended = False
        self.broken = False
        """Whether writing is no longer possible."""

    @property
    def wants_continue(self) -> bool:
        """Whether the peer waits for ``100 Continue`` before it sends its body."""
        return self._http.they_are_waiting_for_100_continue

    @property
    def can_answer(self) -> bool:
        """Whether a whole response may still be sent to the last request."""
        return not self.broken and self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE)

    @property
    def keeps_alive(self) -> bool:
        """Whether the response is complete and did not end the connection."""
        return not self.broken and self._http.our_state is h11.DONE

    @property
    def body_pending(self) -> bool:
        """Whether the peer has not sent the end of its request yet."""
        return self._http.their_state is h11.SEND_BODY

    async def head(self, patience_s: float) -> h11.Request | None:
        """Wait for the next request; None when the peer left or said nothing whole in time.

        Args:
            patience_s: how long to wait for the request's first byte.

        Raises:
            Malformed: what came is no HTTP request, or its head is too long.
        """
        # A pipelined request is here already: only the rest of its head is waited for.
        patience_s = self._info.head_timeout_s if self._http.trailing_data[0] else patience_s
        begun = False
        with trio.move_on_after(patience_s) as silence:
            while (event := self._next_event()) is h11.NEED_DATA:
                await self._read()
                if not begun:
                    begun, silence.deadline = True, trio.current_time() + self._info.head_timeout_s
            return event if isinstance(event, h11.Request) else None
        return None

    async def body(self) -> BodyEvent:
        """Return the next part of the request's body.

        Raises:
            Malformed: the body's framing is broken.
            PeerGone: the peer left before the end of its body.
        """
        while (event := self._next_event()) is h11.NEED_DATA:
            await self._read()
        if isinstance(event, h11.Data | h11.EndOfMessage):
            return event
        self.broken = True
        raise PeerGone

    async def wait_for_end(self) -> None:
        """Wait until the peer closes its side. What it pipelines meanwhile is kept for its next request."""
        while not self._ended:
            if len(self._http.trailing_data[0]) > MAX_HEAD_BYTES:
                # Enough is buffered for a peer that does not wait for its answers; TCP holds back the rest.
                await trio.sleep_forever()
            await self._read()

    async def send(self, *events: h11.Event) -> None:
        """Send events in one go.

        Raises:
            PeerGone: the peer left, or took a piece of 64 KiB for longer than the write timeout.
            h11.LocalProtocolError: the events are out of order, or contradict the response's headers.
        """
        data = memoryview(b"".join(self._http.send(event) or b"" for event in events))
        for start in range(0, len(data), _WRITE_BYTES):
            try:
                with trio.fail_after(self._info.write_timeout_s):
                    await self._stream.send_all(data[start : start + _WRITE_BYTES])
            except (trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                self.broken = True
                raise PeerGone from exc

    def next_request(self) -> bool:
        """Make ready for another request on the connection; False when there can be none."""
        if not self.keeps_alive or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def linger(self) -> None:
        """Let a peer that is still sending read its answer: closing at once would reset the connection under it."""
        with suppress(Malformed):
            while self.body_pending and isinstance(self._next_event(), h11.Data):
                pass  # it is here already, only not looked at
        if self.broken or self._ended or self._http.their_state not in (h11.SEND_BODY, h11.ERROR):
            return
        with trio.move_on_after(_LINGER_S), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            if isinstance(self._stream, trio.abc.HalfCloseableStream):
                await self._stream.send_eof()
            while await self._stream.receive_some(_READ_BYTES):
                pass

    def _next_event(self) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        try:
            return self._http.next_event()
        except h11.RemoteProtocolError as exc:
            if self._ended:
                return h11.ConnectionClosed()
            raise Malformed(exc.error_status_hint) from exc

    async def _read(self) -> None:
        try:
            data = bytes(await self._stream.receive_some(_READ_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.broken = True
            data = b""
        self._ended = not data
        self._http.receive_data(data)
