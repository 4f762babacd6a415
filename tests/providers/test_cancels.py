"""Thousands of cancels, at every place where an answer can be: no descriptor is left, and nobody waits for ever."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from attrs import define, evolve, field

from scm_trio import config
from scm_trio.model import AttemptFailed, Delta, Prompt, Turn
from scm_trio.providers.breaker import Breakers
from scm_trio.providers.catalogue import build_providers, chain_providers
from scm_trio.providers.fallback import Chain, Link, Terms

from . import official
from .conftest import Peer
from .spark_memory import FAREWELL, accepting, fragment
from .spark_server import frame
from .vendors import EVENT_STREAM, as_frame, hold, response

PROMPT = Prompt("m", (Turn("user", "hello"),))
LIMIT_S = 60.0
HTTP = {"kind": "openai", "base_url": "http://127.0.0.1:{port}/v1"}
TLS = {**HTTP, "base_url": "https://127.0.0.1:{port}/v1"}
SOCKET = {
    "kind": "spark",
    "transport": "websocket",
    "app_id": "a",
    "api_key": "k",
    "api_secret": "s",
    "base_url": "ws://127.0.0.1:{port}/v4.0/chat",
}


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


WORD = chunked(official.chunk({"content": "a"}))
REST = chunked(official.chunk(finish_reason="stop") + official.DONE) + b"0\r\n\r\n"


@define
class Place:
    """Where an answer is when it is cancelled; ``reached`` is set by the server or the reader who sees it there."""

    reached: trio.Event = field(factory=trio.Event)

    def here(self) -> None:
        self.reached.set()


async def before_the_head(place: Place, peer: Peer) -> None:
    await peer.stream.receive_some()
    place.here()
    await hold(peer)


async def in_the_middle(place: Place, peer: Peer) -> None:
    if await peer.request():
        await peer.stream.send_all(EVENT_STREAM + WORD)
        await hold(peer)


async def between_retries(place: Place, peer: Peer) -> None:
    while await peer.request():
        await peer.stream.send_all(response(429, b"{}", more="Retry-After: 20\r\n"))


async def in_the_middle_of_a_websocket(place: Place, peer: Peer) -> None:
    head = bytes(await peer.stream.receive_some()).decode()
    await peer.stream.send_all(accepting(head))
    await peer.stream.receive_some()
    await peer.stream.send_all(as_frame(frame("a")) + fragment(b"\x89", b""))
    await hold(peer)


async def answer_well(peer: Peer) -> None:
    while await peer.request():
        await peer.stream.send_all(EVENT_STREAM + WORD)
        await trio.lowlevel.checkpoint()
        await peer.stream.send_all(WORD + REST)


async def answer_well_over_websocket(peer: Peer) -> None:
    if not (head := bytes(await peer.stream.receive_some()).decode()):
        return
    await peer.stream.send_all(accepting(head))
    await peer.stream.receive_some()
    await peer.stream.send_all(as_frame(frame("a")))
    await trio.lowlevel.checkpoint()
    await peer.stream.send_all(as_frame(frame("a", status=2)) + FAREWELL)


PLACES = {
    "before the head": (HTTP, before_the_head, 700),
    "in the TLS handshake": (TLS, before_the_head, 700),
    "in the middle": (HTTP, in_the_middle, 700),
    "between retries": (HTTP, between_retries, 500),
    "in the handshake of a WebSocket": (SOCKET, before_the_head, 200),
    "in the middle of a WebSocket": (SOCKET, in_the_middle_of_a_websocket, 200),
}


def test_they_are_three_thousand():
    assert sum(cancels for _, _, cancels in PLACES.values()) == 3000


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def _uncollected() -> Iterator[None]:
    """No garbage collection, which would tidy up after us."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@define
class Asker:
    """Asks one configured provider, with retries around it as in the house."""

    link: Link

    @classmethod
    def of(cls, settings: dict, port: int, **more: object) -> Asker:
        url = settings["base_url"].format(port=port)
        ai = config.Ai(providers={"vendor": config.Provider(**{**settings, "base_url": url, **more})})
        built = build_providers(ai, connect_timeout_s=LIMIT_S)
        (chain,) = chain_providers(built, ai, Terms()).values()
        return cls(chain.links[0])

    async def read(self, on_news: Callable[[], None] = lambda: None) -> str:
        """Ask; the answer's text."""
        # Breakers of its own: so many failures in a row would open them.
        chain = Chain([evolve(self.link, breakers=Breakers())])
        text = ""
        async with chain.stream(PROMPT) as batches:
            async for batch in batches:
                text += "".join(event.text for event in batch if isinstance(event, Delta))
                if any(isinstance(event, Delta | AttemptFailed) for event in batch):
                    on_news()
        return text

    async def aclose(self) -> None:
        await self.link.provider.aclose()

    async def read_until(self, place: Place) -> None:
        """Ask, and cancel there."""
        place.reached = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.read, place.here)
            await place.reached.wait()
            nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("_uncollected")
@pytest.mark.parametrize("name", PLACES)
async def test_cancels_leave_the_descriptors_at_the_baseline(listen, name):
    settings, serve, cancels = PLACES[name]
    place = Place()
    connections = 0

    async def handler(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await serve(place, peer)

    asker = Asker.of(settings, await listen(handler))
    with trio.fail_after(LIMIT_S):
        await asker.read_until(place)
        await trio.testing.wait_all_tasks_blocked()
        before = descriptors()
        for _ in range(cancels):
            await asker.read_until(place)
        while descriptors() > before:  # the server still closes its ends
            await trio.lowlevel.checkpoint()
    await asker.aclose()
    if name != "between retries":
        assert connections == cancels + 1, "each was cancelled on a connection of its own"


@pytest.mark.parametrize("max_concurrency", [1, 3])
@pytest.mark.parametrize(
    ("settings", "serve_well"), [(HTTP, answer_well), (SOCKET, answer_well_over_websocket)], ids=["http", "websocket"]
)
async def test_contention_with_cancels_never_wedges(listen, settings, serve_well, max_concurrency):
    """Sixty at a time want what a few may have, and two of three change their minds somewhere on the way."""
    chance = random.Random(20_261_126)
    at_once = most = 0

    async def handler(peer: Peer) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            await serve_well(peer)
        finally:
            at_once -= 1

    asker = Asker.of(settings, await listen(handler), max_concurrency=max_concurrency)
    answers: list[str] = []

    async def ask(steps: int | None) -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                if steps is not None:
                    nursery.start_soon(change_ones_mind, scope, steps)
                answers.append(await asker.read())
                nursery.cancel_scope.cancel()

    with trio.fail_after(LIMIT_S):
        for _ in range(5):
            async with trio.open_nursery() as nursery:
                for number in range(60):
                    nursery.start_soon(ask, chance.randrange(120) if number % 3 else None)
        assert await asker.read() == "aa"
    await asker.aclose()
    assert len(answers) >= 5 * 20
    assert set(answers) == {"aa"}
    assert most >= max_concurrency


async def change_ones_mind(scope: trio.CancelScope, steps: int) -> None:
    for _ in range(steps):
        await trio.lowlevel.checkpoint()
    scope.cancel()
