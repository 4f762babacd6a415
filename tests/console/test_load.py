import json
from contextlib import contextmanager
from io import StringIO

import attrs
import jwt
import pytest
import trio
from trio.testing import memory_stream_pair

from scm_trio.client import ConnectionLost, Diverged, GaveUp, HandshakeRefused, Unreachable, open_chat
from scm_trio.console import load
from scm_trio.console.tally import Percentiles, Tally, code_of
from scm_trio.console.terminal import Screen
from tests.client.fake_server import FakeServer

SECRET = "a secret that is long enough for HS256"


class Yard:
    """Opens chats to servers that all follow one script."""

    def __init__(self, nursery, script):
        self.nursery, self.script = nursery, script
        self.comes_back = False
        self.tokens = []
        self.servers = []
        self.interrupt, self._interrupts = trio.open_memory_channel(1)
        self.screen = Screen(color=False, output=StringIO(), errors=StringIO())

    def open(self, url, token, **options):
        self.tokens.append(token)
        options["reconnect"] = self.comes_back and attrs.evolve(options["reconnect"], chance=lambda: 0.5)
        return open_chat(url, token, connector=self.connect, **options)

    async def connect(self):
        await trio.lowlevel.checkpoint()
        client_end, server_end = memory_stream_pair()
        server = FakeServer()
        self.servers.append(server)
        self.nursery.start_soon(server.serve, server_end, self.script)
        return client_end

    @contextmanager
    def interrupts(self):
        yield self._interrupts

    async def run(self, **options):
        outside = load.Surroundings(self.open, self.interrupts, self.screen, trio.current_time)
        return await load.run("ws://fake", surroundings=outside, **options)

    @property
    def shown(self):
        return self.screen.output.file.getvalue()


async def run(script, **options):
    async with trio.open_nursery() as nursery:
        yard = Yard(nursery, script)
        yard.code = await yard.run(**options)
        nursery.cancel_scope.cancel()
    return yard


async def answers(server):
    while True:
        rid = (await server.next("CHAT_REQUEST")).request_id
        await trio.sleep(0.1)
        await server.start(rid)
        await server.data(rid, "a", 0)
        await trio.sleep(0.3)
        await server.end(rid, "a")


async def test_every_client_asks_its_questions_and_the_table_says_how_fast(autojump_clock):
    yard = await run(answers, clients=3, requests=2, token="t", model="tiny", max_tokens=5, timeout_s=9)
    assert yard.code == 0
    assert yard.tokens == ["t"] * 3
    assert "3 clients, 0.8 s" in yard.shown
    rows = [[cell.strip() for cell in line.split("│")[1:5]] for line in yard.shown.splitlines() if "ms" in line]
    assert rows == [["first token, ms", "100.0", "100.0", "100.0"], ["whole answer, ms", "400.0", "400.0", "400.0"]]
    assert "answers: 6 ok, 0 failed; 22.5 tokens/s;" in yard.shown
    requests = [message for server in yard.servers for message in server.received if message.kind == "CHAT_REQUEST"]
    assert len({message.data.conversation_id for message in requests}) == 6
    assert {(message.data.model, message.data.max_tokens, message.data.timeout_ms) for message in requests} == {
        ("tiny", 5, 9000)
    }


async def test_the_result_can_be_json(autojump_clock):
    yard = await run(answers, clients=1, requests=1, json_output=True)
    report = json.loads(yard.shown)
    assert report["answers_ok"] == 1
    assert report["total_ms"] == {"p50": 400.0, "p90": 400.0, "p99": 400.0}
    assert report["received_bytes"] > 100


async def test_with_a_secret_every_client_is_a_user_of_its_own(autojump_clock):
    yard = await run(answers, clients=3, requests=1, users_from_secret=SECRET)
    claims = [jwt.decode(token, SECRET, algorithms=["HS256"]) for token in yard.tokens]
    assert sorted(each["sub"] for each in claims) == ["load-1", "load-2", "load-3"]
    assert all("exp" in each for each in claims)


async def test_failures_are_counted_by_their_code(autojump_clock):
    async def script(server):
        await server.refuse((await server.next("CHAT_REQUEST")).request_id, "RATE_LIMITED")
        await server.answer_next()
        await server.next("CHAT_REQUEST")
        await server.socket.aclose(1011)

    yard = await run(script, clients=2, requests=4)
    assert yard.code == 1
    assert "answers: 2 ok, 6 failed" in yard.shown
    assert "  4 x CLOSED 1011" in yard.shown
    assert "  2 x RATE_LIMITED" in yard.shown


async def test_what_breaks_in_between_is_counted_and_no_failure(autojump_clock):
    async def script(server):
        if len(yard.servers) == 1:
            rid = (await server.next("CHAT_REQUEST")).request_id
            await server.start(rid)
            await server.data(rid, "a", 0)
            await server.stream.aclose()
        rid = (await server.next("CHAT_RESUME")).request_id
        await server.start(rid, resumed=True)
        await server.end(rid, "a")

    async with trio.open_nursery() as nursery:
        yard = Yard(nursery, script)
        yard.comes_back = True
        assert await yard.run(clients=1, requests=1) == 0
        nursery.cancel_scope.cancel()
    assert "answers: 1 ok, 0 failed" in yard.shown
    assert "1 reconnects, 0 divergences" in yard.shown


async def test_a_divergence_is_a_failure_even_when_it_was_mended(autojump_clock):
    async def script(server):
        for _ in range(2):
            rid = (await server.next("CHAT_REQUEST")).request_id
            await server.start(rid)
            await server.end(rid, "a")
            rid = (await server.next("CHAT_RESUME")).request_id
            await server.answer(rid, "a")

    yard = await run(script, clients=1, requests=2)
    assert yard.code == 1
    assert "answers: 2 ok, 0 failed" in yard.shown
    assert "0 reconnects, 2 divergences" in yard.shown


async def test_a_server_that_stays_away_fails_the_rest(autojump_clock):
    async def script(server):
        await server.answer_next("a")
        await server.stream.aclose()

    async with trio.open_nursery() as nursery:
        yard = Yard(nursery, script)
        yard.comes_back = True
        connect, calls = yard.connect, []

        async def once():
            calls.append(trio.current_time())
            if len(calls) > 1:
                raise ConnectionRefusedError
            return await connect()

        yard.connect = once
        assert await yard.run(clients=1, requests=3) == 1
        nursery.cancel_scope.cancel()
    assert calls[-1] == pytest.approx(load.PATIENCE_S)
    assert "  2 x UNREACHABLE" in yard.shown


async def test_an_answer_that_never_ends_is_given_up(autojump_clock):
    async def script(server):
        await server.next("CHAT_REQUEST")

    yard = await run(script, clients=1, requests=1, timeout_s=5)
    assert yard.code == 1
    assert "  1 x NO END" in yard.shown
    assert "first token, ms" in yard.shown
    assert yard.servers[0].kinds[:2] == ["CHAT_REQUEST", "CHAT_CANCEL"]


async def test_a_client_that_does_not_get_in_fails_all_its_questions(autojump_clock):
    async with trio.open_nursery() as nursery:
        yard = Yard(nursery, None)
        outside = load.Surroundings(refuse, yard.interrupts, yard.screen, trio.current_time)
        code = await load.run("ws://fake", clients=2, requests=3, surroundings=outside)
        nursery.cancel_scope.cancel()
    assert code == 1
    assert "  6 x UNREACHABLE" in yard.shown


def refuse(url, token, **options):
    async def connect():
        raise ConnectionRefusedError

    return open_chat(url, token, connector=connect, **options)


async def test_an_interrupt_ends_the_run_and_shows_what_there_is(autojump_clock):
    async with trio.open_nursery() as nursery:
        yard = Yard(nursery, answers)

        async def interrupt():
            await trio.sleep(0.6)
            yard.interrupt.send_nowait(2)

        nursery.start_soon(interrupt)
        assert await yard.run(clients=1, requests=100) == 1
        nursery.cancel_scope.cancel()
    assert "answers: 1 ok, 0 failed" in yard.shown


@pytest.mark.parametrize(
    "options",
    [
        {"clients": 0},
        {"requests": 0},
        {"clients": 10_001},
        {"clients": 1001, "requests": 1000},
        {"token": "a b"},
    ],
)
async def test_a_wrong_call_is_exit_code_two(autojump_clock, options):
    yard = await run(None, **options)
    assert yard.code == 2
    assert yard.screen.errors.file.getvalue()
    assert yard.servers == []


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (HandshakeRefused(401, "TOKEN_EXPIRED", "x"), "HTTP 401 TOKEN_EXPIRED"),
        (HandshakeRefused(502, "", "x"), "HTTP 502"),
        (ConnectionLost(4410, "x", reconnect=True), "CLOSED 4410"),
        (Unreachable("x"), "UNREACHABLE"),
        (Diverged("m", "x"), "DIVERGED"),
        (GaveUp(HandshakeRefused(401, "TOKEN_EXPIRED", "x")), "HTTP 401 TOKEN_EXPIRED"),
    ],
)
def test_every_failure_has_a_short_code(failure, code):
    assert code_of(failure) == code


def test_percentiles_are_by_nearest_rank():
    assert Percentiles.of([]) == Percentiles(None, None, None)
    assert Percentiles.of([0.002]) == Percentiles(2.0, 2.0, 2.0)
    assert Percentiles.of([each / 1000 for each in range(100, 0, -1)]) == Percentiles(50.0, 90.0, 99.0)


def test_a_run_of_no_time_has_no_rate():
    assert Tally(float, print).report(1, 0.0).tokens_per_s == 0
