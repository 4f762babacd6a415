"""The harness passes a server that keeps its promises and names the one that another server breaks."""

from io import StringIO

import pytest
import trio

from scm_trio.console import cancel
from scm_trio.console.cancel_cases import CASES, Lab, at_the_end, in_the_middle
from scm_trio.console.terminal import Screen
from scm_trio.console.witness import BrokenPromise, Witness
from scm_trio.protocol import codec, messages
from tests.console.fake_gateway import FakeGateway, gateway


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")


async def check(server, **options):
    screen = Screen(color=False, output=StringIO(), errors=StringIO())
    outside = cancel.Surroundings(server.wires, screen)
    code = await cancel.run("ws://fake", token="t", surroundings=outside, **options)
    return code, screen.output.file.getvalue(), screen.errors.file.getvalue()


async def test_a_server_that_keeps_its_promises_passes(autojump_clock):
    async with gateway() as server:
        code, table, notes = await check(server, rounds=2, model="tiny", provider="fake")
    assert code == 0
    assert "an answer that nobody stops takes 2.0 s" in notes
    for case in CASES:
        assert case in table
        assert f"{case}: 2 of 2 kept" in notes
    assert "3 / 3" in table
    # All connections are of one session, and none of them is left open.
    assert len({options["session_id"] for _, _, options in server.opened}) == 1


async def test_rounds_in_which_answers_end_by_themselves_are_counted_apart(autojump_clock):
    async with gateway(parts=1, pace_s=0.001) as server:
        code, table, _ = await check(server, rounds=1)
    assert code == 0
    row = next(line for line in table.splitlines() if "in the middle" in line)
    assert [cell.strip() for cell in row.split("│")[1:7]] == ["in the middle", "1", "1", "1", "-", "-"]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("deaf", "no END within 0.5 s"),
        ("not closed", "the upstream connection was not closed"),
        ("no cancelMs", "cancelMs is missing"),
        ("finds nothing", "NOT_FOUND before END"),
        ("forbids", "CHAT_CANCEL was answered with FORBIDDEN"),
        ("closes", "connection lost (1011)"),
        ("keeps orphans", "the model went on for a client that was gone, and ended with completed"),
        ("no timeout", "it ran for 2000 ms and ended with completed"),
        ("silent timeout", "no ERROR TIMEOUT came before it"),
    ],
)
async def test_a_broken_promise_is_named(autojump_clock, fault, told):
    # The rest of the answer must be longer than what a vanished client is given.
    async with gateway(fault=fault, pace_s=0.05) as server:
        code, table, _ = await check(server, rounds=1, limit_s=0.5 if fault == "deaf" else 4.0, max_tokens=40)
    assert code == 1
    assert told in table


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("gap", "index 2 came where 1 was due"),
        ("wrong hash", "the checksum differs"),
        ("talks on", "CHAT_STREAM_DATA came after END"),
        ("refuses", "the question was refused: PROVIDER_UNAVAILABLE"),
        ("fails", "the answer failed: INTERNAL"),
        ("stops alone", "the answer failed: TIMEOUT"),
        ("stops in silence", "nobody stopped it, but it ended with timeout"),
    ],
)
async def test_a_server_whose_plain_answers_are_wrong_is_not_tried_further(autojump_clock, fault, told):
    async with gateway(fault=fault) as server:
        code, table, notes = await check(server, rounds=1)
    assert code == 1
    assert table == ""
    assert told in notes


async def test_a_rate_limit_is_waited_for(autojump_clock):
    async with gateway(fault="limits once") as server:
        code, _, notes = await check(server, rounds=1)
    assert code == 0
    assert "a pause of 5 s" in notes


async def test_a_rate_limit_without_end_is_a_failure(autojump_clock):
    async with gateway(fault="limits") as server:
        code, _, notes = await check(server, rounds=1)
    assert code == 1
    assert "RATE_LIMITED again" in notes


async def test_an_answer_that_fails_instead_of_stopping_is_named(autojump_clock):
    async with trio.open_nursery() as nursery:
        server = FakeGateway(nursery, fault="fails when cancelled")
        lab = Lab(lambda: server.wires("ws://fake", None), messages.ChatRequest("?"), 2.0, 0.05, whole_s=2.0)
        with pytest.raises(BrokenPromise, match="the answer failed: INTERNAL"):
            await in_the_middle(lab, 0)
        nursery.cancel_scope.cancel()


class Watched:
    """A witness that is told what came."""

    def __init__(self):
        self.witness = Witness(None, "r-1")

    def take(self, kind, data, request_id="r-1"):
        self.witness.take(codec.Received(kind, data, request_id=request_id))


def error(code="INTERNAL"):
    return messages.Error("sorry", messages.ErrorDetail(code, False))


async def test_two_errors_for_one_answer_are_named():
    watched = Watched()
    watched.take("CHAT_STREAM_START", messages.ChatStreamStart("m-1", "tiny", "fake", "r-1"))
    watched.take("ERROR", error())
    with pytest.raises(BrokenPromise, match="two ERRORs"):
        watched.take("ERROR", error())


async def test_notices_and_messages_of_others_mean_nothing():
    watched = Watched()
    watched.take("INFO", messages.Info("RETRY", "again"))
    watched.take("ERROR", error(), request_id="r-2")
    watched.take("SYSTEM_MESSAGE", messages.SystemMessage("hello"), request_id=None)
    with pytest.raises(BrokenPromise, match="no END"):
        watched.witness.ending()
    assert watched.witness.took_s == float("inf")


async def test_a_wrong_url_is_a_usage_error():
    screen = Screen(color=False, output=StringIO(), errors=StringIO())
    assert await cancel.run("nonsense", surroundings=cancel.Surroundings(screen=screen)) == 2
    told = "not a WebSocket URL: 'nonsense' (expected ws://host:port or wss://host:port)\n"
    assert screen.errors.file.getvalue() == told


async def test_a_connection_that_fails_from_the_start_is_one_line(autojump_clock):
    async with gateway(fault="hangs up") as server:
        code, _, notes = await check(server)
    assert code == 1
    assert notes == "fake closed the connection during the handshake\n"


async def test_at_the_end_the_cancel_may_come_after_the_end(autojump_clock):
    async with gateway(parts=3) as server:
        request = messages.ChatRequest("?")
        lab = Lab(lambda: server.wires("ws://fake", None), request, 2.0, 0.05, short_index=4)
        assert (await at_the_end(lab, 0)).own_end
