"""A server per test that must not leak, raw frames, and raw handshakes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import trio
from attrs import frozen

from scm_trio.config import Config, Connections, Heartbeat, Messages, Streams, WebSocket
from scm_trio.providers.scripted import Scripted
from scm_trio.testing import Peer, Server, open_server, quiet_config

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
PATH = "/scm/websocket/ai/chat"


@asynccontextmanager
async def serving(*steps: Any, provider: Scripted | None = None, config: Config | None = None) -> AsyncIterator[Server]:
    """A server with one provider, ``server.house.providers["openai"]``; at the end nothing of it may be left."""
    provider = provider or Scripted(steps)
    async with open_server({"openai": provider}, config) as server:
        yield server
    assert provider.open_streams == 0
    assert server.house.gate.service.live_runs == 0
    assert server.house.gate.hub.active == 0


def websocket(
    *,
    heartbeat: Heartbeat | None = None,
    session: Connections | None = None,
    message: Messages | None = None,
    stream: Streams | None = None,
    **more: Any,
) -> Config:
    return quiet_config(
        websocket=WebSocket(
            heartbeat=heartbeat or Heartbeat(),
            session=session or Connections(),
            message=message or Messages(),
            stream=stream or Streams(),
            **more,
        )
    )


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bytes = b"\x01\x02\x03\x04") -> bytes:
    """A client's frame."""
    size = len(payload)
    head = bytes([opcode | (0x80 if fin else 0)])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65_536:
        head += b"\xfe" + size.to_bytes(2, "big")
    else:
        head += b"\xff" + size.to_bytes(8, "big")
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


def text(kind: str, data: Any = None, **envelope: Any) -> bytes:
    return frame(1, orjson.dumps({"type": kind, "data": data or {}, **envelope}))


def parse_frames(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """A server's frames, unmasked, and what is left over."""
    frames = []
    while len(data) >= 2:
        size, at = data[1], 2
        if size == 126:
            size, at = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, at = int.from_bytes(data[2:10], "big"), 10
        assert data[0] in (0x81, 0x88, 0x89, 0x8A), "no frame begins here"
        if len(data) < at + size:
            break
        frames.append((data[0] & 0x0F, data[at : at + size]))
        data = data[at + size :]
    return frames, data


@frozen
class Answer:
    status: int
    headers: dict[str, str]
    body: Any


def upgrade(
    path: str = PATH, *, token: str | None = None, without: tuple[str, ...] = (), query: str = "", **headers: str
) -> bytes:
    fields = {
        "Host": "chat.example",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": KEY,
        **({"Authorization": f"Bearer {token}"} if token else {}),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    lines = [f"{name}: {value}" for name, value in fields.items() if name not in without]
    return "\r\n".join([f"GET {path}{query} HTTP/1.1", *lines, "", ""]).encode("latin-1")


async def read_all(stream: trio.abc.Stream) -> bytes:
    data = b""
    try:
        while more := await stream.receive_some():
            data += bytes(more)
    except trio.BrokenResourceError:
        pass
    return data


async def exchange(server: Server, request: bytes) -> Answer:
    """Send a request that is refused; returns the whole answer."""
    stream = server.dial()
    await stream.send_all(request)
    with trio.fail_after(30):
        data = await read_all(stream)
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert int(headers.get("content-length", len(body))) == len(body)
    return Answer(int(first.split()[1]), headers, orjson.loads(body) if body else None)


async def ask(
    peer: Peer, message: str = "Hi", request_id: str | None = "r1", *, session_id: str | None = None, **data: Any
) -> None:
    envelope = {} if session_id is None else {"sessionId": session_id}
    await peer.send("CHAT_REQUEST", {"message": message, **data}, request_id=request_id, **envelope)


async def answer(peer: Peer, message: str = "Hi", request_id: str | None = "r1", **data: Any) -> list[dict[str, Any]]:
    """Ask, and read up to the answer's END; what is pushed meanwhile does not count."""
    await ask(peer, message, request_id, **data)
    return await replies(peer, request_id, "CHAT_STREAM_END", "ERROR")


async def replies(peer: Peer, request_id: str | None, *kinds: str) -> list[dict[str, Any]]:
    """Everything that answers this request, up to the first of these types."""
    found: list[dict[str, Any]] = []
    while not found or found[-1]["type"] not in kinds:
        message = await peer.receive()
        if message.get("requestId") == request_id:
            found.append(message)
    return found


def without_presence(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in messages if each["type"] != "ONLINE_STATUS"]


def said(messages: list[dict[str, Any]]) -> str:
    return "".join(each["data"]["content"] for each in messages if each["type"] == "CHAT_STREAM_DATA")


def kinds(messages: list[dict[str, Any]]) -> list[str]:
    return [each["type"].removeprefix("CHAT_STREAM_") for each in messages]


def check_contiguous(messages: list[dict[str, Any]], start: int = 0) -> None:
    for each in messages:
        if each["type"] == "CHAT_STREAM_DATA":
            assert each["data"]["index"] == start
            start = each["data"]["nextIndex"]


async def ended(peer: Peer) -> tuple[dict[str, Any] | None, int]:
    """Read until the server closes; returns its DISCONNECT's data and its close code."""
    goodbye = None
    with trio.fail_after(1000):
        try:
            while True:
                message = await peer.receive()
                if message["type"] == "DISCONNECT":
                    goodbye = message["data"]
        except Exception as exc:  # noqa: BLE001 - the library's own, whatever ended it
            reason = getattr(exc, "reason", None)
            return goodbye, reason.code if reason else 1006
