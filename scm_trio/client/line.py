"""What many requests share: messages are handed to whoever waits for them, over all connections of a chat."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Protocol

import trio
from attrs import evolve

from scm_trio.client.background import Crew
from scm_trio.client.calls import Call, Reply, new_request_id
from scm_trio.client.events import AnswerEvent
from scm_trio.client.failures import CallLost, ChatError, ConnectionLost
from scm_trio.client.pending import Pending, Refused, Word
from scm_trio.client.wire import Wire
from scm_trio.protocol import codec, messages

LEAVE_S = 1.0
"""Seconds at most that stopping what still runs may hold up a task that leaves."""
MAX_PUSHES = 256
MAX_KNOWN = 1024
"""So many answers that ended, and messages that were pushed, are remembered, to know what comes late or again of them."""


class Strangers(Protocol):
    """Who looks after answers that nobody here asked for."""

    def opened(self) -> None:
        """A connection has begun."""

    def take(self, frame: AnswerEvent) -> None:
        """A frame of one."""

    def close(self) -> None:
        """There will be no connection any more."""


class Line:
    """Routes messages by request and by answer; what is for nobody here goes to ``pushes`` or to ``strangers``.

    Attributes:
        pushes: newest ``MAX_PUSHES`` messages that answer nothing; older ones are dropped while nobody reads.
        comes_back: whether a connection that breaks is followed by another.
        over: why there will be no connection any more.
        divergences: how many answers turned out not to be what the server sent.
        strangers: who gets the frames of answers that nobody here asked for.
        on_warning: takes warnings.
    """

    strangers: Strangers

    def __init__(self, crew: Crew, *, comes_back: bool) -> None:
        self.comes_back = comes_back
        self.over: ConnectionLost | None = None
        self.divergences = 0
        self.on_warning: Callable[[messages.Warning], None] = lambda _: None
        self._crew = crew
        self._push, self.pushes = trio.open_memory_channel[codec.Received](MAX_PUSHES)
        self._wire: Wire | None = None
        # A connection begins with a welcome, which is told once.
        self._welcome_due = False
        # All that waits, in the order of asking, and how to find it.
        self._open: dict[Pending, None] = {}
        self._by_request: dict[str, Pending] = {}
        self._by_answer: dict[str, Pending] = {}
        self._known: dict[str, None] = {}
        self._said: dict[str, tuple[Pending, Refused]] = {}
        self._to_say, self._saying = trio.open_memory_channel[Pending](math.inf)

    # ---- connections

    @property
    def is_open(self) -> bool:
        return self._wire is not None

    def attach(self, wire: Wire, *, is_first: bool) -> None:
        """Go on over this connection: for all that waits, the server is told what it has to know."""
        self._wire, self._welcome_due = wire, not is_first
        self.strangers.opened()
        for pending in self._open:
            pending.nudge()

    async def read(self, wire: Wire, heard: Callable[[], None]) -> ConnectionLost:
        """Hand out messages until the connection is over; returns why it is."""
        try:
            while True:
                message = await wire.receive()
                heard()
                self._route(message)
        except ConnectionLost as lost:
            return lost

    def detach(self) -> None:
        """The connection is over, and another one will follow."""
        self._wire = None
        self._said.clear()
        for pending in list(self._open):
            pending.lose()
            self._settle(pending)

    def close(self, failure: ConnectionLost) -> None:
        """The connection is over for good."""
        self._wire, self.over = None, failure
        for pending in list(self._open):
            pending.fail(failure)
            self._settle(pending)
        self.strangers.close()
        self._push.close()
        self._to_say.close()

    # ---- what waits

    def enter(self, pending: Pending) -> None:
        """Route messages for ``pending`` to it until it is closed.

        Raises:
            ConnectionLost: there will be no connection any more.
            ValueError: its request runs already.
        """
        if self.over is not None:
            raise self.over
        if pending.request_id in self._by_request:
            raise ValueError(f"request {pending.request_id} is running already")
        if pending.request_id is not None:
            self._by_request[pending.request_id] = pending
        self._open[pending] = None
        pending.nudge = partial(self._nudge, pending)
        self._settle(pending)

    def forget(self, pending: Pending) -> None:
        """Route nothing to it any more."""
        self._open.pop(pending, None)
        if self._by_request.get(pending.request_id or "") is pending:
            del self._by_request[pending.request_id or ""]
        if pending.message_id is not None:
            self._by_answer.pop(pending.message_id, None)
            self._note(pending.message_id)
        self._said = {key: said for key, said in self._said.items() if said[0] is not pending}

    def _note(self, message_id: str) -> None:
        self._known[message_id] = None
        if len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]

    def find(self, request_id: str | None) -> Pending | None:
        """What carries this request id, asked for here or only shown."""
        return self._by_request.get(request_id or "")

    def diverged(self) -> None:
        self.divergences += 1

    def abandon(self, request_id: str) -> None:
        """Have a request cancelled that nobody holds any more; does not wait."""
        pending = self.find(request_id)
        if pending is not None:
            pending.want_cancel()

    async def leave(self) -> None:
        """Cancel what still runs; answers whose asker said what becomes of an orphan are left to the server."""
        with trio.move_on_after(LEAVE_S, shield=True):
            for pending in [each for each in self._open if each.cancel_on_leave]:
                pending.want_cancel()
                await self.tell(pending)

    # ---- telling the server

    async def request(self, call: Call[Reply]) -> Reply:
        """Say a call's word and wait for its reply.

        Raises:
            ChatError: the reply was an ERROR.
            CallLost: there is no connection just now, or it broke.
            ConnectionLost: there will be no connection any more.
        """
        self.enter(call)
        try:
            if self._wire is None:
                raise CallLost
            await self.tell(call)
            return await call.reply()
        finally:
            self.forget(call)

    async def tell(self, pending: Pending) -> None:
        """Say what is due, if there is a connection. A caller that is cancelled has said all of it or nothing."""
        if pending.closed:
            self.forget(pending)
        elif self._wire is not None:
            # Whoever reads the connection hears of its end, too.
            with suppress(ConnectionLost):
                await self._wire.say(partial(self._words, pending))

    async def tell_nudged(self) -> None:
        """Say what is due for those who cannot wait for it; ends with the chat."""
        async for pending in self._saying:
            if pending in self._open:
                await self.tell(pending)

    def _nudge(self, pending: Pending) -> None:
        # After the end nothing is to be said.
        with suppress(trio.ClosedResourceError):
            self._to_say.send_nowait(pending)

    async def _nudge_later(self, pending: Pending, pause_s: float) -> None:
        await trio.sleep(pause_s)
        pending.nudge()

    def _words(self, pending: Pending) -> Iterator[Word]:
        # It may have come to its end while this waited for its turn.
        for word in () if pending.closed else pending.words():
            if word.refused is None:
                yield word
                continue
            request_id = new_request_id()
            self._said[request_id] = (pending, word.refused)
            yield evolve(word, request_id=request_id)

    # ---- hearing the server

    def _route(self, message: codec.Received) -> None:
        match message.data:
            case messages.ChatStreamStart() | messages.ChatStreamData() | messages.ChatStreamEnd() as frame:
                self._take_frame(frame, message.request_id)
            case messages.Error():
                self._take_error(message)
            case messages.SystemMessage() if self._welcome_due:
                self._welcome_due = False
            case messages.Info() | messages.SystemMessage() | messages.Disconnect():
                self._tell(message)
            case messages.Warning() as warning:
                self.on_warning(warning)
                self._tell(message)
            case messages.StoredMessage(message_id=message_id):
                # It is told at least once; and of an answer that was read here there is no need to tell.
                if message_id not in self._known and message_id not in self._by_answer:
                    self._note(message_id)
                    self._tell(message)
            case _:
                self._take_reply(message)

    def _take_frame(self, frame: AnswerEvent, request_id: str | None) -> None:
        pending = self.find(request_id) or self._by_answer.get(frame.message_id)
        if pending is None and isinstance(frame, messages.ChatStreamStart):
            pending = self.find(frame.request_id)
        if pending is not None:
            pending.take(frame)
            self._settle(pending)
        elif frame.message_id not in self._known:
            self.strangers.take(frame)

    def _take_error(self, message: codec.Received) -> None:
        error: messages.Error = message.data
        if message.request_id in self._said:
            pending, refused = self._said[message.request_id]
            pause_s = refused(ChatError(error.text, error.detail))
            if pause_s is not None:
                self._crew.start_soon(partial(self._nudge_later, pending, pause_s))
            self._settle(pending)
        elif message.request_id is None and error.detail.message_id is None:
            self._tell(message)
        else:
            self._take_reply(message, error.detail.message_id)

    def _take_reply(self, message: codec.Received, message_id: str | None = None) -> None:
        pending = self.find(message.request_id) or self._by_answer.get(message_id or "")
        if pending is not None:
            pending.take(message.data)
            self._settle(pending)
        elif isinstance(message.data, messages.ChatResponse):
            if message.data.message_id not in self._known:
                self._tell(message)
        elif message.request_id is None and message.kind not in ("HEARTBEAT", "ERROR"):
            self._tell(message)
        # Else it is a late word on something finished, such as a cancel that crossed an END.

    def _settle(self, pending: Pending) -> None:
        if pending.closed:
            self.forget(pending)
            return
        if pending.message_id is not None:
            self._by_answer.setdefault(pending.message_id, pending)
        if pending.request_id is not None:
            self._by_request.setdefault(pending.request_id, pending)

    def _tell(self, message: codec.Received) -> None:
        # Closed by the user: nobody wants them.
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            if self.pushes.statistics().current_buffer_used == MAX_PUSHES:
                self.pushes.receive_nowait()
            self._push.send_nowait(message)
