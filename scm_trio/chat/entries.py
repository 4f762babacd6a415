"""Upstream attempts as rows of the ledger, for answers and for side questions alike.

They are made before the write and not in it: an attempt's times are Trio's, and the database is written in another thread,
which does not know them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import trio
from attrs import frozen
from sqlalchemy import Connection

from scm_trio.chat.attempts import UpstreamAttempt
from scm_trio.chat.usage import Cost, cost_of
from scm_trio.store import ledger


@frozen
class Account:
    """Whose the attempts are, and what their rows are called.

    Attributes:
        name: what their ids begin with.
        answer_id: the answer that they are for, or about.
    """

    name: str
    answer_id: str
    user_id: str


@frozen
class Entry:
    """What has to be done to a row of the ledger."""

    opened: ledger.Attempt | None
    settled: ledger.SettledAttempt | None


@frozen
class Entries:
    """Makes them.

    Attributes:
        now: wall clock, seconds since the epoch.
        costs: what the models of each provider cost.
    """

    now: Callable[[], float]
    costs: Mapping[str, Cost]

    def of(self, account: Account, attempts: Iterable[UpstreamAttempt]) -> list[Entry]:
        """What is to be written of these attempts; in Trio's own thread."""
        return [
            Entry(None if each.is_noted else self.opened(account, each), self._settled(account, each))
            for each in attempts
        ]

    def opened(self, account: Account, attempt: UpstreamAttempt) -> ledger.Attempt:
        """The row of an attempt that begins; in Trio's own thread."""
        return ledger.Attempt(
            attempt_id=f"{account.name}-{attempt.number}",
            run_id=account.answer_id,
            message_id=account.answer_id,
            user_id=account.user_id,
            provider=attempt.provider,
            model=attempt.model,
            started_at=self.now() - (trio.current_time() - attempt.started_at),
            prompt_tokens=attempt.prompt_tokens,
        )

    def _settled(self, account: Account, attempt: UpstreamAttempt) -> ledger.SettledAttempt | None:
        if attempt.outcome is None or attempt.usage is None or attempt.ended_at is None:
            return None
        return ledger.SettledAttempt(
            attempt_id=f"{account.name}-{attempt.number}",
            outcome=attempt.outcome,
            duration_ms=round((attempt.ended_at - attempt.started_at) * 1000),
            usage=attempt.usage,
            cost=cost_of(self.costs, attempt.provider, attempt.model, attempt.usage),
        )


def keep(conn: Connection, entries: Iterable[Entry]) -> None:
    """Write them."""
    for entry in entries:
        if entry.opened is not None:
            ledger.note_attempt(conn, entry.opened)
        if entry.settled is not None:
            ledger.settle_attempt(conn, entry.settled)
