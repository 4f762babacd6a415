"""A network in memory: two ends of a connection, and the weather between them.

Bytes take their time, come in pieces, pile up in a small buffer, stand still for a while, and at some byte or moment the
connection breaks: with a word to both sides (a reset), or without one (a phone in a tunnel).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from enum import Enum
from random import Random

import trio
from attrs import field, frozen

TINY_PIECES = 60
"""So many reads and writes may be cut up; after them they are larger, or a long answer would take for ever."""
LARGER_BYTES = 8_192


class Fate(Enum):
    """How a connection breaks."""

    RESET = "reset"
    VANISH = "vanish"
    """Nothing arrives any more, and nobody is told."""


@frozen
class Weather:
    """What one connection goes through; times are seconds after it was dialled.

    Attributes:
        latency_s: how long a byte is under way.
        bytes_per_s: how many come through.
        buffer_bytes: how many a sender may have under way before it has to wait; ``LARGER_BYTES`` at least after
            ``TINY_PIECES`` waits.
        piece_bytes: no read returns more, as long as there were fewer than ``TINY_PIECES``.
        stalls: spans in which nothing comes through.
        fate: how it ends, if it does.
        fate_at_s: when it does.
        fate_at_bytes: after so many bytes up (from the client) or down have been read it does so as well.
    """

    latency_s: float = 0.0
    bytes_per_s: float = math.inf
    buffer_bytes: int = 65_536
    piece_bytes: int = 65_536
    stalls: tuple[tuple[float, float], ...] = ()
    fate: Fate | None = None
    fate_at_s: float = math.inf
    fate_at_bytes: tuple[float, float] = field(default=(math.inf, math.inf))


CLEAR = Weather()


def seeded_weather(rng: Random) -> Weather:
    """Mostly bearable weather, sometimes foul."""
    begins = sorted(rng.uniform(0, 20) for _ in range(rng.choice((0, 0, 0, 1, 2))))
    fate = rng.choice((None, Fate.RESET, Fate.RESET, Fate.VANISH))
    by_byte = rng.random() < 0.5
    return Weather(
        latency_s=rng.choice((0.0, 0.0, 0.01, 0.2, 1.5)),
        bytes_per_s=rng.choice((math.inf, math.inf, 50_000, 3_000)),
        buffer_bytes=rng.choice((64, 512, 4_096, 65_536, 65_536)),
        piece_bytes=rng.choice((1, 2, 7, 100, 65_536, 65_536, 65_536)),
        stalls=tuple((begin, begin + rng.choice((0.5, 3.0, 12.0))) for begin in begins),
        fate=fate,
        fate_at_s=math.inf if by_byte else rng.choice((rng.uniform(0, 2), rng.uniform(0, 30))),
        # A handshake and its greeting have about 1200 bytes down and 500 up.
        fate_at_bytes=(
            rng.choice((math.inf, rng.randrange(1, 1500))) if by_byte else math.inf,
            rng.choice((rng.randrange(1, 1500), rng.randrange(1000, 6000), rng.randrange(1000, 40_000)))
            if by_byte
            else math.inf,
        ),
    )


class Line:
    """One connection.

    Attributes:
        client: one end.
        server: the other one.
        on_server_send: sees what the server hands to the network, at the moment it does.
        is_broken: it has met its fate.
    """

    def __init__(self, weather: Weather = CLEAR, rng: Random | None = None) -> None:
        self.is_broken = False
        self.on_server_send: Callable[[bytes], None] | None = None
        born = trio.current_time()
        rng = rng or Random(0)
        self.fate_at = born + weather.fate_at_s
        self._weather = weather
        up = _Pipe(self, weather, weather.fate_at_bytes[0], rng)
        down = _Pipe(self, weather, weather.fate_at_bytes[1], rng)
        self._pipes = (up, down)
        self.client = End(up, down)
        self.server = End(down, up, self._tap)

    async def watch(self) -> None:
        """Let fate come at its time; to be run beside the connection."""
        if self._weather.fate is not None and self.fate_at < math.inf:
            await trio.sleep_until(self.fate_at)
            self.strike()

    def strike(self, fate: Fate | None = None) -> None:
        """Break, as the weather has it or as told."""
        if self.is_broken:
            return
        self.is_broken = True
        for pipe in self._pipes:
            pipe.break_off(fate or self._weather.fate or Fate.RESET)

    def _tap(self, data: bytes) -> None:
        if self.on_server_send is not None and not self.is_broken:
            self.on_server_send(data)


class _Pipe:
    """One direction."""

    def __init__(self, line: Line, weather: Weather, fate_at_bytes: float, rng: Random) -> None:
        self._line = line
        self._weather = weather
        self._rng = rng
        self._born = trio.current_time()
        self._pieces: deque[tuple[float, bytes]] = deque()  # with the times of their arrival
        self._held = 0
        self._reads = self._waits = 0
        self._left_bytes = fate_at_bytes
        self._changed = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()
        self._broken: Fate | None = None
        self._sender_closed = self._receiver_closed = False

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        while True:
            if self._sender_closed:
                raise trio.ClosedResourceError("this end was closed")
            if self._broken is Fate.RESET or self._is_refused:
                raise trio.BrokenResourceError("the connection is broken")
            room = max(0, self._buffer_bytes - self._held)
            self._put(data[:room])
            data = data[room:]
            if not data:
                return
            self._waits += 1
            await self._room.park()

    @property
    def _buffer_bytes(self) -> int:
        size = self._weather.buffer_bytes
        return size if self._waits < TINY_PIECES else max(size, LARGER_BYTES)

    def _put(self, data: bytes) -> None:
        if not data:
            return
        self._held += len(data)
        if self._broken is None:
            before = self._pieces[-1][0] if self._pieces else 0.0
            arrival = max(trio.current_time() + self._weather.latency_s, before) + len(data) / self._weather.bytes_per_s
            self._pieces.append((arrival, data))
            self._changed.unpark_all()

    async def wait_for_room(self) -> None:
        await trio.lowlevel.checkpoint()
        while self._held >= self._buffer_bytes and self._broken is not Fate.RESET and not self._is_refused:
            await self._room.park()

    @property
    def _is_refused(self) -> bool:
        """The receiver has closed, and that is known here."""
        return self._receiver_closed and self._broken is not Fate.VANISH

    async def receive(self, max_bytes: int | None) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            if self._receiver_closed:
                raise trio.ClosedResourceError("this end was closed")
            if self._broken is Fate.RESET:
                raise trio.BrokenResourceError("the connection is broken")
            at = self._open_at()
            if at <= trio.current_time():
                return self._take(max_bytes or 65_536)
            if not self._pieces and self._sender_closed and self._broken is None:
                return b""
            with trio.move_on_at(at):
                await self._changed.park()

    def _open_at(self) -> float:
        """When the next piece may be read."""
        if not self._pieces:
            return math.inf
        at = max(self._pieces[0][0], trio.current_time())
        for begin, end in self._weather.stalls:
            if self._born + begin <= at < self._born + end:
                at = self._born + end
        return at

    def _take(self, max_bytes: int) -> bytes:
        self._reads += 1
        limit = min(max_bytes, self._left_bytes)
        if self._reads <= TINY_PIECES:
            limit = min(limit, self._rng.randint(1, self._weather.piece_bytes))
        arrival, piece = self._pieces.popleft()
        taken, rest = piece[: int(limit)], piece[int(limit) :]
        if rest:
            self._pieces.appendleft((arrival, rest))
        self._held -= len(taken)
        self._left_bytes -= len(taken)
        self._room.unpark_all()
        if not self._left_bytes:
            self._line.strike()
        return taken

    def break_off(self, fate: Fate) -> None:
        self._broken = fate
        self._pieces.clear()
        self._wake()

    def close_sender(self) -> None:
        self._sender_closed = True
        self._wake()

    def close_receiver(self) -> None:
        self._receiver_closed = True
        self._wake()

    def _wake(self) -> None:
        self._changed.unpark_all()
        self._room.unpark_all()


class End(trio.abc.Stream):
    """One end of a line."""

    def __init__(self, outward: _Pipe, inward: _Pipe, tap: Callable[[bytes], None] | None = None) -> None:
        self._outward = outward
        self._inward = inward
        self._tap = tap

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        data = bytes(data)
        if self._tap is not None:
            self._tap(data)
        await self._outward.send(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._outward.wait_for_room()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self._inward.receive(max_bytes)

    async def aclose(self) -> None:
        # What is under way still arrives; the other side's writes break, unless it cannot know.
        self._outward.close_sender()
        self._inward.close_receiver()
        await trio.lowlevel.checkpoint()
