"""What the contract tells the authors of other clients is what this one does."""

import re
from pathlib import Path

import pytest

from scm_trio.client import Backoff
from scm_trio.client.backoff import STABLE_S
from scm_trio.client.feed import MAX_REFUSED_RESUMES
from scm_trio.client.supervisor import PASSING, SILENT_BEATS

CONTRACT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
ADVICE = " ".join(CONTRACT.split("### How a client survives")[1].split("\n### ")[0].split())


@pytest.mark.parametrize(
    "told",
    [
        f"a random part of {Backoff().first_s:g} s ",
        f"at most of {Backoff().limit_s:g} s",
        f"Math.min({Backoff().limit_s:.0f}_000, {Backoff().first_s * 1000:.0f} * 2 ** n)",
        f"A connection that lived for {STABLE_S:g} s ends the outage",
        f"is not heard for {SILENT_BEATS:g} of these intervals",
        f"at most {MAX_REFUSED_RESUMES} times",
    ],
)
def test_the_numbers_are_the_ones_that_it_tells(told):
    assert told in ADVICE


def test_the_statuses_after_which_a_handshake_is_tried_again_are_the_ones_that_it_tells():
    told = re.search(r"without an answer, or with ([\d, or]+), is tried again", ADVICE)
    assert {int(status) for status in re.findall(r"\d+", told[1])} == PASSING
