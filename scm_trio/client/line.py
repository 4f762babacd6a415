"""A connection that many requests share: one reader that hands every message to whoever waits for it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import uuid4

import trio

from scm_trio.client.failures import ConnectionLost, Diverged
from scm_trio.client.feed import Call, Pending, Reply
from scm_trio.client.wire import Wire
from scm_trio.protocol import codec, messages

IMPLIED_CANCEL_S = 1.0
"""Seconds at most that stopping an answer may hold up a task that is being cancelled or leaves its block."""
MAX_PUSHES = 256
_NOTICES = (messages.Info, messages.Warning, messages.SystemMessage, messages.Disconnect)


def new_request_id() -> str:
    return uuid4().hex


class Line:
    """Routes messages by request id; what belongs to no request of ours goes to ``pushes``.

    Attributes:
        pushes: newest ``MAX_PUSHES`` messages that answer nothing; older ones are dropped while nobody reads.
        divergences: how many answers turned out not to be what the server sent.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._pending: dict[str, Pending] = {}
        self._push, self.pushes = trio.open_memory_channel[codec.Received](MAX_PUSHES)
        self._abandon, self._abandoned = trio.open_memory_channel[str](math.inf)
        self._heard_at = trio.current_time()
        self.divergences = 0

    # ---- what runs in the background

    async def read(self) -> None:
        """Hand out messages until the connection is over, then tell everybody who still waits."""
        with self._push:
            try:
                while True:
                    message = await self._wire.receive()
                    self._heard_at = trio.current_time()
                    self._route(message)
            except ConnectionLost as lost:
                for pending in self._pending.values():
                    pending.fail(lost)
                self._pending.clear()

    async def keep_alive(self) -> None:
        """Say HEARTBEAT at the server's interval; give the connection up when the server is silent for its timeout.

        The server's own HEARTBEAT is not answered: it answers ours, and the two would never stop.
        """
        connection = self._wire.connection
        interval_s = max(1.0, connection.heartbeat_interval_ms / 1000)
        with suppress(ConnectionLost):
            while True:
                await trio.sleep(interval_s)
                if trio.current_time() - self._heard_at >= connection.heartbeat_timeout_ms / 1000:
                    await self._wire.abort("the server is silent")
                await self._wire.send("HEARTBEAT", messages.Heartbeat())

    async def cancel_abandoned(self) -> None:
        """Cancel answers that nobody holds any more."""
        async for request_id in self._abandoned:
            if request_id in self._pending:
                await self.cancel_quietly(request_id)

    # ---- what requests use

    async def send(self, kind: str, data: object, *, request_id: str) -> None:
        """Send a request's message; a cancelled caller has sent all of it or nothing (see ``Wire.send``)."""
        await self._wire.send(kind, data, request_id=request_id)

    def expect(self, request_id: str, pending: Pending) -> None:
        """Route messages with this request id to ``pending`` until it has taken its last one."""
        if request_id in self._pending:
            raise ValueError(f"request {request_id} is running already")
        self._pending[request_id] = pending

    def forget(self, request_id: str) -> None:
        self._pending.pop(request_id, None)

    @contextmanager
    def expecting(self, call: Pending) -> Iterator[str]:
        """A fresh request id whose reply goes to ``call`` while the block runs."""
        request_id = new_request_id()
        self.expect(request_id, call)
        try:
            yield request_id
        finally:
            self.forget(request_id)

    async def request(self, kind: str, data: object, reply_type: type[Reply]) -> Reply:
        """Send a message and wait for the data of its one reply.

        Raises:
            ChatError: the reply was an ERROR.
            ConnectionLost: there is no connection any more.
        """
        call = Call(reply_type)
        with self.expecting(call) as request_id:
            await self.send(kind, data, request_id=request_id)
            return await call.reply()

    async def cancel_quietly(self, request_id: str) -> None:
        """Send CHAT_CANCEL without waiting for its effect; takes at most ``IMPLIED_CANCEL_S``, cancelled or not."""
        cancel = messages.ChatCancel(request_id=messages.Id(request_id))
        with trio.move_on_after(IMPLIED_CANCEL_S, shield=True), suppress(ConnectionLost):
            await self._wire.send("CHAT_CANCEL", cancel, request_id=new_request_id(), limit_s=IMPLIED_CANCEL_S)

    def abandon(self, request_id: str) -> None:
        """Have the answer cancelled soon; does not wait."""
        self._abandon.send_nowait(request_id)

    async def leave(self) -> None:
        """Cancel what still runs; answers whose asker said what becomes of an orphan are left to the server."""
        with trio.move_on_after(IMPLIED_CANCEL_S, shield=True):
            for request_id, pending in list(self._pending.items()):
                if pending.cancel_on_leave:
                    await self.cancel_quietly(request_id)

    # ---- inside

    def _route(self, message: codec.Received) -> None:
        if isinstance(message.data, _NOTICES) or (message.request_id is None and message.kind != "HEARTBEAT"):
            self._tell(message)
            return
        request_id = message.request_id or ""
        pending = self._pending.get(request_id)
        # A late word on something finished, such as a cancel that crossed an END, interests nobody.
        if pending is None:
            return
        try:
            last = pending.take(message.data)
        except Diverged as failure:
            last = isinstance(message.data, messages.ChatStreamEnd)
            self._diverged(pending, failure)
        if last:
            self.forget(request_id)

    def _diverged(self, pending: Pending, failure: Diverged) -> None:
        # The one place where an answer is given up for a gap; asking for the rest (CHAT_RESUME) would begin here.
        self.divergences += 1
        pending.fail(failure)

    def _tell(self, message: codec.Received) -> None:
        # Closed by the user: nobody wants them.
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            if self.pushes.statistics().current_buffer_used == MAX_PUSHES:
                self.pushes.receive_nowait()
            self._push.send_nowait(message)
