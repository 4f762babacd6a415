"""What the readers of an answer get.

Reading a connection must not wait for whoever reads one answer, and an answer must not be dropped because its reader
is slow. So there is no channel here: events stay in a list, which is as long as the answer itself, and readers hold
cursors and wait for something new.
"""

from __future__ import annotations

import trio
from attrs import evolve

from scm_trio.client.failures import ClientError
from scm_trio.client.transcript import Replay, Transcript
from scm_trio.protocol import messages

AnswerEvent = messages.ChatStreamStart | messages.ChatStreamData | messages.ChatStreamEnd


class Events:
    """START, DATA and END of one answer. Each piece of text stands here once, whatever was sent twice.

    A START with ``reset`` says that the text so far was not the answer, and that all of it follows.

    Attributes:
        closed: nothing will be added any more.
        failure: what readers get after the last event; None after a good ending.
    """

    def __init__(self, transcript: Transcript) -> None:
        self.closed = False
        self.failure: ClientError | None = None
        self._transcript = transcript
        self._start: messages.ChatStreamStart
        self._events: list[AnswerEvent] = []
        self._changed = trio.Event()
        self._replay: Replay | None = None

    # ---- readers

    async def at(self, cursor: int) -> AnswerEvent | None:
        """The event at this position, as soon as it is there; None after the last.

        Raises:
            ClientError: the answer ended badly, and every event before that has been read.
        """
        await trio.lowlevel.checkpoint()
        while cursor >= len(self._events):
            if self.failure is not None:
                raise self.failure
            if self.closed:
                return None
            await self.changed()
        return self._events[cursor]

    async def changed(self) -> None:
        """Wait until something happens after this call."""
        await self._changed.wait()

    # ---- the writer

    def wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def fail(self, failure: ClientError) -> None:
        """Let readers fail when they have read all there is."""
        self.failure = self.failure or failure
        self.wake()

    def close(self) -> None:
        self.closed = True
        self.wake()

    def begin(self, start: messages.ChatStreamStart) -> None:
        """Take a START: readers get the first one only, and one like the newest where the text begins anew."""
        if not self._events:
            self._append(start)
        self._start = start

    def expect_again(self) -> None:
        """The transcript is about to begin anew: what it holds is not to be shown twice."""
        text, reasoning = self._transcript.text, self._transcript.reasoning
        if self._replay is not None:
            self._replay = self._replay.extended(text, reasoning)
        elif text or reasoning:
            self._replay = Replay(text, reasoning)

    def show(self, fresh: messages.ChatStreamData) -> None:
        """Add what readers have not got yet of a frame that the transcript has just taken."""
        if self._replay is None:
            self._append(fresh)
        elif not self._replay.agrees(self._transcript):
            self._begin_anew()
        else:
            news = self._replay.news(self._transcript, fresh)
            if self._replay.is_over(self._transcript):
                self._replay = None
            if news is not None:
                self._append(news)

    def end(self, end: messages.ChatStreamEnd) -> None:
        """Add the END; nothing comes after it."""
        if self._replay is not None:
            # It ended with less than readers got.
            self._begin_anew()
        self._append(end)
        self.close()

    def _begin_anew(self) -> None:
        """What readers got was not the answer: tell them so, and what it is so far."""
        self._replay, held = None, self._transcript
        self._append(evolve(self._start, reset=True, resumed=False))
        message_id = self._start.message_id
        for text, reasoning, next_index in (("", held.reasoning, 0), (held.text, None, held.next_index)):
            if text or reasoning:
                self._append(messages.ChatStreamData(message_id, text, text, 0, next_index, held.rev, reasoning))

    def _append(self, event: AnswerEvent) -> None:
        self._events.append(event)
        self.wake()
