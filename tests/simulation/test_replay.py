"""A seed is a whole story: the same one tells the same again."""

import pytest

from .campaign import main, run_seed
from .rules import Findings, Rule
from .simulate import Outcome


@pytest.mark.parametrize("seed", [3, 18, 93, 447])
def test_the_same_seed_gives_the_same_trace(seed):
    first, second = run_seed(seed), run_seed(seed)
    assert first.trace == second.trace
    assert len(first.trace) > 20


def test_different_seeds_tell_different_stories():
    assert len({run_seed(seed).trace for seed in range(5)}) == 5


def test_the_first_finding_stops_the_story_and_all_are_told():
    stops = []
    findings = Findings(on_first=lambda: stops.append("stop"))
    findings.add(Rule.KEPT, "a")
    findings.add(Rule.LEDGER, "b")
    assert stops == ["stop"]
    told = str(Outcome(7, tuple(findings.broken), ()))
    assert told.splitlines() == [
        "seed 7: KEPT: what was told stays so",
        "    a",
        "seed 7: LEDGER: the ledger has one settled row per upstream attempt",
        "    b",
    ]


# ---- the command


def test_a_failing_seed_fails_the_command_and_is_told_with_its_replay(monkeypatch, capsys):
    def fail(seed):
        return Outcome(seed, ((Rule.KEPT, "planted"),) if seed == 12 else (), ("what happened",))

    monkeypatch.setattr("tests.simulation.campaign.run_seed", fail)
    assert main(["--seeds", "5", "--first", "10", "--jobs", "1"]) == 1
    told = capsys.readouterr().out
    assert "seed 12: KEPT" in told
    assert "scripts/simulate --seed 12 --trace" in told
    assert "5 seeds, 1 failed" in told
    assert main(["--seeds", "5", "--first", "0", "--jobs", "1"]) == 0
    assert main(["--seed", "12", "--trace"]) == 1
    assert "what happened" in capsys.readouterr().out
