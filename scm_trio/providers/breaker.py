"""A circuit breaker: a provider that fails again and again is left alone for a while. Pure; the time is passed in."""

from __future__ import annotations

from collections import OrderedDict, deque

THRESHOLD = 5
"""So many failures without a success between them …"""
WINDOW_S = 30.0
"""… within so long open the breaker."""
FIRST_REST_S = 15.0
MAX_REST_S = 300.0
PROBE_WAIT_S = 1.0
"""What those are told to wait who come while the one probe is out."""
MAX_BREAKERS = 256


class Breaker:
    """Closed: everybody may ask. Open: nobody, until its rest is over; then one probe decides."""

    def __init__(self) -> None:
        self._failed_at: deque[float] = deque(maxlen=THRESHOLD)
        self._rest_s = 0.0
        self._open_until: float | None = None
        self._probing = False

    @property
    def is_idle(self) -> bool:
        """Nothing is remembered."""
        return self._open_until is None and not self._failed_at

    def wait_s(self, now: float) -> float:
        """Seconds until the provider may be asked; 0: now."""
        if self._open_until is None:
            return 0.0
        if self._probing:
            return PROBE_WAIT_S
        return max(0.0, self._open_until - now)

    def begin(self) -> bool:
        """Note that somebody asks, which ``wait_s`` must allow; returns whether that is the probe.

        Each ``begin`` is followed by one ``succeed``, ``fail`` or ``abandon``, which is told the returned value.
        """
        self._probing = self._open_until is not None
        return self._probing

    def succeed(self) -> None:
        """The provider answers, whoever asked."""
        self._failed_at.clear()
        self._rest_s, self._open_until, self._probing = 0.0, None, False

    def fail(self, now: float, *, probe: bool) -> None:
        """The provider failed. Who began before the breaker opened changes nothing any more."""
        if probe and self._probing:
            self._open(now)
        elif self._open_until is None:
            self._failed_at.append(now)
            if len(self._failed_at) == THRESHOLD and now - self._failed_at[0] <= WINDOW_S:
                self._open(now)

    def abandon(self, *, probe: bool) -> None:
        """Nobody knows how it would have ended; the next may probe."""
        if probe:
            self._probing = False

    def _open(self, now: float) -> None:
        self._rest_s = min(2 * self._rest_s, MAX_REST_S) if self._rest_s else FIRST_REST_S
        self._open_until = now + self._rest_s
        self._probing = False


class Breakers:
    """One provider's breakers, by model. Their number is limited, since askers may name any model."""

    def __init__(self) -> None:
        self._by_model: OrderedDict[str, Breaker] = OrderedDict()

    def of(self, model: str) -> Breaker:
        """Return the model's breaker."""
        breaker = self._by_model.setdefault(model, Breaker())
        self._by_model.move_to_end(model)
        if len(self._by_model) > MAX_BREAKERS:
            idle = (name for name, other in self._by_model.items() if other.is_idle and other is not breaker)
            del self._by_model[next(idle, next(iter(self._by_model)))]
        return breaker
