"""One request and its response, as ASGI sees them."""

from __future__ import annotations

import re
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, unquote

import h11
import structlog
import trio
from attrs import define, field, frozen
from starlette.types import ASGIApp, Message, Scope

from scm_trio.web.errors import error_body, language_of
from scm_trio.web.wire import HttpInfo, Malformed, PeerGone, Wire

log = structlog.get_logger(__name__)

_KNOWN_STATUSES = frozenset(HTTPStatus)
_SLASH = re.compile("%2f", re.IGNORECASE)
_AUTHORITY = re.compile(rb"^(?:[^/?]*://)?[^/?]*")


@frozen
class _Refusal:
    """Why the bridge answers in place of the application."""

    status: int
    limit: int | None = None
    field: str | None = None


@define(eq=False)
class Exchange:
    """Calls the application once. To it, a request that is refused meanwhile looks like a peer that has left."""

    app: ASGIApp
    wire: Wire
    info: HttpInfo
    request: h11.Request
    _body_bytes: int = field(init=False, default=0)
    _body_limit_bytes: int = field(init=False, default=0)
    _body_begun_at: float | None = field(init=False, default=None)
    _request_done: bool = field(init=False, default=False)
    _refusal: _Refusal | None = field(init=False, default=None)
    _head: h11.Response | None = field(init=False, default=None)
    _response_begun: bool = field(init=False, default=False)
    _response_done: bool = field(init=False, default=False)

    async def run(self) -> bool:
        """Answer the request; False when the connection cannot carry another one."""
        scope = self._scope()
        self._body_limit_bytes = self.info.body_limits.get(scope["path"], self.info.body_limit_bytes)
        if self._has_two_lengths():
            self._refusal = _Refusal(400)
        elif self._declared_bytes() > self._body_limit_bytes:
            self._refuse_large()
        else:
            await self._call_app(scope)
        if not self._response_done:
            if self._response_begun or not self.wire.can_answer:
                return False
            with suppress(PeerGone):
                await self.wire.send(*self._own_answer(self._refusal or _Refusal(500), scope))
        return await self._take_rest() and self.wire.next_request()

    async def _call_app(self, scope: Scope) -> None:
        try:
            await self.app(scope, self._receive, self._send)
        except Exception:
            # The barrier around one HTTP request. An application that only stumbles over a peer's end is no news.
            if not self._given_up:
                log.exception("http request failed", method=scope["method"], path=scope["path"])
        else:
            if not self._response_done and not self._given_up:
                log.error("http response incomplete", method=scope["method"], path=scope["path"])

    @property
    def _given_up(self) -> bool:
        return self.wire.broken or self._refusal is not None

    # ---- the request

    def _scope(self) -> Scope:
        raw_path, _, query = _origin_form(self.request.target).partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": self.request.http_version.decode("ascii"),
            "method": self.request.method.decode("ascii"),
            "scheme": self.info.scheme,
            # An escaped slash is part of a name, and no border between two: what wants the name reads ``raw_path``.
            "path": unquote(_SLASH.sub("%252F", raw_path.decode("ascii"))),
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": [(bytes(name), bytes(value)) for name, value in self.request.headers],
            "client": self.info.client,
            "server": self.info.server,
        }

    def _has_two_lengths(self) -> bool:
        """Whoever stands in front of us may have believed the other one (RFC 9112, section 6.1)."""
        return {b"content-length", b"transfer-encoding"} <= {bytes(name) for name, _ in self.request.headers}

    def _declared_bytes(self) -> int:
        return max((int(value) for name, value in self.request.headers if name == b"content-length"), default=0)

    async def _receive(self) -> Message:
        if self._response_done or self._given_up:
            return {"type": "http.disconnect"}
        if self._request_done:
            await self.wire.wait_for_end()
            return {"type": "http.disconnect"}
        with suppress(PeerGone):
            if self.wire.wants_continue:
                await self.wire.send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))
            part = await self._next_part()
            if part is not None:
                return {"type": "http.request", "body": part, "more_body": not self._request_done}
        return {"type": "http.disconnect"}

    async def _next_part(self) -> bytes | None:
        """Read on in the body; None when the request is refused for it, too late or too large."""
        if self._body_begun_at is None:
            self._body_begun_at = trio.current_time()
        earned_s = self._body_bytes // self.info.body_bytes_per_s
        try:
            with trio.fail_at(self._body_begun_at + self.info.body_timeout_s + earned_s):
                event = await self.wire.body()
        except trio.TooSlowError:
            self._refusal = _Refusal(408, field="body")
            return None
        except Malformed as exc:
            self._refusal = _Refusal(exc.status)
            return None
        if isinstance(event, h11.EndOfMessage):
            self._request_done = True
            return b""
        self._body_bytes += len(event.data)
        if self._body_bytes > self._body_limit_bytes:
            self._refuse_large()
            return None
        return bytes(event.data)

    def _refuse_large(self) -> None:
        self._refusal = _Refusal(413, limit=self._body_limit_bytes)

    async def _take_rest(self) -> bool:
        """Read what the application left of the body, so that the next request is found behind it.

        Of a large one that was not wanted, no more is read than any other path takes.
        """
        self._body_limit_bytes = min(self._body_limit_bytes, self._body_bytes + self.info.body_limit_bytes)
        with suppress(PeerGone):
            while self.wire.keeps_alive and self.wire.body_pending:
                if await self._next_part() is None:
                    return False
        return True

    # ---- the response

    async def _send(self, message: Message) -> None:
        if self._given_up:
            raise PeerGone
        if message["type"] == "http.response.start":
            # Held back until the first part of the body: both leave in one packet, and a failure in between can
            # still become a 500.
            self._head = self._response(message["status"], message.get("headers", ()))
        elif message["type"] == "http.response.body":
            await self._send_body(message.get("body", b""), more=message.get("more_body", False))

    async def _send_body(self, body: bytes, *, more: bool) -> None:
        events: list[h11.Event] = []
        if self._head is not None:
            events.append(self._head)
            self._head, self._response_begun = None, True
        if body and self.request.method != b"HEAD":
            events.append(h11.Data(data=body))
        if not more:
            events.append(h11.EndOfMessage())
        await self.wire.send(*events)
        self._response_done = not more

    def _response(self, status: int, headers: Any) -> h11.Response:
        own = [(b"date", formatdate(usegmt=True).encode("ascii"))]
        # A peer that waits for "100 Continue" in vain may send its body or leave it out: what follows is ambiguous.
        if self.info.draining() or self.wire.wants_continue:
            own.append((b"connection", b"close"))
        return h11.Response(status_code=status, headers=[*headers, *own], reason=_reason(status))

    def _own_answer(self, refusal: _Refusal, scope: Scope) -> list[h11.Event]:
        query = parse_qs(scope["query_string"].decode("latin-1")).get("lang", [None])[0]
        accept = dict(scope["headers"]).get(b"accept-language", b"").decode("latin-1")
        body = error_body(refusal.status, language_of(query, accept), limit=refusal.limit, field=refusal.field)
        data = [] if self.request.method == b"HEAD" else [h11.Data(data=body)]
        return [last_response(refusal.status, body), *data, h11.EndOfMessage()]


def last_response(status: int, body: bytes) -> h11.Response:
    """Return the head of an answer of the bridge's own, after which the connection is closed."""
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "cache-control": "no-store",
        "date": formatdate(usegmt=True),
        "connection": "close",
    }
    return h11.Response(status_code=status, headers=list(headers.items()), reason=_reason(status))


def _reason(status: int) -> bytes:
    return HTTPStatus(status).phrase.encode("ascii") if status in _KNOWN_STATUSES else b""


def _origin_form(target: bytes) -> bytes:
    """``http://host/path?query``, as a proxy may send it, -> ``/path?query``."""
    if target.startswith((b"/", b"*")):
        return target
    beyond_host = _AUTHORITY.sub(b"", target, count=1)
    return beyond_host if beyond_host.startswith(b"/") else b"/" + beyond_host
