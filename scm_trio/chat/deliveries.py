"""What users were given, noted here when it has left, and made durable together: once a second, or when somebody looks.

So a message comes at least once: it counts as delivered only after it was handed to a socket. What was noted and not yet
made durable when the process dies, a second's worth, comes twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager

import structlog
import trio

from scm_trio.chat.turns import Turns
from scm_trio.errors import StoreError
from scm_trio.model import Message
from scm_trio.store.database import Database
from scm_trio.store.deliveries import Arrival, Undelivered, arrive, mark_given, waiting_for

log = structlog.get_logger(__name__)

INTERVAL_S = 1.0
BATCH = 16
"""Messages that are read at once; each may have a megabyte."""
MAX_LEFT = 64
"""Messages of a session that wait for one before them; of more the oldest are forgotten, and come again some day."""


class Deliveries:
    """All of this process's.

    Args:
        database: its writer must be running.
        is_here: whether a user is connected.
    """

    def __init__(self, database: Database, is_here: Callable[[str], bool]) -> None:
        self._database = database
        self._is_here = is_here
        self._given: dict[str, dict[str, set[int]]] = {}
        self._arrived = trio.Event()
        self._turns = Turns()

    def note(self, user_id: str, message: Message) -> None:
        """The user was given a message."""
        if message.is_news_to(user_id):
            self._given.setdefault(user_id, {}).setdefault(message.session_id, set()).add(message.sequence)
            self._arrived.set()

    def is_noted(self, user_id: str, message: Message) -> bool:
        """Whether he was, as far as it is not durable yet."""
        return message.sequence in self._given.get(user_id, {}).get(message.session_id, ())

    def turn(self, user_id: str) -> AbstractAsyncContextManager[None]:
        """Be the only connection of the user that gives him what came while he was away."""
        return self._turns.of(user_id)

    def is_busy(self, user_id: str) -> bool:
        """Whether somebody has the turn."""
        return user_id in self._turns

    async def arrive(self, user_id: str, reference: str, global_ids: Iterable[str]) -> Arrival:
        """What a connection of the user's is told when it opens; see ``store.deliveries.arrive``.

        Raises:
            StoreError: the database failed.
        """
        await self.settle(user_id)
        return await self._database.read(arrive, user_id, reference, global_ids)

    async def waiting(self, user_id: str, after: int) -> Sequence[Undelivered]:
        """The next messages that the user was not given; see ``store.deliveries.waiting_for``.

        Raises:
            StoreError: the database failed.
        """
        await self.settle(user_id)
        return await self._database.read(waiting_for, user_id, after, BATCH)

    async def settle(self, user_id: str | None = None) -> None:
        """Make what was noted durable; with a user, only if there is anything of his.

        Raises:
            StoreError: the database failed; it is tried again later.
        """
        if not self._given or (user_id is not None and user_id not in self._given):
            return
        given = {
            (user, global_id): sorted(sequences)
            for user, sessions in self._given.items()
            for global_id, sequences in sessions.items()
        }
        left = await self._database.write(mark_given, given)
        for place, sequences in given.items():
            # What is missing before the rest comes first when its user is back, and then the rest does.
            rest = left.get(place, ()) if self._is_here(place[0]) else ()
            self._forget(*place, sequences[: len(sequences) - len(rest)])

    async def keep(self) -> None:
        """Serve until cancelled."""
        while True:
            await self._arrived.wait()
            await trio.sleep(INTERVAL_S)
            self._arrived = trio.Event()
            try:
                await self.settle()
            except StoreError as exc:
                self._arrived.set()
                log.warning("deliveries not stored", error=str(exc))
            except Exception:
                # The barrier of the notes: a bug in them must not end the house. What was noted comes again some day.
                self._given.clear()
                log.exception("deliveries broke")

    def _forget(self, user_id: str, global_id: str, sequences: list[int]) -> None:
        sessions = self._given.get(user_id, {})
        noted = sessions.get(global_id, set())
        noted.difference_update(sequences)
        noted.difference_update(sorted(noted)[:-MAX_LEFT])
        if not noted:
            sessions.pop(global_id, None)
        if not sessions:
            self._given.pop(user_id, None)
