"""One streamed answer, as its asker sees it."""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator
from contextlib import suppress
from types import TracebackType
from typing import Self

import trio

from scm_trio.client.feed import AnswerEvent, Call, Feed
from scm_trio.client.line import IMPLIED_CANCEL_S, Line
from scm_trio.protocol import messages


class Answer:
    """A question and the answer that streams back; made by ``Chat.ask``.

    The question is sent when reading begins. There are three ways to read, and every one of them starts at the
    beginning, so that an answer can be read twice::

        async for delta in chat.ask("…"):             # str, as the model says it
        async for event in chat.ask("…").events():    # START, DATA and END as attrs objects
        end = await chat.ask("…").finish()            # just the ending; then .text

    Where the server restarts broken answers (its ``ai.restart``), an answer may begin anew: a START with ``reset`` says so
    among the events, and ``text`` is right at any time; a reader of plain deltas gets the new text after the old one.

    Stopping is real: the server closes its connection to the model.

    - ``await answer.cancel()`` stops it and returns when the server says that it has stopped.
    - A reader that is cancelled by a Trio cancel scope sends the cancel before it lets go, within one second.
    - ``async with chat.ask("…") as answer:`` stops it, if it still runs, when the block is left by any way.
    - After a bare ``break`` out of ``async for`` the answer is stopped when its object is freed. CPython does that
      at once where nobody holds the object in a variable; otherwise it happens when that goes away, at the
      latest when the chat is left. Use ``async with`` to be sure.

    An answer asked with ``on_orphan`` is stopped by ``cancel()`` alone.
    """

    def __init__(self, line: Line, request: messages.ChatRequest, request_id: str) -> None:
        self._line = line
        self._request = request
        self._feed = Feed(cancel_on_leave=request.on_orphan is None)
        self._asking = trio.Lock()
        self._asked = False
        self._stopped = False
        self.request_id = request_id

    # ---- what is known so far

    @property
    def start(self) -> messages.ChatStreamStart | None:
        """The latest START, None before it came."""
        return self._feed.start

    @property
    def end(self) -> messages.ChatStreamEnd | None:
        return self._feed.end

    @property
    def text(self) -> str:
        """What the model said so far. After a START with ``reset`` it begins anew."""
        return self._feed.transcript.text

    @property
    def reasoning(self) -> str:
        """What the model thought aloud so far."""
        return self._feed.transcript.reasoning

    @property
    def message_id(self) -> str | None:
        return self._feed.transcript.message_id

    @property
    def usage(self) -> messages.TokenUsage | None:
        """Tokens, once it has ended."""
        return self._feed.end.usage if self._feed.end else None

    # ---- reading

    def __aiter__(self) -> AsyncIterator[str]:
        return _Deltas(self)

    def events(self) -> AsyncIterator[AnswerEvent]:
        """START, DATA and END as they come; errors as in ``finish``, after the last event."""
        return _Events(self)

    async def finish(self) -> messages.ChatStreamEnd:
        """Read to the end.

        Raises:
            ChatError: the server refused the question, or the answer failed; ``text`` holds what came before.
            Diverged: what came is not what the server sent.
            ConnectionLost: the connection ended first.
        """
        async for _ in self.events():
            pass
        return self._feed.ending()

    # ---- stopping

    async def cancel(self) -> messages.ChatStreamEnd:
        """Stop the answer and wait until the model's connection is closed: the END says how long that took.

        May be called at any time and any number of times; an answer that has ended just returns its END.

        Raises:
            ChatError: the server refused the question or the cancel.
            ConnectionLost: the connection ended first.
            RuntimeError: the question was not asked yet.
        """
        if not self._asked:
            raise RuntimeError("this question was not asked yet")
        feed, call = self._feed, Call(messages.Error, on_reply=self._feed.wake)
        with self._line.expecting(call) as request_id:
            if not feed.closed:
                cancel = messages.ChatCancel(request_id=messages.Id(self.request_id))
                await self._line.send("CHAT_CANCEL", cancel, request_id=request_id)
            while not feed.closed:
                if call.failure is not None:
                    raise call.failure
                await feed.changed()
        return feed.ending()

    async def __aenter__(self) -> Self:
        await self._ask()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stop()
        with trio.move_on_after(IMPLIED_CANCEL_S, shield=True):
            while self._stopped and not self._feed.closed:
                await self._feed.changed()

    async def _stop(self) -> None:
        """Send one CHAT_CANCEL if the answer runs, cancelled or not; does not wait for its effect."""
        if self._asked and not self._stopped and not self._feed.closed and self._feed.cancel_on_leave:
            self._stopped = True
            await self._line.cancel_quietly(self.request_id)

    # ---- inside

    async def _ask(self) -> None:
        async with self._asking:
            if self._asked:
                return
            self._line.expect(self.request_id, self._feed)
            try:
                await self._line.send("CHAT_REQUEST", self._request, request_id=self.request_id)
            except BaseException:
                # Nothing was sent, or nobody is there.
                self._line.forget(self.request_id)
                raise
            self._asked = True
            if self._feed.cancel_on_leave:
                token = trio.lowlevel.current_trio_token()
                weakref.finalize(self, _abandon, token, self._line, self.request_id).atexit = False

    async def _at(self, cursor: int) -> AnswerEvent | None:
        try:
            await self._ask()
            return await self._feed.at(cursor)
        except trio.Cancelled:
            await self._stop()
            raise


def _abandon(token: trio.lowlevel.TrioToken, line: Line, request_id: str) -> None:
    # The garbage collector may call this in any thread and between any two steps.
    with suppress(trio.RunFinishedError):
        token.run_sync_soon(line.abandon, request_id)


class _Cursor:
    """A position in an answer.

    A plain class, no async generator: so a cancelled ``__anext__`` can be answered, and nobody has to close it.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._position = 0

    def __aiter__(self) -> Self:
        return self

    async def _next(self) -> AnswerEvent:
        event = await self._answer._at(self._position)  # noqa: SLF001  # these two are one thing
        if event is None:
            raise StopAsyncIteration
        self._position += 1
        return event


class _Events(_Cursor):
    async def __anext__(self) -> AnswerEvent:
        return await self._next()


class _Deltas(_Cursor):
    async def __anext__(self) -> str:
        while True:
            event = await self._next()
            if isinstance(event, messages.ChatStreamData) and event.delta:
                return event.delta
