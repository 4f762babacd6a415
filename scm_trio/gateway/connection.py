"""One connection's nursery: reader, worker, heartbeat and one task per request inside, the writer around them."""

from __future__ import annotations

from collections.abc import Awaitable

import structlog
import trio
from trio_websocket import WebSocketConnection, wrap_server_stream

from scm_trio.errors import CloseCode, Disconnect, TokenExpired
from scm_trio.gateway.arrival import active_runs, arrive, settle_in
from scm_trio.gateway.gate import Gate, Visit
from scm_trio.gateway.inbox import Inbox
from scm_trio.gateway.link import Link
from scm_trio.gateway.meter import FrameMeter
from scm_trio.gateway.reading import read
from scm_trio.gateway.streaming import stream_answer
from scm_trio.gateway.wire import Wire
from scm_trio.protocol import messages
from scm_trio.protocol.codec import timestamp
from scm_trio.protocol.texts import sentence
from scm_trio.store.deliveries import Arrival

log = structlog.get_logger(__name__)

CLOSE_LIMIT_S = 2.0
"""How long a peer may take to answer our Close."""
EXPIRY_WARNING_S = 60.0
_PING = b"\x89\x00"


async def serve_connection(stream: trio.abc.Stream, head: bytes, visit: Visit, gate: Gate) -> int | None:
    """Serve a visitor until either side has had enough; returns the close code, None when the peer was just gone.

    Args:
        stream: the peer's stream; whoever opened it closes it.
        head: the bytes of the handshake request, read already.
        visit: what the handshake found out.
        gate: what all connections share.

    Raises:
        Whatever trio-websocket raises over a misbehaving peer, in groups: the caller's barrier takes it.
    """
    wire = Wire(stream, head, FrameMeter(gate.settings.message.max_size_bytes), gate.settings.message.write_timeout_s)
    async with trio.open_nursery() as outer:
        outer.start_soon(wire.write_loop)
        websocket = None
        # EOF in the middle of a handshake would hang the library for good.
        with trio.move_on_after(gate.settings.session.handshake_timeout_s):
            # The meter counts bytes; the library's own limit counts characters, which are never more.
            limit = gate.settings.message.max_size_bytes + 1
            request = await wrap_server_stream(outer, wire, max_message_size=limit, receive_buffer_size=None)
            websocket = await request.accept(subprotocol=visit.subprotocol)
        code: int | None = None
        if websocket is not None:
            reason = await _live(wire, websocket, visit, gate)
            code = reason.code if reason else websocket.closed.code if websocket.closed else None
        # Before the writer is cancelled: it may be shielded over a peer that takes nothing.
        await wire.aclose()
        outer.cancel_scope.cancel()
    return code


async def _live(wire: Wire, websocket: WebSocketConnection, visit: Visit, gate: Gate) -> Disconnect | None:
    async with trio.open_nursery() as inner:
        link = Link(gate, visit, wire, inner, stream_answer)
        wire.on_end = link.disconnect
        wire.verdict = lambda: websocket.closed.code if websocket.closed else None
        gate.hub.join(link)
        try:
            await _to_the_end(link, _serve(link, websocket))
        finally:
            link.leave()
    if link.reason is not None and not wire.is_broken:
        await _bid_farewell(link, websocket, link.reason)
    return link.reason


async def _to_the_end(link: Link, part: Awaitable[None]) -> None:
    """Do what a connection cannot be without: it ends with that, for the reason that comes of it."""
    try:
        await part
        link.disconnect(None)
    except Disconnect as exc:
        link.disconnect(exc)
    except trio.BrokenResourceError:
        link.disconnect(None)
    except Exception:
        # A bug of ours: the peer is told, and may come back.
        log.exception("handler broke", connection_id=link.connection_id)
        link.disconnect(Disconnect(CloseCode.INTERNAL, "INTERNAL"))


async def _serve(link: Link, websocket: WebSocketConnection) -> None:
    """Greet the visitor, and do what he says until he leaves.

    Raises:
        Disconnect: he has broken a rule, or said goodbye.
        trio.BrokenResourceError: the connection is over.
    """
    arrival = await arrive(link)
    link.gate.people.joined(link)
    await _greet(link, arrival)
    settle_in(link, arrival)
    link.news.open()
    inbox = Inbox(link.gate.settings.message.max_size_bytes)
    link.nursery.start_soon(_heartbeat, link)
    link.nursery.start_soon(_read, link, websocket, inbox)
    await inbox.work()


async def _read(link: Link, websocket: WebSocketConnection, inbox: Inbox) -> None:
    await _to_the_end(link, read(link, websocket, inbox))


async def _greet(link: Link, arrival: Arrival) -> None:
    settings = link.gate.settings
    connect = messages.Connect(
        connection_id=link.connection_id,
        user_id=link.user_id,
        session_id=link.session_id,
        heartbeat_interval_ms=round(settings.heartbeat.interval_s * 1000),
        heartbeat_timeout_ms=round(settings.heartbeat.timeout_s * 1000),
        limits=messages.Limits(
            max_message_bytes=settings.message.max_size_bytes,
            rate_per_minute=settings.message.rate_limit_per_minute,
            max_streams=settings.stream.max_per_connection,
        ),
        active_runs=active_runs(link, arrival),
        unread=tuple(messages.Unread(each.session_id, each.count) for each in arrival.unread),
        server_time=timestamp(link.gate.clock.now()),
    )
    await link.send("CONNECT", connect)
    await link.send("SYSTEM_MESSAGE", messages.SystemMessage(sentence("WELCOME", link.lang)))


# ---- heartbeat


async def _heartbeat(link: Link) -> None:
    """Beat, and watch the token: what this connection does by the clock.

    Raises:
        Disconnect: through ``link.disconnect``, when the token has expired.
    """
    interval_s = link.gate.settings.heartbeat.interval_s
    # Spread, so that clients that came together do not beat together.
    beat_at = trio.current_time() + interval_s * (0.5 + link.gate.clock.jitter() / 2)
    warned_for: float | None = None
    try:
        while True:
            left_s = link.principal.expires_at - link.gate.clock.now()
            if left_s + link.gate.tokens.leeway_s <= 0:
                link.disconnect(Disconnect(CloseCode.UNAUTHORIZED, TokenExpired.code))
            if left_s <= EXPIRY_WARNING_S and warned_for != link.principal.expires_at:
                warned_for = link.principal.expires_at
                await _warn_of_expiry(link)
            if trio.current_time() >= beat_at:
                beat_at = trio.current_time() + interval_s
                await link.wire.send(lambda: link.frame("HEARTBEAT", messages.Heartbeat()) + _PING)
            warned = warned_for == link.principal.expires_at
            due_s = left_s + link.gate.tokens.leeway_s if warned else left_s - EXPIRY_WARNING_S
            link.refreshed = trio.Event()
            with trio.move_on_at(min(beat_at, trio.current_time() + max(0.0, due_s))):
                await link.refreshed.wait()
    except trio.BrokenResourceError:
        return


async def _warn_of_expiry(link: Link) -> None:
    tokens = link.gate.tokens
    token = None
    if tokens.refresh and tokens.authenticator.can_issue:
        token = tokens.authenticator.issue(link.user_id, ttl_s=tokens.ttl_s, roles=link.principal.roles)
    expires_at = timestamp(link.principal.expires_at)
    text = sentence("TOKEN_EXPIRING", link.lang)
    await link.send("WARNING", messages.Warning("TOKEN_EXPIRING", text, expires_at, token))


# ---- the end


async def _bid_farewell(link: Link, websocket: WebSocketConnection, reason: Disconnect) -> None:
    """Say why, close, and wait a moment for the peer to agree."""
    text = sentence(reason.error_code, link.lang, limit=link.gate.settings.message.max_size_bytes)
    retry_ms = None if reason.retry_after_s is None else round(reason.retry_after_s * 1000)
    goodbye = messages.Disconnect(reason.error_code, text, reconnect=reason.reconnect, retry_after_ms=retry_ms)
    # Shielded: a shutdown must not take the word out of our mouth.
    with trio.move_on_after(CLOSE_LIMIT_S, shield=True):
        try:
            await link.send("DISCONNECT", goodbye, reason.request_id)
        except trio.BrokenResourceError:
            return
        await websocket.aclose(int(reason.code), reason.error_code)
