"""A database that is slow or fails for a while costs time, never an answer."""

from contextlib import asynccontextmanager

import pytest
import trio
from outcome import Error

from scm_trio.chat.run import STORE_LIMIT_S
from scm_trio.config import Streams
from scm_trio.errors import StoreError
from scm_trio.house import Parts, open_house
from scm_trio.providers.scripted import Pause, Scripted, Stall
from scm_trio.store.database import inline
from scm_trio.store.writer import commit
from scm_trio.testing import Server, virtual_clock

from .serving import answer, ask, kinds, replies, said, websocket

CONFIG = websocket(stream=Streams(resume_window_s=1.0))


class Disk:
    """Takes ``delay_s`` for everything, and while ``is_full`` nothing is written."""

    def __init__(self):
        self.delay_s, self.is_full = 0.0, False

    async def offload(self, fn, *args):
        await trio.sleep(self.delay_s)
        if fn is commit and self.is_full:
            return [Error(StoreError("full")) for _ in args[1]]
        return await inline(fn, *args)


@asynccontextmanager
async def stored_on(disk, provider, config=CONFIG):
    parts = Parts(clock=virtual_clock(), offload=disk.offload, providers={"openai": provider})
    async with open_house(config, parts) as house, trio.open_nursery() as nursery:
        yield Server(house, nursery)
        nursery.cancel_scope.cancel()


async def count(server, what):
    return await server.house.database.read(lambda conn: conn.exec_driver_sql(f"SELECT count(*) FROM {what}").scalar())


async def test_a_question_that_took_too_long_to_store_is_as_if_it_had_never_been_asked(autojump_clock):
    disk, provider = Disk(), Scripted(["a"])
    async with stored_on(disk, provider) as server, server.peer() as peer:
        disk.delay_s = STORE_LIMIT_S + 2
        await ask(peer)
        refused = await peer.receive()
        assert (refused["error"]["code"], refused["error"]["retryable"]) == ("SERVER_BUSY", True)
        assert server.house.gate.service.active("user001") == ()
        # As long as it may still be written, the same request is refused alike.
        await ask(peer)
        assert (await peer.receive())["error"]["code"] == "SERVER_BUSY"
        await trio.sleep(60)
        disk.delay_s = 0.0
        assert [await count(server, table) for table in ("messages", "runs", "usage")] == [0, 0, 0]
        assert said(await answer(peer)) == "a"
        assert [await count(server, table) for table in ("messages", "runs", "usage")] == [2, 1, 1]


async def test_an_end_is_stored_when_the_database_is_back(autojump_clock):
    disk, provider = Disk(), Scripted(["a", Pause(1)])
    async with stored_on(disk, provider) as server, server.peer() as peer:
        await ask(peer)
        await peer.until("CHAT_STREAM_DATA")
        disk.is_full = True
        began = trio.current_time()
        end = (await peer.until("CHAT_STREAM_END"))[-1]["data"]
        assert trio.current_time() - began <= 1 + STORE_LIMIT_S
        await trio.sleep(100)
        # Longer than the resume window, and still not forgotten: nobody else knows it.
        await peer.send("CHAT_RESUME", {"messageId": end["messageId"]})
        assert said(await peer.until("CHAT_STREAM_END", "ERROR")) == "a"
        assert await count(server, "runs WHERE state = 'running'") == 1
        # It was told: so it exists, and whoever goes on from it is not told otherwise.
        for place in ("regenerateOf", "parentMessageId"):
            refused = await answer(peer, "And then?", f"r-{place}", **{place: end["messageId"]})
            assert (refused[-1]["error"]["code"], refused[-1]["error"]["retryAfterMs"]) == ("SERVER_BUSY", 5000)
        disk.is_full = False
        await trio.sleep(100)
        assert await count(server, "runs WHERE finish_reason = 'completed'") == 1
        await peer.send("CHAT_RESUME", {"messageId": end["messageId"]})
        # It is not pushed as well: this connection saw its end.
        messages = [m for m in await peer.until("CHAT_STREAM_END", "ERROR") if m["type"] != "HEARTBEAT"]
        assert kinds(messages) == ["START", "DATA", "END"]
        assert said(await answer(peer, "Hi", "r2", regenerateOf=end["messageId"])) == "a"


@pytest.mark.parametrize("delay_s", [3.0, 7.0])
async def test_who_is_stopped_before_anybody_was_asked_has_spent_nothing(autojump_clock, delay_s):
    disk, provider = Disk(), Scripted(["a", Stall()])
    async with stored_on(disk, provider) as server, server.peer() as peer:
        disk.delay_s = delay_s
        await ask(peer, "a long question " * 20)
        await trio.sleep(0.5)
        await peer.send("CHAT_CANCEL", {"requestId": "r1"})
        end = (await replies(peer, "r1", "CHAT_STREAM_END"))[-1]["data"]
    assert (end["finishReason"], end["upstreamClosed"]) == ("cancelled", True)
    assert end["usage"]["promptTokens"] == 0
    assert provider.prompts == []


async def test_an_end_that_was_stored_twice_is_told_once(autojump_clock):
    disk, provider = Disk(), Scripted(["a", Pause(3), "b"])
    async with stored_on(disk, provider) as server, server.peer() as peer:
        said_by = []
        server.house.gate.service.on_said = lambda run, said: said_by.append(said.message.content)
        await ask(peer)
        await peer.until("CHAT_STREAM_DATA")
        await trio.sleep(1.5)
        disk.delay_s = STORE_LIMIT_S + 4  # the first try is given up, and is done all the same
        await peer.until("CHAT_STREAM_END")
        run = server.house.gate.service.find("user001", request_id="r1")
        await trio.sleep(60)
        assert (run.is_stored, run.said.content, said_by) == (True, "ab", ["ab"])
        assert await count(server, "messages") == 2
