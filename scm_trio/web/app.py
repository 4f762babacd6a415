"""The HTTP application: every group of routes, one table, one way to fail."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from scm_trio.errors import RequestFailed
from scm_trio.web.chat_path import ChatPathRoutes
from scm_trio.web.errors import on_bug, on_http_exception, on_request_failed
from scm_trio.web.headers import DefaultHeaders
from scm_trio.web.models import ModelRoutes
from scm_trio.web.openapi import Answer, Operation, document
from scm_trio.web.page import PageRoutes
from scm_trio.web.services import WebServices
from scm_trio.web.status import StatusRoutes
from scm_trio.web.tokens import TokenRoutes
from scm_trio.web.usage import UsageRoutes


def operations(services: WebServices) -> list[Operation]:
    """Return all routes of the application, in the order of the documentation."""
    table = [
        *PageRoutes().operations(),
        *StatusRoutes(services).operations(),
        *TokenRoutes(services).operations(),
        *ModelRoutes(services).operations(),
        *UsageRoutes(services).operations(),
        *ChatPathRoutes(services).operations(),
    ]

    async def openapi(_request: Request) -> Response:
        return JSONResponse(document(table))

    described = Answer("OpenAPI 3.1", {"type": "object"})
    table.append(Operation("GET", "/scm/ai/openapi.json", openapi, "This document", {200: described}))
    return table


def build_app(services: WebServices) -> Starlette:
    """Return the ASGI application. Its failures are all ``{code, message}``."""
    app = Starlette(
        routes=[Route(entry.path, entry.handler, methods=[entry.method]) for entry in operations(services)],
        middleware=[Middleware(DefaultHeaders)],
        exception_handlers={RequestFailed: on_request_failed, HTTPException: on_http_exception, Exception: on_bug},
    )
    # A redirect would be built from the peer's Host header; a path that is not in the table does not exist.
    app.router.redirect_slashes = False
    return app
