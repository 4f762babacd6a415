"""Quotas per user and UTC day: what an answer may come to is set aside before anybody is asked, and settled after."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

import trio
from attrs import fields, frozen
from sqlalchemy import Connection

from scm_trio import config
from scm_trio.chat.plan import Plan
from scm_trio.chat.usage import Cost, cost_of
from scm_trio.errors import QuotaExceeded
from scm_trio.model import Usage
from scm_trio.store import quota
from scm_trio.store.database import Database
from scm_trio.store.ledger import DAY_S
from scm_trio.store.quota import Amounts, Contended, Reservation

T = TypeVar("T")

CONTENDED_WAIT_S = 0.01


@frozen
class Limits:
    """What one user may spend on one day; 0: no limit of that kind."""

    tokens: int = 0
    requests: int = 0
    cost: float = 0.0

    def exceeded(self, spent: Amounts, wanted: Amounts) -> str | None:
        """The first limit that what is wanted would pass, on top of what is spent; None: there is enough left."""
        for field in fields(Limits):
            limit: float = getattr(self, field.name)
            if limit and getattr(spent, field.name) + getattr(wanted, field.name) > limit:
                return field.name
        return None


@frozen
class Standing:
    """A user's limits, what has been spent of them today or is set aside, and when that is forgotten."""

    limits: Limits
    spent: Amounts
    resets_at: float


class Quotas:
    """The quotas of the configuration.

    Args:
        settings: the section ``ai.quota``.
        costs: what the models of each provider cost.
    """

    def __init__(self, settings: config.Quota, costs: Mapping[str, Cost]) -> None:
        self._settings = settings
        self._costs = costs
        self._limits = _limits(settings, None)
        self._of_users = {user_id: _limits(settings, own) for user_id, own in settings.users.items()}

    def limits_of(self, user_id: str) -> Limits | None:
        """What the user is limited to; None: nothing."""
        return self._of_users.get(user_id, self._limits)

    def reserve(self, conn: Connection, plan: Plan, prompt_tokens: int, now: float) -> None:
        """Set aside what an answer may come to, in the transaction that opens its run.

        Raises:
            QuotaExceeded: not so much is left today.
            Contended: another process is deciding about this user; the whole transaction has to be tried again.
        """
        if self.limits_of(plan.user_id) is not None:
            wanted = self._wanted(plan, prompt_tokens)
            self.set_aside(conn, plan.info.message_id, plan.user_id, wanted, now)

    def set_aside(self, conn: Connection, name: str, user_id: str, wanted: Amounts, now: float) -> None:
        """Set something aside under a name, by which it is released.

        Raises:
            QuotaExceeded, Contended: as ``reserve``.
        """
        limits = self.limits_of(user_id)
        if limits is None:
            return
        day = int(now // DAY_S)
        quota.claim(conn, user_id)
        if (key := limits.exceeded(quota.amounts(conn, user_id, day), wanted)) is not None:
            resets_at = _end_of(day)
            raise QuotaExceeded(
                field=f"scm.ai.quota.{key}-per-day",
                retry_after_s=resets_at - now,
                resets=datetime.fromtimestamp(resets_at, UTC).strftime("%Y-%m-%d %H:%M"),
            )
        quota.reserve(conn, Reservation(name, user_id, day, wanted.tokens, wanted.cost))

    def _wanted(self, plan: Plan, prompt_tokens: int) -> Amounts:
        answer_tokens = plan.question.max_tokens or self._settings.answer_tokens
        if plan.context_tokens is not None:
            answer_tokens = min(answer_tokens, plan.context_tokens)
        usage = Usage(prompt_tokens, answer_tokens)
        cost = cost_of(self._costs, plan.info.provider, plan.info.model, usage)
        return Amounts(usage.total_tokens, 1, cost or 0.0)

    async def standing(self, database: Database, user_id: str, now: float) -> Standing | None:
        """How the user stands today; None where nothing is limited.

        Raises:
            StoreError: the database failed.
        """
        limits = self.limits_of(user_id)
        if limits is None:
            return None
        day = int(now // DAY_S)
        return Standing(limits, await database.read(quota.amounts, user_id, day), _end_of(day))


async def uncontended(attempt: Callable[[], Awaitable[T]]) -> T:
    """Await what may be ``Contended`` until it is not: that takes as long as another process's transaction."""
    while True:
        try:
            return await attempt()
        except Contended:
            await trio.sleep(CONTENDED_WAIT_S)


def _limits(settings: config.Quota, own: config.UserQuota | None) -> Limits | None:
    """The limits for everybody, where a user has none of the own; None: there are none at all."""

    def limit(name: str) -> float:
        of_user: float | None = getattr(own, name) if own is not None else None
        return getattr(settings, name) if of_user is None else of_user

    limits = Limits(int(limit("tokens_per_day")), int(limit("requests_per_day")), limit("cost_per_day"))
    return None if limits == Limits() else limits


def _end_of(day: int) -> float:
    return float((day + 1) * DAY_S)
