"""What a connection is told of its sessions besides the answers it watches: in order, and each message with its receipt.

While the connection catches up with what came in its user's absence, the sessions that this is about are *held*: what
happens there waits, so that what is older is told first. Where another connection of the user is at that, and slow, they are
released before their time; what is left of the older is told afterwards, as far as it is older than all that is new here.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress

import trio
from attrs import define, field

from scm_trio.cluster.hub import SessionEvent
from scm_trio.model import Message

MAX_WAITING = 256
"""Events. A socket that stands still while more happens is given up: it comes back and catches up."""

RECENT = 32
"""Messages: more than are read at once from before."""

Send = Callable[[Callable[[], bytes | None]], Awaitable[None]]


@define(eq=False)
class _Hold:
    """What waits in one session until what is older has been told: events, and answers in the order of their coming."""

    events: list[SessionEvent] = field(factory=list)
    line: trio.Lock = field(factory=trio.Lock)
    over: trio.Event = field(factory=trio.Event)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        async with self.line:
            await self.over.wait()
            yield


class Outbox:
    """Of one connection. It has a task only while there is something to tell, and none before it is opened.

    Args:
        nursery: the connection's.
        send: sends one frame, made when it is its turn.
        frame: makes one.
        on_given: called with each message once it has left.
        on_overflow: called when too much waits.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        send: Send,
        frame: Callable[[SessionEvent], bytes],
        on_given: Callable[[Message], None],
        on_overflow: Callable[[], None],
    ) -> None:
        self._nursery = nursery
        self._send = send
        self._frame = frame
        self._on_given = on_given
        self._on_overflow = on_overflow
        self._waiting: deque[SessionEvent] = deque()
        self._held: dict[str, _Hold] = {}
        self._behind: set[str] = set()
        self._new_from: dict[str, int] = {}
        self._told: dict[str, list[int]] = {}
        self._sent: Message | None = None
        self._is_open = self._is_sending = self._is_closed = False

    # ---- telling

    def open(self, held: Iterable[str] = ()) -> None:
        """Begin to tell, except of these sessions, until they are released: the peer has been greeted."""
        self._held = {global_id: _Hold() for global_id in held}
        self._behind = set(self._held)
        self._new_from = {name: first for name, first in self._new_from.items() if name in self._behind}
        early, self._waiting = self._waiting, deque()
        self._is_open = True
        for event in early:
            self.put(event)

    def close(self) -> None:
        """Tell nothing any more: the connection is over, and its nursery may be."""
        self._is_closed = True
        self._waiting.clear()

    def put(self, event: SessionEvent) -> None:
        """Tell it when its turn comes; nothing after the end."""
        if self._is_closed:
            return
        if event.message is not None:
            self.came(event.message)
        hold = self._held.get(event.global_id)
        (self._waiting if hold is None else hold.events).append(event)
        if len(self._waiting) + sum(len(each.events) for each in self._held.values()) > MAX_WAITING:
            self._on_overflow()
        elif self._is_open and self._waiting and not self._is_sending:
            self._is_sending = True
            self._nursery.start_soon(self._empty)

    def drop(self, global_id: str) -> None:
        """Nothing that has happened in this session is told any more, and it is held no longer."""
        self._behind.discard(global_id)
        if hold := self._held.pop(global_id, None):
            hold.over.set()
        self._waiting = deque(event for event in self._waiting if event.global_id != global_id)

    async def _empty(self) -> None:
        with suppress(trio.BrokenResourceError):  # the wire has told the connection why it ends
            while self._waiting:
                await self._send(self._next)
                await self.receipt([self._sent])
        self._is_sending = False

    def _next(self) -> bytes | None:
        """The oldest of what waits, when the socket is free for it."""
        self._sent = None
        while self._waiting:
            event = self._waiting.popleft()
            if event.message is None or not self.has_told(event.message):
                self._sent = event.message
                return self._frame(event)
        return None

    async def receipt(self, messages: Iterable[Message | None]) -> None:
        """Note that these messages were given, once all that was sent so far has left.

        Raises:
            trio.BrokenResourceError: the connection is over, and they may not have.
        """
        await self._send(_nothing)
        for message in messages:
            if message is not None:
                self._on_given(message)

    # ---- catching up

    def came(self, message: Message) -> None:
        """A message has come while this connection is there, be it as an event or in a stream."""
        if not self._is_open or message.session_id in self._behind:
            known = self._new_from.get(message.session_id, message.sequence)
            self._new_from[message.session_id] = min(known, message.sequence)

    def is_due(self, message: Message) -> bool:
        """Whether this message from the user's absence may be told here.

        Not where he has lost the session. After an early release not what is told as news: within a session, what is
        stored later has the higher number.
        """
        global_id = message.session_id
        is_older = global_id in self._held or message.sequence < self._new_from.get(global_id, math.inf)
        return global_id in self._behind and is_older

    def holds(self, message: Message) -> bool:
        """Whether the message itself waits here, to be told as news."""
        hold = self._held.get(message.session_id)
        events = () if hold is None else hold.events
        return any(each.message is not None and each.message.message_id == message.message_id for each in events)

    def tells(self, message: Message) -> None:
        """The message is told as one of those that came in the user's absence: as news it would come twice."""
        told = self._told.get(message.session_id, [])
        first = self._new_from.get(message.session_id, math.inf)
        # What is older than all that is new here cannot come again, except that news may be a moment behind its storing.
        older, latest = told[: 1 - RECENT], told[1 - RECENT :]
        self._told[message.session_id] = [*(each for each in older if each >= first), *latest, message.sequence]

    def has_told(self, message: Message) -> bool:
        """Whether it was."""
        return message.sequence in self._told.get(message.session_id, ())

    def release(self) -> None:
        """Tell what has waited: everything older has been told, or takes too long."""
        held, self._held = self._held, {}
        for hold in held.values():
            hold.over.set()
            for event in hold.events:
                self.put(event)

    def caught_up(self) -> None:
        """Nothing older will be told any more."""
        self.release()
        self._behind.clear()
        self._new_from.clear()

    def in_order(self, global_id: str) -> AbstractAsyncContextManager[None]:
        """Begin to tell of an answer when its session is not held any more, one after the other of those that waited."""
        hold = self._held.get(global_id)
        return nullcontext() if hold is None else hold.turn()


def _nothing() -> None:
    """For a turn that is only waited for."""
