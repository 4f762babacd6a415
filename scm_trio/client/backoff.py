"""When a lost connection is tried again: pure, the time and the chance are passed in."""

from __future__ import annotations

import random
from collections.abc import Callable

from attrs import define, field, frozen

STABLE_S = 10.0
"""A connection that lived this long ends an outage; one that breaks sooner counts as one more failed try."""
_MAX_DOUBLINGS = 30


@frozen
class Backoff:
    """How a chat comes back.

    The pause before try ``n`` is a random part of ``first_s`` times two to the power of ``n``, at most of ``limit_s``
    (full jitter), so that many clients of a server that was restarted do not come back together. A pause that the
    server asks for comes before that.

    Attributes:
        first_s: the longest pause before the first try, in seconds.
        limit_s: the longest pause before any.
        give_up_after_s: how long an outage may last; None: it is tried for ever.
        chance: uniform in [0, 1).
    """

    first_s: float = 0.5
    limit_s: float = 30.0
    give_up_after_s: float | None = None
    chance: Callable[[], float] = field(default=random.random, repr=False)

    def pause_s(self, tries: int, asked_s: float | None) -> float:
        """Seconds to wait after so many tries in vain; ``asked_s`` is what the server wants at least."""
        longest_s = min(self.limit_s, self.first_s * 2.0 ** min(tries, _MAX_DOUBLINGS))
        return (asked_s or 0.0) + self.chance() * longest_s


@define
class Outage:
    """One time without a lasting connection, from its first break on."""

    _backoff: Backoff
    _began_at: float
    _tries: int = 0

    def next_pause_s(self, now: float, asked_s: float | None) -> float | None:
        """Seconds to wait before the next try; None when it is time to give up."""
        pause_s = self._backoff.pause_s(self._tries, asked_s)
        self._tries += 1
        if self._backoff.give_up_after_s is None:
            return pause_s
        left_s = self._began_at + self._backoff.give_up_after_s - now
        if left_s <= 0 or (asked_s or 0.0) > left_s:
            return None
        # The last try is made when the time is over, not before.
        return min(pause_s, left_s)
