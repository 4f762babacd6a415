"""An HTTP client for tests: raw bytes out, parsed responses in, over a memory stream."""

import json
from collections.abc import Mapping
from contextlib import asynccontextmanager
from typing import Any

import h11
import pytest
import trio
from attrs import Factory, define, evolve, frozen
from starlette.applications import Starlette
from trio.testing import memory_stream_pair

from scm_trio.chat.offer import OfferedProvider, OnOffer
from scm_trio.config import Alias
from scm_trio.errors import TokenExpired, Unauthorized
from scm_trio.metrics import Metrics
from scm_trio.model import Principal
from scm_trio.providers.vendor_lists import VendorList
from scm_trio.store.database import inline
from scm_trio.testing import Server
from scm_trio.web.app import build_app
from scm_trio.web.http1 import HttpInfo, serve_http
from scm_trio.web.services import WebServices

from .contract import Contract


@frozen
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Peer:
    """Speaks HTTP over a stream. With a contract, every answer to ``ask`` is held against it."""

    def __init__(self, stream: trio.abc.Stream, contract: Contract | None = None) -> None:
        self.stream = stream
        self.contract = contract
        self._parser = h11.Connection(h11.CLIENT)
        self.done = trio.Event()

    async def say(self, text: str | bytes) -> None:
        """Send bytes as they are; a text's newlines become CRLF."""
        await self.stream.send_all(text if isinstance(text, bytes) else text.replace("\n", "\r\n").encode())

    async def ask(
        self, method: str, target: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        lines = {"Host": "test", **(headers or {})}
        if body is not None:
            lines["Content-Length"] = str(len(body))
        head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        await self.say(head.encode() + b"\r\n" + (body or b""))
        answer = await self.answer(method)
        if self.contract is not None:
            self.contract.check(method, target, answer)
        return answer

    async def answer(self, method: str = "GET") -> Answer:
        """Parse the next response; the parser is told a fitting request first."""
        if self._parser.our_state is h11.DONE:
            self._parser.start_next_cycle()
        self._parser.send(h11.Request(method=method, target="/", headers=[("Host", "test")]))
        self._parser.send(h11.EndOfMessage())
        response, body = None, b""
        while True:
            event = self._parser.next_event()
            if event is h11.NEED_DATA:
                self._parser.receive_data(await self.stream.receive_some())
            elif isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                assert isinstance(event, h11.InformationalResponse), event
        assert response is not None
        return Answer(response.status_code, {k.decode(): v.decode() for k, v in response.headers}, body)

    async def everything(self) -> bytes:
        """All bytes until the server is done with the connection."""
        received = b""
        while chunk := await self.stream.receive_some():
            received += chunk
        return received


class Stuck(trio.abc.Stream):
    """A peer that sends a request and then never reads."""

    def __init__(self, request: bytes, room: int = 0) -> None:
        self.request, self.room, self.taken = request, room, 0

    async def send_all(self, data) -> None:
        if self.taken + len(data) > self.room:
            await trio.sleep_forever()
        self.taken += len(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Nobody asks."""

    async def receive_some(self, max_bytes=None) -> bytes:
        request, self.request = self.request, b""
        if not request:
            await trio.sleep_forever()
        return request

    async def aclose(self) -> None:
        """Nothing to close."""


@pytest.fixture
def stuck():
    return Stuck


def contract_of(app: Any) -> Contract | None:
    """That of the whole application; a test's own little one promises nothing."""
    document = app.state.openapi() if isinstance(app, Starlette) and hasattr(app.state, "openapi") else None
    return Contract(document) if document else None


@asynccontextmanager
async def _connected(app, **info: Any):
    """A peer of ``serve_http(app)``. Like the listener, this closes the stream afterwards."""
    theirs, ours = memory_stream_pair()
    peer = Peer(theirs, contract_of(app))

    async def serve() -> None:
        await serve_http(app, ours, evolve(HttpInfo(client=("192.0.2.1", 4711), server=("test", 80)), **info))
        await ours.aclose()
        peer.done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield peer
        nursery.cancel_scope.cancel()


@pytest.fixture
def connected():
    return _connected


class Tokens:
    """Knows a token per user; the real rules have their own tests."""

    def __init__(self) -> None:
        self.can_issue = True
        self.known = {
            "user": Principal("ann", frozenset({"reader"}), 2_000_000_000.0),
            "admin": Principal("root", frozenset({"admin"}), 2_000_000_000.0),
        }

    async def verify(self, token: str) -> Principal:
        if token == "old":
            raise TokenExpired
        if token not in self.known:
            raise Unauthorized
        return self.known[token]

    def issue(self, user_id: str, *, ttl_s: float, roles=()) -> str:
        self.known["fresh"] = Principal(user_id, frozenset(roles), 1_000_000_000.0 + ttl_s)
        return "fresh"


@define
class World:
    """What the routes are given, for tests to turn."""

    tokens: Tokens = Factory(Tokens)
    checks: dict[str, str] = Factory(lambda: {"store": "ok", "broker": "ok"})
    readiness_takes_s: float = 0.0
    draining: bool = False
    usage_rows: Any = Factory(list)
    usage_asked: list[Any] = Factory(list)
    standing: Any = None
    vendor: VendorList | None = None
    default: Alias | None = Factory(lambda: Alias("openai", "gpt-4o"))
    metrics: Metrics = Factory(lambda: Metrics(now=lambda: 0.0))

    async def usage(self, *asked: Any) -> list[Any]:
        await trio.lowlevel.checkpoint()
        self.usage_asked.append(asked)
        if isinstance(self.usage_rows, Exception):
            raise self.usage_rows
        return self.usage_rows

    async def models(self, ask_vendors: bool) -> OnOffer:
        await trio.lowlevel.checkpoint()
        vendor = self.vendor if ask_vendors else None
        providers = (OfferedProvider("openai", ("gpt-4o",), vendor), OfferedProvider("spark", ()))
        return OnOffer(providers, {"fast": Alias("openai", "gpt-4o")}, self.default)

    async def quota(self, user_id: str) -> Any:
        await trio.lowlevel.checkpoint()
        if isinstance(self.standing, Exception):
            raise self.standing
        return self.standing.get(user_id) if self.standing else None

    async def readiness(self) -> dict[str, str]:
        await trio.sleep(self.readiness_takes_s)
        return self.checks

    def services(self, **changes: Any) -> WebServices:
        services = WebServices(
            authenticator=self.tokens,
            metrics=self.metrics,
            readiness=self.readiness,
            draining=lambda: self.draining,
            stats=lambda: {**self.metrics.connection_stats(), "activeRuns": []},
            models=self.models,
            usage=self.usage,
            quota=self.quota,
            files=None,
            conversations=None,
            sessions=None,
            history=None,
            charge=lambda _: None,
            offload=inline,
            now=lambda: 1_700_000_000.0,
            search=None,
            suggestions=None,
            token_ttl_s=600.0,
            allow_refresh=True,
        )
        return evolve(services, **changes)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def site(world):
    """A peer of the whole application, through the bridge."""
    async with _connected(build_app(world.services())) as peer:
        yield peer


@pytest.fixture
def calling():
    """A peer of a whole server (``open_server``), its answers held against the document."""

    def call(server: Server) -> Peer:
        return Peer(server.dial(), Contract(server.house.listener.app.state.openapi()))

    return call
