"""Where a run keeps what must survive the process: one write to open it, one a second while it speaks, one to end it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from attrs import evolve
from sqlalchemy import Connection

from scm_trio.chat.answer import StoredAnswer
from scm_trio.chat.attachments import Contents, NeedsFiles, attach, load, own_files, tell
from scm_trio.chat.attempts import UpstreamAttempt
from scm_trio.chat.entries import Account, Entries, Entry, keep
from scm_trio.chat.files import Files
from scm_trio.chat.place import Place, place_question
from scm_trio.chat.plan import Opened, Plan, Said
from scm_trio.chat.prompt import answer_limit, build_turns, estimate_turns, without_refused
from scm_trio.chat.quota import Quotas, uncontended
from scm_trio.chat.run import Run
from scm_trio.chat.usage import Cost
from scm_trio.config import Quota
from scm_trio.errors import Conflict, NotFound, RequestFailed
from scm_trio.model import AnswerInfo, Ending, FinishReason, MemberRole, Message, Prompt, Session, Turn, Usage
from scm_trio.providers.base import Provider
from scm_trio.store import ledger, messages, quota, runs
from scm_trio.store.access import Access, enter, resolve
from scm_trio.store.database import Database
from scm_trio.store.files import with_attachments
from scm_trio.store.members import member_ids
from scm_trio.store.runs import Checkpoint, checkpoint

MAX_HISTORY = 200
"""Messages of the branch that are read back at most; the model's context trims further."""


class _Answered(Exception):
    """A known request; what was written for it as if it were a new one is to be undone."""

    def __init__(self, answer: StoredAnswer) -> None:
        super().__init__()
        self.answer = answer


class StoreJournal:
    """The journal on the database.

    Args:
        database: its writer must be running.
        now: wall clock, seconds since the epoch.
        new_id: makes unguessable ids.
        costs: what the models of each provider cost.
        desk: where attachments are read.
        quotas: what users are limited to; None: nothing.
    """

    def __init__(
        self,
        database: Database,
        now: Callable[[], float],
        new_id: Callable[[], str],
        costs: Mapping[str, Cost],
        desk: Files,
        quotas: Quotas | None = None,
    ) -> None:
        self._database = database
        self._desk = desk
        self._now = now
        self._new_id = new_id
        self._entries = Entries(now, costs)
        self._quotas = quotas or Quotas(Quota(), costs)

    async def open(self, run: Run) -> Opened | StoredAnswer:
        """Store session, question, run and attempt in one transaction.

        Raises:
            NotFound: the session is none of the asker's, the message to go on from, to edit or to answer again is none
                of the session's, or an attached file none of the user's.
            Forbidden: the asker may only read there.
            ContextTooLong: the question does not fit the model.
            Conflict: the same request is being answered by another server process.
            QuotaExceeded: its user has not so much left today.
            StoreError: the database or the disk failed.
        """
        return await uncontended(lambda: self._open_with_files(run))

    async def _open_with_files(self, run: Run) -> Opened | StoredAnswer:
        contents: dict[str, bytes] = {}
        while True:
            try:
                return await self._database.change(run.accept, self._open, run.plan, self._now(), contents)
            except NeedsFiles as exc:
                contents |= await load(self._desk, exc.needed)
            except _Answered as exc:
                return run.accept(exc.answer)

    def _open(self, conn: Connection, plan: Plan, now: float, contents: Contents) -> Opened | StoredAnswer:
        """Begin, or find what a known request got, which is refused for nothing that has changed since."""
        new_global_id = f"s-{self._new_id()}"
        access = enter(conn, plan.user_id, plan.session_id, new_global_id, now)
        try:
            opened = self._begin(conn, plan, access, new_global_id, now, contents)
        except RequestFailed:
            if known := _known(conn, plan):
                raise _Answered(known) from None
            raise
        if isinstance(opened, StoredAnswer) and access.global_id == new_global_id:
            raise _Answered(opened)  # it was asked in another session, and does not make this one
        return opened

    def _begin(
        self, conn: Connection, plan: Plan, access: Access, new_global_id: str, now: float, contents: Contents
    ) -> Opened | StoredAnswer:
        access.demand("member")
        session = access.session
        chosen = plan.choose(session)
        if chosen is not None:
            plan = _suited(plan, *chosen)
        place = place_question(conn, plan, access)
        history = messages.branch(conn, place.parent_id, MAX_HISTORY) if place.parent_id else []
        question = _question(plan, session, place, now)
        if place.stored:
            *history, question = with_attachments(conn, [*history, question])
        else:
            history = with_attachments(conn, history)
            question = evolve(question, attachments=own_files(conn, plan.user_id, plan.question.attachments))
        turns = _turns(plan, session, [*without_refused(history), question], contents)
        asked = None if place.stored else question
        row = runs.open_run(conn, _new_run(plan, session, place, asked, now))
        if row.existing:
            return _stored(conn, row, resolve(conn, plan.user_id, row.session_id))
        if asked is not None:
            attach(conn, asked, now)
        prompt_tokens = estimate_turns(turns)
        self._quotas.reserve(conn, plan, prompt_tokens, now)
        attempt = ledger.Attempt(
            attempt_id=f"{plan.info.message_id}-0",
            run_id=plan.info.message_id,
            message_id=plan.info.message_id,
            user_id=plan.user_id,
            provider=plan.info.provider,
            model=plan.info.model,
            started_at=now,
            prompt_tokens=prompt_tokens,  # what a crash would leave in the ledger
        )
        ledger.open_attempt(conn, attempt)
        prompt = Prompt(
            model=plan.info.model,
            turns=turns,
            stream=plan.streaming,
            temperature=plan.question.temperature,
            max_tokens=answer_limit(plan.question.max_tokens, prompt_tokens, plan.context_tokens),
        )
        unseen = not plan.takes_images and any(file.is_image for file in question.attachments)
        return Opened(
            prompt,
            session,
            place.question_id,
            plan,
            chosen[0] if chosen else None,
            row.question,
            unseen,
            member_ids(conn, session.global_id),
            session.global_id == new_global_id,
        )

    async def answered(self, user_id: str, request_id: str) -> str | None:
        """The id of the answer to this user's request, whatever its age; None: there is none.

        Raises:
            StoreError: the database failed.
        """
        row = await self._database.read(runs.find_run_by_request, user_id, request_id)
        return None if row is None else row.message_id

    async def role(self, user_id: str, global_id: str) -> MemberRole:
        """What a user may do in a session, now.

        Raises:
            NotFound: he is no member of it.
            StoreError: the database failed.
        """
        return (await self._database.read(resolve, user_id, global_id)).role

    async def keeps(self, user_id: str, global_id: str, message_id: str) -> bool:
        """Whether an answer, running or ended, of a user's session is still there, and was not deleted by another process.

        Raises:
            NotFound: he is no member of the session.
            StoreError: the database failed.
        """
        return await self._database.read(_keeps, user_id, global_id, message_id)

    async def recall(self, user_id: str, message_id: str) -> StoredAnswer:
        """Read an ended answer back, for a member of its session.

        Raises:
            NotFound: there is none, or the user is no member.
            Conflict: it is being given by another server process.
            StoreError: the database failed.
        """
        return await self._database.read(_recall, user_id, message_id)

    async def withdraw(self, run: Run) -> None:
        """Leave nothing of a run that was refused although ``open`` may have been done, or may yet be.

        Writes are done in their order, so that this one finds what an ``open`` that nobody waited for has left.

        Raises:
            StoreError: the database failed; the next start seals the run.
        """
        await self._database.write(runs.discard_run, run.info.message_id)

    async def checkpoint(self, runs: Sequence[Run]) -> None:
        """Make the text so far of all these durable, in one transaction.

        Raises:
            StoreError: the database failed.
        """
        texts = [Checkpoint(run.info.message_id, run.log.content, run.log.reasoning, run.rev) for run in runs]
        await self._database.write(checkpoint, texts)

    async def attempt(self, run: Run) -> None:
        """Bring the ledger up to date with the run's attempts, in one transaction.

        Raises:
            StoreError: the database failed.
        """
        rows = list(run.attempts.unsaved)
        await self._database.write(keep, self._written(run, rows))
        run.attempts.saved(rows)

    async def end(self, run: Run, ending: Ending) -> Message | None:
        """Store the answer and settle its attempts, in one transaction; returns the answer as a message, if it is one.

        Raises:
            StoreError: the database failed; the next start seals the run with its last checkpoint.
        """
        ended = runs.EndedRun(
            run_id=run.info.message_id,
            finish_reason=ending.reason,
            ended_at=self._now(),
            content=run.log.content,
            reasoning=run.log.reasoning,
            rev=run.rev,
            usage=ending.usage,
            error_code=run.failure.code if run.failure else None,
            model=run.info.model,
            provider=run.info.provider,
            upstream_closed=ending.upstream_closed,
            cancel_s=ending.cancel_s,
        )
        rows = list(run.attempts.unsaved)
        is_limited = self._quotas.limits_of(run.plan.user_id) is not None
        said = await self._database.change(run.keep, _end, ended, self._written(run, rows), is_limited)
        run.attempts.saved(rows)
        return said

    def _written(self, run: Run, rows: list[UpstreamAttempt]) -> list[Entry]:
        account = Account(run.info.message_id, run.info.message_id, run.plan.user_id)
        return self._entries.of(account, rows)


def _turns(plan: Plan, session: Session, said: Sequence[Message], contents: Contents) -> tuple[Turn, ...]:
    *history, question = tell(said, contents, takes_images=plan.takes_images)
    return build_turns(
        session.system_prompt or plan.question.system_prompt,
        history,
        question,
        context_tokens=plan.context_tokens,
        max_tokens=plan.question.max_tokens,
    )


def _question(plan: Plan, session: Session, place: Place, now: float) -> Message:
    return Message(
        message_id=place.question_id,
        session_id=session.global_id,
        conversation_id=place.conversation_id,
        parent_id=place.parent_id,
        role="user",
        user_id=plan.user_id,
        content=place.text,
        created_at=now,
    )


def _new_run(plan: Plan, session: Session, place: Place, asked: Message | None, now: float) -> runs.NewRun:
    return runs.NewRun(
        run_id=plan.info.message_id,
        message_id=plan.info.message_id,
        user_message_id=place.question_id,
        session_id=session.global_id,
        conversation_id=place.conversation_id,
        user_id=plan.user_id,
        model=plan.info.model,
        provider=plan.info.provider,
        started_at=now,
        request_id=plan.info.request_id,
        streaming=plan.streaming,
        user_message=asked,
    )


def _suited(plan: Plan, provider: Provider, model: str) -> Plan:
    info = evolve(plan.info, provider=provider.name, model=model)
    images = provider.takes_images
    return evolve(plan, info=info, context_tokens=provider.context_tokens, takes_images=images)


def _end(conn: Connection, ended: runs.EndedRun, entries: list[Entry], is_limited: bool) -> Said | None:
    said = runs.end_run(conn, ended)
    keep(conn, entries)
    if is_limited:
        quota.release(conn, ended.run_id)
    return None if said is None else Said(said, member_ids(conn, said.session_id))


def _known(conn: Connection, plan: Plan) -> StoredAnswer | None:
    """The answer that this request got before; what was just stored of it does not count."""
    if plan.info.request_id is None:
        return None
    row = runs.find_run_by_request(conn, plan.user_id, plan.info.request_id)
    if row is None or row.message_id == plan.info.message_id:
        return None
    return _stored(conn, row, resolve(conn, plan.user_id, row.session_id))


def _keeps(conn: Connection, user_id: str, global_id: str, message_id: str) -> bool:
    resolve(conn, user_id, global_id)
    return runs.is_there(conn, message_id)


def _recall(conn: Connection, user_id: str, message_id: str) -> StoredAnswer:
    row = runs.find_run(conn, message_id)
    if row is None:
        raise NotFound("no such answer")
    return _stored(conn, row, resolve(conn, user_id, row.session_id))


def _stored(conn: Connection, row: runs.RunRow, access: Access) -> StoredAnswer:
    if row.finish_reason is None or row.ended_at is None:
        raise Conflict("the request is being answered elsewhere", retry_after_s=2)
    message = messages.find_message(conn, row.message_id)
    content = message.content if message else ""
    info = AnswerInfo(row.message_id, row.user_message_id, row.request_id, row.model, row.provider)
    ending = Ending(
        reason=FinishReason(row.finish_reason),
        usage=(message.usage if message else None) or Usage(source="estimated"),
        duration_s=row.ended_at - row.started_at,
        upstream_closed=row.upstream_closed,
        cancel_s=row.cancel_s,
    )
    return StoredAnswer(
        info,
        row.user_id,
        access.session,
        row.streaming,
        content,
        message.reasoning if message else "",
        ending,
        row.rev,
        row.error_code,
    )
