"""The server's side of the protocol on one memory stream, scripted by a test step by step."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from hashlib import sha256

import trio
from trio.testing import memory_stream_pair
from trio_websocket import ConnectionClosed, wrap_server_stream

from scm_trio.client import Chat, open_chat_over
from scm_trio.protocol import codec, messages

URL = "ws://chat.test:8088"
PATIENCE_S = 10_000.0
"""Virtual seconds that a test may last: heartbeats keep a chat alive for ever."""
USAGE = messages.TokenUsage(7, 3, 0, "provider")
CONNECT = messages.Connect("c-1", "ann", "s-1", 30_000, 300_000, messages.Limits(1_048_576, 100, 8), (), (), "now")

Script = Callable[["FakeServer"], Awaitable[None]]


class FakeServer:
    """Answers HEARTBEAT and DISCONNECT by itself; everything else goes to ``next`` in order."""

    def __init__(self, connect: messages.Connect | None = CONNECT, *, says_goodbye: bool = True) -> None:
        self.connect = connect
        self.says_goodbye = says_goodbye
        self.received: list[codec.Received] = []
        self.path = ""
        self.headers: dict[bytes, bytes] = {}
        self._send, self._receive = trio.open_memory_channel[codec.Received](1000)

    async def serve(self, stream: trio.abc.Stream, script: Script | None = None) -> None:
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            self.path, self.headers = request.path, dict(request.headers)
            self.stream = stream
            self.socket = await request.accept()
            if self.connect is not None:
                await self.say("CONNECT", self.connect)
            if script is not None:
                nursery.start_soon(script, self)
            await self._read()
            nursery.cancel_scope.cancel()

    async def _read(self) -> None:
        with suppress(ConnectionClosed):
            while True:
                message = codec.decode_client(await self.socket.get_message())
                self.received.append(message)
                if message.kind == "HEARTBEAT":
                    await self.say("HEARTBEAT", messages.Heartbeat(), message.request_id)
                elif message.kind == "DISCONNECT":
                    if self.says_goodbye:
                        await self.say("DISCONNECT", messages.Disconnect("BYE", "bye", reconnect=False))
                        await self.socket.aclose(1000)
                else:
                    self._send.send_nowait(message)

    async def next(self, kind: str) -> codec.Received:
        message = await self._receive.receive()
        assert message.kind == kind, message
        return message

    @property
    def kinds(self) -> list[str]:
        return [message.kind for message in self.received]

    async def say(self, kind: str, data: object, request_id: str | None = None) -> None:
        text = codec.encode(kind, data, at="2025-01-01T00:00:00.000Z", request_id=request_id).decode()
        with suppress(ConnectionClosed):
            await self.socket.send_message(text)

    async def refuse(self, request_id: str | None, code: str, *, started: bool = False, **more: object) -> None:
        detail = messages.ErrorDetail(code, retryable=True, generation_started=started, **more)
        await self.say("ERROR", messages.Error(f"sorry: {code}", detail), request_id)

    async def start(self, request_id: str, **more: object) -> None:
        values = {"message_id": "m-1", "model": "tiny", "provider": "fake", "request_id": request_id} | more
        await self.say("CHAT_STREAM_START", messages.ChatStreamStart(**values), request_id)

    async def data(self, request_id: str, text: str, index: int, **more: object) -> None:
        values = {"message_id": "m-1", "content": text, "delta": text, "index": index, "next_index": index + 1} | more
        await self.say("CHAT_STREAM_DATA", messages.ChatStreamData(**values), request_id)

    async def end(self, request_id: str, text: str, reason: str = "completed", **more: object) -> None:
        values = {
            "message_id": "m-1",
            "finished": True,
            "total_tokens": 10,
            "duration": 5,
            "finish_reason": reason,
            "usage": USAGE,
            "length": len(text),
            "sha256": sha256(text.encode()).hexdigest(),
        } | more
        await self.say("CHAT_STREAM_END", messages.ChatStreamEnd(**values), request_id)

    async def answer(self, request_id: str, *parts: str) -> None:
        """A whole good answer."""
        await self.start(request_id)
        for index, part in enumerate(parts):
            await self.data(request_id, part, index)
        await self.end(request_id, "".join(parts))

    async def answer_next(self, *parts: str) -> None:
        request = await self.next("CHAT_REQUEST")
        await self.answer(request.request_id or "", *parts)

    async def stopped(self, request_id: str, text: str) -> None:
        """The END of a cancelled answer."""
        await self.end(request_id, text, "cancelled", upstream_closed=True, cancel_ms=12)


@asynccontextmanager
async def chat_with(script: Script | None, server: FakeServer | None = None, **options: object) -> AsyncIterator[Chat]:
    client_end, server_end = memory_stream_pair()
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon((server or FakeServer()).serve, server_end, script)
            async with open_chat_over(client_end, URL, "token", **options) as chat:
                yield chat
            nursery.cancel_scope.cancel()
