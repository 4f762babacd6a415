"""The upstream attempts of one run, as its ledger rows have to tell them."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define

from scm_trio.model import AnswerInfo, Attempt, Usage


@define
class UpstreamAttempt:
    """One of them. Times are Trio's.

    Attributes:
        outcome: a finish reason or an error code; None while it is under way.
        is_noted: whether its row is known to be there, with this provider and model.
    """

    number: int
    provider: str
    model: str
    started_at: float
    prompt_tokens: int = 0
    ended_at: float | None = None
    outcome: str | None = None
    usage: Usage | None = None
    is_noted: bool = False


class Attempts:
    """All of a run's attempts; the first one's row was written together with the run.

    Attributes:
        unsaved: those whose rows have to be written or changed, in order.
    """

    def __init__(self, info: AnswerInfo, now: float) -> None:
        self._current = UpstreamAttempt(0, info.provider, info.model, now, is_noted=True)
        self.unsaved: list[UpstreamAttempt] = []

    def begin(self, event: Attempt, now: float, prompt_tokens: Callable[[], int]) -> None:
        """Another attempt; number 0 is the one that is there, maybe with another provider than was asked for.

        Args:
            event: tells it.
            now: Trio's time.
            prompt_tokens: estimates the prompt; only called for a row that is yet to be written.
        """
        current = self._current
        if event.number != current.number:
            self._current = UpstreamAttempt(event.number, event.provider, event.model, now, prompt_tokens())
            self.unsaved.append(self._current)
        elif (event.provider, event.model) != (current.provider, current.model):
            current.provider, current.model, current.is_noted = event.provider, event.model, False
            current.prompt_tokens = prompt_tokens()
            self.unsaved.append(current)

    def end(self, outcome: str, usage: Usage, now: float) -> None:
        """The current attempt is over; if it was already, that stays as it is."""
        current = self._current
        if current.outcome is None:
            current.outcome, current.usage, current.ended_at = outcome, usage, now
            if current not in self.unsaved:
                self.unsaved.append(current)

    def saved(self, rows: list[UpstreamAttempt]) -> None:
        """These have been written as they are."""
        for row in rows:
            row.is_noted = True
        self.unsaved = [row for row in self.unsaved if row not in rows]
