"""What is done in the background, batch by batch, so that other writers get their turn in between."""

from __future__ import annotations

from collections.abc import Callable

import structlog
import trio

from scm_trio.config import Retention
from scm_trio.errors import StoreError
from scm_trio.store import files
from scm_trio.store.blobs import Blobs
from scm_trio.store.database import Database
from scm_trio.store.person import delete_user
from scm_trio.store.removal import DeletedSession, has_removed, purge
from scm_trio.store.retention import Expired, expire, sessions_due
from scm_trio.store.search import has_pending, index_pending, merge_index, pending_upto

log = structlog.get_logger(__name__)

RETENTION_INTERVAL_S = 600.0
RETENTION_LIMIT_S = 300.0
"""A round of it ends then: where messages keep coming there is always one too many. What is left is due again next time."""
PAUSE_S = 0.05
"""Between two batches of the background. A write that comes together with a batch takes as long as that does, so most should not."""
FILES_BATCH = 200
OTHERS_WAIT_S = 0.02
OTHERS_TRIES = 50
FOLD_TRIES = 50
FOLD_PAUSE_S = 0.2
"""Readers take milliseconds each; who is still there after some fifty tries reads for long."""


def _to_nobody(_: DeletedSession) -> None:
    """Where nobody is connected."""


async def keep_house(
    database: Database,
    keep: Retention,
    now: Callable[[], float],
    interval_s: float,
    tell: Callable[[DeletedSession], None] = _to_nobody,
) -> None:
    """Index, purge and, more rarely, apply the retention, for ever; a database that fails is tried again later.

    Args:
        database: its writer must be running.
        keep: how much is kept.
        now: wall clock, seconds since the epoch.
        interval_s: seconds between two rounds.
        tell: see ``apply_retention``.
    """
    next_retention = trio.current_time()
    while True:
        await trio.sleep(interval_s)
        try:
            await catch_up(database, pause_s=PAUSE_S)
            await purge_removed(database, pause_s=PAUSE_S)
            if trio.current_time() >= next_retention:
                with trio.move_on_after(RETENTION_LIMIT_S):
                    removed = await apply_retention(database, now(), keep, tell=tell, pause_s=PAUSE_S)
                    if removed:
                        log.info("retention applied", removed=removed)
                next_retention = trio.current_time() + RETENTION_INTERVAL_S
        except StoreError as exc:
            log.warning("housekeeping failed", error=str(exc))


async def catch_up(database: Database, *, pause_s: float = 0.0) -> None:
    """Make everything stored so far known to the search; to be awaited before one.

    What another process is just indexing is waited for, a second at most; what comes meanwhile is not.

    Args:
        database: its writer must be running.
        pause_s: seconds between two batches.

    Raises:
        StoreError: the database failed.
    """
    tries = OTHERS_TRIES
    newest = await database.read(pending_upto)
    while newest is not None and tries and await database.read(has_pending, newest):
        if not await database.write(index_pending):
            tries -= 1
            await trio.sleep(OTHERS_WAIT_S)
        await trio.sleep(pause_s)


async def purge_removed(database: Database, *, pause_s: float = 0.0) -> None:
    """Remove what is left of sessions that were deleted.

    Args:
        database: its writer must be running.
        pause_s: seconds between two batches.

    Raises:
        StoreError: the database failed.
    """
    while await database.read(has_removed):
        await database.write(purge)
        await trio.sleep(pause_s)


async def apply_retention(
    database: Database,
    now: float,
    keep: Retention,
    *,
    tell: Callable[[DeletedSession], None] = _to_nobody,
    pause_s: float = 0.0,
) -> int:
    """Remove what is older than it may be, or too much for one session; return how many messages and whole sessions.

    Args:
        database: its writer must be running.
        now: seconds since the epoch.
        keep: how much is kept.
        tell: called for each whole session that goes, as the effect of its removal (``Database.change``).
        pause_s: seconds between two batches.

    Raises:
        StoreError: the database failed.
    """

    def effect(expired: Expired) -> int:
        if expired.session is not None:
            tell(expired.session)
        return expired.count

    removed = 0
    while True:
        before = removed
        for global_id in await database.read(sessions_due, now, keep):
            while count := await database.change(effect, expire, now, keep, global_id):
                removed += count
                await trio.sleep(pause_s)
        if removed == before:
            return removed


async def erase_user(database: Database, blobs: Blobs, user_id: str) -> bool:
    """Delete all that is kept about a person, as ``person.delete_user`` does; return whether there was anything.

    Raises:
        StoreError: database or disk failed, or others kept SQLite from emptying its log, which has the texts still; what is
            left can be deleted by asking again.
    """
    found = False
    while await database.write(delete_user, user_id):
        found = True
    await purge_removed(database)
    while going := await database.write(files.sweep, unattached_before=0.0, limit=FILES_BATCH):
        for file_id in going:
            await blobs.delete(file_id)
        await database.write(files.forget, going)
    # Also the words that only the index still has.
    while await database.write(merge_index):
        pass
    await _fold_log(database)
    return found


async def _fold_log(database: Database) -> None:
    for _ in range(FOLD_TRIES):
        if await database.fold_log():
            return
        await trio.sleep(FOLD_PAUSE_S)
    raise StoreError(
        "everything is deleted, but texts can still be found in the database's -wal file, because somebody keeps reading; "
        "do it again to empty that"
    )
