"""Rates, as pure rules: the time is passed in, in seconds of any one clock."""

from __future__ import annotations

from enum import Enum

from attrs import define, field

FLOOD_FACTOR = 3
"""A user who sends this many times the limit is disconnected instead of warned."""


@define
class TokenBucket:
    """Holds up to ``capacity`` tokens and regains ``per_second`` of them each second."""

    capacity: float
    per_second: float
    _level: float = field(init=False)
    _at: float = field(init=False, default=float("-inf"))

    def __attrs_post_init__(self) -> None:
        self._level = self.capacity

    def take(self, now: float, cost: float = 1) -> bool:
        """Take ``cost`` tokens if they are there."""
        self._refill(now)
        if self._level < cost:
            return False
        self._level -= cost
        return True

    def lend(self, cost: float = 1) -> None:
        """Take ``cost`` tokens even where they are not there."""
        self._level -= cost

    def give_back(self, now: float, cost: float = 1) -> None:
        """Undo a ``take`` or ``lend``."""
        self._refill(now)
        self._level = min(self.capacity, self._level + cost)

    def wait_s(self, now: float, cost: float = 1) -> float:
        """Seconds until ``cost`` tokens are there."""
        self._refill(now)
        return max(0.0, (cost - self._level) / self.per_second)

    def is_full(self, now: float) -> bool:
        self._refill(now)
        return self._level >= self.capacity

    def _refill(self, now: float) -> None:
        if now > self._at:
            self._level = min(self.capacity, self._level + (now - self._at) * self.per_second)
            self._at = now


class Verdict(Enum):
    PASS = "pass"  # noqa: S105 - a verdict, no password
    REFUSE = "refuse"
    FLOOD = "flood"


class UserRates:
    """Messages per user and minute, over all of a user's connections."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._by_user: dict[str, tuple[TokenBucket, TokenBucket]] = {}

    def charge(self, user_id: str, now: float) -> tuple[Verdict, float]:
        """Count one message; returns the verdict and, when refused, the seconds to wait."""
        if not self._per_minute:
            return Verdict.PASS, 0.0
        allowed, tolerated = self._by_user.get(user_id) or self._new(user_id)
        if not tolerated.take(now):
            return Verdict.FLOOD, allowed.wait_s(now)
        if not allowed.take(now):
            return Verdict.REFUSE, allowed.wait_s(now)
        return Verdict.PASS, 0.0

    def wait_s(self, user_id: str, now: float) -> float | None:
        """Count one message; returns the seconds to wait where that was too many, else None."""
        verdict, wait_s = self.charge(user_id, now)
        return None if verdict is Verdict.PASS else wait_s

    def lend(self, user_id: str) -> None:
        """Let a message pass that was refused, until it is given back."""
        for bucket in self._by_user.get(user_id, ()):
            bucket.lend()

    def give_back(self, user_id: str, now: float) -> None:
        """One message that passed turned out not to count."""
        for bucket in self._by_user.get(user_id, ()):
            bucket.give_back(now)

    def sweep(self, now: float) -> None:
        """Forget users whose buckets are full again."""
        for user_id, buckets in list(self._by_user.items()):
            if all(bucket.is_full(now) for bucket in buckets):
                del self._by_user[user_id]

    def _new(self, user_id: str) -> tuple[TokenBucket, TokenBucket]:
        rate = self._per_minute
        buckets = (TokenBucket(rate, rate / 60), TokenBucket(rate * FLOOD_FACTOR, rate * FLOOD_FACTOR / 60))
        self._by_user[user_id] = buckets
        return buckets
