"""What came back for one request: an answer's frames, or a single reply.

Reading a connection must not wait for whoever reads one answer, and an answer must not be dropped because its reader
is slow. So there is no channel here: frames stay in a list, which is as long as the answer itself, and readers hold
cursors and wait for an event.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import trio

from scm_trio.client.failures import ChatError, ClientError, Diverged
from scm_trio.client.transcript import Transcript
from scm_trio.protocol import messages

Reply = TypeVar("Reply")
AnswerEvent = messages.ChatStreamStart | messages.ChatStreamData | messages.ChatStreamEnd


class Pending(Protocol):
    """Something that waits for messages with its request id."""

    cancel_on_leave: bool
    """Whether a client that leaves cancels the request."""

    def take(self, data: object) -> bool:
        """Take the message's data; True when it was the last one.

        Raises:
            Diverged: the data does not go on from what came before.
        """

    def fail(self, failure: ClientError) -> None:
        """Nothing will come any more; after ``Diverged`` only nothing that can be trusted."""


class Feed:
    """The frames of one streamed answer.

    Attributes:
        closed: nothing will come any more.
        failure: what readers get after the last event; None after a good ending.
    """

    def __init__(self, *, cancel_on_leave: bool) -> None:
        self.cancel_on_leave = cancel_on_leave
        self.transcript = Transcript()
        self.events: list[AnswerEvent] = []
        self.start: messages.ChatStreamStart | None = None
        self.end: messages.ChatStreamEnd | None = None
        self.failure: ClientError | None = None
        self.closed = False
        self._told: ChatError | None = None
        self._changed = trio.Event()

    def take(self, data: object) -> bool:
        match data:
            case messages.Error(text, detail):
                return self._take_error(ChatError(text, detail))
            case messages.ChatStreamEnd():
                self.end, self.closed = data, True
                self.wake()
                if self.failure is None:
                    self.transcript.verify(data)
                    self.failure = self._told
                    self.events.append(data)
            case messages.ChatStreamStart() if self.failure is None:
                self.transcript.begin(data)
                self.start = data
                self._append(data)
            case messages.ChatStreamData() if self.failure is None:
                self.transcript.add(data)
                self._append(data)
        return self.closed

    def fail(self, failure: ClientError) -> None:
        self.failure = self.failure or failure
        # A diverged answer still runs on the server until its END.
        self.closed = self.closed or not isinstance(failure, Diverged)
        self.wake()

    def _take_error(self, failure: ChatError) -> bool:
        if self.start is None:
            self.fail(failure)
        else:
            # Its END is still to come.
            self._told = failure
        return self.closed

    def _append(self, event: AnswerEvent) -> None:
        self.events.append(event)
        self.wake()

    def wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def changed(self) -> None:
        """Wait until something happens after this call."""
        await self._changed.wait()

    def ending(self) -> messages.ChatStreamEnd:
        """The END of a closed feed.

        Raises:
            ClientError: it ended without one.
        """
        if self.end is None:
            raise self.failure or RuntimeError("this answer has not ended")
        return self.end

    async def at(self, cursor: int) -> AnswerEvent | None:
        """The event at this position, as soon as it is there; None after the last.

        Raises:
            ClientError: the answer ended badly, and every event before that has been read.
        """
        await trio.lowlevel.checkpoint()
        while cursor >= len(self.events):
            if self.failure is not None:
                raise self.failure
            if self.closed:
                return None
            await self.changed()
        return self.events[cursor]


class Call(Generic[Reply]):
    """One request with one reply, of the type given; messages of other types are not for it."""

    cancel_on_leave = False

    def __init__(self, reply_type: type[Reply], on_reply: Callable[[], None] | None = None) -> None:
        self._type = reply_type
        self._on_reply = on_reply
        self._done = trio.Event()
        self._replies: list[Reply] = []
        self.failure: ClientError | None = None

    def take(self, data: object) -> bool:
        if isinstance(data, messages.Error):
            self.fail(ChatError(data.text, data.detail))
        elif isinstance(data, self._type):
            self._replies.append(data)
            self._done.set()
        return self._done.is_set()

    def fail(self, failure: ClientError) -> None:
        self.failure = failure
        self._done.set()
        if self._on_reply:
            self._on_reply()

    async def reply(self) -> Reply:
        """Wait for the reply's data.

        Raises:
            ClientError: it was an ERROR, or the connection is gone.
        """
        await self._done.wait()
        if self.failure is not None:
            raise self.failure
        return self._replies[0]
