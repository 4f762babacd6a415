"""The client's front door: ``async with open_chat(url, token) as chat``."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict, Unpack

import trio

from scm_trio.client.answer import Answer
from scm_trio.client.background import background
from scm_trio.client.failures import ConnectionLost
from scm_trio.client.feed import Call
from scm_trio.client.line import Line, new_request_id
from scm_trio.client.wire import OpenOptions, Wire, open_wire, open_wire_over
from scm_trio.protocol import codec, messages


class AskOptions(TypedDict, total=False):
    """How a question is asked; what is left out is the server's choice.

    ``parent_message_id`` branches the conversation there; ``regenerate_of`` asks again for another answer,
    ``edit_of`` with another question. ``on_orphan`` says what becomes of the answer when this connection ends:
    ``continue``, ``cancel`` or a ``Grace``. ``timeout_s`` limits the whole answer, in seconds. A ``request_id`` that the
    server knows already attaches to the run that it began.
    """

    model: str | None
    provider: str | None
    conversation_id: str | None
    parent_message_id: str | None
    temperature: float | None
    max_tokens: int | None
    attachments: tuple[str, ...]
    regenerate_of: str | None
    edit_of: str | None
    on_orphan: messages.OnOrphan | None
    timeout_s: float | None
    request_id: str | None


class Chat:
    """An open chat; made by ``open_chat``. Any number of tasks may use it at once.

    Attributes:
        connection: the server's CONNECT: who one is, the limits, what is still running.
        pushes: what the server says on its own (INFO, WARNING, CHAT_MESSAGE, other people's answers, …), in order.
            The newest 256 are kept until somebody reads them; iterating ends with the connection.
    """

    def __init__(self, wire: Wire, line: Line) -> None:
        self._wire = wire
        self._line = line
        self.connection = wire.connection
        self.pushes: trio.MemoryReceiveChannel[codec.Received] = line.pushes

    @property
    def divergences(self) -> int:
        """How many answers turned out not to be what the server sent."""
        return self._line.divergences

    @property
    def received_bytes(self) -> int:
        return self._wire.received_bytes

    @property
    def lost(self) -> ConnectionLost | None:
        """Why the connection is over; None while it is open."""
        return self._wire.lost

    def ask(self, message: str, **options: Unpack[AskOptions]) -> Answer:
        """Ask a question whose answer streams back; it is sent when reading begins (see ``Answer``)."""
        request_id = options.get("request_id") or new_request_id()
        return Answer(self._line, _request(message, options, streaming=True), request_id)

    async def ask_once(self, message: str, **options: Unpack[AskOptions]) -> messages.ChatResponse:
        """Ask a question and wait for the whole answer; cancelling the caller stops the model.

        Raises:
            ChatError: the server refused, or the answer failed.
            ConnectionLost: there is no connection any more.
        """
        call, request_id = Call(messages.ChatResponse), options.get("request_id") or new_request_id()
        self._line.expect(request_id, call)
        try:
            await self._line.send("CHAT_REQUEST", _request(message, options, streaming=False), request_id=request_id)
            return await call.reply()
        except trio.Cancelled:
            await self._line.cancel_quietly(request_id)
            raise
        finally:
            self._line.forget(request_id)

    async def refresh(self, token: str) -> messages.AuthRefreshed:
        """Go on with a new token of the same user.

        Raises:
            ChatError: the token is no good.
            ConnectionLost: there is no connection any more.
        """
        refresh = messages.AuthRefresh(messages.Text(token))
        return await self._line.request("AUTH_REFRESH", refresh, messages.AuthRefreshed)

    async def ping(self) -> float:
        """Say HEARTBEAT and wait for the answer; returns the seconds it took."""
        began = trio.current_time()
        await self._line.request("HEARTBEAT", messages.Heartbeat(), messages.Heartbeat)
        return trio.current_time() - began


@asynccontextmanager
async def open_chat(
    url: str, token: str | None, *, ssl_context: ssl.SSLContext | None = None, **options: Unpack[OpenOptions]
) -> AsyncIterator[Chat]:
    """Connect to ``ws://host:port`` and chat; leaving stops what still runs and says goodbye, within three seconds.

    Raises:
        ValueError: no WebSocket URL, or a token that cannot stand in a header.
        Unreachable: no connection came about.
        HandshakeRefused: the server answered with an HTTP error.
        ConnectionLost: the server closed before it said CONNECT.
    """
    async with open_wire(url, token, ssl_context=ssl_context, **options) as wire, _chat_on(wire) as chat:
        yield chat


@asynccontextmanager
async def open_chat_over(
    stream: trio.abc.Stream, url: str, token: str | None, **options: Unpack[OpenOptions]
) -> AsyncIterator[Chat]:
    """``open_chat`` over a stream that is connected already, for tests and tunnels; the stream is closed at the end."""
    async with open_wire_over(stream, url, token, **options) as wire, _chat_on(wire) as chat:
        yield chat


@asynccontextmanager
async def _chat_on(wire: Wire) -> AsyncIterator[Chat]:
    line = Line(wire)
    async with background() as crew:
        for task in (line.read, line.keep_alive, line.cancel_abandoned):
            crew.start_soon(task)
        try:
            yield Chat(wire, line)
        finally:
            await line.leave()


def _request(message: str, options: AskOptions, *, streaming: bool) -> messages.ChatRequest:
    fields = {name: value for name, value in options.items() if name not in ("timeout_s", "request_id")}
    timeout_s = options.get("timeout_s")
    timeout_ms = None if timeout_s is None else messages.Count(round(timeout_s * 1000))
    return messages.ChatRequest(messages.Text(message), streaming=streaming, timeout_ms=timeout_ms, **fields)  # type: ignore[arg-type]  # names are checked by AskOptions
