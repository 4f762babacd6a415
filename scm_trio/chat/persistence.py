"""Writes that have to reach the store sooner or later: a database that fails for a while costs no answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
import trio

from scm_trio.errors import StoreError

log = structlog.get_logger(__name__)

RETRY_S = 0.5
LATE_RETRY_S = 5.0

Write = Callable[[], Awaitable[object]]
"""May be done twice; the second time changes nothing."""


async def store(write: Write, message_id: str, limit_s: float) -> bool:
    """Write, again while the database fails, for at most ``limit_s``; returns whether it is done."""
    # Shielded: what was said and what it cost must be kept, whoever is in a hurry.
    with trio.move_on_after(limit_s, shield=True) as limit:
        await _write_until_done(write, message_id, RETRY_S)
    if limit.cancelled_caught:
        log.error("not stored in time", message_id=message_id)
    return not limit.cancelled_caught


async def store_late(write: Write, message_id: str) -> None:
    """Go on until it is done or the server stops; then the next start seals what the last checkpoint has."""
    await _write_until_done(write, message_id, LATE_RETRY_S)
    log.info("stored late", message_id=message_id)


async def _write_until_done(write: Write, message_id: str, pause_s: float) -> None:
    while True:
        try:
            await write()
        except StoreError as exc:
            log.warning("not stored", message_id=message_id, error=str(exc))
        else:
            return
        await trio.sleep(pause_s)
