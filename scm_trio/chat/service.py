"""A CHAT_REQUEST becomes a run; runs are found again, cancelled, counted and drained here."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress

import trio
from attrs import evolve, field, frozen

from scm_trio.chat.answer import Answer, read_back
from scm_trio.chat.attachments import check_ids
from scm_trio.chat.checkpoints import keep_checkpoints
from scm_trio.chat.choice import choose, choose_for
from scm_trio.chat.foretold import Foretold
from scm_trio.chat.persistence import LATE_RETRY_S
from scm_trio.chat.plan import Opened, Said
from scm_trio.chat.registry import Registry
from scm_trio.chat.run import CLOSE_LIMIT_S, STORE_LIMIT_S, Deadlines, Journal, Observer, Plan, Question, Run
from scm_trio.config import Ai, Streams
from scm_trio.errors import (
    Forbidden,
    InvalidMessage,
    ModelUnknown,
    NotFound,
    ProviderUnknown,
    ServerBusy,
    ShuttingDown,
    TooManyStreams,
)
from scm_trio.model import AnswerInfo, FinishReason, Session
from scm_trio.protocol.messages import ChatRequest, Grace
from scm_trio.providers.base import Provider

MAX_TEMPERATURE = 2.0


@frozen
class Rules:
    """The part of the configuration that requests are held to."""

    streams: Streams = field(factory=Streams)
    ai: Ai = field(factory=Ai)
    max_prompt_chars: int = 100_000
    max_attachments: int = 8


@frozen
class Asker:
    """Who asks, and in which session (its owner's name of it)."""

    user_id: str
    session_id: str


class ChatService:
    """All runs of this process.

    Args:
        providers: by their configured names, the default one first.
        journal: where runs are stored.
        observer: where runs are counted.
        rules: limits and defaults.
        new_id: makes unguessable ids.

    Attributes:
        on_begun: told of every run whose question has been stored, before it says anything.
        on_said: told of every answer that has been stored, before its end is told.
        on_ended: told of every run that has ended, refused ones included.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        journal: Journal,
        observer: Observer,
        rules: Rules,
        new_id: Callable[[], str],
    ) -> None:
        self.providers = providers
        self.draining = False
        self.on_begun: Callable[[Run, Opened], None] = _to_nobody
        self.on_said: Callable[[Run, Said], None] = _to_nobody
        self.on_ended: Callable[[Run], None] = _to_nobody
        self._journal = journal
        self._observer = observer
        self._rules = rules
        self._new_id = new_id
        self._runs = Registry()
        self._foretold = Foretold()

    @property
    def live_runs(self) -> int:
        return self._runs.live

    # ---- asking

    def begin(
        self,
        asker: Asker,
        request: ChatRequest,
        request_id: str | None,
        nursery: trio.Nursery,
        on_repeat: Callable[[], None],
    ) -> Run:
        """Start the run of a request, or find the one that the same request started before. Never awaits.

        Args:
            asker: who asks.
            request: what is asked.
            request_id: the client's own name for the request, if it gave one.
            nursery: the runs nursery; the run outlives its asker there.
            on_repeat: called where the request, though no run of it is at hand, turns out to have been answered before.

        Raises:
            InvalidMessage, ProviderUnknown, ModelUnknown, TooManyStreams, ServerBusy, ShuttingDown: nothing was started.
        """
        if request_id is not None and (known := self._runs.by_request(asker.user_id, request_id)):
            return known
        if self.draining:
            raise ShuttingDown(retry_after_s=2)
        question = self._question(request)
        self._check_place(question)
        (provider, model), chosen = choose_for(self.providers, self._rules.ai, request)
        limit = self._rules.streams.max_per_user
        if len(self.active(asker.user_id)) >= limit:
            raise TooManyStreams("per user", limit=limit)
        info = AnswerInfo(
            message_id=f"msg-{self._new_id()}",
            user_message_id=f"msg-{self._new_id()}",
            request_id=request_id,
            model=model,
            provider=provider.name,
        )
        plan = evolve(self._plan(asker, request, question, info, provider), choose=chosen)
        run = Run(plan, provider, self._journal, self._observer)
        run.on_repeat, run.on_begun, run.on_said = on_repeat, self._begun, self.on_said
        self._runs.add(run)
        nursery.start_soon(run.task, self._ended)
        # It stays foretold: a request that is refused now, because the database hangs for instance, may come again.
        if request_id is not None and self._foretold.has(asker.user_id, request_id):
            run.was_foretold = True
            run.cancel()
        return run

    def _question(self, request: ChatRequest) -> Question:
        text = request.message.strip()
        if not text:
            raise InvalidMessage(field="data.message", expected="empty")
        if len(text) > self._rules.max_prompt_chars:
            raise InvalidMessage(field="data.message", expected="too_long")
        if request.temperature is not None and not 0 <= request.temperature <= MAX_TEMPERATURE:
            raise InvalidMessage(field="data.temperature", expected="temperature")
        for name, number in (("maxTokens", request.max_tokens), ("timeoutMs", request.timeout_ms)):
            if number == 0:
                raise InvalidMessage(field=f"data.{name}", expected="positive")
        check_ids(request.attachments, self._rules.max_attachments)
        places = {
            "parentMessageId": request.parent_message_id,
            "regenerateOf": request.regenerate_of,
            "editOf": request.edit_of,
        }
        named = [name for name, message_id in places.items() if message_id is not None]
        if len(named) > 1:
            raise InvalidMessage(field=f"data.{named[1]}", expected="one_place")
        return Question(
            text=text,
            parent_id=request.parent_message_id,
            system_prompt=self._rules.ai.system_prompt,
            temperature=request.temperature,
            max_tokens=request.max_tokens,
            regenerate_of=request.regenerate_of,
            edit_of=request.edit_of,
            attachments=request.attachments,
        )

    def _check_place(self, question: Question) -> None:
        """Refuse for a while to go on from an answer that was told, and that the database could not take yet."""
        named = self._runs.get(question.regenerate_of or question.parent_id or "")
        if named is not None and named.ended.is_set() and not named.is_stored:
            raise ServerBusy("store", retry_after_s=LATE_RETRY_S)

    def _plan(
        self, asker: Asker, request: ChatRequest, question: Question, info: AnswerInfo, provider: Provider
    ) -> Plan:
        streams = self._rules.streams
        total_s = streams.total_timeout_s
        if request.timeout_ms is not None:
            total_s = min(total_s, request.timeout_ms / 1000)
        grace_s: float | None = streams.orphan_grace_s
        if isinstance(request.on_orphan, Grace):
            grace_s = request.on_orphan.grace_ms / 1000
        elif request.on_orphan is not None:
            grace_s = None if request.on_orphan == "continue" else 0.0
        return Plan(
            info=info,
            question=question,
            context_tokens=provider.context_tokens,
            user_id=asker.user_id,
            session_id=asker.session_id,
            conversation_id=request.conversation_id,
            streaming=request.streaming,
            deadlines=Deadlines(streams.first_token_timeout_s, streams.idle_timeout_s, total_s),
            orphan_grace_s=grace_s,
            max_bytes=streams.max_response_bytes,
            takes_images=provider.takes_images,
        )

    def check_offer(self, provider: str | None, model: str | None) -> None:
        """Insist that a session may have these defaults.

        Raises:
            ProviderUnknown, ModelUnknown: they are not on offer.
        """
        choose(self.providers, self._rules.ai, provider, model)

    def offer(self, provider: str | None, model: str | None) -> tuple[Provider, str]:
        """Who can be asked: this provider for this model, or the nearest default where they are not on offer.

        Raises:
            ProviderUnknown: there is no provider at all.
            ModelUnknown: not even a default model.
        """
        for name, wanted in ((provider, model), (provider, None)):
            with suppress(ProviderUnknown, ModelUnknown):
                return choose(self.providers, self._rules.ai, name, wanted)
        return choose(self.providers, self._rules.ai, None, None)

    # ---- finding

    def has(self, user_id: str, request_id: str) -> bool:
        """Whether this request's run is at hand."""
        return self._runs.by_request(user_id, request_id) is not None

    async def knows(self, user_id: str, request_id: str) -> bool:
        """Whether this request was ever made.

        Raises:
            StoreError: the database failed.
        """
        return self.has(user_id, request_id) or await self.answered(user_id, request_id) is not None

    async def answered(self, user_id: str, request_id: str) -> str | None:
        """The id of the answer that this request got, or is getting; None: it was never made.

        Raises:
            StoreError: the database failed.
        """
        return await self._journal.answered(user_id, request_id)

    def find(self, user_id: str, *, message_id: str | None = None, request_id: str | None = None) -> Run:
        """The user's run by its answer's id or its request's.

        Raises:
            NotFound: there is none, or it is another's.
        """
        run = self._runs.get(message_id) if message_id is not None else None
        if run is None and request_id is not None:
            run = self._runs.by_request(user_id, request_id)
        if run is None or run.plan.user_id != user_id:
            raise NotFound("no such run")
        return run

    async def recall(self, user_id: str, message_id: str) -> Answer:
        """An answer of one of the user's sessions, running or ended at any time.

        Raises:
            NotFound: there is none, it was deleted meanwhile, or he is no member of its session.
            Conflict: it is being given by another server process.
            StoreError: the database failed.
        """
        known = self._runs.get(message_id)
        if known is None:
            return read_back(await self._journal.recall(user_id, message_id))
        if known.session is not None:
            if not await self._journal.keeps(user_id, known.session.global_id, known.info.message_id):
                # Another process has deleted it, with the person who asked or for its age.
                known.cancel()
                self._runs.forget(known)
                raise NotFound("deleted")
        elif known.user_id != user_id:
            raise NotFound("another's, and not begun yet")
        return known

    def cancel(self, user_id: str, *, message_id: str | None = None, request_id: str | None = None) -> None:
        """Cancel a running answer; its END tells when that is done.

        A cancel that overtakes its request, which another connection may carry, counts when that comes.

        Raises:
            NotFound: there is nothing to cancel, or not yet.
        """
        try:
            run = self.find(user_id, message_id=message_id, request_id=request_id)
        except NotFound:
            if message_id is None and request_id is not None:
                self._foretold.add(user_id, request_id, trio.current_time())
            raise
        if not run.is_live:
            raise NotFound("already ended")
        run.cancel()
        if not run.opened.is_set() and run.info.request_id is not None:
            self._foretold.add(user_id, run.info.request_id, trio.current_time())

    def was_foretold(self, user_id: str, request_id: str | None) -> bool:
        """Whether a request that is at hand was cancelled before it came: its END tells that."""
        run = self._runs.by_request(user_id, request_id) if request_id is not None else None
        return run is not None and run.was_foretold

    def is_live(self, message_id: str) -> bool:
        """Whether that answer is being given, whoever asked."""
        run = self._runs.get(message_id)
        return run is not None and run.is_live

    async def overrule(self, user_id: str, message_id: str) -> None:
        """Cancel an answer that another member asked for, which the owners of its session may.

        Raises:
            NotFound: there is nothing to cancel, for this user.
            Forbidden: he is none of the owners.
            StoreError: the database failed.
        """
        run = self._runs.get(message_id)
        if run is None or run.session is None:
            raise NotFound("no such run")
        if await self._journal.role(user_id, run.session.global_id) != "owner":
            raise Forbidden("another's answer")
        run.cancel()

    def live_in(self, session: Hashable) -> Sequence[Run]:
        """The runs of a session, by one of its ``session_keys``, that have begun and not ended, oldest first."""
        return self._runs.live_in(session)

    def active(self, user_id: str) -> Sequence[Run]:
        """The user's runs that have not ended, oldest first."""
        return self._runs.live_of(user_id)

    def visible(self, user_id: str) -> Sequence[Run]:
        """The runs that have not ended in sessions that the user belongs to, as far as this process knows."""
        return self._runs.live_for(user_id)

    def live_at(self, provider: str) -> int:
        """How many answers a provider is giving."""
        return sum(run.info.provider == provider for run in self._runs.all_live())

    def is_waited_for(self, user_id: str) -> bool:
        """Whether the user waits for the first word of an answer."""
        return any(not run.log.next_index for run in self.active(user_id))

    # ---- what happens to sessions

    def session_changed(self, session: Session, members: Iterable[str]) -> None:
        """A session has other members now, or is called differently."""
        for run in self._runs.of_session(session.global_id):
            run.session, run.members = session, frozenset(members)
            if run.is_live:
                self._runs.place(run)

    def session_deleted(self, global_id: str) -> None:
        """A session is gone: what is being answered in it is cancelled, and the store keeps none of it."""
        for run in self._runs.of_session(global_id):
            run.cancel()

    # ---- lasting

    async def keep_checkpoints(self) -> None:
        """Make the text of running answers durable once a second, until cancelled."""
        await keep_checkpoints(self._runs.wait_busy, self._runs.all_live, self._journal)

    # ---- ending

    def sweep(self, now: float) -> None:
        """Forget runs that ended longer ago than the resume window; the store still has their answers."""
        for run, ended_at in self._runs.ended():
            if ended_at + self._rules.streams.resume_window_s <= now:
                self._runs.forget(run)
        self._foretold.sweep(now)

    async def drain(self, grace_s: float, hurry: trio.Event) -> None:
        """Start nothing new; let runs finish until the grace ends or ``hurry`` is set, then interrupt the rest."""
        self.draining = True
        with trio.move_on_after(grace_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when, hurry, nursery.cancel_scope)
                await self._runs.wait_idle()
                nursery.cancel_scope.cancel()
        for run in self._runs.all_live():
            run.cancel(FinishReason.INTERRUPTED)
        with trio.move_on_after(CLOSE_LIMIT_S + STORE_LIMIT_S):
            await self._runs.wait_idle()

    def _begun(self, run: Run, opened: Opened) -> None:
        self._runs.place(run)
        self.on_begun(run, opened)

    def _ended(self, run: Run) -> None:
        self._runs.end(run)
        self.on_ended(run)


def _to_nobody(*_: object) -> None:
    """Before somebody listens."""


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
