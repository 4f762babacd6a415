"""Failures as HTTP: status, ``{code, message}`` in the caller's language, and the headers that belong to them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import orjson
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from scm_trio.errors import RequestFailed, ServerBusy
from scm_trio.protocol.texts import Lang, language, sentence

log = structlog.get_logger(__name__)

STATUS = {
    "BAD_JSON": 400,
    "INVALID_MESSAGE": 400,
    "UNKNOWN_TYPE": 400,
    "PROVIDER_UNKNOWN": 400,
    "MODEL_UNKNOWN": 400,
    "CONTEXT_TOO_LONG": 400,
    "UNAUTHORIZED": 401,
    "TOKEN_EXPIRED": 401,
    "FORBIDDEN": 403,
    "NOT_FOUND": 404,
    "CONFLICT": 409,
    "MESSAGE_TOO_LARGE": 413,
    "CONTENT_FILTERED": 422,
    "RATE_LIMITED": 429,
    "TOO_MANY_STREAMS": 429,
    "QUOTA_EXCEEDED": 429,
    "INTERNAL": 500,
    "PROVIDER_AUTH": 502,
    "PROVIDER_REJECTED": 502,
    "RESPONSE_TOO_LARGE": 502,
    "PROVIDER_UNAVAILABLE": 503,
    "PROVIDER_RATE_LIMITED": 503,
    "SERVER_BUSY": 503,
    "SHUTTING_DOWN": 503,
    "TIMEOUT": 504,
}
"""The status of each error code of the wire."""

_CODE_OF_STATUS = {
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    408: "TIMEOUT",
    413: "MESSAGE_TOO_LARGE",
    426: "UPGRADE_REQUIRED",
    431: "MESSAGE_TOO_LARGE",
    500: "INTERNAL",
}

CODES = tuple(dict.fromkeys([*STATUS, *_CODE_OF_STATUS.values(), "BAD_REQUEST"]))
"""Every code that a failure over HTTP can have."""


def language_of(query_lang: str | None, accept_language: str | None) -> Lang:
    """``?lang=`` wins over ``Accept-Language``; Chinese when neither asks for English."""
    return language(query_lang or accept_language)


def error_body(status: int, lang: Lang, code: str | None = None, **params: object) -> bytes:
    """Return the JSON of a failure. Without ``code``, the status names it; ``params`` go into the sentence."""
    code = code or _CODE_OF_STATUS.get(status, "BAD_REQUEST")
    return orjson.dumps({"code": code, "message": sentence(code, lang, **params)})


def error_response(
    request: Request,
    status: int,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
    **params: object,
) -> Response:
    lang = language_of(request.query_params.get("lang"), request.headers.get("accept-language"))
    body = error_body(status, lang, code, **params)
    return Response(body, status, {**(headers or {}), "Cache-Control": "no-store"}, "application/json")


async def on_request_failed(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestFailed)  # noqa: S101  registered for this class alone
    status = STATUS.get(exc.code, 500)
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if exc.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(exc.retry_after_s))
    return error_response(request, status, exc.code, headers, field=exc.field, **exc.params)


async def on_store_failed(request: Request, exc: Exception) -> Response:
    """The database or the disk: whoever asks again later may be luckier."""
    log.error("store failed", path=request.url.path, error=str(exc))
    return await on_request_failed(request, ServerBusy("store", retry_after_s=2))


async def on_http_exception(request: Request, exc: Exception) -> Response:
    """What the router itself refuses: no such path, no such method, a body above a route's limit."""
    assert isinstance(exc, HTTPException)  # noqa: S101  registered for this class alone
    return error_response(request, exc.status_code, headers=exc.headers)


async def on_bug(request: Request, _exc: Exception) -> Response:
    """Whatever nobody foresaw; the connection's barrier logs it."""
    return error_response(request, 500)
