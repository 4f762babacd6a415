"""The client's front door: ``async with open_chat(url, token) as chat``."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TypedDict, Unpack, cast

import trio

from scm_trio.client.answer import Answer
from scm_trio.client.background import background
from scm_trio.client.backoff import Backoff
from scm_trio.client.calls import Call, WholeAnswer, new_request_id
from scm_trio.client.failures import ConnectionLost
from scm_trio.client.feed import Feed
from scm_trio.client.line import Line
from scm_trio.client.renewal import Renewal
from scm_trio.client.state import State
from scm_trio.client.supervisor import Connector, Supervisor, Target
from scm_trio.client.tokens import Tokens, TokenSource
from scm_trio.client.transport import Address, connect
from scm_trio.client.watching import Watching
from scm_trio.client.wire import CONNECT_S, OpenOptions
from scm_trio.protocol import codec, messages


class ChatOptions(OpenOptions, total=False):
    """How a chat is opened, beside ``OpenOptions``.

    ``reconnect``: True, which is the default, or a ``Backoff`` of one's own: the chat comes back after a broken
    connection; False: it is over then. ``connector`` opens the byte stream of each connection in place of TCP and TLS;
    ``ssl_context`` is for TLS.
    """

    reconnect: bool | Backoff
    connector: Connector
    ssl_context: ssl.SSLContext | None


class AskOptions(TypedDict, total=False):
    """How a question is asked; what is left out is the server's choice.

    ``parent_message_id`` branches the conversation there; ``regenerate_of`` asks again for another answer,
    ``edit_of`` with another question. ``on_orphan`` says what becomes of the answer while no connection shows it:
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
        pushes: what the server says on its own (INFO, WARNING, CHAT_MESSAGE, …), in order, each message once. The newest
            256 are kept until somebody reads them; iterating ends with the chat.
    """

    def __init__(self, line: Line, supervisor: Supervisor, renewal: Renewal, watching: Watching) -> None:
        self._line = line
        self._supervisor = supervisor
        self._renewal = renewal
        self._watching = watching
        self.pushes: trio.MemoryReceiveChannel[codec.Received] = line.pushes

    # ---- the connection

    @property
    def connection(self) -> messages.Connect:
        """The server's newest CONNECT: who one is, the limits, what was running then."""
        return self._supervisor.connection

    @property
    def state(self) -> State:
        """What the connection is doing."""
        return self._supervisor.states.now

    def states(self) -> AsyncIterator[State]:
        """The present state, then each later one until ``closed``; whoever is slow sees the newest only."""
        return aiter(self._supervisor.states)

    @property
    def reconnects(self) -> int:
        """How often the chat came back."""
        return self._supervisor.opened - 1

    @property
    def divergences(self) -> int:
        """How many answers turned out not to be what the server sent, be it that they were mended or not."""
        return self._line.divergences

    @property
    def received_bytes(self) -> int:
        """Bytes that came in, over all connections."""
        return self._supervisor.received_bytes

    @property
    def lost(self) -> ConnectionLost | None:
        """Why the connection is over for good; None while it is open, or comes back."""
        return self._line.over

    # ---- answers

    def ask(self, message: str, **options: Unpack[AskOptions]) -> Answer:
        """Ask a question whose answer streams back; it is sent when reading begins (see ``Answer``).

        Raises:
            TypeError: the question holds half of a character, which cannot be sent.
        """
        line, request_id = self._line, options.get("request_id") or new_request_id()
        request = _request(message, options, streaming=True)
        feed = Feed(request, request_id, comes_back=line.comes_back, on_divergence=line.diverged)
        return Answer(line, feed, asked=False)

    async def ask_once(self, message: str, **options: Unpack[AskOptions]) -> messages.ChatResponse:
        """Ask a question and wait for the whole answer; cancelling the caller stops the model.

        Raises:
            ChatError: the server refused, or the answer failed.
            ConnectionLost: the connection ended first, for good.
            TypeError: as for ``ask``.
        """
        request = _request(message, options, streaming=False)
        request_id = options.get("request_id") or new_request_id()
        answer = WholeAnswer(request, request_id, comes_back=self._line.comes_back)
        await trio.lowlevel.checkpoint_if_cancelled()
        self._line.enter(answer)
        try:
            await self._line.tell(answer)
            return await answer.reply()
        except trio.Cancelled:
            answer.want_cancel()
            raise

    def watching(self) -> AsyncIterator[Answer]:
        """Answers of this session that somebody else asked for: another device of the user, another member.

        Each comes as soon as it is seen, those that run already at once, and can be read from its beginning. It is not
        stopped when its reader goes; ``Answer.cancel`` does that. Ends with the chat::

            async for answer in chat.watching():
                nursery.start_soon(show, answer)

        The question comes as CHAT_MESSAGE among the ``pushes``, and so does an answer in one piece.
        """
        return self._watching.watch()

    # ---- calls on this connection

    async def refresh(self, token: str) -> messages.AuthRefreshed:
        """Go on with a new token of the same user. The server's warnings are answered without this.

        Raises:
            ChatError: the token is no good; the one before it still counts.
            CallLost: there is no connection just now, or it broke; the token will be shown on the next one.
            ConnectionLost: there will be no connection any more.
        """
        return await self._renewal.refresh(token)

    async def ping(self) -> float:
        """Say HEARTBEAT and wait for the answer; returns the seconds it took.

        Raises:
            CallLost: there is no connection just now, or it broke.
            ConnectionLost: there will be no connection any more.
        """
        began = trio.current_time()
        await self._line.request(Call("HEARTBEAT", messages.Heartbeat(), messages.Heartbeat))
        return trio.current_time() - began


@asynccontextmanager
async def open_chat(url: str, token: TokenSource, **options: Unpack[ChatOptions]) -> AsyncIterator[Chat]:
    """Connect to ``ws://host:port`` and chat; leaving stops what still runs and says goodbye, within three seconds.

    When the connection breaks the chat comes back by itself, and answers go on where they were. A function as
    ``token`` is asked for the first token, and for a new one when the server wants that.

    Raises:
        ValueError: no WebSocket URL, or a token that cannot stand in a header.
        Unreachable: no connection came about; the first one is tried once.
        HandshakeRefused: the server answered with an HTTP error.
        ConnectionLost: the server closed before it said CONNECT.
        NoToken: the token function failed.
    """
    reconnect, connector = options.pop("reconnect", True), options.pop("connector", None)
    ssl_context = options.pop("ssl_context", None)
    opening = cast(OpenOptions, options)
    if connector is None:
        connector = partial(connect, Address.parse(url), ssl_context, opening.get("connect_timeout_s", CONNECT_S))
    backoff = Backoff() if reconnect is True else reconnect or None
    async with _chat_on(Target(url, connector, opening), token, backoff) as chat:
        yield chat


@asynccontextmanager
async def open_chat_over(
    stream: trio.abc.Stream, url: str, token: TokenSource, **options: Unpack[OpenOptions]
) -> AsyncIterator[Chat]:
    """``open_chat`` over a stream that is connected already, for tests and tunnels; the stream is closed at the end.

    It does not come back when that breaks.
    """

    async def connector() -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        return stream

    try:
        async with _chat_on(Target(url, connector, options), token, None) as chat:
            yield chat
    finally:
        await trio.aclose_forcefully(stream)


@asynccontextmanager
async def _chat_on(target: Target, token: TokenSource, backoff: Backoff | None) -> AsyncIterator[Chat]:
    tokens = Tokens(token)
    async with background() as crew:
        line = Line(crew, comes_back=backoff is not None)
        renewal, watching = Renewal(line, tokens), Watching(line)
        line.on_warning, line.strangers = renewal.warn, watching
        supervisor = Supervisor(target, tokens, line, backoff)
        await crew.start(supervisor.run)
        crew.start_soon(line.tell_nudged)
        crew.start_soon(renewal.run)
        try:
            yield Chat(line, supervisor, renewal, watching)
        finally:
            await line.leave()


def _request(message: str, options: AskOptions, *, streaming: bool) -> messages.ChatRequest:
    fields = {name: value for name, value in options.items() if name not in ("timeout_s", "request_id")}
    timeout_s = options.get("timeout_s")
    timeout_ms = None if timeout_s is None else messages.Count(round(timeout_s * 1000))
    request = messages.ChatRequest(messages.Text(message), streaming=streaming, timeout_ms=timeout_ms, **fields)  # type: ignore[arg-type]  # names are checked by AskOptions
    # What is no text would otherwise be found out when it is sent again, with nobody there to be told.
    codec.encode("CHAT_REQUEST", request, at="", request_id=options.get("request_id"))
    return request
