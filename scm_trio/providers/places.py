"""How many requests a vendor gets from us at a time, and how long further ones wait for their turn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from scm_trio.errors import ServerBusy

WAIT_LIMIT_S = 15.0
"""Who has had no turn after so long is better served elsewhere, or told."""


class Places:
    """The places of one vendor.

    Args:
        name: the provider's name, for the failure.
        number: how many there are.
    """

    def __init__(self, name: str, number: int) -> None:
        self._name = name
        self._limiter = trio.CapacityLimiter(number)

    @property
    def taken(self) -> int:
        return self._limiter.borrowed_tokens

    @property
    def are_taken(self) -> bool:
        """Whether the next one has to wait."""
        return self._limiter.available_tokens == 0

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Wait for a place, and hold it.

        Raises:
            ServerBusy: there was none within ``WAIT_LIMIT_S``.
        """
        permit = object()  # the limiter's own notion of a holder is the task, which may hold several
        with trio.move_on_after(WAIT_LIMIT_S) as wait:
            await self._limiter.acquire_on_behalf_of(permit)
        if wait.cancelled_caught:
            raise ServerBusy(f"{self._name}: no place within {WAIT_LIMIT_S:g} s", retry_after_s=WAIT_LIMIT_S)
        try:
            yield
        finally:
            self._limiter.release_on_behalf_of(permit)
