"""Many seeds: run them, in several processes where wanted, and tell how to live through a failing one again."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import trio

from scm_trio.store.database import inline, open_database

from .simulate import Outcome, simulate

CHUNK = 10


@cache
def template() -> bytes:
    """An empty, migrated database; made once per process, for that takes longer than the rest of a start."""

    async def migrate(file: Path) -> None:
        async with open_database(f"sqlite:///{file}", offload=inline):
            pass

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "empty.db"
        trio.run(migrate, file)
        return file.read_bytes()


def run_seed(seed: int) -> Outcome:
    return simulate(seed, template())


def run_seeds(seeds: Sequence[int]) -> list[Outcome]:
    """Run them; returns those that failed, without their traces, which are as long as they are easy to get again."""
    outcomes = [run_seed(seed) for seed in seeds]
    return [Outcome(outcome.seed, outcome.broken, ()) for outcome in outcomes if outcome.broken]


def replay(seed: int) -> str:
    """The command that does."""
    return f"scripts/simulate --seed {seed} --trace"


def failures(seeds: Sequence[int], jobs: int) -> Iterator[Outcome]:
    """The seeds that fail, as they are found."""
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    if jobs == 1:
        for chunk in chunks:
            yield from run_seeds(chunk)
        return
    with ProcessPoolExecutor(jobs) as pool:
        for failed in pool.map(run_seeds, chunks):
            yield from failed


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, metavar="N", help="how many (default: 1000)")
    parser.add_argument("--first", type=int, default=0, metavar="K", help="the first one (default: 0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="J", help="how many at a time")
    parser.add_argument("--seed", type=int, metavar="K", help="this one only")
    parser.add_argument("--trace", action="store_true", help="with --seed: print all that happens")
    options = parser.parse_args(argv)
    if options.seed is not None:
        outcome = run_seed(options.seed)
        if options.trace:
            print(*outcome.trace, sep="\n")  # noqa: T201 - this is a command
        print(outcome)  # noqa: T201
        return 1 if outcome.broken else 0
    began, failed = time.monotonic(), 0
    for outcome in failures(range(options.first, options.first + options.seeds), options.jobs):
        failed += 1
        print(f"{outcome}\n    {replay(outcome.seed)}", flush=True)  # noqa: T201
    print(f"{options.seeds} seeds, {failed} failed, {time.monotonic() - began:.0f} s")  # noqa: T201
    return 1 if failed else 0
