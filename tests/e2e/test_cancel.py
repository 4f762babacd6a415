"""Stopping an answer reaches the provider: its connection is closed, and only then the END goes out."""

from __future__ import annotations

from tests.e2e.client import chatting, text_of
from tests.e2e.process import ServerProcess
from tests.e2e.upstream import ANSWER, FIRST, FakeUpstream

SOON_S = 20.0


def test_a_cancel_closes_the_connection_to_the_provider(server: ServerProcess, upstream: FakeUpstream) -> None:
    with chatting(server) as client:
        client.ask("hold cancel", "cancel-1")
        begun = client.until("CHAT_STREAM_DATA")
        exchange = upstream.asked("hold cancel")
        assert not exchange.left.is_set()
        client.send("CHAT_CANCEL", {"requestId": "cancel-1"})
        messages = [*begun, *client.until("CHAT_STREAM_END")]
        assert exchange.left.wait(SOON_S)
        end = messages[-1]["data"]
        assert end["finishReason"] == "cancelled"
        assert end["upstreamClosed"] is True
        assert end["cancelMs"] < 1000 * SOON_S
        assert "".join(FIRST).startswith(text_of(messages))
        assert client.answer("and on")[0] == ANSWER


def test_a_cancel_before_the_first_token_needs_no_words(server: ServerProcess, upstream: FakeUpstream) -> None:
    with chatting(server) as client:
        client.ask("mute cancel", "cancel-2")
        exchange = upstream.asked("mute cancel")
        client.send("CHAT_CANCEL", {"requestId": "cancel-2"})
        messages = client.until("CHAT_STREAM_END")
        assert exchange.left.wait(SOON_S)
    assert [each["type"] for each in messages] == ["CHAT_STREAM_START", "CHAT_STREAM_END"]
    assert messages[-1]["data"]["upstreamClosed"] is True


def test_another_connection_of_the_user_may_cancel_but_nobody_else(
    server: ServerProcess, upstream: FakeUpstream
) -> None:
    with chatting(server) as client, chatting(server) as own, chatting(server, "user002") as foreign:
        client.ask("hold others", "cancel-3")
        message_id = client.until("CHAT_STREAM_DATA")[-1]["data"]["messageId"]
        foreign.send("CHAT_CANCEL", {"messageId": message_id})
        assert foreign.receive()["error"]["code"] == "NOT_FOUND"
        assert not upstream.asked("hold others").left.is_set()
        own.send("CHAT_CANCEL", {"messageId": message_id})
        assert client.until("CHAT_STREAM_END")[-1]["data"]["finishReason"] == "cancelled"
        assert upstream.asked("hold others").left.wait(SOON_S)


def test_a_client_that_vanishes_is_not_generated_for_beyond_its_grace(
    server: ServerProcess, upstream: FakeUpstream
) -> None:
    with chatting(server) as client:
        client.ask("hold orphan", "orphan-1", onOrphan={"graceMs": 200})
        client.until("CHAT_STREAM_DATA")
        exchange = upstream.asked("hold orphan")
        assert not exchange.left.is_set()
        client.websocket.socket.close()
        assert exchange.left.wait(SOON_S)
    with chatting(server) as client:
        text, end = client.answer("hold orphan", request_id="orphan-1")
    assert text
    assert "".join(FIRST).startswith(text)
    assert end["data"]["finishReason"] == "cancelled"


def test_a_client_that_comes_back_in_time_misses_nothing(server: ServerProcess, upstream: FakeUpstream) -> None:
    with chatting(server) as client:
        client.ask("hold return", "return-1")
        begun = client.until("CHAT_STREAM_DATA")[-1]["data"]
        client.websocket.socket.close()
    with chatting(server) as client:
        (active,) = client.connect["data"]["activeRuns"]
        assert active["messageId"] == begun["messageId"]
        client.send("CHAT_RESUME", {"messageId": begun["messageId"], "rev": begun["rev"], "fromIndex": 0})
        assert client.receive()["data"]["resumed"] is True
        exchange = upstream.asked("hold return")
        exchange.release()
        messages = client.until("CHAT_STREAM_END")
    assert text_of(messages) == ANSWER
    assert not exchange.left.is_set()
