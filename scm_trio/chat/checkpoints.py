"""The text of running answers, made durable once a second: all of them together, which costs hardly more than one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import structlog
import trio

from scm_trio.chat.run import Journal, Run
from scm_trio.errors import StoreError

log = structlog.get_logger(__name__)

CHECKPOINT_S = 1.0


async def keep_checkpoints(
    busy: Callable[[], Awaitable[None]], live: Callable[[], Iterable[Run]], journal: Journal
) -> None:
    """Serve until cancelled.

    Args:
        busy: returns when there is a running answer.
        live: the running answers.
        journal: where their text goes; what it cannot store now is tried again a second later.
    """
    while True:
        await busy()
        await trio.sleep(CHECKPOINT_S)
        news = [(run, run.said_upto) for run in live() if run.said_upto > run.saved_upto]
        if not news:
            continue
        try:
            await journal.checkpoint([run for run, _ in news])
        except StoreError as exc:
            log.warning("checkpoint failed", answers=len(news), error=str(exc))
        except Exception:
            # The barrier of the checkpoints: a bug in them must not end the house. The answers' ends store everything.
            log.exception("checkpoint broke")
        else:
            for run, upto in news:
                run.saved_upto = upto
