"""One streamed answer, as its asker sees it."""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator
from contextlib import suppress
from types import TracebackType
from typing import Self

import trio

from scm_trio.client.events import AnswerEvent
from scm_trio.client.feed import Feed
from scm_trio.client.line import LEAVE_S, Line
from scm_trio.protocol import messages


class Answer:
    """A question and the answer that streams back; made by ``Chat.ask`` and ``Chat.watching``.

    The question is sent when reading begins. There are three ways to read, and every one of them starts at the
    beginning, so that an answer can be read twice::

        async for delta in chat.ask("…"):             # str, as the model says it
        async for event in chat.ask("…").events():    # START, DATA and END as attrs objects
        end = await chat.ask("…").finish()            # just the ending; then .text

    Where the chat comes back after a broken connection, its readers notice nothing but time: each piece of text comes
    once and in order. Only where the text that came before was not the answer, because the server began a broken one
    again (its ``ai.restart``) or a crash lost its last second, ``events()`` has a START with ``reset``, and all of the
    answer follows. ``text`` is right at any time; a reader of plain deltas gets the new text after the old one.

    Stopping is real: the server closes its connection to the model.

    - ``await answer.cancel()`` stops it and returns when the server says that it has stopped.
    - A reader that is cancelled by a Trio cancel scope lets go at once; the cancel is sent behind its back.
    - ``async with chat.ask("…") as answer:`` stops it, if it still runs, when the block is left by any way.
    - After a bare ``break`` out of ``async for`` the answer is stopped when its object is freed. CPython does that
      at once where nobody holds the object in a variable; otherwise it happens when that goes away, at the
      latest when the chat is left. Use ``async with`` to be sure.

    While there is no connection, a cancel waits for the next one. A question that was not sent yet is just taken back.
    An answer asked with ``on_orphan``, or by somebody else, is stopped by ``cancel()`` alone.
    """

    def __init__(self, line: Line, feed: Feed, *, asked: bool = True) -> None:
        self._line = line
        self._feed = feed
        self._asking = trio.Lock()
        self._asked = asked
        self._stopped = False

    # ---- what is known so far

    @property
    def request_id(self) -> str:
        """The question's id; where somebody else asked, empty if that one gave none."""
        return self._feed.request_id or ""

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
        return self._feed.message_id

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
            AnswerGone: the user has lost its session, or the server the answer; ``text`` holds what came before.
            Diverged: what came is not what the server sent, even when all of it was sent again.
            ConnectionLost: the connection ended first, for good.
        """
        async for _ in self.events():
            pass
        return self._feed.ending()

    # ---- stopping

    async def cancel(self) -> messages.ChatStreamEnd:
        """Stop the answer and wait until the model's connection is closed: the END says how long that took.

        May be called at any time and any number of times; an answer that has ended just returns its END.

        Raises:
            ChatError: the server refused the question or the cancel, or ``AnswerGone`` as in ``finish``.
            Withdrawn: the question had not been sent, and will not be.
            ConnectionLost: the connection ended first, for good.
            RuntimeError: the question was not asked yet.
        """
        if not self._asked:
            raise RuntimeError("this question was not asked yet")
        await trio.lowlevel.checkpoint()
        feed = self._feed
        feed.want_cancel()
        while not feed.closed:
            await feed.events.changed()
            if feed.cancel_refusal is not None and not feed.closed:
                raise feed.cancel_refusal
        return feed.ending()

    async def __aenter__(self) -> Self:
        await self._ask()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()
        with trio.move_on_after(LEAVE_S, shield=True):
            while self._stopped and not self._feed.closed and self._line.is_open:
                await self._feed.events.changed()

    def _stop(self) -> None:
        """Have the answer cancelled, once, if it runs; does not wait for that."""
        if self._asked and not self._stopped and not self._feed.closed and self._feed.cancel_on_leave:
            self._stopped = True
            self._feed.want_cancel()

    # ---- inside

    async def _ask(self) -> None:
        if self._asked:
            return
        async with self._asking:
            if not self._asked:
                await self._ask_now()

    async def _ask_now(self) -> None:
        shown = self._line.find(self._feed.request_id)
        if isinstance(shown, Feed) and shown.is_shown:
            # The same request, from before or from elsewhere: the server shows its answer here already.
            shown.cancel_on_leave, self._feed = self._feed.cancel_on_leave, shown
        else:
            self._line.enter(self._feed)
        try:
            await self._line.tell(self._feed)
        except trio.Cancelled:
            self._asked = self._feed.was_told
            if self._asked:
                # It was said in the background meanwhile, on a new connection.
                self._stop()
            else:
                self._line.forget(self._feed)
            raise
        self._asked = True
        if self._feed.cancel_on_leave and self._feed.request_id is not None:
            token = trio.lowlevel.current_trio_token()
            weakref.finalize(self, _abandon, token, self._line, self._feed.request_id).atexit = False

    async def _at(self, cursor: int) -> AnswerEvent | None:
        try:
            await self._ask()
            return await self._feed.events.at(cursor)
        except trio.Cancelled:
            self._stop()
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
