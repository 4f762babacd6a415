"""Several keys for one vendor: used in turn, and a key that was refused rests. Pure but for the clock it is given."""

from __future__ import annotations

from collections.abc import Callable, Collection

from attrs import frozen

from scm_trio.errors import ProviderAuth, RequestFailed

REFUSED_REST_S = 600.0
"""For a key that is wrong, or whose account is out of money."""
BUSY_REST_S = 5.0
"""For a key above its rate where the vendor does not say for how long."""


@frozen
class _Rest:
    until: float
    failure: RequestFailed


class KeyRing:
    """A vendor's keys. A lone key never rests: there is nothing else to ask with.

    Args:
        keys: secrets; white space around them is dropped.
        now: monotonic clock, seconds.
    """

    def __init__(self, keys: Collection[str], now: Callable[[], float]) -> None:
        self._keys = tuple(key.strip() for key in keys)
        self._now = now
        self._next = 0
        self._rests: dict[str, _Rest] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def pick(self) -> tuple[str, ...]:
        """Return the key whose turn it is; empty where there are none at all.

        Raises:
            ProviderAuth, ProviderRateLimited: every key rests; as ``failure`` tells.
        """
        now = self._now()
        for step in range(len(self._keys)):
            key = self._keys[(self._next + step) % len(self._keys)]
            if not self._rests_at(key, now):
                self._next += step + 1
                return (key,)
        if failure := self.failure():
            raise failure
        return ()

    def failure(self) -> RequestFailed | None:
        """Why no key can be used now, and in how many seconds one can; None: one can."""
        now = self._now()
        if not self._keys or any(not self._rests_at(key, now) for key in self._keys):
            return None
        first = min((self._rests[key] for key in self._keys), key=lambda rest: rest.until)
        return type(first.failure)(
            "every key was refused", field=first.failure.field, retry_after_s=max(0.0, first.until - now)
        )

    def refuse(self, used: Collection[str], failure: RequestFailed) -> None:
        """Let the key among the ``used`` secrets rest, because of a ``ProviderAuth`` or ``ProviderRateLimited``.

        One that is right, and only may not have what was asked for, does not.
        """
        if len(self._keys) < 2 or failure.field == "permission":
            return
        if isinstance(failure, ProviderAuth):
            rest_s = REFUSED_REST_S
        else:
            rest_s = BUSY_REST_S if failure.retry_after_s is None else failure.retry_after_s
        for key in set(self._keys).intersection(used):
            self._rests[key] = _Rest(self._now() + rest_s, failure)

    def _rests_at(self, key: str, now: float) -> bool:
        rest = self._rests.get(key)
        return rest is not None and rest.until > now
