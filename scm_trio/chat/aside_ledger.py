"""What side questions cost: a row of the ledger for each of their attempts, as for those of answers.

Such a row stands with the answer that the question is about: its ``run_id`` and ``message_id`` are that answer's, so
that the answer is still counted once, and ``attempt_id`` begins with what was asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sqlalchemy import Connection

from scm_trio.chat.aside import Aside
from scm_trio.chat.attempts import UpstreamAttempt
from scm_trio.chat.entries import Account, Entries, Entry, keep
from scm_trio.chat.quota import Quotas, uncontended
from scm_trio.chat.usage import Cost, cost_of
from scm_trio.model import Usage
from scm_trio.store import ledger, quota
from scm_trio.store.database import Database
from scm_trio.store.quota import Amounts


class AsideLedger:
    """The ledger, for side questions.

    Args:
        database: its writer must be running.
        now: wall clock, seconds since the epoch.
        new_id: makes unguessable ids.
        costs: what the models of each provider cost.
        quotas: what users are limited to.
    """

    def __init__(
        self,
        database: Database,
        now: Callable[[], float],
        new_id: Callable[[], str],
        costs: Mapping[str, Cost],
        quotas: Quotas,
    ) -> None:
        self._database = database
        self._now = now
        self._new_id = new_id
        self._costs = costs
        self._entries = Entries(now, costs)
        self._quotas = quotas

    def name_for(self, aside: Aside) -> str:
        """The name under which the attempts of one question are written down."""
        return f"{aside.kind}-{self._new_id()}"

    async def open(self, name: str, aside: Aside, first: UpstreamAttempt) -> None:
        """Write down that a model is about to be asked, if what that may come to is left of its user's quota.

        Raises:
            QuotaExceeded: it is not.
            StoreError: the database failed.
        """
        row = self._entries.opened(_account(name, aside), first)
        most = Usage(first.prompt_tokens, aside.max_tokens)
        cost = cost_of(self._costs, first.provider, first.model, most)
        # As a request it counts with the answer that it is about.
        wanted = Amounts(most.total_tokens, 0, cost or 0.0)
        await uncontended(lambda: self._database.write(self._open, name, row, wanted, self._now()))

    def _open(self, conn: Connection, name: str, row: ledger.Attempt, wanted: Amounts, now: float) -> None:
        self._quotas.set_aside(conn, name, row.user_id, wanted, now)
        ledger.open_attempt(conn, row)

    async def save(self, name: str, aside: Aside, attempts: Sequence[UpstreamAttempt]) -> None:
        """Bring the rows of these attempts up to date, in one transaction.

        Raises:
            StoreError: the database failed.
        """
        await self._database.write(keep, self._entries.of(_account(name, aside), attempts))

    async def close(self, name: str, aside: Aside, attempts: Sequence[UpstreamAttempt]) -> None:
        """The same for the last ones; nothing is set aside any more.

        Raises:
            StoreError: the database failed.
        """
        entries = self._entries.of(_account(name, aside), attempts)
        await self._database.write(self._close, name, aside.user_id, entries)

    def _close(self, conn: Connection, name: str, user_id: str, entries: list[Entry]) -> None:
        keep(conn, entries)
        if self._quotas.limits_of(user_id) is not None:
            quota.release(conn, name)


def _account(name: str, aside: Aside) -> Account:
    return Account(name, aside.answer_id, aside.user_id)
