"""One seed's world: a server with its lives, the devices of its users, and what is known of the truth."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import jwt
import trio

from scm_trio.config import (
    Ai,
    Auth,
    Config,
    Connections,
    Heartbeat,
    Messages,
    Price,
    Provider,
    Quota,
    Streams,
    WebSocket,
)
from scm_trio.testing import EPOCH_S, SECRET

from .answers import Ask, Copy, Message, digest
from .device import Device
from .lives import Disk, Life
from .network import Fate, Line, Weather
from .providers import Call
from .rules import Findings, Rule

TOKEN_TTL_S = 1e9


class World:
    """See the module.

    Attributes:
        findings: the rules that were broken.
        trace: everything that happened, a line each.
        asks: all questions that were asked.
        ends: the first END or CHAT_RESPONSE of each answer, as a device got it.
        disk: how the database behaves.
        lives: of the server, the last one is the present one.
        crashes: when the server was killed, and in which life.
    """

    def __init__(self, seed: int, folder: Path, template: bytes, nursery: trio.Nursery) -> None:
        self.seed = seed
        self.findings = Findings()
        self.trace: list[str] = []
        self.asks: list[Ask] = []
        self.ends: dict[str, Message] = {}
        self.texts: dict[str, str] = {}
        self.lives: list[Life] = []
        self.crashes: dict[int, float] = {}
        self.devices: list[Device] = []
        self.nursery = nursery
        self._folder = folder
        self._template = template
        self._ids = self.chance("ids")
        rng = self.chance("world")
        self.disk = seeded_disk(rng)
        self.config = seeded_config(rng)

    # ---- chance, time and memory

    def chance(self, what: str) -> Random:
        """A source of chance of its own, so that one who draws more changes nothing for the others."""
        return Random(f"{self.seed}/{what}")

    def note(self, *words: object) -> None:
        self.trace.append(f"{trio.current_time():11.4f} {' '.join(map(str, words))}")

    def new_request_id(self, kind: str) -> str:
        return f"{kind}-{self._ids.getrandbits(32):08x}"

    def new_ask(self, device: Device, **more: Any) -> Ask:
        """A question that nobody has asked before."""
        number = len(self.asks) + 1
        named = more.pop("named", True)
        ask = Ask(
            user=device.user,
            session_id=more.pop("session_id", device.session_id),
            question=f"question {number} of {device.user}",
            request_id=self.new_request_id("ask") if named else None,
            streaming=more.pop("streaming", True),
            options=more,
        )
        self.asks.append(ask)
        return ask

    def later(self, seconds: float, act: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Do something after a while, beside everything else."""

        async def wait() -> None:
            await trio.sleep(seconds)
            await act(*args)

        self.nursery.start_soon(wait)

    def token(self, user: str) -> str:
        return _token(user)

    # ---- the server

    @property
    def life(self) -> Life:
        return self.lives[-1]

    async def start(self) -> None:
        """Begin a life, the first one on an empty database."""
        number = len(self.lives)
        file = self._file(number)
        if not self.lives:
            file.write_bytes(self._template)
        life = Life(number, self.config, file, self.seed)
        self.note("server starts", number)
        await self.nursery.start(life.run, self.disk)
        self.lives.append(life)

    def _file(self, number: int) -> Path:
        return self._folder / f"{self.seed}-{number}.db"

    async def dial(self, weather: Weather, rng: Random) -> Line:
        """Connect.

        Raises:
            ConnectionRefusedError: there is no server, or it takes nobody any more.
        """
        await trio.sleep(weather.latency_s)
        line = Line(weather, rng)
        life = self.life
        line.on_server_send = lambda data: self._sent(life, data)
        life.welcome(line)
        return line

    async def crash(self, down_s: float) -> None:
        """Kill the server, and start it again on what it left."""
        life = self.life
        if life.is_gone or life.ended.is_set():
            return
        self.note("server is killed", life.number)
        self.crashes[life.number] = trio.current_time()
        life.vanish(self._file(life.number + 1), Fate.RESET if down_s < 2 else Fate.VANISH)
        await trio.sleep(down_s)
        await self.start()

    async def deploy(self, grace_s: float, hurry_after_s: float | None, down_s: float) -> None:
        """Drain the server, with a second signal after a while or without, and start the next one."""
        life = self.life
        if life.is_gone or not life.accepts:
            return
        self.note("server drains", life.number, grace_s, hurry_after_s)
        life.stop(grace_s)
        if hurry_after_s is not None:
            with trio.move_on_after(hurry_after_s):
                await life.ended.wait()
            life.hurry()
        await life.ended.wait()
        if life.is_gone:
            return  # killed while it drained
        self.note("server has ended", life.number)
        for suffix in ("", "-wal"):
            file = life.file.with_name(life.file.name + suffix)
            if file.exists():
                file.rename(self._file(life.number + 1).with_name(self._file(life.number + 1).name + suffix))
        await trio.sleep(down_s)
        await self.start()

    # ---- the truth

    def calls(self, question: str) -> list[tuple[int, Call]]:
        """The upstream attempts that were made for a question, with the numbers of the lives that made them."""
        return [
            (life.number, call)
            for life in self.lives
            for provider in life.providers.values()
            for call in provider.calls
            if call.question == question
        ]

    def told_end(self, message_id: str, data: Message, copy: Copy) -> None:
        """A device was told how an answer ended; all have to be told the same."""
        text = copy.text
        first = self.ends.setdefault(message_id, data)
        for key in ("finishReason", "sha256", "length", "content"):
            if first.get(key) != data.get(key):
                self.findings.add(Rule.KEPT, f"{message_id} has ended with {key} {first.get(key)} and {data.get(key)}")
        if self.texts.setdefault(message_id, text) != text:
            self.findings.add(Rule.SAME_TEXT, f"{message_id} reads {digest(text)} and {digest(self.texts[message_id])}")

    def _sent(self, life: Life, data: bytes) -> None:
        """The server hands a frame to the network: the moment at which an END has to be true."""
        if b'"CHAT_STREAM_END"' not in data[:64] or b'"upstreamClosed":true' not in data:
            return
        for ask in self.asks:
            if ask.message_id in self.ends:
                continue  # told again; the same question may be asked anew by now
            names = [name.encode() for name in (ask.request_id, ask.message_id) if name is not None]
            is_open = any(call.question == ask.question for call in life.open_calls)
            if is_open and any(b'"%b"' % name in data for name in names):
                self.findings.add(Rule.CLOSED_FIRST, f"END of {ask.request_id}, and its provider is open")


@cache
def _token(user: str) -> str:
    return jwt.encode({"sub": user, "exp": EPOCH_S + TOKEN_TTL_S}, SECRET, "HS256")


def seeded_disk(rng: Random) -> Disk:
    """Quick, slow, or slower than the server waits; and sometimes it fails for a while."""
    delays_s = rng.choice(((0.0,), (0.0,), (0.0, 0.02), (0.1, 0.6), (0.0, 0.0, 3.0), (0.0, 0.0, 0.0, 0.0, 12.0)))
    begin = rng.uniform(0, 40)
    return Disk(delays_s, (begin, begin + rng.choice((0.5, 5.0, 30.0)))) if rng.random() < 0.15 else Disk(delays_s)


def seeded_config(rng: Random) -> Config:
    """Limits that are met, but for most."""
    price = {"alpha-1": Price(1.0, 2.0)}
    return Config(
        auth=Auth(secret=SECRET),
        websocket=WebSocket(
            heartbeat=Heartbeat(interval_s=10.0, timeout_s=rng.choice((60.0, 300.0))),
            session=Connections(cleanup_interval_s=rng.choice((5.0, 30.0)), handshake_timeout_s=10.0),
            message=Messages(
                rate_limit_per_minute=rng.choice((0, 0, 0, 6)),
                write_timeout_s=rng.choice((4.0, 10.0)),
                max_size_bytes=65_536,
            ),
            stream=Streams(
                first_token_timeout_s=5.0,
                idle_timeout_s=5.0,
                total_timeout_s=30.0,
                orphan_grace_s=rng.choice((0.0, 3.0, 20.0)),
                resume_window_s=rng.choice((0.0, 1.0, 20.0, 300.0)),
                max_per_connection=rng.choice((2, 8)),
                max_per_user=rng.choice((3, 16)),
                max_response_bytes=rng.choice((2_000, 100_000, 1_048_576)),
            ),
        ),
        ai=Ai(
            providers={
                "alpha": Provider(kind="scripted", models=("alpha-1", "alpha-2"), retries=2, prices=price),
                "beta": Provider(kind="scripted", models=("beta-1", "beta-2"), retries=rng.choice((0, 1))),
            },
            fallback=rng.choice(((), ("beta",), ("beta", "alpha"))),
            restart=rng.random() < 0.5,
            quota=Quota(tokens_per_day=rng.choice((0, 0, 0, 3000)), requests_per_day=rng.choice((0, 0, 0, 5))),
        ),
    )
