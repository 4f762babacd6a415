"""Five hundred seeds; ``scripts/simulate`` runs more."""

import pytest

from .campaign import CHUNK, replay, run_seeds

SEEDS = 500


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_the_promises_hold_from_seed(first):
    failed = run_seeds(range(first, first + CHUNK))
    assert not failed, "\n" + "\n".join(f"{outcome}\n    {replay(outcome.seed)}" for outcome in failed)
