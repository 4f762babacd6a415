"""Connections to HTTP servers: opening them, with or without TLS, and keeping idle ones for the next request."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from functools import cache

import trio
from attrs import field, frozen

MAX_IDLE = 64
"""Idle connections kept for one origin."""
MAX_IDLE_S = 30.0

OpenStream = Callable[[str, int], Awaitable[trio.abc.Stream]]
"""Opens a TCP connection to a host and a port."""


@frozen
class Origin:
    """Where connections go: two requests to the same origin may share one."""

    host: str
    port: int
    tls: bool


@cache
def system_trust() -> ssl.SSLContext:
    """Return the context that trusts the system's authorities; one for all, as making it reads every one of them."""
    return ssl.create_default_context()


@frozen
class Dialer:
    """Opens connections."""

    ssl_context: ssl.SSLContext = field(factory=system_trust)
    open_stream: OpenStream = trio.open_tcp_stream

    async def open(self, origin: Origin) -> trio.abc.Stream:
        """Connect; with TLS the handshake is done and the host's name checked.

        Raises:
            OSError: no connection.
            trio.BrokenResourceError: no TLS; the cause says why.
        """
        stream = await self.open_stream(origin.host, origin.port)
        if not origin.tls:
            return stream
        # https_compatible: servers of the web close without a word, and nobody waits for theirs.
        tls = trio.SSLStream(stream, self.ssl_context, server_hostname=origin.host, https_compatible=True)
        try:
            await tls.do_handshake()
        except BaseException:
            # Nobody else knows this socket: left to the garbage collector, cancels would pile up descriptors.
            await trio.aclose_forcefully(stream)
            raise
        return tls


class IdleConnections:
    """Connections waiting for their next request, by origin. The newest is taken first, so that old ones can go."""

    def __init__(self, max_idle: int = MAX_IDLE, max_idle_s: float = MAX_IDLE_S) -> None:
        self._max_idle = max_idle
        self._max_idle_s = max_idle_s
        self._idle: dict[Origin, list[tuple[trio.abc.Stream, float]]] = {}
        self._closed = False

    async def take(self, origin: Origin) -> trio.abc.Stream | None:
        """Return a connection that still looks alive, if there is one, and close those that do not."""
        idle = self._idle.get(origin, [])
        while idle:
            stream, since = idle.pop()
            if trio.current_time() - since < self._max_idle_s and _is_quiet(stream):
                return stream
            await trio.aclose_forcefully(stream)
        return None

    async def put(self, origin: Origin, stream: trio.abc.Stream) -> None:
        """Keep ``stream`` for later, or close it where there are enough; close what has become too old."""
        if self._closed:
            await trio.aclose_forcefully(stream)
            return
        idle = self._idle.setdefault(origin, [])
        now = trio.current_time()
        idle.append((stream, now))
        while idle and (len(idle) > self._max_idle or now - idle[0][1] >= self._max_idle_s):
            await trio.aclose_forcefully(idle.pop(0)[0])

    async def aclose(self) -> None:
        """Close them all, and from now on whatever comes back."""
        self._closed = True
        for idle in self._idle.values():
            while idle:
                await trio.aclose_forcefully(idle.pop()[0])


def _is_quiet(stream: trio.abc.Stream) -> bool:
    """Whether the peer has sent nothing meanwhile. Before a request that can only be the end, or nonsense."""
    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    return not (isinstance(transport, trio.SocketStream) and transport.socket.is_readable())
