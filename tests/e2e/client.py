"""A chat client on the ``websockets`` package: another maker's reading of the protocol."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.e2e.process import ServerProcess, token

PATIENCE_S = 30.0

Message = dict[str, Any]


class Client:
    """One connection; CONNECT and SYSTEM_MESSAGE have been read."""

    def __init__(self, websocket: ClientConnection) -> None:
        self.websocket = websocket
        self.connect = self.receive()
        self.welcome = self.receive()

    def send(self, kind: str, data: Any = None, *, request_id: str | None = None, **envelope: Any) -> None:
        message = {"type": kind, **envelope}
        if data is not None:
            message["data"] = data
        if request_id is not None:
            message["requestId"] = request_id
        self.websocket.send(json.dumps(message, ensure_ascii=False))

    def ask(self, question: str, request_id: str | None = None, **options: Any) -> None:
        self.send("CHAT_REQUEST", {"message": question, **options}, request_id=request_id)

    def receive(self, within_s: float = PATIENCE_S) -> Message:
        message: Message = json.loads(self.websocket.recv(within_s))
        return message

    def until(self, *kinds: str, within_s: float = PATIENCE_S) -> list[Message]:
        """Messages up to and including the first of one of these types."""
        deadline = time.monotonic() + within_s
        messages = [self.receive(within_s)]
        while messages[-1]["type"] not in kinds:
            messages.append(self.receive(deadline - time.monotonic()))
        return messages

    def answer(self, question: str, **options: Any) -> tuple[str, Message]:
        """Ask, and read the answer to its end; returns its text and the END."""
        self.ask(question, **options)
        messages = self.until("CHAT_STREAM_END")
        return text_of(messages), messages[-1]


def text_of(messages: Sequence[Message]) -> str:
    return "".join(each["data"]["content"] for each in messages if each["type"] == "CHAT_STREAM_DATA")


@contextmanager
def chatting(
    server: ServerProcess, user: str = "user001", session: str = "session001", **options: Any
) -> Iterator[Client]:
    """Connected as the seed does it: ``['Bearer', jwt]``."""
    offered = [Subprotocol("Bearer"), Subprotocol(token(user))]
    options = {"subprotocols": offered, "open_timeout": PATIENCE_S, "close_timeout": 5, "proxy": None, **options}
    with connect(server.chat_url(user, session), **options) as websocket:
        yield Client(websocket)
