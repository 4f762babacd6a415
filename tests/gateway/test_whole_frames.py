"""Wherever a cancellation strikes, what has been sent is a sequence of whole frames."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import h11
import orjson
import trio
import trio.testing

from scm_trio.chat.limits import UserRates
from scm_trio.chat.people import people_of
from scm_trio.chat.service import ChatService, Rules
from scm_trio.cluster.hub import Hub
from scm_trio.config import WebSocket
from scm_trio.errors import ProviderUnavailable
from scm_trio.gateway import connection
from scm_trio.gateway.door import receive_visitor
from scm_trio.gateway.gate import Clock, Gate, Tokens
from scm_trio.model import Principal
from scm_trio.providers.fallback import Chain, Link, Terms
from scm_trio.providers.scripted import Fail, Pause, Scripted
from scm_trio.store.deliveries import Arrival
from scm_trio.testing import Split, cancel_at_every_step
from tests.chat.building import FakeJournal

from .serving import frame, parse_frames, text, upgrade

PIECE_BYTES = 64
HEAD = upgrade(token="any", query="?sessionId=s")


class InPieces(Split):
    """Sends in pieces, as a full socket does, with a cancellation point between them: every frame can be torn."""

    async def send_all(self, data):
        for start in range(0, len(data), PIECE_BYTES):
            await super().send_all(data[start : start + PIECE_BYTES])


def pair() -> tuple[trio.abc.Stream, trio.abc.Stream]:
    ours, theirs = trio.testing.memory_stream_pair()
    return ours, InPieces(theirs, 65_536)


class Believing:
    can_issue = False

    async def verify(self, token: str) -> Principal:
        return Principal("user001")

    def issue(self, user_id, *, ttl_s, roles=()):
        raise NotImplementedError


class NobodyWasAway:
    """Deliveries that have nothing to deliver."""

    async def arrive(self, user_id, reference, global_ids):
        await trio.lowlevel.checkpoint()
        return Arrival()

    def note(self, user_id, message):
        raise NotImplementedError


class Silent:
    def __getattr__(self, name):
        return lambda *args, **kwargs: None


def light_gate(runs: trio.Nursery, provider: Scripted) -> Gate:
    """A gate without a database, so that hundreds of them are built in seconds."""
    ids = iter(range(10**6))
    new_id = lambda: f"{next(ids):04d}"
    hub = Hub(max_connections=10, max_connections_per_user=10)
    return Gate(
        service=ChatService({"openai": provider}, FakeJournal(), Silent(), Rules(), new_id),
        sessions=Silent(),
        deliveries=NobodyWasAway(),
        hub=hub,
        people=people_of(Silent(), hub),
        rates=UserRates(0),
        metrics=Silent(),
        settings=WebSocket(),
        tokens=Tokens(Believing(), query_allowed=False, refresh=False, ttl_s=60),
        clock=Clock(now=trio.current_time, new_id=new_id, jitter=lambda: 0.5),
        runs=runs,
    )


async def talk(provider: Scripted, messages: list[bytes]) -> list[dict]:
    """One connection that sends ``messages``, a second apart, and then leaves; returns what it got, checked."""
    async with trio.open_nursery() as runs, trio.open_nursery() as nursery:
        gate = light_gate(runs, provider)
        ours, theirs = pair()
        request = h11.Request(method="GET", target="/x?sessionId=s", headers=headers())

        async def server():
            await receive_visitor(theirs, HEAD, request, gate)
            await trio.aclose_forcefully(theirs)

        accepted = trio.Event()

        async def client():
            await accepted.wait()
            for message in messages:
                await send(ours, message)
                await trio.sleep(1)
            await send(ours, text("DISCONNECT"))
            await trio.sleep(1)
            await send(ours, frame(8, b"\x03\xe8"))

        nursery.start_soon(server)
        nursery.start_soon(client)
        received = b""
        while more := bytes(await ours.receive_some()):
            received += more
            if b"\r\n\r\n" in received:
                accepted.set()
        nursery.cancel_scope.cancel()
    frames, rest = parse_frames(received.partition(b"\r\n\r\n")[2])
    assert rest == b"", "half a frame"
    assert frames[-1][0] == 8
    assert provider.open_streams == 0
    return [orjson.loads(payload) for opcode, payload in frames if opcode == 1]


async def send(stream: trio.abc.Stream, data: bytes) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await stream.send_all(data)


def headers() -> list[tuple[bytes, bytes]]:
    lines = HEAD.decode().split("\r\n")[1:-2]
    return [tuple(part.encode() for part in line.split(": ")) for line in lines]


@contextmanager
def streaming_in(scope: trio.CancelScope) -> Iterator[None]:
    """Every streaming task runs under ``scope``."""
    real = connection.stream_answer

    async def wrapped(link, viewer):
        with scope:
            await real(link, viewer)

    connection.stream_answer = wrapped
    try:
        yield
    finally:
        connection.stream_answer = real


def shape(messages: list[dict]) -> list[str]:
    return [each["type"].removeprefix("CHAT_STREAM_") for each in messages if each["type"].startswith("CHAT_")]


def test_a_streaming_task_may_be_cancelled_at_any_step():
    seen = set()

    async def scenario(scope):
        provider = Scripted(["Hello ", Pause(0.2), "world" * 100, Pause(0.2)])
        with streaming_in(scope):
            messages = await talk(
                provider, [text("CHAT_REQUEST", {"message": "Hi", "onOrphan": "cancel"}, requestId="r")]
            )
        kinds = shape(messages)
        seen.add(tuple(kinds))
        whole = ["START", "DATA", "DATA", "END"]
        # A cancelled stream stops after some whole frame; what it had sent is in order, and the connection lives on.
        assert kinds == whole[: len(kinds)]
        assert messages[-1]["type"] == "DISCONNECT"

    assert cancel_at_every_step(scenario) > 40
    assert {(), ("START",), ("START", "DATA"), ("START", "DATA", "DATA", "END")} <= seen


@contextmanager
def struck_in(scope: trio.CancelScope) -> Iterator[None]:
    """A CHAT_CANCEL comes when ``scope`` is cancelled."""
    real = connection.stream_answer

    async def strike(run):
        with scope:
            await trio.sleep_forever()
        run.cancel()

    async def wrapped(link, viewer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(strike, viewer.run)
            await real(link, viewer)
            nursery.cancel_scope.cancel()

    connection.stream_answer = wrapped
    try:
        yield
    finally:
        connection.stream_answer = real


def test_a_chat_cancel_may_strike_at_any_step():
    seen = set()

    async def scenario(scope):
        provider = Scripted(["Hello ", Pause(0.2), "world", Pause(0.2)])
        with struck_in(scope):
            messages = await talk(provider, [text("CHAT_REQUEST", {"message": "Hi"}, requestId="r")])
        kinds = shape(messages)
        assert (kinds[0], kinds[-1], kinds.count("START"), kinds.count("END")) == ("START", "END", 1, 1)
        assert not [message for message in messages if message["type"] == "ERROR"]
        reason = messages[-2]["data"]["finishReason"]
        assert messages[-2]["data"]["length"] == sum(
            len(message["data"]["content"]) for message in messages if message["type"] == "CHAT_STREAM_DATA"
        )
        seen.add(reason)

    assert cancel_at_every_step(scenario) > 40
    assert seen == {"cancelled", "completed"}


class Breaking(Chain):
    """Breaks off after its first word, and begins anew elsewhere."""

    def __init__(self):
        self.row = (
            Scripted(["old ", Pause(0.2), Fail(ProviderUnavailable())], name="one"),
            Scripted([Pause(0.2), "new ", Pause(0.2), "text"], name="two"),
        )
        super().__init__([Link(each, retries=0) for each in self.row], Terms(restart=True))

    @property
    def open_streams(self):
        return sum(each.open_streams for each in self.row)


def test_a_chat_cancel_may_strike_at_any_step_of_an_answer_that_begins_anew():
    seen = set()

    async def scenario(scope):
        with struck_in(scope):
            messages = await talk(Breaking(), [text("CHAT_REQUEST", {"message": "Hi"}, requestId="r")])
        kinds = shape(messages)
        assert (kinds[0], kinds[-1], kinds.count("END")) == ("START", "END", 1)
        assert not [message for message in messages if message["type"] == "ERROR"]
        said, rev = "", 0
        for message in messages:
            data = message["data"]
            if message["type"] == "CHAT_STREAM_START":
                said, rev = "", data["rev"]
            elif message["type"] == "CHAT_STREAM_DATA":
                assert data["rev"] == rev
                said += data["content"]
        end = messages[-2]["data"]
        assert (end["length"], end["rev"]) == (len(said), rev)
        seen.add((end["finishReason"], said))

    assert cancel_at_every_step(scenario) > 60
    certain = {("cancelled", ""), ("cancelled", "old "), ("cancelled", "new "), ("completed", "new text")}
    # Between the last word and the end there is room for a cancel only in some orders of the tasks.
    assert certain <= seen <= certain | {("cancelled", "new text")}


def test_a_connection_may_be_cancelled_at_any_step():
    async def scenario(scope):
        provider = Scripted(["Hello ", Pause(0.2), "world"])
        received = b""
        async with trio.open_nursery() as runs:
            gate = light_gate(runs, provider)
            ours, theirs = pair()
            head = h11.Request(method="GET", target="/x?sessionId=s", headers=headers())

            async def server():
                with scope:
                    await receive_visitor(theirs, HEAD, head, gate)
                await trio.aclose_forcefully(theirs)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(server)
                asked = False
                with trio.move_on_after(10):
                    while more := bytes(await ours.receive_some()):
                        received += more
                        if b"\r\n\r\n" in received and not asked:
                            asked = True
                            request = text("CHAT_REQUEST", {"message": "Hi", "onOrphan": "cancel"})
                            nursery.start_soon(send, ours, request)
                await ours.aclose()
                nursery.cancel_scope.cancel()
        assert parse_frames(received.partition(b"\r\n\r\n")[2])[1] == b""
        assert gate.hub.active == 0
        assert gate.service.live_runs == 0
        assert provider.open_streams == 0

    assert cancel_at_every_step(scenario) > 40
