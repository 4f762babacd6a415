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
        self._refused = False
        self._max = max_message_bytes
        self._bucket = TokenBucket(FRAME_BURST, FRAMES_PER_SECOND)
        self._header = b""
        self._skip = 0
        self._message_bytes = 0

    def feed(self, data: bytes, now: float) -> int:
        """Account for the bytes of one read; returns how many frames began in them.

        Raises:
            Disconnect: a message passes the limit, or there are too many frames. ``feed(b"")`` goes on behind that frame.
        """
        frames = 0
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        data = self._header + data if self._header else data
        at = 0
        try:
            while at < len(data):
                size = _header_size(data, at)
                if size is None or at + size > len(data):
                    break
                frames += 1
                end = at + size + _payload_size(data, at)
                first, length, at = data[at], end - at - size, min(end, len(data))
                self._skip = end - at
                self._judge(first, length, now)
        finally:
            self._header = data[at:]
        return frames

    def _judge(self, first: int, length: int, now: float) -> None:
        """Note a frame by its first byte and its payload's length."""
        opcode = first & 0x0F
        if opcode == _CLOSE:
            self.closing = True
        elif self._refused:
            return  # nothing is judged twice; only the peer's Close is still of interest
        elif opcode < _CLOSE:
            size = self._message_bytes + length
            self._message_bytes = 0 if first & 0x80 else size
            if size > self._max:
                self._refused = True
                raise Disconnect(CloseCode.TOO_LARGE, "MESSAGE_TOO_LARGE")
        if not self._refused and not self._bucket.take(now):
            self._refused = True
            raise Disconnect(CloseCode.FLOOD, "FLOOD")


def _payload_size(data: bytes, at: int) -> int:
    length = data[at + 1] & 0x7F
    if length == 126:
        return int.from_bytes(data[at + 2 : at + 4], "big")
    if length == 127:
        return int.from_bytes(data[at + 2 : at + 10], "big")
    return length


def _header_size(data: bytes, at: int) -> int | None:
    """Bytes of the frame header that begins at ``at``; None when too little of it is there."""
    if at + 2 > len(data):
        return None
    second = data[at + 1]
    extended = {126: 2, 127: 8}.get(second & 0x7F, 0)
    return 2 + extended + (4 if second & 0x80 else 0)
