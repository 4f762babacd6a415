"""The server is another one when the client comes back: drained, or killed in the middle."""

import sqlite3
from contextlib import asynccontextmanager, closing
from uuid import uuid4

import attrs
import pytest
import trio

from scm_trio.client import AnswerGone
from scm_trio.config import Store
from scm_trio.providers.scripted import Pause, Reasoning, Scripted, Stall
from scm_trio.testing import open_server, quiet_config, virtual_clock
from tests.client.network import Network, stored

WORDS = [Pause(0.3), "a", Pause(1), "b", Pause(1), "c", Pause(1), "d", Stall()]


@asynccontextmanager
async def server_on(path, *steps):
    config = quiet_config(store=Store(f"sqlite:///{path}"))
    # Two servers with one store must not give the same ids.
    clock = attrs.evolve(virtual_clock(), new_id=lambda: uuid4().hex)
    async with open_server({"scripted": Scripted(steps)}, config, clock=clock) as server:
        yield server


def keep(source, target):
    """What a process that is killed now leaves behind."""
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


@pytest.mark.parametrize("thought", [(), (Reasoning("hm"),)], ids=["plain", "reasoning"])
@pytest.mark.parametrize(
    ("seen_s", "crash_s", "seen", "kept"),
    [
        (0.5, 0.6, "a", ""),  # said, but not stored yet
        (2.5, 2.7, "abc", "ab"),
        (1.5, 3.1, "ab", "abc"),  # more was stored than was seen
        (2.5, 3.1, "abc", "abc"),
    ],
)
async def test_an_answer_whose_server_was_killed_is_interrupted_and_has_what_was_stored(
    autojump_clock, tmp_path, thought, seen_s, crash_s, seen, kept
):
    async with server_on(tmp_path / "a.db", *thought, *WORDS) as first:
        network = Network(first)
        async with network.chat() as chat, chat.ask("?") as answer:
            await trio.sleep(seen_s)
            assert answer.text == seen
            network.server = None
            await network.cut()
            await trio.sleep_until(crash_s)
            keep(tmp_path / "a.db", tmp_path / "b.db")
            async with server_on(tmp_path / "b.db") as second:
                network.server = second
                end = await answer.finish()
                rows, attempts = await stored(second)
            assert (end.finish_reason, answer.text, chat.divergences) == ("interrupted", kept, 0)
            assert rows == [("user", "?", None), ("assistant", kept, "interrupted")]
            assert attempts == 1


async def test_a_server_that_drains_is_left_for_the_next_one(autojump_clock, tmp_path):
    async with server_on(tmp_path / "a.db", "a", Pause(20), "b", Pause(20), "c") as first:
        network = Network(first)
        async with network.chat() as chat, trio.open_nursery() as nursery, chat.ask("long") as answer:
            await trio.sleep(1)
            nursery.start_soon(first.house.drain, 30.0, trio.Event())
            await trio.sleep(1)
            async with chat.ask("later") as later:
                # The running answer is interrupted when the grace is over; the new one waits for the next server.
                end = await answer.finish()
                assert (end.finish_reason, answer.text, trio.current_time()) == ("interrupted", "ab", 31)
                async with server_on(tmp_path / "a.db", "fine") as second:
                    network.server = second
                    assert (await later.finish()).finish_reason == "completed"
                    rows, attempts = await stored(second)
                    assert chat.reconnects == 1
    assert [content for _, content, _ in rows] == ["long", "ab", "later", "fine"]
    assert attempts == 2


async def test_an_answer_that_the_next_server_does_not_know_is_gone(autojump_clock, tmp_path):
    async with server_on(tmp_path / "a.db", *WORDS) as first:
        network = Network(first)
        async with network.chat() as chat, chat.ask("?") as answer:
            await trio.sleep(1.5)
            async with server_on(tmp_path / "other.db") as second:
                network.server = second
                await network.cut()
                with pytest.raises(AnswerGone):
                    await answer.finish()
            assert answer.text == "ab"


async def test_a_whole_answer_survives_a_restart(autojump_clock, tmp_path):
    responses = []

    async def ask(chat):
        responses.append(await chat.ask_once("?"))

    async with server_on(tmp_path / "a.db", Pause(1), "all of it") as first:
        network = Network(first)
        async with network.chat() as chat, trio.open_nursery() as nursery:
            nursery.start_soon(ask, chat)
            await trio.sleep(0.5)
            network.server = None
            await network.cut()
            await trio.sleep(5)
            keep(tmp_path / "a.db", tmp_path / "b.db")
            async with server_on(tmp_path / "b.db") as second:
                network.server = second
                await trio.sleep(30)
                rows, attempts = await stored(second)
    assert [response.content for response in responses] == ["all of it"]
    assert (len(rows), attempts) == (2, 1)
