"""An answer as its viewers see it: a log to follow, and how it ended. Being generated (``run.py``) or read back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio
from attrs import field, frozen

from scm_trio.chat.log import AnswerLog
from scm_trio.errors import RequestFailed, failure_of
from scm_trio.model import AnswerInfo, Delta, DeltaKind, Ending, Message, Session


@frozen
class StoredAnswer:
    """The answer that a request got earlier."""

    info: AnswerInfo
    user_id: str
    """Who asked."""
    session: Session
    streaming: bool
    content: str = field(repr=False)
    reasoning: str = field(repr=False)
    ending: Ending
    rev: int
    error_code: str | None = None


@frozen
class Notice:
    """Something on the way to an answer that its viewers are told: ``code`` is the sentence, ``provider`` is in it."""

    code: str
    provider: str


class Answer:
    """See the module.

    Attributes:
        key: names this object for as long as it lives; ``info`` may turn out to be that of an earlier answer.
        opened: set when START may go out, or when the request was refused (``refusal``).
        ended: set when the log is sealed and ``ending`` is known. Not set for a refused request.
        rev: counts the beginnings of the answer; positions in its log are of this one alone.
        is_read_back: its deltas are not those that viewers were sent when it was given: only position 0 is the same.
        notices: what viewers are told besides the answer, oldest first.
        failure: what went wrong, where something did; told right before END.
        user_id: who asked.
        session: where it is given, known when ``opened`` is set; it changes when the session is called differently.
        members: the users who belong to its session, as far as this process knows; who may see it the store decides.
        asked: the question that it answers, where that was stored together with it.
        said: the answer as it was stored, known when ``ended`` is set.
        is_stored: nothing more will be stored of it.
    """

    is_stored = True

    def __init__(self, info: AnswerInfo, user_id: str, session_id: str, *, streaming: bool, max_bytes: int) -> None:
        self.key = info.message_id
        self.info = info
        self.user_id = user_id
        self.session_id = session_id
        self.streaming = streaming
        self.rev = 0
        self.log = AnswerLog(max_bytes)
        self._max_bytes = max_bytes
        self.is_read_back = False
        self.notices: list[Notice] = []
        self.opened = trio.Event()
        self.ended = trio.Event()
        self.refusal: RequestFailed | None = None
        self.failure: RequestFailed | None = None
        self.ending: Ending | None = None
        self.ended_at: float | None = None
        self.session: Session | None = None
        self.members: frozenset[str] = frozenset()
        self.asked: Message | None = None
        self.said: Message | None = None

    @property
    def said_upto(self) -> tuple[int, int]:
        """How far it has come: which beginning (``rev``), and how many deltas of it."""
        return self.rev, self.log.next_index

    def has_position(self, rev: int, index: int) -> bool:
        """Whether a viewer who was sent all before ``index`` of that attempt can go on there."""
        return rev == self.rev and (index == 0 or (not self.is_read_back and index <= self.log.next_index))

    @contextmanager
    def viewer(self) -> Iterator[None]:
        """Be one of those who watch."""
        yield

    def notify(self, notice: Notice) -> None:
        """Tell every viewer."""
        self.notices.append(notice)
        self.log.nudge()

    def begin_anew(self) -> None:
        """Forget what was said; viewers find that their positions are of an earlier ``rev``, and read again from 0."""
        outdated, self.log = self.log, AnswerLog(self._max_bytes)
        self.rev += 1
        outdated.nudge()

    def restore(self, stored: StoredAnswer) -> None:
        """Become the answer that was given earlier."""
        self.info, self.rev, self.ending = stored.info, stored.rev, stored.ending
        self.session = stored.session
        self.failure = failure_of(stored.error_code) if stored.error_code else None
        self.is_read_back = True
        now = trio.current_time()
        for text, kind in ((stored.reasoning, DeltaKind.REASONING), (stored.content, DeltaKind.TEXT)):
            self.log.append([Delta(text, kind)], now)
        self.seal()

    def seal(self) -> None:
        """Nothing more will come; ``ending`` has been set."""
        self.ended_at = trio.current_time()
        self.log.seal()
        self.ended.set()


def read_back(stored: StoredAnswer) -> Answer:
    """An answer from the store, ready to be followed."""
    room = len(stored.content.encode()) + len(stored.reasoning.encode())
    answer = Answer(stored.info, stored.user_id, stored.session.session_id, streaming=stored.streaming, max_bytes=room)
    answer.restore(stored)
    answer.opened.set()
    return answer
