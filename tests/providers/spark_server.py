"""A Spark server, written from its documentation: it checks signatures, clocks and requests. Mostly used in memory."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trio
import trio.testing
from attrs import define, field
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, wrap_server_stream

from scm_trio.providers.connections import Dialer

from .expected import expected_of

EPOCH_S = 1_790_000_000.0
APP_ID, KEY, SECRET = "app12345", "0123456789abcdef0123456789abcdef", "TESTSECRETTESTSECRETTESTSECRET00"
MAX_SKEW_S = 300
DOMAINS = {"/v4.0/chat": "4.0Ultra", "/v1/x1": "x1"}


def _as_this_house_says(expected: dict) -> dict:
    """A call without an id gets one here, and what may be the quota or the rights counts as rights."""
    calls = [{**call, "id": f"call_{position}"} for position, call in enumerate(expected.get("tool_calls", []))]
    error = expected.get("error")
    if error and error["kind"] == "quota_or_auth":
        error = {**error, "kind": "auth"}
    return {**expected, "tool_calls": calls, "error": error}


WEBSOCKET_SAMPLES = {name: _as_this_house_says(expected) for name, expected in expected_of("spark_ws").items()}
HTTP_SAMPLES = {name: says for name, says in expected_of("openai_chat").items() if name.startswith("spark_")}


def now_s() -> float:
    """Wall time that follows Trio's clock."""
    return EPOCH_S + trio.current_time()


def frame(content: str, *, status: int = 1, usage: tuple[int, int] | None = None) -> dict[str, Any]:
    """A response frame with some text."""
    text = {"content": content, "role": "assistant", "index": 0}
    payload: dict[str, Any] = {"choices": {"status": status, "seq": 0, "text": [text]}}
    if usage is not None:
        prompt, completion = usage
        counts = {"question_tokens": 1, "prompt_tokens": prompt, "completion_tokens": completion}
        payload["usage"] = {"text": {**counts, "total_tokens": prompt + completion}}
    return {"header": {"code": 0, "message": "Success", "sid": "cht01", "status": status}, "payload": payload}


def error_frame(code: int, message: str = "synthetic") -> dict[str, Any]:
    return {"header": {"code": code, "message": message, "sid": "cht02", "status": 2}}


@define
class Session:
    """The server's end of one connection, after a good handshake."""

    websocket: WebSocketConnection
    stream: trio.abc.Stream

    async def say(self, *frames: Any) -> None:
        for each in frames:
            await self.websocket.send_message(each if isinstance(each, (str, bytes)) else json.dumps(each))

    async def cut(self) -> None:
        await trio.aclose_forcefully(self.stream)


Script = Callable[[Session], Awaitable[None]]


class _Slow(trio.abc.Stream):
    """Reads of so many bytes at most."""

    def __init__(self, inner: trio.abc.Stream, size: int) -> None:
        self._inner = inner
        self._size = size

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self._inner.receive_some(self._size)

    async def send_all(self, data: bytes) -> None:
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._inner.aclose()


@define
class SparkServer:
    """Answers every question with ``script`` and then closes, as Spark does.

    Attributes:
        skew_s: how far its clock is ahead.
        now_s: its clock.
        read_bytes: what one network read of the client brings at most.
        questions: the request frames.
        ends: when connections ended, by the client or after the script, and with which close code.
        opened: where clients connected to.
    """

    nursery: trio.Nursery
    script: Script | None = None
    skew_s: float = 0.0
    now_s: Callable[[], float] = now_s
    read_bytes: int | None = None
    questions: list[dict[str, Any]] = field(factory=list)
    ends: list[tuple[float, int]] = field(factory=list)
    opened: list[tuple[str, int]] = field(factory=list)
    client_ends: list[trio.StapledStream] = field(factory=list)

    def dialer(self, script: Script | None = None) -> Dialer:
        self.script = script
        return Dialer(open_stream=self.open_stream)

    def saying(self, *frames: Any) -> Dialer:
        async def script(session: Session) -> None:
            await session.say(*frames)

        return self.dialer(script)

    async def open_stream(self, host: str, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        client, server = trio.testing.memory_stream_pair()
        self.opened.append((host, port))
        self.client_ends.append(client)
        self.nursery.start_soon(self.serve, server)
        return _Slow(client, self.read_bytes) if self.read_bytes else client

    async def serve(self, stream: trio.abc.Stream) -> None:
        async with stream, trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            with suppress(ConnectionClosed, trio.BrokenResourceError):
                if refusal := self._refusal(request):
                    status, message = refusal
                    body = json.dumps({"message": message}).encode()
                    await request.reject(status, extra_headers=[(b"Content-Type", b"application/json")], body=body)
                    return
                websocket = await request.accept()
                try:
                    await self._answer(Session(websocket, stream), urlsplit(request.path).path)
                    await websocket.aclose()
                finally:
                    reason = websocket.closed
                    self.ends.append((trio.current_time(), reason.code if reason else 0))

    async def _answer(self, session: Session, path: str) -> None:
        question = json.loads(await session.websocket.get_message())
        self.questions.append(question)
        if question["header"]["app_id"] != APP_ID:
            await session.say(error_frame(10016))
        elif question["parameter"]["chat"]["domain"] != DOMAINS.get(path):
            await session.say(error_frame(10404))
        else:
            await self.script(session)

    def _refusal(self, request: WebSocketRequest) -> tuple[int, str] | None:
        """Check the signature as the documentation says; None: it is good."""
        parts = urlsplit(request.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, strict_parsing=True).items()}
        if set(query) != {"authorization", "date", "host"}:
            return 401, "Unauthorized"
        clock_s = self.now_s() + self.skew_s
        if abs(parsedate_to_datetime(query["date"]).timestamp() - clock_s) > MAX_SKEW_S:
            return 403, (
                "HMAC signature cannot be verified, a valid date or x-date header is required for HMAC Authentication"
            )
        origin = base64.b64decode(query["authorization"], validate=True).decode()
        words = re.fullmatch(
            r'api_key="(.+?)", algorithm="hmac-sha256", headers="host date request-line", signature="(.+?)"', origin
        )
        if words is None or words[1] != KEY:
            return 401, "HMAC signature cannot be verified: apikey not found"
        host = request._event.host
        text = f"host: {host}\ndate: {query['date']}\nGET {parts.path} HTTP/1.1"
        digest = hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).digest()
        if query["host"] != host or base64.b64encode(digest).decode() != words[2]:
            return 401, "HMAC signature does not match"
        return None
