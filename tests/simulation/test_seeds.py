"""Five hundred seeds; ``scripts/simulate`` runs more."""

import re
from functools import cache

import pytest

from .campaign import CHUNK, replay, run_seed

SEEDS = 500
ENOUGH = 200
"""So many of them reach everything."""
REACHED = (
    "server is killed",
    "server drains",
    "resumed=True",
    "reset=True",
    "hears CHAT_RESPONSE",
    "hears CHAT_MESSAGE",
    "hears CHAT_STREAM_START - ",  # unasked
    "hears INFO .* code=RETRYING",
    "hears INFO .* code=FALLBACK",
    "hears CHAT_STREAM_START .* rev=[1-9]",
    "finds no server",
    "loses its connection vanish",
    "loses its connection reset",
    *(f"is out Closed {code}" for code in (1000, 1001, 1003, 1006, 1007, 1009, 4429)),
    *(
        f"finishReason={reason}"
        for reason in ("completed", "length", "content_filter", "tool_calls", "cancelled", "timeout", "interrupted")
    ),
    *(f"finishReason={reason}" for reason in ("too_large", "error")),
    *(
        f"hears ERROR .* {code}"
        for code in ("BAD_JSON", "INVALID_MESSAGE", "UNKNOWN_TYPE", "RATE_LIMITED", "QUOTA_EXCEEDED", "NOT_FOUND")
    ),
    *(
        f"hears ERROR .* {code}"
        for code in ("PROVIDER_UNAVAILABLE", "PROVIDER_AUTH", "PROVIDER_RATE_LIMITED", "CONTEXT_TOO_LONG", "TIMEOUT")
    ),
)


@cache
def lived(first):
    """The outcomes of a chunk that failed, and what of the above was seen in it."""
    outcomes = [run_seed(seed) for seed in range(first, first + CHUNK)]
    told = "\n".join(line for outcome in outcomes for line in outcome.trace)
    failed = [str(outcome) + f"\n    {replay(outcome.seed)}" for outcome in outcomes if outcome.broken]
    return failed, {event for event in REACHED if re.search(event, told)}


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_the_promises_hold_from_seed(first):
    failed, _ = lived(first)
    assert not failed, "\n" + "\n".join(failed)


def test_the_seeds_reach_everything_that_they_are_meant_for():
    seen = set().union(*(lived(first)[1] for first in range(0, ENOUGH, CHUNK)))
    assert set(REACHED) - seen == set()
