"""The server process: a house with a port, signals, and an orderly end."""

from __future__ import annotations

import gc
import resource
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import attrs
import structlog
import trio

from scm_trio import development
from scm_trio.config import Config
from scm_trio.errors import ConfigError
from scm_trio.house import House, Parts, open_house

log = structlog.get_logger(__name__)

BACKLOG = 4096
SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def serve(config: Config, *, on_ready: Callable[[House, int], None], parts: Parts | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends the patience, still sealing every answer.

    Args:
        config: complete, with its secret.
        on_ready: called with the house and the port once connections are taken.
        parts: what tests replace.

    Raises:
        ConfigError: the configuration cannot be used, or the address cannot be bound.
        StoreError: the database cannot be used.
    """
    tls = _tls(config)
    wish = _Wish()
    with trio.open_signal_receiver(*SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wish.listen, signals)
            with wish.starting:
                async with open_house(config, parts) as house, trio.open_nursery() as connections:
                    house.listener.tls = tls
                    listeners = await _bind(config)
                    _settle()
                    wish.starting = trio.CancelScope()  # from here on a signal asks for an orderly end
                    async with trio.open_nursery() as accepting:
                        accepting.start_soon(_accept, house, listeners, connections)
                        on_ready(house, listeners[0].socket.getsockname()[1])
                        await wish.stop.wait()
                        log.info("shutting down", grace_s=config.server.shutdown_grace_s)
                        accepting.cancel_scope.cancel()
                    await house.drain(config.server.shutdown_grace_s, wish.hurry)
                    connections.cancel_scope.cancel()
            nursery.cancel_scope.cancel()
    log.info("stopped")


class _Wish:
    """What signals ask for: the first to stop, each further one to hurry. While the house starts, it is left at once."""

    def __init__(self) -> None:
        self.starting = trio.CancelScope()
        self.stop = trio.Event()
        self.hurry = trio.Event()

    async def listen(self, signals: AsyncIterator[int]) -> None:
        async for _ in signals:
            if self.stop.is_set():
                self.hurry.set()
            self.stop.set()
            self.starting.cancel()


async def _accept(house: House, listeners: list[trio.SocketListener], connections: trio.Nursery) -> None:
    await trio.serve_listeners(house.listener.welcome, listeners, handler_nursery=connections)


async def _bind(config: Config) -> list[trio.SocketListener]:
    server = config.server
    try:
        return await trio.open_tcp_listeners(server.port, host=server.host, backlog=BACKLOG)
    except OSError as exc:
        raise ConfigError(f"scm.server: cannot listen on {server.host}:{server.port}: {exc.strerror or exc}") from None


def _tls(config: Config) -> ssl.SSLContext | None:
    tls = config.server.tls
    if not tls.certificate or not tls.key:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(tls.certificate, tls.key)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"scm.server.tls: {tls.certificate} and {tls.key} cannot be used: {exc}") from None
    return context


def _settle() -> None:
    """Make the process fit for many connections and even latency."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        log.debug("file descriptors", soft=soft, hard=hard)
    # Full collections take tens of milliseconds and are most of the tail of the first-token time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)


def run(config: Config, *, host: str | None, port: int | None, announce: Callable[[House, int], None]) -> None:
    """Blocking entry point for the command line; raises as ``serve``."""
    server = attrs.evolve(
        config.server,
        host=config.server.host if host is None else host,
        port=config.server.port if port is None else port,
    )
    complete = development.completed(attrs.evolve(config, server=server))
    # ``serve`` listens for them itself. One that comes while the process already ends must not spoil its exit code.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sys.setswitchinterval(0.01)
    trio.run(lambda: serve(complete, on_ready=announce), strict_exception_groups=True)
