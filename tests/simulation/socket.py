"""The client's side of a WebSocket, as small as RFC 6455 allows: masks of zeros, no extensions."""

from __future__ import annotations

import trio

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
NO_CODE, LOST = 1005, 1006
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class Closed(Exception):
    """The connection is over; ``code`` is 1006 where nobody said why."""

    def __init__(self, code: int) -> None:
        super().__init__(str(code))
        self.code = code


class Refused(Exception):
    """The server did not let us in."""

    def __init__(self, status: int) -> None:
        super().__init__(str(status))
        self.status = status


def frame(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    size = len(payload)
    head = bytes([opcode | (0x80 if fin else 0)])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65_536:
        head += b"\xfe" + size.to_bytes(2, "big")
    else:
        head += b"\xff" + size.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload


class Socket:
    """A WebSocket over any stream. A cancelled ``send`` may have sent half a frame: the socket is of no use then."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._data = bytearray()
        self._sending = trio.Lock()

    async def open(self, target: str, token: str) -> None:
        """Shake hands.

        Raises:
            Refused: with the HTTP status.
            Closed: the connection broke.
        """
        lines = (
            f"GET {target} HTTP/1.1",
            "Host: chat",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {KEY}",
            f"Authorization: Bearer {token}",
            "",
            "",
        )
        await self._send("\r\n".join(lines).encode())
        if (status := await self.read_head()) != 101:
            raise Refused(status)

    async def read_head(self) -> int:
        """Read the HTTP answer to the handshake; returns its status. Raises ``Closed``."""
        while (end := self._data.find(b"\r\n\r\n")) < 0:
            await self._fill()
        status = int(self._data[9:12])
        del self._data[: end + 4]
        return status

    async def send(self, payload: bytes, opcode: int = TEXT) -> None:
        """Send one message; raises ``Closed``."""
        await self._send(frame(opcode, payload))

    async def send_raw(self, data: bytes) -> None:
        """Send bytes as they are; raises ``Closed``."""
        await self._send(data)

    async def receive(self) -> bytes:
        """Return the next text message; pings and closes are answered. Raises ``Closed``."""
        while True:
            opcode, payload = await self._frame()
            if opcode == TEXT:
                return payload
            if opcode == PING:
                await self._send(frame(PONG, payload))
            elif opcode == CLOSE:
                await self._send(frame(CLOSE, payload[:2]))
                raise Closed(int.from_bytes(payload[:2], "big") if payload else NO_CODE)

    async def _frame(self) -> tuple[int, bytes]:
        await self._fill_to(2)
        size, at = self._data[1], 2
        if size >= 126:
            at = 4 if size == 126 else 10
            await self._fill_to(at)
            size = int.from_bytes(self._data[2:at], "big")
        await self._fill_to(at + size)
        opcode, payload = self._data[0] & 0x0F, bytes(self._data[at : at + size])
        del self._data[: at + size]
        return opcode, payload

    async def _fill_to(self, size: int) -> None:
        while len(self._data) < size:
            await self._fill()

    async def _fill(self) -> None:
        try:
            more = await self._stream.receive_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise Closed(LOST) from None
        if not more:
            raise Closed(LOST)
        self._data += more

    async def _send(self, data: bytes) -> None:
        async with self._sending:
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise Closed(LOST) from None
