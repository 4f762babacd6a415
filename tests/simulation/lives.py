"""The lives of a simulated server: started on a database file, ended in order, in a hurry, or by vanishing."""

from __future__ import annotations

import math
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import trio
from attrs import evolve, frozen
from outcome import Error

from scm_trio.chat.prompt import fitted
from scm_trio.chat.run import STORE_LIMIT_S
from scm_trio.config import Config, Store
from scm_trio.errors import StoreError
from scm_trio.gateway.gate import Clock
from scm_trio.house import House, Parts, open_house
from scm_trio.providers.catalogue import chain_providers
from scm_trio.providers.fallback import Terms
from scm_trio.store.database import Database, inline
from scm_trio.store.writer import commit
from scm_trio.testing import EPOCH_S

from .network import Fate, Line
from .providers import Moody


@frozen
class Disk:
    """What the database takes its time for.

    Attributes:
        delays_s: one of these times passes before the SQL runs.
        outage: from when to when it fails.
    """

    delays_s: tuple[float, ...] = (0.0,)
    outage: tuple[float, float] = (math.inf, math.inf)

    @property
    def fails(self) -> bool:
        return self.outage[0] < math.inf

    @property
    def excuses(self) -> tuple[str, ...]:
        """Codes with which any request may be refused."""
        return ("INTERNAL", "SERVER_BUSY") if self.fails or max(self.delays_s) > STORE_LIMIT_S else ()

    def offload(self, rng: Random, is_up: Callable[[], bool]) -> Callable[..., Awaitable[Any]]:
        """Run the SQL in virtual time; it fails only while the server is up."""

        async def offload(fn: Callable[..., Any], *args: Any) -> Any:
            if delay_s := rng.choice(self.delays_s):
                await trio.sleep(delay_s)
            begin, end = self.outage
            if begin <= trio.current_time() < end and is_up():
                if fn is commit:
                    return [Error(StoreError("the disk is full")) for _ in args[1]]
                if fn.__name__ == Database._read_now.__name__:
                    raise StoreError("the disk is full")
            return await inline(fn, *args)

        return offload


@frozen
class Roots:
    """What is left to count when nobody is there: tasks, open cancel scopes, deadlines."""

    tasks: int
    scopes: int
    deadlines: int


def count_roots() -> Roots:
    """Count them, in the whole of this Trio run."""
    runner = trio._core._run.GLOBAL_RUN_CONTEXT.runner
    task = runner.init_task
    return Roots(len(runner.tasks), _scopes(task), runner.deadlines._active)


def _scopes(task: Any) -> int:
    # Scopes form a tree below that of the first task.
    statuses, count = [task._cancel_status], 0
    while statuses:
        status = statuses.pop()
        count += 1
        statuses += status._children
    return count


class Life:
    """One server process.

    Attributes:
        number: of this life.
        providers: as configured, by name.
        house: while it lives.
        accepts: new connections are taken.
        is_gone: it has vanished; what its remains still do in this process is nobody's business.
    """

    def __init__(self, number: int, config: Config, file: Path, seed: object) -> None:
        self.number = number
        self.file = file
        self.config = evolve(config, store=Store(f"sqlite:///{file}"))
        self.providers = {name: Moody(name, seed) for name in config.ai.providers}
        self.house: House | None = None
        self.accepts = False
        self.is_gone = False
        self.lines: list[Line] = []
        self.ended = trio.Event()
        self._seed = seed
        self._scope = trio.CancelScope()
        self._stop = trio.Event()
        self._hurry = trio.Event()
        self._grace_s = 0.0
        self._connections: trio.Nursery | None = None

    def _parts(self, disk: Disk) -> Parts:
        rng, chance = Random(f"{self._seed}/clock/{self.number}"), Random(f"{self._seed}/store/{self.number}")
        clock = Clock(
            now=lambda: EPOCH_S + trio.current_time(), new_id=lambda: f"{rng.getrandbits(48):012x}", jitter=rng.random
        )
        patience_s, restart = self.config.websocket.stream.first_token_timeout_s, self.config.ai.restart
        terms = Terms(clock.jitter, fitted, patience_s, restart=restart)
        providers = chain_providers(self.providers, self.config.ai, terms)
        return Parts(clock=clock, offload=disk.offload(chance, lambda: self.accepts), providers=providers)

    async def run(self, disk: Disk, *, task_status: trio.TaskStatus[None]) -> None:
        """Live as ``serve`` does, but for the port and the signals."""
        try:
            with self._scope:
                parts = self._parts(disk)
                async with open_house(self.config, parts) as house, trio.open_nursery() as connections:
                    self.house, self._connections, self.accepts = house, connections, True
                    task_status.started()
                    await self._stop.wait()
                    self.accepts = False
                    await house.drain(self._grace_s, self._hurry)
                    connections.cancel_scope.cancel()
        finally:
            self.accepts = False
            self.ended.set()

    def welcome(self, line: Line) -> None:
        """Take a connection."""
        if not self.accepts or self.house is None or self._connections is None:
            raise ConnectionRefusedError
        self.lines.append(line)
        self._connections.start_soon(self.house.listener.welcome, line.server)

    def stop(self, grace_s: float) -> None:
        """The first signal."""
        self._grace_s = grace_s
        self._stop.set()

    def hurry(self) -> None:
        """The second signal."""
        self._hurry.set()

    def vanish(self, onto: Path, fate: Fate) -> None:
        """Be killed: what is in the file at this moment is all that is left, and it is copied for the next life."""
        for suffix in ("", "-wal"):
            source = self.file.with_name(self.file.name + suffix)
            if source.exists():
                shutil.copy(source, onto.with_name(onto.name + suffix))
        self.is_gone, self.accepts = True, False
        for provider in self.providers.values():
            provider.is_gone = True
        for line in self.lines:
            line.strike(fate)
        self._scope.cancel()

    def is_watched_by(self, user: str) -> bool:
        """Whether the server knows of a connection of this user."""
        return self.house is not None and any(link.user_id == user for link in self.house.gate.hub.everyone())

    @property
    def open_calls(self) -> list[Any]:
        return [call for provider in self.providers.values() for call in provider.open_calls]

    def remains(self) -> str:
        """What is left although nobody is there and no answer runs; empty: nothing."""
        if self.house is None or self._connections is None:
            return ""
        gate = self.house.gate
        left = {
            "connections": len(self._connections.child_tasks),
            "runs": len(gate.runs.child_tasks),
            "live runs": gate.service.live_runs,
            "hub places": gate.hub.active,
            "hub users": gate.hub.users,
            "listed connections": len(gate.hub.everyone()),
            "provider streams": len(self.open_calls),
        }
        return ", ".join(f"{name}: {number}" for name, number in left.items() if number)
