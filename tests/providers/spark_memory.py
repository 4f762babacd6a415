"""Spark over WebSocket in memory: a provider whose connections lead to a server of the test's own."""

from __future__ import annotations

import attrs
import pytest
import trio
from wsproto.utilities import generate_accept_token

from scm_trio import errors
from scm_trio.model import Finish, FinishReason, Prompt, ProviderEvent, Turn
from scm_trio.providers.connections import Dialer
from scm_trio.providers.spark_signing import Credentials, Endpoint
from scm_trio.providers.spark_socket import SocketUpstream
from scm_trio.providers.spark_websocket import Application, SparkWebSocket

from .spark_server import APP_ID, KEY, SECRET, Session, frame, now_s

PROMPT = Prompt("4.0Ultra", (Turn("system", "Be brief."), Turn("user", "春")))
WHOLE = attrs.evolve(PROMPT, stream=False)
HERE = Endpoint.parse("ws://spark.example:8080/v4.0/chat")
COMPLETED = Finish(FinishReason.COMPLETED, "status=2")
FAREWELL, PING = b"\x88\x02\x03\xe8", b"\x89\x00"
LAST = frame("b", status=2, usage=(3, 2))


def provider_over(dialer: Dialer, *, credentials: Credentials | None = None, **application: object) -> SparkWebSocket:
    upstream = SocketUpstream("spark", connect_timeout_s=3, dialer=dialer)
    given = {"endpoint": HERE, "now": now_s, **application}
    return SparkWebSocket(upstream, Application(credentials or Credentials(APP_ID, KEY, SECRET), **given))


async def answer(provider: SparkWebSocket, prompt: Prompt = PROMPT) -> list[ProviderEvent]:
    async with provider.stream(prompt) as events:
        return [event async for batch in events for event in batch]


async def failure_of(provider: SparkWebSocket, prompt: Prompt = PROMPT) -> errors.RequestFailed:
    with pytest.raises(errors.RequestFailed) as failure:
        await answer(provider, prompt)
    return failure.value


def fragment(first: bytes, payload: bytes) -> bytes:
    """A frame of WebSocket whose first byte says what it is."""
    size = len(payload)
    if size < 126:
        return first + bytes([size]) + payload
    if size < 65_536:
        return first + b"\x7e" + size.to_bytes(2, "big") + payload
    return first + b"\x7f" + size.to_bytes(8, "big") + payload


async def is_closed(stream: trio.abc.Stream) -> bool:
    try:
        await stream.send_all(b"x")
    except trio.ClosedResourceError:
        return True
    return False


def accepting(head: str, token: str | None = None) -> bytes:
    """A good answer to a client's handshake."""
    (key,) = [line.partition(": ")[2] for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key")]
    accept = token or generate_accept_token(key.encode()).decode()
    lines = ("HTTP/1.1 101 Switching", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {accept}")
    return "\r\n".join((*lines, "", "")).encode()


async def stall(session: Session) -> None:
    await session.say(frame("a"))
    await session.websocket.get_message()


class Bug(Exception):
    """What nobody expects."""


class Broken(trio.abc.Stream):
    """A connection that fails after so many reads or writes."""

    def __init__(self, inner: trio.abc.Stream, *, reads: int = 99, writes: int = 99, bug: bool = False) -> None:
        self._inner = inner
        self._fault = Bug() if bug else trio.BrokenResourceError("reset")
        self._left = {"read": reads, "write": writes}

    def _count(self, what: str) -> None:
        self._left[what] -= 1
        if self._left[what] < 0:
            raise self._fault

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = await self._inner.receive_some(max_bytes)
        self._count("read")
        return data

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self._count("write")
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._inner.aclose()


def breaking(dialer: Dialer, **how: object) -> Dialer:
    async def open_stream(host: str, port: int) -> trio.abc.Stream:
        return Broken(await dialer.open_stream(host, port), **how)

    return Dialer(open_stream=open_stream)
