"""What must hold, by name, and the list of what did not."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from attrs import define, field


class Rule(Enum):
    """What a server promises; the value is the sentence that a failure is told with."""

    ONE_END = "a started answer gets exactly one END, and nothing ends that was not started"
    ALWAYS_AN_END = "whoever stays gets an answer's end, or one refusal"
    CONTIGUOUS = "a frame begins where the one before ended"
    NOTHING_TWICE = "nothing comes twice on one connection"
    SAME_TEXT = "what was sent is what END says, what the provider said and what is stored"
    ONE_ANSWER = "a question is stored once and has one answer"
    KEPT = "what was told stays so"
    LEDGER = "the ledger has one settled row per upstream attempt"
    CLOSED_FIRST = "a cancelled answer ends after its provider is closed"
    PROMPT_STOP = "a stop stops within its limits"
    NO_ZOMBIE = "no run is left running"
    RECENT = "a crash costs a second of text at most"
    NOTHING_LEFT = "nothing is left behind"
    CONTRACT = "every message and code is one of the contract's"
    NO_BUG = "no barrier has caught a bug"
    NO_HANG = "everything comes to an end"


@define
class Findings:
    """What did not hold; the first finding stops the simulation.

    Attributes:
        broken: the rules with the details, oldest first.
        on_first: called once.
    """

    broken: list[tuple[Rule, str]] = field(factory=list)
    on_first: Callable[[], None] = field(default=lambda: None)

    def add(self, rule: Rule, detail: str) -> None:
        self.broken.append((rule, detail))
        if len(self.broken) == 1:
            self.on_first()
