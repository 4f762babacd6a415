"""One answer being generated.

A run is two tasks: one reads the provider, the other keeps the time and ends it. Viewers follow the run's log with
cursors of their own (``log.py``) and are not known here but by their number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import structlog
import trio
from attrs import evolve

from scm_trio.chat.answer import Answer, Notice, StoredAnswer
from scm_trio.chat.attempts import Attempts
from scm_trio.chat.persistence import store, store_late
from scm_trio.chat.plan import Deadlines, Opened, Plan, Question, Said
from scm_trio.chat.prompt import estimate_turns
from scm_trio.errors import (
    ContentFiltered,
    Internal,
    ProviderUnavailable,
    RequestFailed,
    ResponseTooLarge,
    ServerBusy,
    ShuttingDown,
    StoreError,
    TimedOut,
)
from scm_trio.model import (
    Attempt,
    AttemptFailed,
    Delta,
    Ending,
    Finish,
    FinishReason,
    MemberRole,
    Message,
    Prompt,
    Queued,
    Restart,
    Usage,
)
from scm_trio.providers.base import Batch, Provider

__all__ = ["Deadlines", "Journal", "Observer", "Plan", "Question", "Run"]

log = structlog.get_logger(__name__)

STORE_LIMIT_S = 10.0
"""How long storing the end of an answer may take."""
CLOSE_LIMIT_S = 5.0
"""How long a cancelled provider may take to close before END goes out without it."""


class Journal(Protocol):
    """Where a run keeps what must survive the process. All of it may raise ``StoreError``."""

    async def open(self, run: Run) -> Opened | StoredAnswer:
        """Store question, run and attempt, or return the answer where the request had one already.

        What comes of it is told to ``run.accept``, which returns it.

        Raises:
            RequestFailed: the request cannot be answered; nothing has been stored.
        """

    async def answered(self, user_id: str, request_id: str) -> str | None:
        """The id of the answer to this user's request, whatever its age; None: there is none."""

    async def role(self, user_id: str, global_id: str) -> MemberRole:
        """What a user may do in a session.

        Raises:
            NotFound: he is no member of it.
        """

    async def keeps(self, user_id: str, global_id: str, message_id: str) -> bool:
        """Whether an answer, running or ended, of a user's session is still there, and was not deleted by another process.

        Raises:
            NotFound: he is no member of the session.
        """

    async def recall(self, user_id: str, message_id: str) -> StoredAnswer:
        """Read an ended answer back, for a member of its session.

        Raises:
            NotFound: there is none, or the user is no member.
        """

    async def withdraw(self, run: Run) -> None:
        """Leave nothing of a run that was refused although ``open`` may have been done, or may yet be."""

    async def checkpoint(self, runs: Sequence[Run]) -> None:
        """Make the text so far of all these durable."""

    async def attempt(self, run: Run) -> None:
        """Bring the ledger up to date with the run's attempts."""

    async def end(self, run: Run, ending: Ending) -> Message | None:
        """Store the answer and tell it to ``run.keep``; None where nothing was said that is worth keeping."""


class Observer(Protocol):
    """Numbers about runs."""

    def run_started(self) -> None: ...

    def first_token(self, provider: str, seconds: float) -> None: ...

    def run_ended(self, provider: str, outcome: str, seconds: float, usage: Usage) -> None: ...


class _Wish:
    """Why the provider's scope was cancelled from outside."""

    def __init__(self, reason: FinishReason, at: float) -> None:
        self.reason = reason
        self.at = at


class Run(Answer):
    """One answer, from its request to its sealed log.

    Attributes:
        attempts: who was asked, for the ledger.
        saved_upto: the ``said_upto`` that would survive the process.
        was_foretold: its cancel came before it.
        on_repeat: called when its request turns out to have been answered before.
        on_begun: called when its question has been stored, before anything is said.
        on_said: called when the answer has been stored, before its end is told.
    """

    def __init__(self, plan: Plan, provider: Provider, journal: Journal, observer: Observer) -> None:
        super().__init__(plan.info, plan.user_id, plan.session_id, streaming=plan.streaming, max_bytes=plan.max_bytes)
        self.plan = plan
        self.started_at = trio.current_time()
        self.attempts = Attempts(plan.info, self.started_at)
        self.saved_upto = (0, 0)
        self.was_foretold = False
        self.is_stored = False
        self.on_repeat: Callable[[], None] = _nothing
        self.on_begun: Callable[[Run, Opened], None] = _nothing
        self.on_said: Callable[[Run, Said], None] = _nothing
        self._provider = provider
        self._journal = journal
        self._observer = observer
        self._viewers = 0
        self._wish: _Wish | None = None
        self._scope = trio.CancelScope()
        # The deadlines on the provider; ``_watch`` alone looks at them, so that moving one costs a token nothing.
        self._word_due_at = self._orphan_due_at = float("inf")
        self._total_due_at = self.started_at + plan.deadlines.total_s
        self._stopped_at: float | None = None
        self._reading_since = self.started_at
        self._watching_until = float("inf")
        self._stirred = trio.lowlevel.ParkingLot()
        self._closed = trio.Event()
        self._closed_at: float | None = None
        self._finish: Finish | None = None
        self._told = False

    # ---- from outside

    @property
    def is_live(self) -> bool:
        return not self.ended.is_set() and self.refusal is None

    def cancel(self, reason: FinishReason = FinishReason.CANCELLED) -> None:
        """Stop the provider; any number of times, at any moment. ``ended`` tells when it is done.

        One that has been stopped already, be it by a deadline, stays stopped for that reason.
        """
        if self._stopped_at is None and not self._closed.is_set():
            self._wish = _Wish(reason, trio.current_time())
            self._stop(self._wish.at)

    @contextmanager
    def viewer(self) -> Iterator[None]:
        """Be one of those who watch. A run that nobody watches is cancelled after its orphan grace."""
        self._viewers += 1
        self._orphan_due_at = float("inf")
        try:
            yield
        finally:
            self._viewers -= 1
            if not self._viewers and self.plan.orphan_grace_s is not None:
                self._orphan_due_at = trio.current_time() + self.plan.orphan_grace_s
                self._stirred.unpark_all()

    def accept(self, opened: Opened | StoredAnswer) -> Opened | StoredAnswer:
        """Learn what has become of the request; called right after the commit, in the order of commits."""
        if isinstance(opened, Opened) and self.refusal is None:
            if opened.provider is not None:
                self._provider = opened.provider
                self.attempts = Attempts(opened.plan.info, self.started_at)
            self.plan, self.session, self.asked = opened.plan, opened.session, opened.asked
            self.members = frozenset(opened.members)
            self.info = evolve(opened.plan.info, user_message_id=opened.question_id)
            self.on_begun(self, opened)
        return opened

    def keep(self, said: Said | None) -> Message | None:
        """Learn what was stored as the answer; called as ``accept``."""
        if said is not None:  # else it may have been stored by an earlier try
            self.said = said.message
            self.on_said(self, said)
        return self.said

    async def task(self, done: Callable[[Run], None]) -> None:
        """The run's life; to be started in the runs nursery.

        Args:
            done: called once, when nothing more will come.
        """
        try:
            if prompt := await self._open():
                await self._answer(prompt, done)
        except Exception:
            # The barrier of a run: a bug of ours costs this one answer, which still gets its END.
            log.exception("run broke", message_id=self.info.message_id)
            self._give_up()
        finally:
            self.is_stored = True
            self._leave(done)

    def _leave(self, done: Callable[[Run], None]) -> None:
        if not self._told:
            self._told = True
            done(self)

    def _give_up(self) -> None:
        if not self.opened.is_set():
            self._refuse(Internal("run"))
        elif not self.ended.is_set():
            self.failure = Internal("run")
            self.ending = self._make_ending(FinishReason.ERROR, Usage(source="estimated"))
            self.seal()

    # ---- the life

    async def _open(self) -> Prompt | None:
        """Make the run durable; None when there is nothing to generate."""
        opened = None
        try:
            with trio.move_on_after(STORE_LIMIT_S):
                opened = await self._journal.open(self)
            if opened is None:
                self._refuse(ServerBusy("store", retry_after_s=STORE_LIMIT_S))
                # The write that was given up may yet be done. Until it is undone, the same request is refused as well.
                await store_late(lambda: self._journal.withdraw(self), self.info.message_id)
        except RequestFailed as exc:
            self.refusal = exc
        except StoreError as exc:
            log.error("run not stored", message_id=self.info.message_id, error=str(exc))  # noqa: TRY400
            self.refusal = Internal("store")
        except trio.Cancelled:
            self._refuse(self.refusal or ShuttingDown())
            raise
        if isinstance(opened, StoredAnswer):
            self.on_repeat()
            self.restore(opened)
        elif opened is not None and opened.has_unseen_images:
            self.notify(Notice("IMAGES_UNSEEN", self.info.provider))
        self.opened.set()
        return opened.prompt if isinstance(opened, Opened) else None

    def _refuse(self, refusal: RequestFailed) -> None:
        self.refusal = refusal
        self.opened.set()

    async def _answer(self, prompt: Prompt, done: Callable[[Run], None]) -> None:
        self._observer.run_started()
        self.attempts.is_waiting = True
        self._reading_since = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read, prompt)
            await self._watch()
            # The provider is closed, or has had its time: nothing that it still says counts.
            reason, self.failure = self._judge()
            if reason is FinishReason.COMPLETED and not self.log.content.strip():
                self.notify(Notice("EMPTY_ANSWER", self.info.provider))
            spent = self.attempts.spent(prompt, self.log)
            ending = self.ending = self._make_ending(reason, self.attempts.standing or spent)
            failed = reason is FinishReason.ERROR and self.failure is not None
            outcome = self.failure.code if failed and self.failure else reason.value
            self.attempts.end(outcome, spent, self.started_at + ending.duration_s)
            self.is_stored = await store(lambda: self._end(ending), self.info.message_id, STORE_LIMIT_S)
            self.seal()
            self._report(ending)
            # A provider that hangs in its closing holds its task, but no place among the running answers.
            self._leave(done)
            if not self.is_stored:
                await store_late(lambda: self._end(ending), self.info.message_id)

    async def _read(self, prompt: Prompt) -> None:
        """Read the provider to its end."""
        idle_s = self.plan.deadlines.idle_s
        try:
            with self._scope:
                await trio.lowlevel.checkpoint_if_cancelled()  # it may have been stopped before it was begun
                self.attempts.is_waiting = False
                self._await_first_word(prompt)
                async with self._provider.stream(prompt) as events:
                    async for batch in events:
                        if batch and isinstance(batch[0], Attempt | AttemptFailed):
                            await self._turn(batch[0], prompt)
                        elif self._take(batch):
                            self._word_due_at = trio.current_time() + idle_s
                            if self._word_due_at < self._watching_until:
                                self._stirred.unpark_all()
        except RequestFailed as exc:
            self._fail(exc)
        except Exception:
            # The barrier of a provider: what it said so far is kept and stored.
            log.exception("provider broke", provider=self.info.provider, message_id=self.info.message_id)
            self._fail(Internal("provider"))
        finally:
            self._closed_at = trio.current_time()
            self._closed.set()
            self._stirred.unpark_all()

    async def _watch(self) -> None:
        """Keep the time until the provider is closed, or one that was stopped has had its time for that."""
        while not self._closed.is_set():
            if self._stopped_at is None:
                self._check_deadlines(trio.current_time())
            if self._stopped_at is None:
                limit = min(self._word_due_at, self._total_due_at, self._orphan_due_at)
            else:
                limit = max(self._stopped_at, self._reading_since) + CLOSE_LIMIT_S
            self._watching_until = limit
            with trio.move_on_at(limit) as late:
                await self._stirred.park()
            if late.cancelled_caught and self._stopped_at is not None:
                return

    def _check_deadlines(self, now: float) -> None:
        """Stop the provider when a deadline has passed; the earliest of them is why."""
        due_at = min(self._word_due_at, self._total_due_at, self._orphan_due_at)
        if now < due_at:
            return
        if due_at == self._orphan_due_at:
            self._wish = self._wish or _Wish(FinishReason.CANCELLED, due_at)
        elif self._finish is not None:
            pass  # it has ended its answer, and is merely slow to close
        elif due_at == self._word_due_at:
            self._fail(TimedOut(field="idle" if self.attempts.is_speaking(self.log) else "first_token"))
        else:
            self._fail(TimedOut(field="total"))
        self._stop(due_at)

    def _stop(self, at: float) -> None:
        if self._stopped_at is None:
            self._stopped_at = at
        self._scope.cancel()
        self._stirred.unpark_all()

    def _fail(self, failure: RequestFailed) -> None:
        # The first failure is the cause; and what comes after the end was told is nobody's business.
        if self.failure is None and self.ending is None:
            self.failure = failure

    def _take(self, batch: Batch) -> bool:
        """Sort a batch's events; True when the provider said something new."""
        deltas = []
        for event in batch:
            if isinstance(event, Delta):
                deltas.append(event)
            elif isinstance(event, Usage):
                self.attempts.told = event
            elif isinstance(event, Finish):
                self._finish = event
            elif isinstance(event, Queued):
                self.attempts.is_waiting = True
            elif isinstance(event, Restart):
                self._restart()
        if not deltas:
            return False
        now = trio.current_time()
        if not self.log.next_index and not self.rev:
            self._observer.first_token(self.info.provider, now - self.started_at)
        if not self.log.append(deltas, now):
            self._fail(ResponseTooLarge(limit=self.plan.max_bytes))
            self._stop(now)
        return True

    async def _turn(self, event: Attempt | AttemptFailed, prompt: Prompt) -> None:
        """An attempt begins or has failed: tell it to the viewers and to the ledger."""
        now = trio.current_time()
        asked = self.attempts.provider
        if isinstance(event, AttemptFailed):
            breaks_off = self.attempts.is_speaking(self.log)
            self.attempts.fail(event, prompt, self.log, now)
            told = {"message_id": self.info.message_id, "provider": asked}
            log.info("attempt failed", **told, error=event.code, field=event.field)
            _quote(event.detail, **told)
            if event.retry_in_s is not None:
                self.notify(Notice("RETRYING", asked))
            if breaks_off:
                self._await_first_word(prompt)
        else:
            # A provider may have been stopped while it closed a failed attempt: then there is no other one.
            await trio.lowlevel.checkpoint_if_cancelled()
            self.attempts.begin(event, now, lambda: estimate_turns(prompt.turns))
            if event.provider != asked:
                self.notify(Notice("FALLBACK", event.provider))
                if event.is_blind and prompt.turns[-1].images:
                    self.notify(Notice("IMAGES_UNSEEN", event.provider))
            if self.attempts.standing is None:
                self._name_who_speaks()
        if self.attempts.unsaved:
            await self._save_attempts()

    def _await_first_word(self, prompt: Prompt) -> None:
        # A whole body comes at the end: only the total deadline can judge it.
        patience_s = self.plan.deadlines.first_token_s if prompt.stream else math.inf
        self._word_due_at = trio.current_time() + patience_s
        self._stirred.unpark_all()

    def _restart(self) -> None:
        """Another attempt speaks than the one that broke off: forget what that one said."""
        self.attempts.standing = None
        self._name_who_speaks()
        self.begin_anew()

    def _name_who_speaks(self) -> None:
        self.info = evolve(self.info, provider=self.attempts.provider, model=self.attempts.model)

    async def _save_attempts(self) -> None:
        # What cannot be written now is written with the answer's end.
        try:
            with trio.move_on_after(STORE_LIMIT_S):
                await self._journal.attempt(self)
        except StoreError as exc:
            log.warning("attempt not stored", message_id=self.info.message_id, error=str(exc))

    def _judge(self) -> tuple[FinishReason, RequestFailed | None]:
        """How the answer ended. The provider's own end comes before a cancel that crossed it."""
        if self.failure is None and self._finish is not None:
            return self._finish.reason, None
        if self._wish is not None:
            return self._wish.reason, None
        failure = self.failure or ProviderUnavailable("the stream ended without a finish")
        for kind, reason in _REASONS.items():
            if isinstance(failure, kind):
                return reason, failure
        return FinishReason.ERROR, failure

    def _make_ending(self, reason: FinishReason, usage: Usage) -> Ending:
        wish = self._wish if reason is FinishReason.CANCELLED else None
        closed_at = self._closed_at if self._closed_at is not None else trio.current_time()
        return Ending(
            reason=reason,
            usage=usage,
            duration_s=trio.current_time() - self.started_at,
            upstream_closed=self._closed.is_set() if wish else None,
            cancel_s=max(0.0, closed_at - wish.at) if wish else None,
        )

    async def _end(self, ending: Ending) -> None:
        await self._journal.end(self, ending)

    def _report(self, ending: Ending) -> None:
        self._observer.run_ended(self.info.provider, ending.reason.value, ending.duration_s, ending.usage)
        log.info(
            "run ended",
            message_id=self.info.message_id,
            provider=self.info.provider,
            model=self.info.model,
            reason=ending.reason.value,
            told=(self._finish.raw or "")[:64] if self._finish else None,
            error=self.failure.code if self.failure else None,
            field=self.failure.field if self.failure else None,
            duration_s=round(ending.duration_s, 3),
            tokens=ending.usage.total_tokens,
        )
        if self.failure is not None:
            _quote(self.failure.detail, message_id=self.info.message_id, provider=self.info.provider)


def _quote(detail: str, **where: str) -> None:
    """Log a vendor's own words; they may quote the question, and are for those only who ask to see more."""
    if detail:
        log.debug("provider said", **where, detail=detail)


def _nothing(*_: object) -> None:
    """Nobody wants to know."""


_REASONS: dict[type[RequestFailed], FinishReason] = {
    TimedOut: FinishReason.TIMEOUT,
    ContentFiltered: FinishReason.CONTENT_FILTER,
    ResponseTooLarge: FinishReason.TOO_LARGE,
}
