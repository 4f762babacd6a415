"""What answers cost, by the price table of the configuration, and what a user has spent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from attrs import frozen

from scm_trio.config import Price
from scm_trio.model import Usage
from scm_trio.store import ledger
from scm_trio.store.database import Database

_PER = 1_000_000
DEFAULT_PERIOD_S = 30 * 86_400.0


@frozen
class Cost:
    """One provider's prices, by model."""

    prices: Mapping[str, Price]

    def of(self, model: str, usage: Usage) -> float | None:
        """In the table's currency; None where the model has no price."""
        price = self.prices.get(model)
        if price is None:
            return None
        return (usage.prompt_tokens * price.prompt + usage.completion_tokens * price.completion) / _PER


def cost_of(costs: Mapping[str, Cost], provider: str, model: str, usage: Usage) -> float | None:
    """What these tokens cost at a provider; None where it has no price for the model."""
    prices = costs.get(provider)
    return prices.of(model, usage) if prices is not None else None


@frozen
class Spending:
    """The ledger, for those whose answers are in it. ``now`` is the wall clock, seconds since the epoch."""

    database: Database
    now: Callable[[], float]

    async def read(
        self, user_id: str, since: float | None, until: float | None, attempts: int | None
    ) -> Sequence[ledger.UsageDay] | Sequence[ledger.AttemptRow]:
        """Return what the user spent in ``since <= t < until``; by default the last 30 days up to now.

        Args:
            user_id: whose.
            since: seconds since the epoch; None: 30 days before the end.
            until: seconds since the epoch; None: now.
            attempts: the newest so many attempts instead of days.

        Raises:
            StoreError: the database failed.
        """
        # What has begun at this very moment counts.
        end = self.now() + 1 if until is None else until
        begin = end - DEFAULT_PERIOD_S if since is None else since
        if attempts is None:
            return await self.database.read(ledger.usage_by_day, user_id, begin, end)
        return await self.database.read(ledger.attempts, user_id, begin, end, attempts)
