"""``scripts/simulate``: the same seed tells the same story, whatever process tells it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.e2e.process import environment

SCRIPT = Path(__file__).parents[2] / "scripts" / "simulate"
LIMIT_S = 300.0


def simulate(*arguments: str, hash_seed: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        cwd=folder,
        env={**environment(measured=False), "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_seed_is_replayed_to_the_letter(tmp_path: Path) -> None:
    first, second = (simulate("--seed", "18", "--trace", hash_seed=each, folder=tmp_path) for each in ("1", "2"))
    assert first == second
    assert "server starts" in first
    assert first.endswith("seed 18: ok\n")


def test_many_seeds_are_shared_between_processes(tmp_path: Path) -> None:
    assert "20 seeds, 0 failed" in simulate("--seeds", "20", "--jobs", "2", hash_seed="0", folder=tmp_path)
