"""HTTP/1.1 on one Trio stream, for an ASGI application."""

from __future__ import annotations

from contextlib import suppress

import h11
import trio
from starlette.types import ASGIApp

from scm_trio.web.errors import error_body
from scm_trio.web.exchange import Exchange, last_response
from scm_trio.web.wire import MAX_HEAD_BYTES, HttpInfo, Malformed, PeerGone, Wire

__all__ = ["HttpInfo", "serve_http"]


async def serve_http(app: ASGIApp, stream: trio.abc.Stream, info: HttpInfo) -> None:
    """Answer the requests of one connection, one after the other, until either side is done with it.

    The stream is read from a request's first byte and is not closed here. Nothing that the peer or the application
    does makes this raise; a response is cut where it is when the task is cancelled.
    """
    wire = Wire(stream, info)
    patience_s = info.head_timeout_s
    try:
        while (request := await wire.head(patience_s)) is not None and await Exchange(app, wire, info, request).run():
            patience_s = info.keep_alive_timeout_s
    except Malformed as exc:
        body = error_body(exc.status, "zh", limit=MAX_HEAD_BYTES)
        with suppress(PeerGone):
            await wire.send(last_response(exc.status, body), h11.Data(data=body), h11.EndOfMessage())
    await wire.linger()
