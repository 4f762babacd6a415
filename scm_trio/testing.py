"""Tests against a whole server in memory: no socket, no thread, virtual time.

    async def test_stop_stops(autojump_clock):
        provider = Scripted(["Hello", Stall()])
        async with open_server({"openai": provider}) as server, server.peer("user001") as peer:
            await peer.send("CHAT_REQUEST", {"message": "Hi"}, request_id="r1")
            await peer.until("CHAT_STREAM_DATA")
            await peer.send("CHAT_CANCEL", {"requestId": "r1"})
            end = (await peer.until("CHAT_STREAM_END"))[-1]
            assert end["data"]["finishReason"] == "cancelled"
            assert provider.open_streams == 0

Everything is real but the transport: the SQL runs on in-memory SQLite in the test's own task, so that ``MockClock`` may
jump. ``cancel_at_every_step`` finds the step at which a cancellation hurts.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from itertools import count
from types import FrameType
from typing import Any, cast

import attrs
import orjson
import trio
import trio.testing
from attrs import frozen
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from scm_trio.client import Chat, open_chat_over
from scm_trio.config import Ai, Auth, Config, Store
from scm_trio.gateway.gate import Clock
from scm_trio.house import House, Parts, open_house
from scm_trio.providers.base import Provider
from scm_trio.store.database import inline

EPOCH_S = 1_700_000_000.0
SECRET = "a secret for tests, long enough to sign"  # noqa: S105 - signs nothing outside of tests
CHAT_URL = "ws://test/scm/websocket/ai/chat"

StreamPair = Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]]


def virtual_clock() -> Clock:
    """Wall time that follows Trio's clock, ids that count, and no chance."""
    numbers = count(1)
    return Clock(now=lambda: EPOCH_S + trio.current_time(), new_id=lambda: f"{next(numbers):024x}", jitter=lambda: 0.5)


def quiet_config(**sections: Any) -> Config:
    """Defaults, a known secret and an in-memory store, no titles; ``sections`` replace whole sections."""
    return attrs.evolve(Config(auth=Auth(secret=SECRET), store=Store("sqlite://"), ai=Ai(titles=False)), **sections)


@frozen
class Server:
    """A running house without a port."""

    house: House
    nursery: trio.Nursery

    def token(self, user_id: str = "user001", *, ttl_s: float = 3600.0, roles: tuple[str, ...] = ()) -> str:
        return self.house.gate.tokens.authenticator.issue(user_id, ttl_s=ttl_s, roles=roles)

    def dial(self, pair: StreamPair = trio.testing.memory_stream_pair) -> trio.abc.Stream:
        """Connect to the server's port; returns the peer's end. A lockstep pair blocks like a full socket."""
        ours, theirs = pair()
        self.nursery.start_soon(self.house.listener.welcome, theirs)
        return ours

    @asynccontextmanager
    async def peer(
        self,
        user_id: str = "user001",
        session_id: str = "session001",
        *,
        query: str = "",
        token: str | None = None,
        pair: StreamPair = trio.testing.memory_stream_pair,
    ) -> AsyncIterator[Peer]:
        """A WebSocket client that speaks plain JSON; CONNECT and SYSTEM_MESSAGE have been read."""
        resource = f"/scm/websocket/ai/chat?userId={user_id}&sessionId={session_id}{query}"
        stream = self.dial(pair)
        async with trio.open_nursery() as nursery:
            websocket = await wrap_client_stream(
                nursery,
                cast(trio.SocketStream, stream),  # any stream does; the library's annotation is narrower
                "test",
                resource,
                subprotocols=["Bearer", token or self.token(user_id)],
            )
            peer = Peer(websocket, stream)
            peer.connect = await peer.receive()
            await peer.receive()
            yield peer
            await trio.aclose_forcefully(stream)
            nursery.cancel_scope.cancel()

    def chat(self, user_id: str = "user001", session_id: str = "session001") -> AbstractAsyncContextManager[Chat]:
        """The client library over a memory stream."""
        token = self.token(user_id)
        return open_chat_over(self.dial(), CHAT_URL, token, user_id=user_id, session_id=session_id)


class Peer:
    """The other side of one connection.

    Attributes:
        connect: the CONNECT message.
        stream: the raw stream, for rudeness.
    """

    def __init__(self, websocket: WebSocketConnection, stream: trio.abc.Stream) -> None:
        self.websocket = websocket
        self.stream = stream
        self.connect: dict[str, Any] = {}

    async def send(self, kind: str, data: Any = None, *, request_id: str | None = None, **envelope: Any) -> None:
        message = {"type": kind, **envelope}
        if data is not None:
            message["data"] = data
        if request_id is not None:
            message["requestId"] = request_id
        await self.send_text(orjson.dumps(message).decode())

    async def send_text(self, text: str) -> None:
        await self.websocket.send_message(text)

    async def receive(self) -> dict[str, Any]:
        message: dict[str, Any] = orjson.loads(await self.websocket.get_message())
        return message

    async def until(self, *kinds: str) -> list[dict[str, Any]]:
        """Messages up to and including the first of one of these types."""
        messages = [await self.receive()]
        while messages[-1]["type"] not in kinds:
            messages.append(await self.receive())
        return messages

    async def close_reason(self) -> int:
        """Read on until the server closes; returns its close code."""
        try:
            while True:
                await self.websocket.get_message()
        except ConnectionClosed as exc:
            return exc.reason.code if exc.reason else 1006


@asynccontextmanager
async def open_server(
    providers: Mapping[str, Provider], config: Config | None = None, *, clock: Clock | None = None
) -> AsyncIterator[Server]:
    """Run a server in memory. At the end its connections are cut, its runs sealed."""
    parts = Parts(clock=clock or virtual_clock(), offload=inline, providers=providers)
    async with open_house(config or quiet_config(), parts) as house, trio.open_nursery() as nursery:
        yield Server(house, nursery)
        nursery.cancel_scope.cancel()


# ---- streams that misbehave


class Cut(trio.abc.Stream):
    """Passes ``after_bytes`` of what is received, then breaks like a reset connection."""

    def __init__(self, stream: trio.abc.Stream, after_bytes: int) -> None:
        self._stream = stream
        self._left = after_bytes

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._left <= 0:
            await trio.aclose_forcefully(self._stream)
            raise trio.BrokenResourceError("cut")
        limit = self._left if max_bytes is None else min(self._left, max_bytes)
        data = bytes(await self._stream.receive_some(limit))
        self._left -= len(data)
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


class Split(Cut):
    """Hands out what is received in pieces of ``size`` bytes."""

    def __init__(self, stream: trio.abc.Stream, size: int) -> None:
        super().__init__(stream, 0)
        self._size = size

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(min(self._size, max_bytes or self._size)))


# ---- cancellation everywhere


class Hang(Exception):
    """A scenario did not end although nothing was left to wait for."""


class _CancelAt(trio.abc.Instrument):
    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self._scope = scope
        self._step = step
        self.steps = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - Trio's signature
        self.steps += 1
        if self.steps == self._step:
            self._scope.cancel()


def cancel_at_every_step(
    scenario: Callable[[trio.CancelScope], Awaitable[None]], *, max_steps: int = 20_000, watchdog_s: float = 30.0
) -> int:
    """Run a scenario again and again, cancelling its scope before the 1st, 2nd, 3rd … task step.

    Args:
        scenario: gets the scope, puts it around what is to be cancelled, and asserts what must hold afterwards.
        max_steps: at most so many runs.
        watchdog_s: real seconds that one run may take.

    Returns:
        How many runs there were: one for each step of the uncancelled scenario.

    Raises:
        Hang: a run did not end.
        AssertionError: after ``max_steps`` runs there were still steps left.
    """
    for step in range(1, max_steps + 1):
        scope = trio.CancelScope()
        instrument = _CancelAt(scope, step)
        clock = trio.testing.MockClock(autojump_threshold=0)
        with watchdog(watchdog_s, f"cancelled at step {step}") as guard:
            trio.run(guard, scenario, scope, clock=clock, instruments=[instrument])
        if instrument.steps < step:
            return step - 1
    raise AssertionError(f"more than {max_steps} steps")


@contextmanager
def watchdog(seconds: float, where: str) -> Iterator[Callable[..., Awaitable[None]]]:
    """Give a Trio run so many real seconds: virtual time never passes in a loop that does not wait.

        with watchdog(30, "seed 7") as guard:
            trio.run(guard, scenario, "its", "arguments", clock=MockClock(autojump_threshold=0))

    The first bark cancels the run; raising inside of Trio's own code would break it. A second one, for a task that
    takes no step any more, has no choice. Only in the main thread.

    Raises:
        Hang: the time is over; ``where`` is its text.
    """
    leash: list[tuple[trio.lowlevel.TrioToken, trio.CancelScope]] = []
    barks = count()

    async def guard(scenario: Callable[..., Awaitable[None]], *args: Any) -> None:
        with trio.CancelScope() as whole:
            leash.append((trio.lowlevel.current_trio_token(), whole))
            await scenario(*args)

    def bark(_: int, __: FrameType | None) -> None:
        if next(barks) or not leash:
            raise Hang(where)
        token, whole = leash[0]
        token.run_sync_soon(whole.cancel)

    before = signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield guard
    except BaseException as exc:
        if next(barks):
            raise Hang(where) from exc
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if next(barks):
        raise Hang(where)
