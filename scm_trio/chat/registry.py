"""The runs of this process, by everything that they are asked for by."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

import trio

from scm_trio.chat.run import Run
from scm_trio.model import Session
from scm_trio.store.access import is_global_id

K = TypeVar("K", bound=Hashable)


def session_keys(session: Session | None) -> tuple[Hashable, ...]:
    """What a session is found under: its owner with his name for it, and the id that all its members know."""
    return () if session is None else ((session.owner_id, session.session_id), session.global_id)


def session_key(user_id: str, name: str) -> Hashable:
    """The one of them that a user's name for a session stands for."""
    return name if is_global_id(name) else (user_id, name)


class Registry:
    """Runs are added when they are asked for, and stay after their end until they are forgotten.

    Attributes:
        live: how many have not ended.
    """

    def __init__(self) -> None:
        self.live = 0
        self._runs: dict[str, Run] = {}
        self._by_request: dict[tuple[str, str], Run] = {}
        self._live_by_user: dict[str, list[Run]] = {}
        self._live_by_session: dict[Hashable, list[Run]] = {}
        self._places: dict[str, tuple[Hashable, ...]] = {}
        self._idle, self._busy = trio.Event(), trio.Event()
        self._idle.set()

    # ---- a run's life

    def add(self, run: Run) -> None:
        info, user_id = run.plan.info, run.plan.user_id
        self._runs[info.message_id] = run
        if info.request_id is not None:
            self._by_request[user_id, info.request_id] = run
        if not self.live:
            self._idle = trio.Event()
            self._busy.set()
        self.live += 1
        self._live_by_user.setdefault(user_id, []).append(run)

    def place(self, run: Run) -> None:
        """Its session is known from now on, or is called differently."""
        self._displace(run)
        self._places[run.key] = session_keys(run.session)
        for key in self._places[run.key]:
            self._live_by_session.setdefault(key, []).append(run)

    def end(self, run: Run) -> None:
        """It lives no longer; a refused one has never been."""
        self.live -= 1
        _take_out(self._live_by_user, run.plan.user_id, run)
        self._displace(run)
        if not self.live:
            self._idle.set()
            self._busy = trio.Event()
        if run.refusal is not None:
            self.forget(run)

    def forget(self, run: Run) -> None:
        info = run.plan.info
        self._runs.pop(info.message_id, None)
        if info.request_id is not None:
            self._by_request.pop((run.plan.user_id, info.request_id), None)

    def _displace(self, run: Run) -> None:
        for key in self._places.pop(run.key, ()):
            _take_out(self._live_by_session, key, run)

    # ---- looking

    def get(self, message_id: str) -> Run | None:
        return self._runs.get(message_id)

    def by_request(self, user_id: str, request_id: str) -> Run | None:
        return self._by_request.get((user_id, request_id))

    def live_of(self, user_id: str) -> Sequence[Run]:
        """The user's runs that have not ended, oldest first; those that were refused are none."""
        return tuple(run for run in self._live_by_user.get(user_id, ()) if run.is_live)

    def live_in(self, session: Hashable) -> Sequence[Run]:
        """The runs of a session, by one of its ``session_keys``, that have begun and not ended, oldest first."""
        return tuple(self._live_by_session.get(session, ()))

    def of_session(self, global_id: str) -> list[Run]:
        """Every run of a session, ended ones too."""
        return [run for run in self._runs.values() if run.session is not None and run.session.global_id == global_id]

    def live_for(self, user_id: str) -> list[Run]:
        """The runs that have not ended and that the user may see, as far as is known: his own, and his sessions'."""
        return [run for run in self.all_live() if run.user_id == user_id or user_id in run.members]

    def all_live(self) -> list[Run]:
        return [run for runs in self._live_by_user.values() for run in runs]

    def ended(self) -> Iterable[tuple[Run, float]]:
        """Runs that have ended and are stored, with Trio's time at which they did."""
        return [(run, run.ended_at) for run in self._runs.values() if run.ended_at is not None and run.is_stored]

    async def wait_idle(self) -> None:
        """Return when none lives."""
        await self._idle.wait()

    async def wait_busy(self) -> None:
        """Return when one lives."""
        await self._busy.wait()


def _take_out(index: dict[K, list[Run]], key: K, run: Run) -> None:
    there = index[key]
    there.remove(run)
    if not there:
        del index[key]
