"""The upstream attempts of one run, as its ledger rows have to tell them."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, evolve

from scm_trio.chat.log import AnswerLog
from scm_trio.chat.prompt import estimate_tokens, estimate_turns
from scm_trio.model import AnswerInfo, Attempt, AttemptFailed, Prompt, Usage


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
        is_waiting: nobody is being asked yet.
        told: what the current one has spent, as its provider told it; of the prompt only, where it is ``estimated``.
        standing: what one has spent that broke off, and whose text stands until another one speaks.
    """

    def __init__(self, info: AnswerInfo, now: float) -> None:
        self._current = UpstreamAttempt(0, info.provider, info.model, now, is_noted=True)
        self.unsaved: list[UpstreamAttempt] = []
        self.is_waiting = False
        self.told: Usage | None = None
        self.standing: Usage | None = None

    @property
    def provider(self) -> str:
        """Who is being asked, or was last."""
        return self._current.provider

    @property
    def model(self) -> str:
        return self._current.model

    def begin(self, event: Attempt, now: float, prompt_tokens: Callable[[], int]) -> None:
        """Another attempt; number 0 is the one that is there, maybe with another provider than was asked for.

        Args:
            event: tells it.
            now: Trio's time.
            prompt_tokens: estimates the prompt; only called for a row that is yet to be written.
        """
        self.told, self.is_waiting = None, False
        current = self._current
        if event.number != current.number:
            self._current = UpstreamAttempt(event.number, event.provider, event.model, now, prompt_tokens())
            self.unsaved.append(self._current)
        elif (event.provider, event.model) != (current.provider, current.model):
            current.provider, current.model, current.is_noted = event.provider, event.model, False
            current.prompt_tokens = prompt_tokens()
            self.unsaved.append(current)

    def is_speaking(self, log: AnswerLog) -> bool:
        """Whether what the log holds was said by the current attempt."""
        return log.next_index > 0 and self.standing is None

    def spent(self, prompt: Prompt, log: AnswerLog) -> Usage:
        """What the current attempt has spent: as it was settled, as its provider told it, or an estimate."""
        told = self.told
        if self._current.usage is not None:
            return self._current.usage
        if self.is_waiting:
            return Usage(source="estimated")
        if told is not None and told.source == "provider":
            return told
        is_speaking = self.is_speaking(log)
        thought = estimate_tokens(log.reasoning) if is_speaking else 0
        said = estimate_tokens(log.content) if is_speaking else 0
        guess = Usage(estimate_turns(prompt.turns), said + thought, thought, source="estimated")
        if told is None:
            return guess
        return evolve(guess, prompt_tokens=told.prompt_tokens, cached_tokens=told.cached_tokens)

    def fail(self, event: AttemptFailed, prompt: Prompt, log: AnswerLog, now: float) -> None:
        """The current attempt failed, and is not the last one; what it said stands for the time being."""
        nothing = self.told is None and not event.was_accepted
        spent = Usage(source="estimated") if nothing else self.spent(prompt, log)
        if self.is_speaking(log):
            self.standing = spent
        self.end(event.code, spent, now)

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
