"""One side question being asked: the provider is read until its text is enough, and the ledger has its rows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol

import structlog
import trio

from scm_trio.chat.aside import Aside
from scm_trio.chat.attempts import Attempts, UpstreamAttempt
from scm_trio.chat.log import AnswerLog
from scm_trio.chat.persistence import store, store_late
from scm_trio.chat.prompt import estimate_turns
from scm_trio.errors import Internal, ProviderUnavailable, QuotaExceeded, RequestFailed, StoreError, TimedOut
from scm_trio.model import (
    AnswerInfo,
    Attempt,
    AttemptFailed,
    Delta,
    Finish,
    FinishReason,
    Prompt,
    Queued,
    Restart,
    Usage,
)
from scm_trio.providers.base import Batch, Provider

log = structlog.get_logger(__name__)

FIRST_TOKEN_S = 10.0
TOTAL_S = 20.0
STORE_LIMIT_S = 5.0
MAX_BYTES = 65_536
"""Of text and thinking."""


Later = Callable[[Callable[[], Awaitable[None]]], None]
"""Starts a task that may outlive the question."""


class Ledger(Protocol):
    """Where attempts are written down; see ``aside_ledger.py``. All of it may raise ``StoreError``."""

    def name_for(self, aside: Aside) -> str: ...

    async def open(self, name: str, aside: Aside, first: UpstreamAttempt) -> None:
        """Raises ``QuotaExceeded``."""

    async def save(self, name: str, aside: Aside, attempts: Sequence[UpstreamAttempt]) -> None: ...

    async def close(self, name: str, aside: Aside, attempts: Sequence[UpstreamAttempt]) -> None: ...


class AsideRun:
    """See the module. Made for one ``answer``.

    Args:
        later: does what the database could not do in time.

    Attributes:
        outcome: how it ended: a finish reason, or an error code.
        usage: what its last attempt came to; None as long as it is not over, or where there was none.
    """

    def __init__(self, aside: Aside, provider: Provider, model: str, ledger: Ledger, later: Later) -> None:
        self.outcome = FinishReason.CANCELLED.value
        self.usage: Usage | None = None
        self._aside = aside
        self._provider = provider
        self._prompt = Prompt(model=model, turns=aside.turns, max_tokens=aside.max_tokens)
        self._ledger = ledger
        self._later = later
        self._name = ledger.name_for(aside)
        info = AnswerInfo(aside.answer_id, aside.answer_id, None, model, provider.name)
        self._attempts = Attempts(info, trio.current_time())
        self._attempts.is_waiting = True
        self._log = AnswerLog(MAX_BYTES)
        self._finish: Finish | None = None

    async def answer(self) -> str:
        """Ask, and return the model's text.

        Raises:
            RequestFailed: the provider's failure, ``TimedOut`` (``first_token`` or ``total``), ``QuotaExceeded`` or
                ``Internal``.
        """
        try:
            await self._open()
            await self._read()
        except RequestFailed as exc:
            self.outcome = exc.code
            raise
        except Exception:
            # The barrier of a provider, as in ``run.py``.
            log.exception("provider broke", provider=self._provider.name, aside=self._name)
            self.outcome = Internal.code
            raise Internal("provider") from None
        else:
            self.outcome = (self._finish.reason if self._finish else FinishReason.COMPLETED).value
        finally:
            if self.outcome != QuotaExceeded.code:  # which says that nothing was begun
                await self._close()
        return self._log.content

    async def _open(self) -> None:
        tokens = estimate_turns(self._prompt.turns)
        first = UpstreamAttempt(0, self._provider.name, self._prompt.model, trio.current_time(), tokens)
        try:
            await self._ledger.open(self._name, self._aside, first)
        except StoreError as exc:
            log.warning("aside not stored", aside=self._name, error=str(exc))
            raise Internal("store") from None

    async def _read(self) -> None:
        """Read until the end, or until there is enough."""
        began_at = trio.current_time()
        self._attempts.is_waiting = False
        with trio.CancelScope(deadline=began_at + FIRST_TOKEN_S) as limit:
            async with self._provider.stream(self._prompt) as events:
                async for batch in events:
                    if batch and isinstance(batch[0], Attempt | AttemptFailed):
                        await self._turn(batch[0])
                    elif self._take(batch):
                        limit.deadline = began_at + TOTAL_S
                        if self._finish is None and self._aside.is_enough(self._log.content):
                            return
        if limit.cancelled_caught:
            raise TimedOut(field="total" if self._log.next_index else "first_token")
        if self._finish is None:
            raise ProviderUnavailable("the stream ended without a finish")

    def _take(self, batch: Batch) -> bool:
        """Sort a batch's events; True when the provider said something."""
        deltas = []
        for event in batch:
            if isinstance(event, Delta):
                deltas.append(event)
            elif isinstance(event, Usage):
                self._attempts.told = event
            elif isinstance(event, Finish):
                self._finish = event
            elif isinstance(event, Queued):
                self._attempts.is_waiting = True
            elif isinstance(event, Restart):
                self._attempts.standing, self._log = None, AnswerLog(MAX_BYTES)
        self._log.append(deltas, trio.current_time())
        return bool(deltas)

    async def _turn(self, event: Attempt | AttemptFailed) -> None:
        """An attempt begins or has failed: the ledger is told before anything else happens."""
        now = trio.current_time()
        if isinstance(event, AttemptFailed):
            self._attempts.fail(event, self._prompt, self._log, now)
        else:
            self._attempts.begin(event, now, lambda: estimate_turns(self._prompt.turns))
        rows = list(self._attempts.unsaved)
        try:
            await self._ledger.save(self._name, self._aside, rows)
            self._attempts.saved(rows)
        except StoreError as exc:  # what cannot be written now is written with the end
            log.warning("attempt not stored", aside=self._name, error=str(exc))

    async def _close(self) -> None:
        self.usage = self._attempts.spent(self._prompt, self._log)
        self._attempts.end(self.outcome, self.usage, trio.current_time())
        rows = list(self._attempts.unsaved)

        async def write() -> None:
            await self._ledger.close(self._name, self._aside, rows)

        if not await store(write, self._name, STORE_LIMIT_S):
            self._later(partial(store_late, write, self._name))
