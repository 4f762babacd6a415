"""Cancels that came before their requests, which another connection may carry. Pure but for the times it is given."""

from __future__ import annotations

FORETOLD_S = 60.0
"""How long a cancel is remembered whose request has not come, or has not been stored."""
MAX_PER_USER = 100


class Foretold:
    """Remembers them by user and request; of each user the newest only, so that nobody crowds out another."""

    def __init__(self) -> None:
        self._by_user: dict[str, dict[str, float]] = {}

    def add(self, user_id: str, request_id: str, now: float) -> None:
        mine = self._by_user.setdefault(user_id, {})
        mine.pop(request_id, None)  # the newest stands last
        mine[request_id] = now
        if len(mine) > MAX_PER_USER:
            del mine[next(iter(mine))]

    def has(self, user_id: str, request_id: str) -> bool:
        return request_id in self._by_user.get(user_id, ())

    def sweep(self, now: float) -> None:
        """Forget what nobody has come for."""
        for user_id, mine in list(self._by_user.items()):
            for request_id in [each for each, at in mine.items() if at + FORETOLD_S <= now]:
                del mine[request_id]
            if not mine:
                del self._by_user[user_id]
