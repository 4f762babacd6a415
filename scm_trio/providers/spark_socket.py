"""Asking a vendor over a WebSocket: the one place that knows trio-websocket as a client of vendors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import h11
import trio
from attrs import frozen
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, wrap_client_stream
from wsproto.utilities import ProtocolError

from scm_trio.errors import ProviderUnavailable, ResponseTooLarge, TimedOut
from scm_trio.providers.connections import Dialer
from scm_trio.providers.openai_errors import Classifier
from scm_trio.providers.spark_signing import Endpoint
from scm_trio.providers.spark_wire import MAX_FRAME_BYTES, HandshakeCut, Wire

CLOSE_TIMEOUT_S = 0.2
"""For the closing handshake after a whole answer. All other ways out close the socket at once."""
_READ_BYTES = 65_536
_BAD_PEER = (ProtocolError, h11.ProtocolError, ValueError)
"""What trio-websocket's reader dies of when the peer speaks no WebSocket, the last for text that is none."""


@frozen
class Call:
    """One connection to be made.

    Attributes:
        endpoint: where to.
        target: path and query of the handshake, which may be a secret.
        classifier: turns a refused handshake into a failure.
    """

    endpoint: Endpoint
    target: str
    classifier: Classifier


class SocketUpstream:
    """One vendor's WebSocket server: limits, deadlines and failures in this house's words."""

    def __init__(
        self,
        name: str,
        *,
        connect_timeout_s: float = 10.0,
        dialer: Dialer | None = None,
    ) -> None:
        """Prepare without connecting.

        Args:
            name: the provider's name, for failures.
            connect_timeout_s: for TCP, TLS and the WebSocket's handshake together.
            dialer: opens connections; given in tests.
        """
        self.name = name
        self._connect_timeout_s = connect_timeout_s
        self._dialer = dialer or Dialer()

    @asynccontextmanager
    async def open(self, call: Call) -> AsyncIterator[Socket]:
        """Connect and shake hands. On leaving, the connection is closed and no task is left.

        Failures leave as they are, never in groups, though a task reads in the background.

        Raises:
            TimedOut: no connection in time (``field`` = ``connect``).
            ProviderUnavailable: no connection, or no WebSocket.
            RequestFailed: whatever the classifier makes of a refusal.
        """
        deadline = trio.current_time() + self._connect_timeout_s
        with self._connecting(deadline):
            wire = Wire(await self._dialer.open(call.endpoint.origin))
        failure: BaseException | None = None
        answered = False
        try:
            async with trio.open_nursery() as nursery:
                try:
                    with self._connecting(deadline):
                        connection: WebSocketConnection = await wrap_client_stream(
                            nursery,
                            wire,  # type: ignore[arg-type]  # any stream will do; the annotation is too narrow
                            call.endpoint.host,
                            call.target,
                            # The wire counts bytes, and judges first.
                            max_message_size=2 * MAX_FRAME_BYTES,
                            receive_buffer_size=_READ_BYTES,
                        )
                    yield Socket(self.name, connection, wire)
                    answered = True
                    with trio.move_on_after(CLOSE_TIMEOUT_S):
                        await connection.aclose()
                except BaseException as exc:
                    failure = exc
                    raise
                finally:
                    nursery.cancel_scope.cancel()
                    await wire.aclose()
        except BaseExceptionGroup as group:
            failure = _cause(group, failure, call.classifier, answered=answered)
        if failure is not None:
            raise failure

    @contextmanager
    def _connecting(self, deadline: float) -> Iterator[None]:
        try:
            with trio.fail_at(deadline):
                yield
        except trio.TooSlowError:
            raise TimedOut(f"{self.name}: no connection within {self._connect_timeout_s} s", field="connect") from None
        except (OSError, UnicodeError) as exc:  # the latter for a name that no DNS could hold
            raise ProviderUnavailable(f"{self.name}: {type(exc).__name__}: {exc}") from exc
        except trio.BrokenResourceError as exc:
            raise ProviderUnavailable(f"{self.name}: no TLS: {exc.__cause__}") from exc


class Socket:
    """An open WebSocket."""

    def __init__(self, name: str, connection: WebSocketConnection, wire: Wire) -> None:
        self._name = name
        self._connection = connection
        self._wire = wire

    async def send(self, text: str) -> None:
        """Send one message. That the peer takes none shows when its own are read: they may say why."""
        with suppress(ConnectionClosed):
            await self._connection.send_message(text)

    async def receive(self) -> str | bytes | None:
        """Return the next message; None: the connection is over.

        Raises:
            ResponseTooLarge: the message has more than ``MAX_FRAME_BYTES``.
        """
        try:
            message: str | bytes = await self._connection.get_message()
        except ConnectionClosed:
            # If the reading task has died, its cancellation follows on the heels; what it died of says more than this.
            await trio.lowlevel.checkpoint()
            if self._wire.exceeded:
                raise ResponseTooLarge(f"{self._name}: one frame of more than {MAX_FRAME_BYTES} bytes") from None
            return None
        self._wire.message_taken()
        return message

    @property
    def how_closed(self) -> str:
        """How the connection ended."""
        reason = self._connection.closed
        return f"closed with {reason.code}" if reason else "closed"


def _cause(
    group: BaseExceptionGroup[BaseException], failure: BaseException | None, classifier: Classifier, *, answered: bool
) -> BaseException | None:
    """Return what leaves the block: its own failure, a cancellation from outside, or what the reading task died of."""
    if failure is not None and not isinstance(failure, trio.Cancelled):
        return failure
    for exc in group.exceptions:
        if isinstance(exc, trio.Cancelled):  # the nursery has taken out those that were its own
            return exc
    crash = group.exceptions[0]
    if isinstance(crash, ConnectionRejected):
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in crash.headers}
        return classifier.refused(crash.status_code, headers, crash.body or b"")
    if isinstance(crash, HandshakeCut):
        if crash.status is None:
            return classifier.unavailable(str(crash))
        return classifier.refused(crash.status, {}, crash.body)
    if isinstance(crash, _BAD_PEER):
        # After the answer that can only be a ping that crossed the farewell.
        return None if answered else classifier.unavailable(f"bad WebSocket: {type(crash).__name__}")
    return crash
