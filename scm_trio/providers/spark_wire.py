"""The byte stream under a vendor's WebSocket: it limits what may come, and lets no handshake wait for a peer that left."""

from __future__ import annotations

import trio

from scm_trio.providers.http1_response import MalformedResponse, ResponseParser
from scm_trio.providers.sse import MAX_EVENT_BYTES

MAX_HANDSHAKE_BYTES = 65_536
MAX_FRAME_BYTES = MAX_EVENT_BYTES
"""Between two messages; what they are framed and fragmented in counts too, and so do pings."""
_SWITCHING = b"HTTP/1.1 101 "


class HandshakeCut(Exception):
    """The peer ended the connection before the handshake was done, or sent too much.

    Attributes:
        status: of the HTTP response that had begun, None without any.
        body: what came of its body.
    """

    def __init__(self, received: bytes) -> None:
        super().__init__("the connection ended during the handshake")
        parser = ResponseParser()
        self.status: int | None = None
        self.body = b""
        try:
            self.body = parser.feed(received)
        except MalformedResponse:
            return
        if parser.head_complete:
            self.status = parser.status
        parser.close()


class Wire(trio.abc.Stream):
    """See the module.

    Attributes:
        exceeded: whether the peer has sent more than a frame may have; nothing is read any more then.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.exceeded = False
        self._open = False
        self._stream = stream
        self._handshake = b""
        self._unread_bytes = 0

    def message_taken(self) -> None:
        """Begin to count anew."""
        self._unread_bytes = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            data = bytes(await self._stream.receive_some(max_bytes))
        except trio.BrokenResourceError:
            if self._open:
                raise
            raise HandshakeCut(self._handshake) from None
        if self._open:
            self._count(len(data))
        else:
            self._read_handshake(data)
        return data

    def _count(self, fresh_bytes: int) -> None:
        self._unread_bytes += fresh_bytes
        if self._unread_bytes > MAX_FRAME_BYTES:
            self.exceeded = True
            raise trio.BrokenResourceError("a frame too large")

    def _read_handshake(self, data: bytes) -> None:
        self._handshake += data
        if self._handshake.startswith(_SWITCHING) and b"\r\n\r\n" in self._handshake:
            self._open = True
        elif not data or len(self._handshake) > MAX_HANDSHAKE_BYTES:
            raise HandshakeCut(self._handshake)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError:
            if self._open:
                raise
            # Who refuses may answer and close before it has read everything: that is yet to be read.

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close at once: whoever has read an answer to its end need not wait for farewells."""
        await trio.aclose_forcefully(self._stream)
