"""A client's connection to the server: made, read, lost and made again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson
import trio
from attrs import define, field

from .answers import Message, brief
from .desk import Desk
from .network import CLEAR, Fate, Line, seeded_weather
from .rules import Rule
from .socket import LOST, Closed, Refused, Socket
from .witness import Witness

if TYPE_CHECKING:
    from .world import World

PATIENCE_S = 3000.0
"""Longer than any answer can take, with all its faults; who waits longer waits for ever."""
HANDSHAKE_S = 20.0
SILENCE_S = 45.0
"""The server beats every ten seconds."""
FAIR_AFTER = 4
"""From the fifth connection on the weather is fair, so that everything comes to an end."""
BANNED = frozenset({4400, 4429})
"""After these a client does not come back by itself; here its user opens the page again a minute later."""
BANNED_S = 61.0


@define(eq=False)
class Visit:
    """One connection; ``code`` tells how it was closed, once it is."""

    socket: Socket
    line: Line
    witness: Witness
    greeting: Message | None = None
    code: int | None = None
    scope: trio.CancelScope = field(factory=trio.CancelScope)


class Presence:
    """See the module; ``live`` is its task.

    Attributes:
        desk: what is kept over all connections.
        visit: the connection that there is.
        stays: comes back when its connection is lost.
    """

    def __init__(self, world: World, name: str, user: str, session_id: str, *, fair: bool) -> None:
        self.world = world
        self.name = name
        self.user = user
        self.session_id = session_id
        self.desk = Desk(world.findings, world.told_end)
        self.rng = world.chance(f"device {name}")
        self.visit: Visit | None = None
        self.stays = True
        self._query = self.rng.choice(("", "", "", "&coalesceMs=200", "&lang=en"))
        self._fair = fair
        self._beat_s = self.rng.choice((None, 15.0))
        self._pause_s = 0.0 if fair else self.rng.choice((0.0, 0.0, 0.0, 0.2, 1.0))
        self._visits = 0
        self._failures = 0  # to connect, one after the other
        self._was_online = False
        self._wait_s = 0.0
        self._changed = trio.lowlevel.ParkingLot()
        self._woken = trio.Event()

    async def greeted(self) -> None:
        """Called in a task of its own when a connection is there."""
        raise NotImplementedError

    def heard(self) -> None:
        """Called after every message."""
        raise NotImplementedError

    # ---- coming and going

    @property
    def is_online(self) -> bool:
        return self.visit is not None and self.visit.greeting is not None

    @property
    def is_steady(self) -> bool:
        """Whether nothing on the client's side takes time."""
        return self._fair and not self._pause_s

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition on this device; to wait for ever is against the rules."""
        with trio.move_on_after(PATIENCE_S):
            while not condition():
                await self._changed.park()
            return
        self.world.findings.add(Rule.ALWAYS_AN_END, f"{self.name} has waited for {what}")
        await trio.sleep_forever()

    async def online(self) -> None:
        """Wait until there is a connection."""
        await self.until(lambda: self.is_online, "a connection")

    def lose(self, fate: Fate | None = None) -> None:
        """Lose the connection: a tab is closed (the server reads its end), the line is reset, or nobody is told."""
        if self.visit is not None:
            self.world.note(self.name, "loses its connection", fate.value if fate else "")
            if fate is not None:
                self.visit.line.strike(fate)
            self.visit.scope.cancel()

    def leave(self, fate: Fate | None = None) -> None:
        """Lose the connection and do not come back until ``come_back``."""
        self._stay_away()
        self.lose(fate)

    async def say_goodbye(self) -> None:
        """Leave politely, and do not come back until ``come_back``."""
        self._stay_away()
        visit = self.visit
        if self.is_online:
            await self.say("DISCONNECT")
        else:
            self.lose()
        await self.until(lambda: visit is None or visit.code is not None, "goodbye")

    def _stay_away(self) -> None:
        self.stays = False
        self._woken = trio.Event()

    def come_back(self) -> None:
        self.stays = True
        self._wait_s = 0.0
        self._woken.set()

    # ---- sending

    async def say(self, kind: str, data: Message | None = None, **envelope: Any) -> str:
        """Send any message; returns its request id. Without a connection it is lost."""
        request_id: str = envelope.setdefault("requestId", self.world.new_request_id(kind.lower()))
        await self._send({"type": kind, "data": data or {}, **envelope})
        return request_id

    async def say_raw(self, payload: bytes, opcode: int = 1) -> None:
        if self.visit is not None and self.is_online:
            with suppress(Closed):
                await self.visit.socket.send(payload, opcode)

    async def _send(self, message: Message) -> None:
        if self.visit is not None and self.is_online:
            self.world.note(self.name, "says", brief(message))
            with suppress(Closed):
                await self.visit.socket.send(orjson.dumps(message))

    # ---- the life of a connection

    async def live(self) -> None:
        """Connect and read, again and again, until cancelled."""
        while True:
            if not self.stays:
                await self._woken.wait()
            self.world.note(self.name, "dials")
            try:
                await self._visit_server()
            except ConnectionRefusedError:
                self.world.note(self.name, "finds no server")
            except (Closed, Refused) as exc:
                self.world.note(self.name, "is out", type(exc).__name__, exc)
                if isinstance(exc, Closed) and exc.code in BANNED:
                    self._wait_s = BANNED_S
            self.desk.lost_connection()
            self._changed.unpark_all()
            self._failures = 0 if self._was_online else min(self._failures + 1, 6)
            await trio.sleep(max(self._wait_s, self.rng.uniform(0.05, 1.5) * (1 << self._failures)))
            self._wait_s, self._was_online = 0.0, False

    async def _visit_server(self) -> None:
        self._visits += 1
        fair = self._fair or self._visits > FAIR_AFTER
        line = await self.world.dial(CLEAR if fair else seeded_weather(self.rng), self.rng)
        witness = Witness(self.world.findings, self.desk.copies, f"{self.name}/{self._visits}")
        visit = self.visit = Visit(Socket(line.client), line, witness)
        over: Closed | Refused = Closed(LOST)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(line.watch)
                nursery.start_soon(self._beat)
                try:
                    with visit.scope:
                        await self._shake_hands(visit.socket)
                        await self._read(visit, nursery)
                except (Closed, Refused) as exc:
                    over = exc
                nursery.cancel_scope.cancel()
        finally:
            self.visit, visit.code = None, over.code if isinstance(over, Closed) else LOST
            await trio.aclose_forcefully(line.client)
        raise over

    async def _shake_hands(self, socket: Socket) -> None:
        target = f"/scm/websocket/ai/chat?userId={self.user}&sessionId={self.session_id}{self._query}"
        with trio.move_on_after(HANDSHAKE_S):
            await socket.open(target, self.world.token(self.user))
            return
        raise Closed(LOST)

    async def _beat(self) -> None:
        """Some clients send heartbeats, others are heard by their pongs alone."""
        while self._beat_s is not None:
            await trio.sleep(self._beat_s)
            await self.say("HEARTBEAT")

    async def _read(self, visit: Visit, nursery: trio.Nursery) -> None:
        while True:
            text = None
            with trio.move_on_after(SILENCE_S):
                text = await visit.socket.receive()
            if text is None:
                raise Closed(LOST)
            message: Message = orjson.loads(text)
            self.world.note(self.name, "hears", brief(message))
            visit.witness.heard(text, message)
            self.desk.hear(message)
            if message["type"] == "CONNECT":
                visit.greeting, self._was_online = message["data"], True
                nursery.start_soon(self.greeted)
            elif message["type"] == "DISCONNECT":
                self._wait_s = message["data"].get("retryAfterMs", 0) / 1000
            self.heard()
            self._changed.unpark_all()
            if self._pause_s:
                await trio.sleep(self.rng.uniform(0, self._pause_s))
