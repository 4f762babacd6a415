"""Tasks that go on in the background for as long as the house stands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
import trio

log = structlog.get_logger(__name__)

PAUSE_S = 1.0
"""After a bug, so that one that comes again at once does not take a core."""


async def lasting(task: Callable[[], Awaitable[None]], name: str) -> None:
    """Run a task that never returns, until cancelled."""
    while True:
        try:
            await task()
        except Exception:
            # The barrier of the background: a bug there must not end the house.
            log.exception("background task broke", task=name)
            await trio.sleep(PAUSE_S)
