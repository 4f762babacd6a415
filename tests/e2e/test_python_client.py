"""The ``websockets`` package as a client."""

from __future__ import annotations

import hashlib
import json

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.e2e.client import Client, chatting, text_of
from tests.e2e.process import ServerProcess, token
from tests.e2e.upstream import ANSWER, FakeUpstream


def test_a_streamed_answer_has_its_start_its_pieces_and_one_end(server: ServerProcess) -> None:
    with chatting(server) as client:
        client.ask("你好", "stream-1", model="gpt-4", provider="openai")
        messages = client.until("CHAT_STREAM_END")
        client.send("HEARTBEAT")
        assert client.receive()["type"] == "HEARTBEAT", "nothing follows the END"
    kinds = [each["type"] for each in messages]
    assert kinds == ["CHAT_STREAM_START", *["CHAT_STREAM_DATA"] * (len(kinds) - 2), "CHAT_STREAM_END"]
    assert {each["requestId"] for each in messages} == {"stream-1"}
    assert text_of(messages) == ANSWER
    end = messages[-1]["data"]
    assert end["finished"] is True
    assert end["finishReason"] == "completed"
    assert end["length"] == len(ANSWER)
    assert end["sha256"] == hashlib.sha256(ANSWER.encode()).hexdigest()
    assert end["totalTokens"] == 18


def test_a_whole_answer_is_one_response(server: ServerProcess) -> None:
    with chatting(server) as client:
        client.ask("什么是供应链优化？", "whole-1", streaming=False, model="gpt-3.5-turbo", provider="openai")
        response = client.receive()
    assert response["type"] == "CHAT_RESPONSE"
    assert response["requestId"] == "whole-1"
    assert response["data"]["content"] == ANSWER
    assert response["data"]["finishReason"] == "completed"


def test_a_connection_begins_with_its_terms_and_a_welcome(server: ServerProcess) -> None:
    with chatting(server) as client:
        terms = client.connect["data"]
        assert client.connect["type"] == "CONNECT"
        assert (terms["userId"], terms["sessionId"]) == ("user001", "session001")
        assert terms["heartbeatIntervalMs"] == 30_000
        assert client.welcome["data"]["message"]


@pytest.mark.parametrize("way", ["bearer", "lone token", "header", "query"])
def test_every_way_to_bring_a_token_is_answered_with_the_subprotocol_it_needs(server: ServerProcess, way: str) -> None:
    secret = Subprotocol(token())
    offered = {"bearer": [Subprotocol("Bearer"), secret], "lone token": [secret]}.get(way)
    headers = {"Authorization": f"Bearer {secret}"} if way == "header" else None
    query = f"&token={secret}" if way == "query" else ""
    with connect(
        server.chat_url(query=query), subprotocols=offered, additional_headers=headers, proxy=None
    ) as websocket:
        assert websocket.subprotocol == {"bearer": "Bearer", "lone token": secret}.get(way)
        assert Client(websocket).connect["type"] == "CONNECT"
    assert secret not in server.log(), "tokens are not logged"


@pytest.mark.parametrize(
    ("given", "status", "code"),
    [
        ("none", 401, "UNAUTHORIZED"),
        ("forged", 401, "UNAUTHORIZED"),
        ("expired", 401, "TOKEN_EXPIRED"),
        ("of somebody else", 403, "FORBIDDEN"),
        ("from a strange page", 403, "FORBIDDEN"),
    ],
)
def test_who_may_not_come_in_is_told_over_http(server: ServerProcess, given: str, status: int, code: str) -> None:
    secrets = {
        "forged": token(secret="a secret that the server does not know"),
        "expired": token(ttl_s=-60),
        "of somebody else": token("user002"),
        "from a strange page": token(),
    }
    offered = [Subprotocol("Bearer"), Subprotocol(secrets[given])] if given in secrets else None
    headers = {"Origin": "https://elsewhere.example"} if given == "from a strange page" else None
    with pytest.raises(InvalidStatus) as refused:
        connect(server.chat_url(), subprotocols=offered, additional_headers=headers, proxy=None)
    response = refused.value.response
    assert response.status_code == status
    body = json.loads(response.body)
    assert body["code"] == code
    assert body["message"]


def test_a_bad_message_is_told_and_the_connection_lives(server: ServerProcess) -> None:
    with chatting(server) as client:
        client.websocket.send("{")
        error = client.receive()
        assert error["type"] == "ERROR"
        assert isinstance(error["data"], str)
        assert error["error"]["code"] == "BAD_JSON"
        client.ask("hello", "still-1", provider="nobody")
        assert client.receive()["error"]["code"] == "PROVIDER_UNKNOWN"
        assert client.answer("still there?")[0] == ANSWER


def test_goodbye_is_answered_and_closed_with_1000(server: ServerProcess) -> None:
    with chatting(server) as client:
        client.send("DISCONNECT")
        assert client.receive()["type"] == "DISCONNECT"
        with pytest.raises(Exception, match="1000") as closed:
            client.receive()
    assert closed.value.rcvd.code == 1000


def test_a_failing_provider_is_told_before_the_end(server: ServerProcess, upstream: FakeUpstream) -> None:
    with chatting(server) as client:
        client.ask("fail please", "fail-1")
        messages = client.until("CHAT_STREAM_END")
    assert upstream.asked("fail please").over.wait(30)
    assert [each["type"] for each in messages] == ["CHAT_STREAM_START", "ERROR", "CHAT_STREAM_END"]
    assert messages[1]["error"]["code"] == "PROVIDER_REJECTED"
    assert messages[-1]["data"]["finishReason"] == "error"
