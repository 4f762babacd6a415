"""The client on the project's own server, over memory streams that break where a test says so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio
from sqlalchemy import func, select
from trio.testing import memory_stream_pair

from scm_trio.client import Backoff, Chat, open_chat
from scm_trio.store.schema import messages, sessions, usage
from scm_trio.testing import CHAT_URL, Cut, Server
from tests.client.fake_server import PATIENCE_S

Pair = tuple[trio.abc.Stream, trio.abc.Stream]
Fault = Callable[[Pair], Pair]
EVEN = Backoff(chance=lambda: 0.5)


def cut_to_client(after_bytes: int) -> Fault:
    return lambda pair: (Cut(pair[0], after_bytes), pair[1])


def cut_to_server(after_bytes: int) -> Fault:
    return lambda pair: (pair[0], Cut(pair[1], after_bytes))


class Network:
    """Opens connections to a server; the faults befall the first ones, in this order.

    Attributes:
        server: None: there is none just now.
        dials: how many connections were opened.
    """

    def __init__(self, server: Server, *faults: Fault) -> None:
        self.server: Server | None = server
        self.dials = 0
        self._faults = list(faults)
        self._newest: trio.abc.Stream | None = None

    async def __call__(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        if self.server is None:
            raise ConnectionRefusedError
        self.dials += 1
        fault = self._faults.pop(0) if self._faults else None
        self._newest = self.server.dial(lambda: fault(memory_stream_pair()) if fault else memory_stream_pair())
        return self._newest

    async def cut(self) -> None:
        """Break the newest connection."""
        await trio.aclose_forcefully(self._newest)

    @asynccontextmanager
    async def chat(self, user_id: str = "user001", **options: object) -> AsyncIterator[Chat]:
        options = {"session_id": "session001", "reconnect": EVEN, "connector": self, **options}
        with trio.fail_after(PATIENCE_S):
            async with open_chat(CHAT_URL, self.server.token(user_id), **options) as chat:
                yield chat


async def stored(server: Server, user_id: str = "user001") -> tuple[list[tuple[str, str, str | None]], int]:
    """What the store has of a user: (role, content, finish reason) of each message, and the rows of the ledger."""

    def read(conn):
        mine = select(sessions.c.global_id).where(sessions.c.owner_id == user_id)
        rows = conn.execute(
            select(messages.c.role, messages.c.content, messages.c.finish_reason)
            .where(messages.c.session_id.in_(mine))
            .order_by(messages.c.sequence)
        )
        count = conn.execute(select(func.count()).select_from(usage).where(usage.c.user_id == user_id))
        return [tuple(row) for row in rows], count.scalar_one()

    return await server.house.database.read(read)
