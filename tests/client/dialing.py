"""A client that comes back: every one of its connections meets a server of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from attrs import frozen
from trio.testing import memory_stream_pair
from trio_websocket import wrap_server_stream

from scm_trio.client import Backoff, Chat, ClientError, open_chat
from tests.client.fake_server import PATIENCE_S, URL, FakeServer, Script

EVEN = Backoff(chance=lambda: 0.5)
"""Pauses of 0.25, 0.5, 1, 2 … seconds."""


@frozen
class Refuse:
    """Answers the handshake with an HTTP error."""

    status: int
    retry_after: str | None = None
    body: bytes = b'{"code":"SERVER_BUSY","message":"no"}'


async def nothing(server: FakeServer) -> None:
    """A server that says no word beyond CONNECT."""


class Dialer:
    """The connector of a test: each connection in turn follows its plan. Where there is none left, nobody listens.

    Attributes:
        servers: the servers that were met, in order.
        dialed_at: when each connection was tried, in virtual seconds.
    """

    def __init__(self, nursery: trio.Nursery, plans: Sequence[Script | Refuse | OSError]) -> None:
        self.servers: list[FakeServer] = []
        self.dialed_at: list[float] = []
        self._nursery = nursery
        self._plans = list(plans)

    async def __call__(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.dialed_at.append(trio.current_time())
        plan = self._plans.pop(0) if self._plans else ConnectionRefusedError("nobody listens")
        if isinstance(plan, OSError):
            raise plan
        client_end, server_end = memory_stream_pair()
        if isinstance(plan, Refuse):
            self._nursery.start_soon(_refuse, server_end, plan)
        else:
            self.servers.append(FakeServer())
            self._nursery.start_soon(self.servers[-1].serve, server_end, plan)
        return client_end

    def tokens(self) -> list[str | None]:
        """What each server was shown."""
        shown = [server.headers.get(b"authorization") for server in self.servers]
        return [value and value.decode().removeprefix("Bearer ") for value in shown]


async def _refuse(stream: trio.abc.Stream, plan: Refuse) -> None:
    headers = [] if plan.retry_after is None else [(b"Retry-After", plan.retry_after.encode())]
    async with trio.open_nursery() as nursery:
        request = await wrap_server_stream(nursery, stream)
        await request.reject(plan.status, extra_headers=headers, body=plan.body)


@asynccontextmanager
async def returning(*plans: Script | Refuse | OSError, **options: object) -> AsyncIterator[tuple[Chat, Dialer]]:
    """A chat whose connections follow the plans."""
    # Heartbeats go on for ever, and virtual time with them.
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            dialer = Dialer(nursery, plans)
            options = {"token": "token", "reconnect": EVEN, **options}
            async with open_chat(URL, options.pop("token"), connector=dialer, **options) as chat:
                yield chat, dialer
            nursery.cancel_scope.cancel()


async def opening(*plans: Script | Refuse | OSError, token: object = "token") -> ClientError:
    """Why the first connection did not come about."""
    async with trio.open_nursery() as nursery:
        with pytest.raises(ClientError) as caught:
            async with open_chat(URL, token, connector=Dialer(nursery, plans)):
                raise AssertionError
        nursery.cancel_scope.cancel()
    return caught.value
