"""Runs without a database: a journal that remembers, an observer that counts, and a runs nursery."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import attrs
import trio

from scm_trio.chat.answer import StoredAnswer
from scm_trio.chat.checkpoints import keep_checkpoints
from scm_trio.chat.plan import Opened
from scm_trio.chat.run import Deadlines, Plan, Question, Run
from scm_trio.chat.service import Asker, ChatService, Rules
from scm_trio.errors import NotFound
from scm_trio.model import AnswerInfo, Ending, MemberRole, Message, Prompt, Session, Turn, Usage
from scm_trio.protocol.messages import ChatRequest

PROMPT = Prompt(model="scripted-1", turns=(Turn("user", "Hello"),))
SESSION = Session("s-1", "session001", "user001")
ASKER = Asker("user001", "session001")


class FakeJournal:
    """Keeps what it is told. The ``fail_*`` are raised, the ``*_s`` are how long things take."""

    def __init__(self) -> None:
        self.answer: Prompt | StoredAnswer = PROMPT
        self.fail_open = self.fail_checkpoint = self.fail_attempt = self.fail_end = None
        self.open_s = self.checkpoint_s = self.attempt_s = self.end_s = 0.0
        self.opened: list[str] = []
        self.checkpoints: list[tuple[float, str]] = []
        self.ended: list[tuple[str, Ending]] = []
        self.withdrawn: list[str] = []
        self.deleted: set[str] = set()
        self.attempts: list[tuple[int, str, str, str | None]] = []
        self.roles: dict[str, MemberRole] = {"user001": "owner"}

    async def open(self, run: Run) -> Opened | StoredAnswer:
        await trio.sleep(self.open_s)
        if self.fail_open is not None:
            raise self.fail_open
        self.opened.append(run.plan.question.text)
        if isinstance(self.answer, StoredAnswer):
            return run.accept(self.answer)
        return run.accept(Opened(self.answer, SESSION, run.info.user_message_id, run.plan, members=("user001",)))

    async def role(self, user_id: str, global_id: str) -> MemberRole:
        await trio.lowlevel.checkpoint()
        if user_id not in self.roles:
            raise NotFound("no such session")
        return self.roles[user_id]

    async def keeps(self, user_id: str, global_id: str, message_id: str) -> bool:
        await self.role(user_id, global_id)
        return message_id not in self.deleted

    async def answered(self, user_id: str, request_id: str) -> str | None:
        await trio.lowlevel.checkpoint()
        known = isinstance(self.answer, StoredAnswer) and self.answer.info.request_id == request_id
        return self.answer.info.message_id if known else None

    async def withdraw(self, run: Run) -> None:
        await trio.lowlevel.checkpoint()
        if self.fail_open is not None:
            raise self.fail_open
        self.withdrawn.append(run.info.message_id)

    async def recall(self, user_id: str, message_id: str) -> StoredAnswer:
        await trio.lowlevel.checkpoint()
        if not isinstance(self.answer, StoredAnswer) or self.answer.info.message_id != message_id:
            raise NotFound("no such answer")
        return self.answer

    async def checkpoint(self, runs: Sequence[Run]) -> None:
        await trio.sleep(self.checkpoint_s)
        if self.fail_checkpoint is not None:
            raise self.fail_checkpoint
        self.checkpoints += [(trio.current_time() - run.started_at, run.log.content) for run in runs]

    async def attempt(self, run: Run) -> None:
        await trio.sleep(self.attempt_s)
        if self.fail_attempt is not None:
            raise self.fail_attempt
        rows = list(run.attempts.unsaved)
        self.attempts += [(row.number, row.provider, row.model, row.outcome) for row in rows]
        run.attempts.saved(rows)

    async def end(self, run: Run, ending: Ending) -> Message | None:
        await trio.sleep(self.end_s)
        if self.fail_end is not None:
            raise self.fail_end
        self.ended.append((run.log.content, ending))
        return run.keep(None)


class FakeObserver:
    def __init__(self) -> None:
        self.live = 0
        self.first_tokens: list[float] = []
        self.outcomes: list[str] = []

    def run_started(self) -> None:
        self.live += 1

    def first_token(self, provider: str, seconds: float) -> None:
        self.first_tokens.append(seconds)

    def run_ended(self, provider: str, outcome: str, seconds: float, usage: Usage) -> None:
        self.live -= 1
        self.outcomes.append(outcome)


def plan(**changes: Any) -> Plan:
    standard = Plan(
        info=AnswerInfo("msg-a", "msg-q", "r1", "scripted-1", "scripted"),
        question=Question(text="Hello", parent_id=None, system_prompt=None, temperature=None, max_tokens=None),
        context_tokens=None,
        user_id="user001",
        session_id="session001",
        conversation_id="session001",
        streaming=True,
        deadlines=Deadlines(first_token_s=60.0, idle_s=60.0, total_s=600.0),
        orphan_grace_s=60.0,
        max_bytes=1_048_576,
    )
    return attrs.evolve(standard, **changes)


class Stage:
    """Starts runs in a nursery of its own."""

    def __init__(self, nursery: trio.Nursery, lasting: trio.Nursery | None = None) -> None:
        self.nursery = nursery
        self.journal = FakeJournal()
        self.observer = FakeObserver()
        self.begun: list[Run] = []
        self.done: list[Run] = []
        self.started: list[Run] = []
        (lasting or nursery).start_soon(keep_checkpoints, trio.lowlevel.checkpoint, self.live, self.journal)

    def live(self) -> list[Run]:
        return [run for run in self.started if run.is_live]

    def start(self, provider: Any, **changes: Any) -> Run:
        run = Run(plan(**changes), provider, self.journal, self.observer)
        self.started.append(run)
        run.on_begun = lambda begun, _: self.begun.append(begun)
        self.nursery.start_soon(run.task, self.done.append)
        return run

    def service(self, providers: Mapping[str, Any], rules: Rules | None = None) -> ChatService:
        numbers = count(1)
        new_id: Callable[[], str] = lambda: f"{next(numbers):04d}"
        return ChatService(providers, self.journal, self.observer, rules or Rules(), new_id)

    def begin(self, service: ChatService, message: str = "Hi", request_id: str | None = None, **more: Any) -> Run:
        asker = more.pop("asker", ASKER)
        return service.begin(asker, ChatRequest(message=message, **more), request_id, self.nursery, lambda: None)


@asynccontextmanager
async def open_stage() -> AsyncIterator[Stage]:
    """A stage on which every run has to come to its end by itself."""
    # What never ends has a nursery of its own, so that leaving still waits for every run.
    async with trio.open_nursery() as lasting:
        async with trio.open_nursery() as nursery:
            stage = Stage(nursery, lasting)
            yield stage
            stage.journal.fail_end = None  # what could not be stored is still being tried
        lasting.cancel_scope.cancel()
    assert stage.observer.live == 0


async def watch(run: Run) -> str:
    """Be the run's only viewer until its log is sealed; returns its content."""
    with run.viewer():
        await run.ended.wait()
    return run.log.content
