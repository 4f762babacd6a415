"""Who are you, may you come in: everything that is decided before the upgrade."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import parse_qsl, urlsplit

import h11
import orjson
import trio
from attrs import frozen

from scm_trio.auth import pick_token
from scm_trio.cluster.hub import TooManyConnections
from scm_trio.errors import (
    Forbidden,
    InvalidMessage,
    RequestFailed,
    ServerBusy,
    ShuttingDown,
    TokenExpired,
    Unauthorized,
)
from scm_trio.gateway.gate import Gate, Visit
from scm_trio.model import Principal
from scm_trio.protocol.codec import is_id
from scm_trio.protocol.texts import Lang, language, sentence

MAX_COALESCE_MS = 500
MAX_QUERY_FIELDS = 32
_KEY_BYTES = 16

_STATUS: dict[type[RequestFailed], int] = {
    InvalidMessage: 400,
    Unauthorized: 401,
    TokenExpired: 401,
    Forbidden: 403,
    TooManyConnections: 429,
    ServerBusy: 503,
    ShuttingDown: 503,
}


class NotAnUpgrade(RequestFailed):
    """A plain request, or one for another WebSocket version."""

    code = "INVALID_MESSAGE"


class Refused(Exception):
    """The visitor stays out; ``response`` is the whole HTTP answer."""

    def __init__(self, reason: str, response: bytes) -> None:
        super().__init__(reason)
        self.reason = reason
        self.response = response


@frozen
class _Head:
    headers: Mapping[str, list[str]]
    query: Mapping[str, str]

    def first(self, name: str) -> str | None:
        return next(iter(self.headers.get(name, ())), None)

    def tokens(self, name: str) -> list[str]:
        """A comma-separated header's items, over all its lines."""
        return [item.strip() for line in self.headers.get(name, ()) for item in line.split(",") if item.strip()]


async def enter(request: h11.Request, gate: Gate) -> Visit:
    """Decide over a request for the chat path; a visitor who is let in holds a place in the hub.

    Raises:
        Refused: with the HTTP answer to send; no place is held.
    """
    lang = language(None)
    try:
        head = _read(request)
        lang = language(head.query.get("lang"))
        _check_upgrade(head)
        _check_origin(head, gate)
        if gate.service.draining:
            raise ShuttingDown(retry_after_s=5)
        picked = pick_token(
            head.headers,
            head.tokens("sec-websocket-protocol"),
            head.query,
            query_allowed=gate.tokens.query_allowed,
        )
        with trio.move_on_after(gate.settings.session.handshake_timeout_s) as limit:
            principal = await gate.tokens.authenticator.verify(picked.token)
        if limit.cancelled_caught:
            raise ServerBusy("token check", retry_after_s=5)
        visit = _visit(head, principal, picked.subprotocol, gate, lang)
        gate.hub.admit(principal.user_id)
    except RequestFailed as exc:
        status = (
            426 if isinstance(exc, NotAnUpgrade) else next((s for k, s in _STATUS.items() if isinstance(exc, k)), 500)
        )
        gate.metrics.connection_refused(exc.code)
        raise Refused(exc.code, refusal(status, exc, lang)) from None
    return visit


def refusal(status: int, failure: RequestFailed, lang: Lang) -> bytes:
    """An HTTP answer with a JSON body ``{code, message}`` that ends the connection."""
    params = {"field": failure.field, **failure.params}
    body = orjson.dumps({"code": failure.code, "message": sentence(failure.code, lang, **params)})
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "Content-Type: application/json; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    if failure.retry_after_s is not None:
        lines.append(f"Retry-After: {max(1, math.ceil(failure.retry_after_s))}")
    if status == HTTPStatus.UNAUTHORIZED:
        lines.append("WWW-Authenticate: Bearer")
    if status == HTTPStatus.UPGRADE_REQUIRED:
        lines.append("Upgrade: websocket")
        lines.append("Sec-WebSocket-Version: 13")
    return "\r\n".join([*lines, "", ""]).encode() + body


def _read(request: h11.Request) -> _Head:
    headers: dict[str, list[str]] = {}
    try:
        for name, value in request.headers:
            headers.setdefault(name.decode("ascii").lower(), []).append(value.decode("ascii"))
        query = request.target.decode("ascii").partition("?")[2]
        fields = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS))
    except ValueError:
        # A header or query that is not ASCII ends a stock server of the library; here it ends one handshake.
        raise InvalidMessage(field="headers", notice="BAD_REQUEST") from None
    return _Head(headers, fields)


def _check_upgrade(head: _Head) -> None:
    wanted = "websocket" in (token.lower() for token in head.tokens("upgrade"))
    if not wanted or "upgrade" not in (token.lower() for token in head.tokens("connection")):
        raise NotAnUpgrade(field="upgrade", notice="UPGRADE")
    if head.first("sec-websocket-version") != "13":
        raise NotAnUpgrade(field="sec-websocket-version", notice="UPGRADE")
    try:
        key = base64.b64decode(head.first("sec-websocket-key") or "", validate=True)
    except binascii.Error:
        key = b""
    if len(key) != _KEY_BYTES:
        raise InvalidMessage(field="sec-websocket-key", notice="BAD_REQUEST")


def _check_origin(head: _Head, gate: Gate) -> None:
    """Browsers send their page's origin; programs send none and have nothing to be protected from."""
    origin = head.first("origin")
    if origin is None or origin in gate.settings.allowed_origins:
        return
    try:
        host = urlsplit(origin).netloc
    except ValueError:
        host = None
    if host is None or host != head.first("host"):
        raise Forbidden("origin", notice="ORIGIN")


def _visit(head: _Head, principal: Principal, subprotocol: str | None, gate: Gate, lang: Lang) -> Visit:
    if head.query.get("userId", principal.user_id) != principal.user_id:
        raise Forbidden("userId", notice="USER_MISMATCH")
    session_id = head.query.get("sessionId") or f"session-{gate.clock.new_id()}"
    if not is_id(session_id):
        raise InvalidMessage(field="sessionId", expected="id")
    coalesce = head.query.get("coalesceMs", "0")
    if not (coalesce.isascii() and coalesce.isdigit() and len(coalesce) <= 3 and int(coalesce) <= MAX_COALESCE_MS):
        raise InvalidMessage(field="coalesceMs", expected="count")
    return Visit(
        principal=principal,
        session_id=session_id,
        subprotocol=subprotocol,
        lang=lang,
        coalesce_s=int(coalesce) / 1000,
    )
