"""Bugs of our own cost as little as they can."""

import attrs
import pytest

from scm_trio.errors import CloseCode, Disconnect, StoreError
from scm_trio.gateway import dispatch
from scm_trio.gateway.link import Link
from scm_trio.model import Message
from scm_trio.protocol import frames
from scm_trio.providers.scripted import Stall
from scm_trio.store.database import Database
from scm_trio.store.messages import ensure_session
from scm_trio.store.runs import NewRun, open_run

from .serving import answer, ask, ended, kinds, said, serving


async def test_a_bug_in_a_handler_is_told_and_the_client_may_come_back(autojump_clock, monkeypatch):
    async def broken(link, received):
        raise KeyError("a bug")

    async with serving("a") as server, server.peer() as peer:
        with monkeypatch.context() as patch:
            patch.setitem(dispatch.HANDLERS, "HEARTBEAT", broken)
            await peer.send("HEARTBEAT")
            goodbye, code = await ended(peer)
        async with server.peer() as again:
            assert said(await answer(again)) == "a"
    assert (goodbye["code"], goodbye["reconnect"], code) == ("INTERNAL", True, 1011)
    assert goodbye["reason"] == "服务器内部错误"


async def test_a_bug_in_a_stream_costs_this_answer_which_still_gets_its_end(autojump_clock, monkeypatch):
    async with serving("a") as server, server.peer() as peer:
        with monkeypatch.context() as patch:
            patch.setattr(frames, "data", lambda *args, **kwargs: 1 / 0)
            await ask(peer)
            messages = await peer.until("CHAT_STREAM_END")
        assert kinds(messages) == ["START", "ERROR", "END"]
        assert (messages[1]["error"]["code"], messages[1]["error"]["generationStarted"]) == ("INTERNAL", True)
        assert said(await answer(peer, request_id="r2")) == "a"


async def test_a_bug_in_the_task_of_a_connection_costs_this_connection_only(autojump_clock, monkeypatch):
    def broken(self, *args, **kwargs):
        raise KeyError("a bug")

    async with serving("a", Stall()) as server, server.peer() as peer, server.peer("user002") as other:
        with monkeypatch.context() as patch:
            patch.setattr(Link, "frame", broken)
            await peer.send("HEARTBEAT")
            assert (await ended(peer))[1] in (1006, 1011)
        await ask(other)
        assert said(await other.until("CHAT_STREAM_DATA")) == "a"


@pytest.mark.parametrize("lang", ["zh", "en"])
async def test_no_error_carries_a_trace_or_the_question(autojump_clock, monkeypatch, lang):
    async with serving("a") as server, server.peer(query=f"&lang={lang}") as peer:
        monkeypatch.setattr(frames, "data", lambda *args, **kwargs: 1 / 0)
        await ask(peer, "my secret question")
        messages = await peer.until("CHAT_STREAM_END")
    assert "secret" not in str(messages)
    assert "ZeroDivision" not in str(messages)


async def test_a_store_that_fails_costs_a_resume_only(autojump_clock, monkeypatch):
    async def gone(self, *args, **kwargs):
        raise StoreError("gone")

    async with serving("a") as server, server.peer() as peer:
        monkeypatch.setattr(Database, "read", gone)
        await peer.send("CHAT_RESUME", {"messageId": "of last week"}, request_id="x1")
        error = await peer.receive()
        assert (error["error"]["code"], error["requestId"]) == ("INTERNAL", "x1")
        assert said(await answer(peer)) == "a"


async def test_a_request_that_another_process_is_answering_is_a_conflict(autojump_clock):
    def elsewhere(conn):
        session = ensure_session(conn, "user001", "session001", "s-1", 1.0)
        run = NewRun("m", "m", "q", session.global_id, "session001", "user001", "m", "openai", 1.0, "r1", True)
        asked = Message("q", session.global_id, "session001", None, "user", "user001", "Hi", created_at=1.0)
        open_run(conn, attrs.evolve(run, user_message=asked))

    async with serving("a") as server, server.peer() as peer:
        await server.house.database.write(elsewhere)
        (error,) = await answer(peer)
    assert (error["error"]["code"], error["error"]["retryAfterMs"]) == ("CONFLICT", 2000)


async def test_the_first_reason_to_end_a_connection_is_the_one_that_is_told(autojump_clock):
    async with serving() as server, server.peer() as peer:
        (link,) = server.house.gate.hub.everyone()
        link.disconnect(Disconnect(CloseCode.REPLACED, "FORBIDDEN"))
        link.disconnect(Disconnect(CloseCode.INTERNAL, "INTERNAL"))
        goodbye, code = await ended(peer)
    assert (goodbye["code"], code) == ("FORBIDDEN", 4409)
