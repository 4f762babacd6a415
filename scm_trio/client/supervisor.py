"""Keeps a chat connected: opens one connection after the other, and waits between them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio
from attrs import frozen

from scm_trio.client.backoff import STABLE_S, Backoff, Outage
from scm_trio.client.failures import ClientError, ConnectionLost, GaveUp, HandshakeRefused, NoToken, Unreachable
from scm_trio.client.line import Line
from scm_trio.client.state import State, States
from scm_trio.client.tokens import Tokens
from scm_trio.client.wire import OpenOptions, Wire, open_wire_over
from scm_trio.protocol import messages

Connector = Callable[[], Awaitable[trio.abc.Stream]]
"""Opens the byte stream of one connection; raises ``Unreachable`` or an ``OSError``."""

SILENT_BEATS = 2.5
"""A server that is not heard for so many of its heartbeat intervals is taken for gone."""
_UNAUTHORIZED = 401
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses of a handshake that may go well later."""

log = logging.getLogger(__name__)


@frozen
class Target:
    """Where connections go; ``url`` names the resource, whatever the connector opens."""

    url: str
    connector: Connector
    options: OpenOptions


class Supervisor:
    """One task that holds the connection of a chat.

    Args:
        target: where connections go.
        tokens: what is shown there.
        line: what is carried over them.
        backoff: when to come back; None: never.

    Attributes:
        states: what it does, for those who show it.
        connection: the newest CONNECT.
        opened: how many connections there were.
    """

    connection: messages.Connect

    def __init__(self, target: Target, tokens: Tokens, line: Line, backoff: Backoff | None) -> None:
        self.states = States()
        self.opened = 0
        self._opened_at = 0.0
        self._target = target
        self._options = target.options.copy()
        self._tokens = tokens
        self._line = line
        self._backoff = backoff
        self._wire: Wire | None = None
        self._earlier_bytes = 0
        # Why the present token will not do, and whether it is one that was made for that reason.
        self._refusal: ClientError | None = None
        self._is_renewed = False

    @property
    def received_bytes(self) -> int:
        """Bytes that came in, over all connections."""
        return self._earlier_bytes + (self._wire.received_bytes if self._wire else 0)

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Connect, report readiness, and come back for as long as it makes sense.

        Raises:
            ClientError: there was no first connection.
        """
        try:
            await self._stay(task_status)
        finally:
            if self._line.over is None:
                self._line.close(ConnectionLost(None, "this client has left", reconnect=False))
                self.states.set(State("closed"))

    async def _stay(self, task_status: trio.TaskStatus[None]) -> None:
        outage: Outage | None = None
        while True:
            opened = self.opened
            failure = await self._visit(task_status)
            was_open, now = self.opened > opened, trio.current_time()
            if not self.opened:
                if self._refusal is None or not self._tokens.can_renew or self._is_renewed:
                    raise failure
                continue
            if self._backoff is None or not self._may_pass(failure):
                self._end(failure if was_open and isinstance(failure, ConnectionLost) else GaveUp(failure))
                return
            if outage is None or (was_open and now - self._opened_at >= STABLE_S):
                outage = Outage(self._backoff, now)
            pause_s = outage.next_pause_s(now, _asked_pause_s(failure))
            if pause_s is None:
                self._end(GaveUp(failure))
                return
            log.info("reconnecting in %.3f s: %s", pause_s, failure)
            self._line.detach()
            self.states.set(State("waiting", pause_s, failure))
            await trio.sleep(pause_s)

    def _end(self, failure: ConnectionLost) -> None:
        self._line.close(failure)
        self.states.set(State("closed", failure=failure))

    # ---- one connection

    async def _visit(self, task_status: trio.TaskStatus[None]) -> ClientError:
        """Open a connection and serve it to its end; returns why it ended, or did not come about."""
        self.states.set(State("connecting"))
        try:
            token = await self._token()
            stream = await self._dial()
            async with open_wire_over(stream, self._target.url, token, **self._options) as wire:
                self._take(wire)
                if self.opened == 1:
                    task_status.started()
                failure: ClientError = await self._serve(wire)
        except ClientError as exc:
            failure = exc
        self._note_token(failure)
        return failure

    async def _token(self) -> str | None:
        if self._refusal is not None:
            token = await self._tokens.renew()
            refusal, self._refusal, self._is_renewed = self._refusal, None, True
            if token is None:
                raise refusal
        return await self._tokens.current()

    async def _dial(self) -> trio.abc.Stream:
        try:
            return await self._target.connector()
        except OSError as exc:
            raise Unreachable(f"cannot connect: {exc}") from exc

    def _take(self, wire: Wire) -> None:
        self._earlier_bytes, self._wire = self.received_bytes, wire
        self.connection = wire.connection
        if wire.connection.session_id is not None:
            # One that the server has made is kept: the conversation goes on in it.
            self._options["session_id"] = wire.connection.session_id
        self.opened += 1
        self._opened_at = trio.current_time()
        self._is_renewed = False
        self.states.set(State("open"))
        self._line.attach(wire, is_first=self.opened == 1)

    async def _serve(self, wire: Wire) -> ConnectionLost:
        heart = _Heart(wire)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(heart.beat)
            lost = await self._line.read(wire, heart.heard)
            nursery.cancel_scope.cancel()
        return lost

    # ---- after it

    def _note_token(self, failure: ClientError) -> None:
        if _needs_token(failure):
            self._refusal = failure
        elif not isinstance(failure, NoToken):
            self._is_renewed = False

    def _may_pass(self, failure: ClientError) -> bool:
        """Whether coming back makes sense."""
        if _needs_token(failure):
            return self._tokens.can_renew and not self._is_renewed
        if isinstance(failure, HandshakeRefused):
            return failure.status in PASSING
        return not isinstance(failure, ConnectionLost) or failure.reconnect


def _needs_token(failure: ClientError) -> bool:
    if isinstance(failure, HandshakeRefused):
        return failure.status == _UNAUTHORIZED
    return isinstance(failure, ConnectionLost) and failure.needs_token


def _asked_pause_s(failure: ClientError) -> float | None:
    return failure.retry_after_s if isinstance(failure, ConnectionLost | HandshakeRefused) else None


class _Heart:
    """Says HEARTBEAT at the server's interval, and gives a connection up whose server is not heard any more.

    The server's own HEARTBEAT is not answered: it answers ours, and the two would never stop.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._heard_at = trio.current_time()

    def heard(self) -> None:
        self._heard_at = trio.current_time()

    async def beat(self) -> None:
        interval_s = max(1.0, self._wire.connection.heartbeat_interval_ms / 1000)
        limit_s = min(SILENT_BEATS * interval_s, self._wire.connection.heartbeat_timeout_ms / 1000)
        with suppress(ConnectionLost):
            while True:
                await trio.sleep(interval_s)
                if trio.current_time() - self._heard_at >= limit_s:
                    await self._wire.abort("the server is silent")
                await self._wire.send("HEARTBEAT", messages.Heartbeat())
