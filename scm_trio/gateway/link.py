"""One open connection, as its tasks see it."""

from __future__ import annotations

from typing import Any

import trio

from scm_trio.chat.answer import Answer, Notice
from scm_trio.errors import Disconnect, RequestFailed
from scm_trio.gateway.gate import Gate, Visit
from scm_trio.gateway.wire import Wire, text_frame
from scm_trio.protocol import frames
from scm_trio.protocol.codec import encode, timestamp


class Viewer:
    """One connection's place in one run.

    Attributes:
        cursor: index of the next delta to send.
        told: how many of the run's notices it was told; those from before it came do not concern it.
        announce: how the next START is to be marked, when one is due: ``resumed``, ``reset`` or neither.
        over: set when nothing more will be sent, be it because of the END.
    """

    def __init__(self, run: Answer, request_id: str | None, cursor: int = 0, **announce: bool) -> None:
        self.run = run
        self.request_id = request_id
        self.cursor = cursor
        self.told = len(run.notices)
        self.announce: dict[str, bool] | None = announce
        self.over = trio.Event()

    @property
    def news(self) -> Notice | None:
        """The next notice to tell."""
        return self.run.notices[self.told] if self.told < len(self.run.notices) else None

    @property
    def is_done(self) -> bool:
        """Everything has been sent, and nothing will be added."""
        log = self.run.log
        return self.announce is None and log.sealed and self.cursor >= log.next_index

    def move(self, cursor: int, **announce: bool) -> None:
        """Go on from another place, told by a new START."""
        self.cursor, self.announce = cursor, announce
        self.run.log.nudge()


class Link:
    """See the module.

    Attributes:
        principal: whose connection it is; a refreshed token replaces it.
        refreshed: set when that happens.
        reason: why the connection is to end, once it is.
        nursery: holds the tasks of this connection; everything in it dies with the connection.
        viewers: the runs that are being sent, by their answers' ids.
    """

    def __init__(self, gate: Gate, visit: Visit, wire: Wire, nursery: trio.Nursery) -> None:
        self.gate = gate
        self.connection_id = f"conn-{gate.clock.new_id()}"
        self.principal = visit.principal
        self.session_id = visit.session_id
        self.lang = visit.lang
        self.coalesce_s = visit.coalesce_s
        self.nursery = nursery
        self.refreshed = trio.Event()
        self.reason: Disconnect | None = None
        self.viewers: dict[str, Viewer] = {}
        self.wire = wire

    @property
    def user_id(self) -> str:
        return self.principal.user_id

    async def told(self) -> None:
        """Wait until no answer is being sent any more."""
        while self.viewers:
            await next(iter(self.viewers.values())).over.wait()

    def disconnect(self, reason: Disconnect | None) -> None:
        """End the connection; the first reason counts, None is the peer's own leaving."""
        if self.reason is None:
            self.reason = reason
        self.nursery.cancel_scope.cancel()

    def frame(self, kind: str, data: Any, request_id: str | None = None, session_id: str | None = None) -> bytes:
        """One message as a WebSocket frame; counted as sent."""
        self.gate.metrics.message_out(kind)
        return text_frame(
            encode(
                kind,
                data,
                at=timestamp(self.gate.clock.now()),
                session_id=session_id or self.session_id,
                user_id=self.principal.user_id,
                request_id=request_id,
            )
        )

    async def send(self, kind: str, data: Any, request_id: str | None = None, session_id: str | None = None) -> None:
        """Send one message when it is its turn.

        Raises:
            trio.BrokenResourceError: the connection is over.
        """
        await self.wire.send(lambda: self.frame(kind, data, request_id, session_id))

    async def send_error(self, failure: RequestFailed, request_id: str | None = None, **more: Any) -> None:
        """Tell a failure; ``more`` as in ``frames.error``, and ``session_id``."""
        session_id = more.pop("session_id", None)
        self.gate.metrics.error(failure.code)
        await self.send("ERROR", frames.error(failure, self.lang, **more), request_id, session_id)
