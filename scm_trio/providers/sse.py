"""A decoder for event streams (``text/event-stream``), on bytes: no clock, no network.

Lines end at LF, CR or CRLF and nowhere else. ``str.splitlines`` would also break at U+2028, U+2029 and U+0085, which
are legal inside JSON strings.
"""

from __future__ import annotations

from attrs import define

MAX_EVENT_BYTES = 1_048_576

_BOM = b"\xef\xbb\xbf"
_USUAL = b"data: "


class EventTooLarge(ValueError):
    """One event is longer than the decoder was told to hold."""


# Not frozen: one is made for every token of every answer, and a frozen class costs three times as much to fill.
@define
class SseEvent:
    """One event with data.

    Attributes:
        data: the ``data`` lines, joined with LF.
        name: the ``event`` field, empty if there was none.
        error: a field called ``error``, which the standard does not know but old llama.cpp servers send.
    """

    data: bytes
    name: bytes = b""
    error: bytes = b""


class SseDecoder:
    """Turns the bytes of one stream, cut anywhere, into events."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._tail = bytearray()  # an event that is not complete yet; never holds an empty line
        self._after_cr = False
        self._head: bytes | None = b""  # the stream's first bytes while they may still be a BOM

    def feed(self, data: bytes) -> list[SseEvent]:
        """Return the events that ``data`` completes, in order. ``data`` is not empty.

        Raises:
            EventTooLarge: an event, its comments included, is over the limit.
        """
        if self._head is not None:
            data = self._without_bom(self._head + data)
        if self._after_cr or b"\r" in data:
            data = self._with_line_feeds(data)
        if self._tail:
            seen = len(self._tail) - 1
            self._tail += data
            if self._tail.find(b"\n\n", seen) < 0:
                self._check_tail()
                return []
            data = bytes(self._tail)
            self._tail.clear()
        blocks = data.split(b"\n\n")
        self._tail += blocks.pop()
        self._check_tail()
        return self._events(blocks)

    def close(self) -> list[SseEvent]:
        """Tell the end of the stream. An event without its empty line is dropped, but a dangling ``[DONE]`` counts."""
        block = bytes(self._tail)
        self._tail.clear()
        event = _parse(block)
        return [event] if event and event.data.startswith(b"[DONE]") else []

    def _events(self, blocks: list[bytes]) -> list[SseEvent]:
        events = []
        for block in blocks:
            if len(block) > self._max_event_bytes:
                raise EventTooLarge
            # Nearly every event of every vendor is a single line like this one.
            if block.startswith(_USUAL) and b"\n" not in block:
                if len(block) > len(_USUAL):
                    events.append(SseEvent(block[len(_USUAL) :]))
            elif event := _parse(block):
                events.append(event)
        return events

    def _check_tail(self) -> None:
        # One byte more: the first half of the empty line that would end an event of just the allowed size.
        if len(self._tail) > self._max_event_bytes + 1:
            raise EventTooLarge

    def _without_bom(self, data: bytes) -> bytes:
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._head = data
            return b""
        self._head = None
        return data.removeprefix(_BOM)

    def _with_line_feeds(self, data: bytes) -> bytes:
        """Make every line end an LF. A CR ends its line at once; an LF that follows in the next read is skipped."""
        if self._after_cr:
            data = data.removeprefix(b"\n")
        self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _parse(block: bytes) -> SseEvent | None:
    fields: dict[bytes, list[bytes]] = {b"data": [], b"event": [], b"error": []}
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")  # a comment has the empty name
        if name in fields:
            fields[name].append(value.removeprefix(b" "))
    data, error = b"\n".join(fields[b"data"]), b"\n".join(fields[b"error"])
    if not data and not error:
        return None
    return SseEvent(data, b"".join(fields[b"event"][-1:]), error)
