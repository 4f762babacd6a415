"""A request for the chat path comes in here and leaves as a finished connection."""

from __future__ import annotations

import h11
import structlog
import trio

from scm_trio.gateway.connection import serve_connection
from scm_trio.gateway.gate import Gate
from scm_trio.gateway.handshake import Refused, enter

log = structlog.get_logger(__name__)

REFUSAL_LIMIT_S = 5.0


async def receive_visitor(stream: trio.abc.Stream, head: bytes, request: h11.Request, gate: Gate) -> None:
    """Decide, serve, and clean up. Never raises: the barrier around a connection stands here, the server lives."""
    try:
        visit = await enter(request, gate)
    except Refused as exc:
        log.info("connection refused", reason=exc.reason)
        with trio.move_on_after(REFUSAL_LIMIT_S):
            await _refuse(stream, exc.response)
        return
    except Exception as exc:
        log.warning("handshake broke", error=type(exc).__name__, exc_info=True)
        return
    user_id = visit.principal.user_id
    gate.metrics.connection_opened(user_id)
    code = None
    try:
        code = await serve_connection(stream, head, visit, gate)
    except Exception as exc:
        # Peers can make the protocol library raise in its own tasks: that costs them this connection.
        log.warning("connection broke", user_id=user_id, error=type(exc).__name__, exc_info=True)
    finally:
        gate.hub.release(user_id)
        gate.metrics.connection_closed(user_id, code)


async def _refuse(stream: trio.abc.Stream, response: bytes) -> None:
    try:
        await stream.send_all(response)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return
