"""Leaving and coming back: drained by SIGTERM, or killed in the middle."""

from __future__ import annotations

import signal
import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK

from tests.e2e.client import Client, chatting, text_of
from tests.e2e.process import ServerProcess, running_server, until
from tests.e2e.upstream import ANSWER, FIRST, FakeUpstream

GRACE = {"shutdown-grace": 60_000}


def close_code(client: Client) -> int:
    with pytest.raises((ConnectionClosedOK, ConnectionClosedError)) as closed:
        client.until("nothing more")
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


def drain(server: ServerProcess) -> None:
    server.terminate()
    until(lambda: "shutting down" in server.log(), "the server has heard")


def _unless_ready(response: httpx.Response) -> httpx.Response | None:
    return None if response.status_code == 200 else response


def test_an_answer_may_finish_while_the_server_leaves_but_nothing_new_begins(
    tmp_path: Path, upstream: FakeUpstream
) -> None:
    with running_server(tmp_path, upstream.url, server=GRACE) as server, chatting(server) as client:
        client.ask("hold drain", "drain-1")
        begun = client.until("CHAT_STREAM_DATA")
        with httpx.Client(base_url=server.base_url, trust_env=False, timeout=30) as http:
            assert http.get("/readyz").status_code == 200
            drain(server)
            # It is logged a moment before it is so.
            ready = until(lambda: _unless_ready(http.get("/readyz")), "the server drains")
            assert (ready.status_code, ready.json()["status"]) == (503, "draining"), "on a connection that was open"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=30)
        client.ask("one more", "drain-2")
        between = client.until("ERROR")  # more of the answer may come first
        refused = between[-1]
        assert refused["requestId"] == "drain-2"
        assert refused["error"]["code"] == "SHUTTING_DOWN"
        assert refused["error"]["retryable"] is True
        upstream.asked("hold drain").release()
        messages = [*begun, *between, *client.until("CHAT_STREAM_END")]
        assert text_of(messages) == ANSWER
        assert messages[-1]["data"]["finishReason"] == "completed"
        farewell = client.receive()
        assert farewell["type"] == "DISCONNECT"
        assert farewell["data"]["code"] == "SHUTTING_DOWN"
        assert farewell["data"]["reconnect"] is True
        assert farewell["data"]["retryAfterMs"] >= 0
        assert close_code(client) == 1001
        assert server.wait() == 0


def test_a_second_signal_ends_the_patience_and_everything_said_is_remembered(
    tmp_path: Path, upstream: FakeUpstream
) -> None:
    with running_server(tmp_path, upstream.url, server=GRACE) as server, chatting(server) as client:
        client.answer("my name is Li", conversationId="memory")
        client.ask("hold hurry", "hurry-1")
        begun = client.until("CHAT_STREAM_DATA")
        while text_of(begun) != "".join(FIRST):
            begun += client.until("CHAT_STREAM_DATA")
        drain(server)
        began = time.monotonic()
        server.terminate()
        end = client.until("CHAT_STREAM_END")[-1]["data"]
        assert end["finishReason"] == "interrupted"
        assert close_code(client) == 1001
        assert server.wait() == 0
        assert time.monotonic() - began < GRACE["shutdown-grace"] / 1000 / 2
    assert upstream.asked("hold hurry").left.wait(20)
    with running_server(tmp_path, upstream.url) as server, chatting(server) as client:
        text, end = client.answer("hold hurry", request_id="hurry-1")
        assert end["data"]["finishReason"] == "interrupted"
        assert text == "".join(FIRST)
        client.answer("who am I", conversationId="memory")
        client.answer("and elsewhere", conversationId="another")
    turns = upstream.asked("who am I").body["messages"]
    assert [(turn["role"], turn["content"]) for turn in turns] == [
        ("user", "my name is Li"),
        ("assistant", ANSWER),
        ("user", "who am I"),
    ]
    assert len(upstream.asked("and elsewhere").body["messages"]) == 1


def test_impatience_does_not_spoil_a_clean_exit(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:

        def ended() -> bool:
            for number in (signal.SIGINT, signal.SIGTERM):
                server.process.send_signal(number)
            return not server.is_running()

        until(ended, "the server has ended")
        assert server.wait() == 0
        assert "Traceback" not in server.log()


def test_the_grace_is_a_limit(tmp_path: Path, upstream: FakeUpstream) -> None:
    short = {"shutdown-grace": 300}
    with running_server(tmp_path, upstream.url, server=short) as server, chatting(server) as client:
        client.ask("hold limit", "limit-1")
        client.until("CHAT_STREAM_DATA")
        server.terminate()
        assert client.until("CHAT_STREAM_END")[-1]["data"]["finishReason"] == "interrupted"
        assert close_code(client) == 1001
        assert server.wait() == 0


def test_a_killed_server_comes_back_with_what_it_had_said(tmp_path: Path, upstream: FakeUpstream) -> None:
    with running_server(tmp_path, upstream.url, measured=False) as server, chatting(server) as client:
        client.ask("hold kill", "kill-1", conversationId="killed")
        client.until("CHAT_STREAM_DATA")
        until(lambda: "".join(FIRST) in checkpoints(tmp_path), "the text so far is stored")
        server.kill()
        assert upstream.asked("hold kill").left.wait(20), "the kernel closes what the process held"
    with running_server(tmp_path, upstream.url) as server, chatting(server) as client:
        assert "sealed interrupted answers" in server.log()
        text, end = client.answer("hold kill", request_id="kill-1", conversationId="killed")
        assert text == "".join(FIRST)
        assert end["data"]["finishReason"] == "interrupted"
        client.answer("what was that", conversationId="killed")
    turns = upstream.asked("what was that").body["messages"]
    assert [turn["content"] for turn in turns] == ["hold kill", "".join(FIRST), "what was that"]


def checkpoints(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "chat.db")) as database:
        return [content for (content,) in database.execute("SELECT content FROM runs")]
