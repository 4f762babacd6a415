"""Whose side question is asked when: few at a time, one about a session, and never in an answer's way.

A question waits until its provider has room to spare and its user has no answer that is still without a word. It makes
way when answers come that need its place, and is asked again later. It ends when nobody wants to know any more, when
its session is gone, and when the house is about to close.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import structlog
import trio
from attrs import define, field, frozen

from scm_trio.chat.aside import Aside
from scm_trio.chat.aside_run import AsideRun, Later, Ledger
from scm_trio.errors import NotFound, RequestFailed, ServerBusy, ShuttingDown
from scm_trio.model import Usage
from scm_trio.providers.base import Provider

log = structlog.get_logger(__name__)

MAX_ASKED = 4
"""At a time, of all users."""
MAX_ASKED_PER_USER = 2
MAX_WAITING = 100
WAIT_S = 30.0
"""How long one may wait for its turn, all turns together."""
RECHECK_S = 1.0
DEFAULT_PLACES = 64

Choose = Callable[[str | None, str | None], tuple[Provider, str]]
"""From a provider's and a model's name, either of which may be None, to who is asked for what."""


class Traffic(Protocol):
    """What answers are being given."""

    def live_at(self, provider: str) -> int:
        """How many a provider is giving."""

    def is_waited_for(self, user_id: str) -> bool:
        """Whether this user waits for the first word of one."""


class Observer(Protocol):
    """Numbers about side questions."""

    def aside_ended(self, kind: str, outcome: str, provider: str, usage: Usage) -> None: ...


@frozen
class Capacity:
    """How many requests each provider takes at a time; ``DEFAULT_PLACES`` where it is not said, 0: no side questions."""

    places: Mapping[str, int] = field(factory=dict)

    def of(self, provider: str) -> int:
        return self.places.get(provider, DEFAULT_PLACES)


@define(eq=False)
class _Place:
    """A question that waits, or is being asked.

    Attributes:
        life: cancelled when it is not to be asked any more, for the reason in ``end``.
        turn: while it is being asked; cancelled when it has to make way.
    """

    aside: Aside
    provider: str
    life: trio.CancelScope = field(factory=trio.CancelScope)
    turn: trio.CancelScope | None = None
    end: RequestFailed | None = None

    def stop(self, reason: RequestFailed) -> None:
        self.end = self.end or reason
        self.life.cancel()


class Asides:
    """The side questions of this process.

    Args:
        choose: finds the provider.
        ledger: where they are written down.
        traffic: the answers that come first.
        capacity: of the providers.
        observer: where they are counted.
        later: starts what the database could not do in time.
    """

    def __init__(
        self, choose: Choose, ledger: Ledger, traffic: Traffic, capacity: Capacity, observer: Observer, later: Later
    ) -> None:
        self._choose = choose
        self._ledger = ledger
        self._traffic = traffic
        self._capacity = capacity
        self._observer = observer
        self._later = later
        self._places: list[_Place] = []
        self._closed = False
        self._stirred = trio.lowlevel.ParkingLot()

    # ---- asking

    def takes(self, aside: Aside) -> bool:
        """Whether there is a provider of which it makes sense to ask this."""
        try:
            provider, _ = self._choose(aside.provider, aside.model)
        except RequestFailed:
            return False
        return self._capacity.of(provider.name) > 0

    async def ask(self, aside: Aside) -> str:
        """Return the model's text.

        Raises:
            ServerBusy: it did not get a turn in time.
            ShuttingDown, NotFound: the house is closing, or the session is gone.
            RequestFailed: the provider's failure.
        """
        if self._closed:
            raise ShuttingDown(retry_after_s=2)
        provider, model = self._choose(aside.provider, aside.model)
        if len(self._places) >= MAX_ASKED + MAX_WAITING:
            raise ServerBusy("asides", retry_after_s=5)
        place = _Place(aside, provider.name)
        self._places.append(place)
        try:
            with place.life:
                return await self._take_turns(place, provider, model)
        finally:
            self._places.remove(place)
            self.stir()
        raise place.end or ShuttingDown(retry_after_s=2)

    async def _take_turns(self, place: _Place, provider: Provider, model: str) -> str:
        deadline = trio.current_time() + WAIT_S
        while True:
            with trio.move_on_at(deadline) as patience:
                while not self._may_ask(place):
                    with trio.move_on_after(RECHECK_S):
                        await self._stirred.park()
            if patience.cancelled_caught:
                raise ServerBusy("asides", retry_after_s=5)
            turn = place.turn = trio.CancelScope()
            try:
                with turn:
                    return await self._ask(place.aside, provider, model)
            finally:
                place.turn = None
            log.debug("aside made way", aside=place.aside.kind, provider=place.provider)

    async def _ask(self, aside: Aside, provider: Provider, model: str) -> str:
        run = AsideRun(aside, provider, model, self._ledger, self._later)
        try:
            return await run.answer()
        finally:
            if run.usage is not None:
                self._observer.aside_ended(aside.kind, run.outcome, provider.name, run.usage)

    def _may_ask(self, place: _Place) -> bool:
        asked = [other for other in self._places if other.turn is not None]
        mine = sum(other.aside.user_id == place.aside.user_id for other in asked)
        if len(asked) >= MAX_ASKED or mine >= MAX_ASKED_PER_USER:
            return False
        if any(other.aside.session_id == place.aside.session_id for other in asked):
            return False
        # One place stays free for the next answer, where there is more than one.
        room = max(1, self._capacity.of(place.provider) - 1) - self._at(place.provider)
        return room > 0 and not self._traffic.is_waited_for(place.aside.user_id)

    def _at(self, provider: str) -> int:
        """How many requests a provider has from us, answers and side questions together."""
        asked = sum(other.turn is not None and other.provider == provider for other in self._places)
        return asked + self._traffic.live_at(provider)

    # ---- what happens

    def make_way(self, provider: str) -> None:
        """An answer begins there: questions that take its place are put off, the latest first."""
        asked = [place for place in self._places if place.turn is not None and place.provider == provider]
        too_many = len(asked) and self._at(provider) - self._capacity.of(provider)
        for place in reversed(asked[-too_many:] if too_many > 0 else ()):
            if place.turn is not None:
                place.turn.cancel()

    def stir(self) -> None:
        """An answer has ended, or a question: look again who may ask."""
        self._stirred.unpark_all()

    def forget_session(self, session_id: str) -> None:
        """The session is gone."""
        for place in self._places:
            if place.aside.session_id == session_id:
                place.stop(NotFound("the session is gone"))

    # ---- ending

    def close(self) -> None:
        """Ask nothing any more, and stop what is being asked."""
        self._closed = True
        for place in self._places:
            place.stop(ShuttingDown(retry_after_s=2))

    async def wait_idle(self) -> None:
        """Return when nothing is asked any more, and all of it is in the ledger."""
        while self._places:
            await self._stirred.park()
