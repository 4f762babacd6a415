"""What could be asked next, by the model: made when somebody wants to know, once for all who do, and remembered."""

from __future__ import annotations

from copy import copy

import structlog
import trio
from attrs import define, field, frozen
from sqlalchemy import Connection, select

from scm_trio.chat.aside import Aside
from scm_trio.chat.asides import Asides
from scm_trio.chat.suggestion_rules import is_enough, questions_in, suggestion_turns
from scm_trio.errors import Internal, QuotaExceeded, RequestFailed, ShuttingDown
from scm_trio.model import Message, Session
from scm_trio.store.access import resolve
from scm_trio.store.database import Database
from scm_trio.store.messages import branch
from scm_trio.store.schema import messages

log = structlog.get_logger(__name__)

MAX_TOKENS = 512
MESSAGES = 6
"""Of the branch, that the model is shown."""
MAX_REMEMBERED = 1000

Key = tuple[str, tuple[str, ...]]
"""A session's global id, and the messages of its newest answer's branch: when one of them is deleted, that is another topic."""


@frozen
class Suggested:
    """Questions about an answer; without one there are none."""

    answer_id: str | None = None
    questions: tuple[str, ...] = ()


@frozen
class _Topic:
    """What the questions are to be about."""

    session: Session
    said: tuple[Message, ...]

    @property
    def key(self) -> Key:
        return self.session.global_id, tuple(message.message_id for message in self.said)

    @property
    def answer_id(self) -> str:
        return self.said[-1].message_id


@define(eq=False)
class _Flight:
    """A question to the model that is under way, and how many wait for it. At its end ``failure`` says how it went."""

    key: Key
    user_id: str
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    done: trio.Event = field(factory=trio.Event)
    waiting: int = 0
    failure: RequestFailed | None = field(factory=lambda: ShuttingDown(retry_after_s=2))

    def concerns(self, user_id: str) -> bool:
        """Whether its failure is this user's, too; the quota of whoever began it is not."""
        return user_id == self.user_id or not isinstance(self.failure, QuotaExceeded)


class Suggestions:
    """The suggestions of this server.

    Args:
        database: where conversations are read.
        asides: asks the model.
        nursery: the runs nursery.
        enabled: whether the model may be asked at all.
    """

    def __init__(self, database: Database, asides: Asides, nursery: trio.Nursery, *, enabled: bool = True) -> None:
        self._database = database
        self._asides = asides
        self._enabled = enabled
        self._nursery = nursery
        self._known: dict[Key, tuple[str, ...]] = {}
        self._flights: dict[str, _Flight] = {}

    async def find(self, user_id: str, reference: str) -> Suggested:
        """What could be asked next in a session, after its newest answer. If nobody waits any more, nobody is asked.

        Raises:
            NotFound: the user is no member of such a session.
            RequestFailed: the model's failure.
            StoreError: the database failed.
        """
        while True:
            topic = await self._database.read(_topic, user_id, reference)
            if topic is None:
                return Suggested()
            known = self._known.get(topic.key)
            if known is not None:
                return Suggested(topic.answer_id, known)
            aside = _aside(topic, user_id)
            if not (self._enabled and self._asides.takes(aside)):
                return Suggested(topic.answer_id)
            flight = self._flights.get(topic.key[0]) or self._start(topic, aside)
            await self._wait(flight)
            # And once more: the user may be no member any more, and there may be a newer answer.
            if flight.key == topic.key and flight.failure is not None and flight.concerns(user_id):
                await self._database.read(resolve, user_id, reference)
                raise copy(flight.failure)

    def forget_session(self, global_id: str) -> None:
        """The session is gone."""
        for key in [key for key in self._known if key[0] == global_id]:
            del self._known[key]

    def _start(self, topic: _Topic, aside: Aside) -> _Flight:
        flight = self._flights[topic.key[0]] = _Flight(topic.key, aside.user_id)
        self._nursery.start_soon(self._fly, flight, topic, aside)
        return flight

    async def _wait(self, flight: _Flight) -> None:
        flight.waiting += 1
        try:
            await flight.done.wait()
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                flight.scope.cancel()
                self._land(flight)

    async def _fly(self, flight: _Flight, topic: _Topic, aside: Aside) -> None:
        try:
            with flight.scope:
                text = await self._asides.ask(aside)
                asked = [message.content for message in topic.said if message.role == "user"]
                self._remember(flight.key, questions_in(text, asked))
                flight.failure = None
        except RequestFailed as exc:
            flight.failure = exc
        except Exception:
            # The barrier of suggestions: a bug of ours costs no more than these.
            log.exception("suggestions broke", message_id=topic.answer_id)
            flight.failure = Internal("suggestions")
        finally:
            self._land(flight)
            flight.done.set()

    def _remember(self, key: Key, questions: tuple[str, ...]) -> None:
        self._known[key] = questions
        if len(self._known) > MAX_REMEMBERED:
            del self._known[next(iter(self._known))]

    def _land(self, flight: _Flight) -> None:
        """Nobody joins it any more."""
        if self._flights.get(flight.key[0]) is flight:
            del self._flights[flight.key[0]]


def _topic(conn: Connection, user_id: str, reference: str) -> _Topic | None:
    """The branch of the newest answer; None where there is nothing to go on."""
    access = resolve(conn, user_id, reference)
    answers = select(messages.c.message_id).where(
        messages.c.session_id == access.global_id, messages.c.role == "assistant", messages.c.content != ""
    )
    newest = conn.execute(answers.order_by(messages.c.sequence.desc()).limit(1)).scalar_one_or_none()
    return None if newest is None else _Topic(access.session, tuple(branch(conn, newest, MESSAGES)))


def _aside(topic: _Topic, user_id: str) -> Aside:
    answer, session = topic.said[-1], topic.session
    return Aside(
        kind="suggestions",
        user_id=user_id,
        session_id=session.global_id,
        answer_id=answer.message_id,
        provider=session.provider or answer.provider,
        model=session.model or answer.model,
        turns=suggestion_turns(topic.said),
        max_tokens=MAX_TOKENS,
        is_enough=is_enough,
    )
