"""One seed: a world is made of it, lived through, and judged."""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, NoReturn

import structlog
import trio
import trio.testing
from attrs import frozen

from scm_trio.testing import watchdog

from .device import Device
from .lives import count_roots
from .rules import Rule
from .stories import STORIES
from .truth import check_truth, read_store
from .world import World

WATCHDOG_S = 60.0
"""Real seconds that one seed may take; it takes a tenth of one."""
END_OF_TIME_S = 50_000.0
"""Virtual seconds after which everything must have come to its end."""
QUIET_S = 500.0
LOOKS, LOOK_AGAIN_S = 5, 7.3
"""A task that lasts may just be at work when one looks."""
"""After this long without anybody, the slowest provider has closed and every grace is over."""
FOLDER = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""In memory where there is such a place: nothing here is about disks."""
BARRIERS = frozenset(
    {"handler broke", "run broke", "provider broke", "stream broke", "handshake broke", "checkpoint broke"}
)
"""What the log says where a bug of ours was caught."""


@frozen
class Outcome:
    """What a seed came to."""

    seed: int
    broken: tuple[tuple[Rule, str], ...]
    trace: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {rule.name}: {rule.value}\n    {detail}" for rule, detail in self.broken]
        return "\n".join(lines) or f"seed {self.seed}: ok"


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Trio schedules by the seed, and in no other way."""
    run = trio._core._run
    was_allowed, state = run._ALLOW_DETERMINISTIC_SCHEDULING, run._r.getstate()
    run._ALLOW_DETERMINISTIC_SCHEDULING = True
    run._r.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        run._ALLOW_DETERMINISTIC_SCHEDULING = was_allowed
        run._r.setstate(state)


@contextmanager
def heard_logs(worlds: list[World]) -> Iterator[None]:
    """What the server logs goes nowhere, but for the bugs that its barriers caught."""

    def hear(_: object, __: str, event: MutableMapping[str, Any]) -> NoReturn:
        if event["event"] in BARRIERS and worlds:
            worlds[0].findings.add(Rule.NO_BUG, f"{event['event']}: {sys.exc_info()[1]!r}")
        raise structlog.DropEvent

    processors = structlog.get_config()["processors"]
    before = list(processors)
    processors[:] = [hear]  # in place, for loggers may hold the list
    try:
        yield
    finally:
        processors[:] = before


def simulate(seed: int, template: bytes) -> Outcome:
    """Live through a seed; the same one gives the same trace.

    Args:
        seed: decides everything.
        template: an empty, migrated database.
    """
    worlds: list[World] = []
    with tempfile.TemporaryDirectory(prefix="seed-", dir=FOLDER) as folder, heard_logs(worlds):
        clock = trio.testing.MockClock(autojump_threshold=0)
        failure = None
        try:
            with deterministic(seed), watchdog(WATCHDOG_S, f"seed {seed}") as guard:
                trio.run(guard, _live, seed, Path(folder), template, worlds, clock=clock)
        except Exception as exc:  # noqa: BLE001 - whatever it is, it belongs to this seed
            failure = exc
        world = worlds[0]
        if failure is not None:
            world.findings.add(Rule.NO_HANG, f"{failure!r} {getattr(failure, 'exceptions', '')}")
        elif not world.findings.broken:
            check_truth(world, read_store(world.life.file))
    return Outcome(seed, tuple(world.findings.broken), tuple(world.trace))


async def _live(seed: int, folder: Path, template: bytes, worlds: list[World]) -> None:
    async with trio.open_nursery() as nursery:
        world = World(seed, folder, template, nursery)
        worlds.append(world)
        with trio.CancelScope() as scope:
            world.findings.on_first = scope.cancel
            with trio.move_on_after(END_OF_TIME_S) as end_of_time:
                await _history(world)
            if end_of_time.cancelled_caught:
                world.findings.add(Rule.NO_HANG, f"not at its end after {END_OF_TIME_S:g} s")
        nursery.cancel_scope.cancel()


async def _history(world: World) -> None:
    await world.start()
    await trio.testing.wait_all_tasks_blocked()
    before = count_roots()
    rng = world.chance("cast")
    async with trio.open_nursery() as living:
        for user in range(rng.choice((1, 1, 2))):
            for number in range(rng.choice((1, 1, 2, 3))):
                name, session = f"user{user}-{number}", f"session-{rng.choice((0, 0, user + 1))}"
                device = Device(world, name, f"user{user}", session, fair=rng.random() < 0.4)
                world.devices.append(device)
                living.start_soon(device.live)
        async with trio.open_nursery() as acting:
            for device in world.devices:
                acting.start_soon(_act, world, device)
            # What could not be stored in time is lost with a crash.
            if rng.random() < 0.5 and not world.disk.excuses:
                acting.start_soon(_trouble, world)
        for device in world.devices:
            await device.finish()
        living.cancel_scope.cancel()
    await _look_around(world, before)


async def _act(world: World, device: Device) -> None:
    rng = world.chance(f"stories of {device.name}")
    await trio.sleep(rng.uniform(0, 2))
    for _ in range(rng.randint(1, 3)):
        story = rng.choice(STORIES)
        world.note(device.name, "begins", story.__name__)
        await story(world, device, rng)
        await trio.sleep(rng.choice((0.0, 0.0, 1.0)))


async def _trouble(world: World) -> None:
    """Crashes and deploys."""
    rng: Random = world.chance("trouble")
    for _ in range(rng.choice((1, 1, 2))):
        await trio.sleep(rng.choice((rng.uniform(0, 3), rng.uniform(0, 30))))
        if rng.random() < 0.6:
            await world.crash(rng.choice((0.1, 1.0, 8.0)))
        else:
            hurry_after_s = rng.choice((None, 0.0, 0.5, 3.0))
            await world.deploy(rng.choice((0.0, 2.0, 30.0)), hurry_after_s, rng.choice((0.0, 1.0)))


async def _look_around(world: World, before: object) -> None:
    """Nobody is there any more: after a while nothing may be left of all that was."""
    for life in world.lives[:-1]:
        await life.ended.wait()
        if life.open_calls:
            world.findings.add(Rule.NOTHING_LEFT, f"life {life.number} has ended with open provider streams")
    await trio.sleep(QUIET_S)
    if remains := world.life.remains():
        world.findings.add(Rule.NOTHING_LEFT, remains)
    for _ in range(LOOKS):
        await trio.testing.wait_all_tasks_blocked()
        after = count_roots()
        # What lasts sleeps or works, so that there may be fewer; what was left behind makes it more, and always does.
        if after.tasks <= before.tasks and after.scopes <= before.scopes and after.deadlines <= before.deadlines:
            break
        await trio.sleep(LOOK_AGAIN_S)
    else:
        world.findings.add(Rule.NOTHING_LEFT, f"{before} has become {after}")
    world.life.stop(0)
    await world.life.ended.wait()
