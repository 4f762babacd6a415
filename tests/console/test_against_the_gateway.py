"""The console programs against this project's own gateway: everything real but the sockets, in virtual time."""

from io import StringIO

import pytest

from scm_trio.client import open_chat_over
from scm_trio.client.wire import open_wire_over
from scm_trio.console import cancel, load
from scm_trio.console.terminal import Screen, ctrl_c
from scm_trio.providers.scripted import Pause, Scripted
from scm_trio.testing import CHAT_URL, open_server

SLOW_ANSWER = [step for number in range(60) for step in (Pause(0.05), f"word{number} ")]


def opener(open_over, server):
    def connect(_url, _token, *, reconnect=None, **options):
        return open_over(server.dial(), CHAT_URL, server.token(), user_id="user001", **options)

    return connect


@pytest.fixture
def screen(monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    return Screen(color=False, output=StringIO(), errors=StringIO())


async def test_the_gateway_keeps_every_promise_about_stopping(autojump_clock, screen):
    async with open_server({"scripted": Scripted(SLOW_ANSWER)}) as server:
        outside = cancel.Surroundings(opener(open_wire_over, server), screen)
        code = await cancel.run("ws://memory", rounds=2, surroundings=outside)
    table = screen.output.file.getvalue()
    assert (code, table.count("kept")) == (0, 1), table + screen.errors.file.getvalue()


async def test_the_gateway_answers_a_load_of_clients(autojump_clock, screen):
    async with open_server({"scripted": Scripted(["a", Pause(0.1), "b"])}) as server:
        outside = load.Surroundings(opener(open_chat_over, server), ctrl_c, screen)
        code = await load.run("ws://memory", clients=4, requests=3, surroundings=outside)
    assert code == 0, screen.output.file.getvalue()
    assert "answers: 12 ok, 0 failed" in screen.output.file.getvalue()
