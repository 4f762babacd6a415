"""The stream under one WebSocket: inbound bytes are metered, outbound frames leave one at a time.

trio-websocket does the handshake, reads messages and answers pings and closes over this stream. Data frames are built
here: one unfragmented, unmasked text frame without extensions (RFC 6455, section 5.2).

A task that is cancelled in the middle of a send tears its frame, and the next one lands inside its payload. So the
sending side has one owner, the writer task; everybody else hands it a whole frame without awaiting in between.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

import trio

from scm_trio.errors import CloseCode, Disconnect
from scm_trio.gateway.meter import FrameMeter

RECEIVE_BYTES = 65_536
_CLOSE, _PONG = b"\x88", b"\x8a"
_VIOLATIONS = (1002, CloseCode.NOT_UTF8)
_LAST_WORD_S = 1.0


def text_frame(payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return b"\x81" + bytes((size,)) + payload
    if size < 65_536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


class Wire(trio.abc.Stream):
    """See the module.

    Args:
        stream: the TCP or TLS stream.
        head: bytes of the handshake that have been read already; they are read again from here.
        meter: judges what comes after the head.
        write_timeout_s: how long one frame may take before the peer counts as too slow.

    Attributes:
        on_frame: called when the peer has sent at least one frame.
        on_end: called at most once, with the reason why this wire cannot go on.
        verdict: the close code with which trio-websocket has judged the peer, None as long as it has not.
    """

    def __init__(self, stream: trio.abc.Stream, head: bytes, meter: FrameMeter, write_timeout_s: float) -> None:
        self.on_frame: Callable[[], None] = _nothing
        self.on_end: Callable[[Disconnect | None], None] = _ignore
        self.verdict: Callable[[], int | None] = _nothing
        self._stream = stream
        self._head = head
        self._meter = meter
        self._write_timeout_s = write_timeout_s
        self._fd = stream.socket.fileno() if isinstance(stream, trio.SocketStream) else None
        self._sending = False
        self._turns = trio.lowlevel.ParkingLot()
        self._pending = self._pong = b""
        self._wake = trio.Event()
        self._broken = False
        self._closing = False
        self._rebuked: trio.Event | None = None

    # ---- inbound

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._head:
            head, self._head = self._head, b""
            return head
        data = bytes(await self._stream.receive_some(max_bytes or RECEIVE_BYTES))
        try:
            frames = self._meter.feed(data, trio.current_time())
        except Disconnect as exc:
            self.on_end(exc)
            await self._await_close()
            return b""
        if frames:
            self.on_frame()
        return data

    async def _await_close(self) -> None:
        """Throw away what a refused peer still sends, until it has closed.

        Closing the socket over unread bytes would make the kernel reset the connection, and the peer would never read
        why. The closing deadline of the connection bounds this.
        """
        data = b""  # what stands behind the refused frame comes first
        while True:
            self._meter.feed(data, trio.current_time())
            if self._meter.closing:
                return
            data = bytes(await self._stream.receive_some(RECEIVE_BYTES))
            if not data:
                return

    # ---- outbound

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """For trio-websocket: the handshake's answer and closes take their turn like every frame, and so do pongs.

        But its reader does not wait for a pong's turn, since there may be a cancel behind the ping. Of several that a peer
        has not taken the newest is enough (RFC 6455, section 5.5.3).
        """
        if self._sending and data[:1] == _PONG:
            self._pong = bytes(data)
            await trio.lowlevel.checkpoint()
        else:
            await self.send(lambda: self._last(bytes(data)))

    def _last(self, data: bytes) -> bytes:
        # Nothing may follow a Close (RFC 6455, section 5.5.1).
        self._closing = data[:1] == _CLOSE
        return data

    async def send(self, make: Callable[[], bytes | None]) -> None:
        """Send one whole frame, or nothing at all.

        Args:
            make: called when it is this frame's turn, so that it can hold the newest there is; None: nothing to send.

        Raises:
            trio.BrokenResourceError: the connection is over.
        """
        if self._sending:
            await self._turns.park()  # whose turn ends gives it on, so that nobody comes in between
        self._sending = True
        # From here to the hand-over nothing awaits, so no cancellation can tear the frame.
        rest = b""
        try:
            if self._broken or self._closing:
                raise trio.BrokenResourceError("the connection is over")
            rest = self._write_now(make() or b"")
        finally:
            if not rest:
                self._end_turn()
        if rest:
            self._pending = rest
            self._wake.set()

    def _end_turn(self) -> None:
        pong, self._pong = self._pong, b""
        if pong and not self._broken and not self._closing:
            self._pending = pong
            self._wake.set()
        elif not self._turns.unpark():
            self._sending = False

    def _write_now(self, data: bytes) -> bytes:
        """Write what the socket takes at once; returns the rest."""
        if self._fd is None or not data:
            return data
        try:
            return data[os.write(self._fd, data) :]
        except BlockingIOError:
            return data
        except OSError as exc:
            self._break(None)
            raise trio.BrokenResourceError("the peer is gone") from exc

    async def write_loop(self) -> None:
        """The writer task: sends what did not fit into the socket at once."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            try:
                # Shielded: half a frame would end the whole connection.
                with trio.move_on_after(self._write_timeout_s, shield=True) as limit:
                    await self._stream.send_all(self._pending)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._break(None)
            if limit.cancelled_caught:
                self._break(Disconnect(CloseCode.SLOW, "SLOW"))
            self._pending = b""
            self._end_turn()

    def _break(self, reason: Disconnect | None) -> None:
        if not self._broken:
            self._broken = True
            self.on_end(reason)

    @property
    def is_broken(self) -> bool:
        """Nothing can be sent any more, not even a farewell."""
        return self._broken

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close at once; a peer that broke the protocol is told so first, which trio-websocket leaves out."""
        code = self.verdict()
        try:
            if code in _VIOLATIONS and not self._broken:
                with trio.move_on_after(_LAST_WORD_S), suppress(trio.BrokenResourceError, Disconnect):
                    await self._rebuke(code)
        finally:
            self._broken = True
            self._fd = None
            await trio.aclose_forcefully(self._stream)

    async def _rebuke(self, code: int) -> None:
        """Send a Close and wait for the peer's. The library and the connection both come here; the second only waits."""
        if self._rebuked is not None:
            await self._rebuked.wait()
            return
        self._rebuked = trio.Event()
        try:
            await self.send(lambda: self._last(_CLOSE + b"\x02" + code.to_bytes(2, "big")))
            with suppress(trio.BrokenResourceError):
                await self.send(lambda: None)  # its turn comes when the Close has left
            await self._await_close()
        finally:
            self._rebuked.set()


def _nothing() -> None:
    """Before the connection listens."""


def _ignore(_: Disconnect | None) -> None:
    """Before the connection listens."""
