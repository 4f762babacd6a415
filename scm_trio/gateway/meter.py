"""Counts a peer's WebSocket frames and bytes before the protocol library sees them. Pure.

The library's own limit counts characters, not bytes, and nothing limits empty fragments or pings; both are counted
here from the frame headers (RFC 6455, section 5.2), so that a hostile message is refused before it is buffered.
"""

from __future__ import annotations

from scm_trio.chat.limits import TokenBucket
from scm_trio.errors import CloseCode, Disconnect

FRAMES_PER_SECOND = 100
FRAME_BURST = 500
_CLOSE = 8


class FrameMeter:
    """One connection's inbound frames.

    Attributes:
        closing: the peer's Close frame has begun.
    """

    def __init__(self, max_message_bytes: int) -> None:
        self.closing = False
        self._max = max_message_bytes
        self._bucket = TokenBucket(FRAME_BURST, FRAMES_PER_SECOND)
        self._header = b""
        self._skip = 0
        self._message_bytes = 0

    def feed(self, data: bytes, now: float) -> int:
        """Account for the bytes of one read; returns how many frames began in them.

        Raises:
            Disconnect: a message passes the limit, or there are too many frames.
        """
        frames = 0
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        data = self._header + data if self._header else data
        at = 0
        while at < len(data):
            size = _header_size(data, at)
            if size is None or at + size > len(data):
                break
            frames += 1
            payload = self._frame(data, at)
            if not self._bucket.take(now):
                raise Disconnect(CloseCode.FLOOD, "FLOOD")
            self._skip = max(0, at + size + payload - len(data))
            at = min(len(data), at + size + payload)
        self._header = data[at:]
        return frames

    def _frame(self, data: bytes, at: int) -> int:
        """Note the frame at ``at``; returns its payload's length."""
        opcode = data[at] & 0x0F
        length = data[at + 1] & 0x7F
        if length == 126:
            length = int.from_bytes(data[at + 2 : at + 4], "big")
        elif length == 127:
            length = int.from_bytes(data[at + 2 : at + 10], "big")
        if opcode < _CLOSE:
            self._message_bytes += length
            if self._message_bytes > self._max:
                raise Disconnect(CloseCode.TOO_LARGE, "MESSAGE_TOO_LARGE")
            if data[at] & 0x80:
                self._message_bytes = 0
        elif opcode == _CLOSE:
            self.closing = True
        return length


def _header_size(data: bytes, at: int) -> int | None:
    """Bytes of the frame header that begins at ``at``; None when too little of it is there."""
    if at + 2 > len(data):
        return None
    second = data[at + 1]
    extended = {126: 2, 127: 8}.get(second & 0x7F, 0)
    return 2 + extended + (4 if second & 0x80 else 0)
