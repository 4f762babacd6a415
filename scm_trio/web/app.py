"""The HTTP application: every group of routes, one table, one way to fail."""

from __future__ import annotations

from functools import cache, partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from scm_trio.errors import RequestFailed, StoreError
from scm_trio.web.chat_path import ChatPathRoutes
from scm_trio.web.errors import on_bug, on_http_exception, on_request_failed, on_store_failed
from scm_trio.web.export.routes import ExportRoutes
from scm_trio.web.files import FileRoutes
from scm_trio.web.headers import DefaultHeaders
from scm_trio.web.messages import MessageRoutes
from scm_trio.web.models import ModelRoutes
from scm_trio.web.openapi import Answer, Handler, Operation, document
from scm_trio.web.page import PageRoutes
from scm_trio.web.search import SearchRoutes
from scm_trio.web.services import WebServices
from scm_trio.web.sessions import SessionRoutes
from scm_trio.web.status import StatusRoutes
from scm_trio.web.suggestions import SuggestionRoutes
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
        *SessionRoutes(services).operations(),
        *MessageRoutes(services).operations(),
        *ExportRoutes(services).operations(),
        *FileRoutes(services).operations(),
        *SearchRoutes(services).operations(),
        *SuggestionRoutes(services).operations(),
        *ChatPathRoutes(services).operations(),
    ]

    async def openapi(request: Request) -> Response:
        return JSONResponse(request.app.state.openapi())

    described = Answer("OpenAPI 3.1", {"type": "object"})
    table.append(Operation("GET", "/scm/ai/openapi.json", openapi, "This document", {200: described}))
    return table


def build_app(services: WebServices) -> Starlette:
    """Return the ASGI application. Its failures are all ``{code, message}``."""
    table = operations(services)
    app = Starlette(
        routes=_routes(table),
        middleware=[Middleware(DefaultHeaders)],
        exception_handlers={
            RequestFailed: on_request_failed,
            StoreError: on_store_failed,
            HTTPException: on_http_exception,
            Exception: on_bug,
        },
    )
    # A redirect would be built from the peer's Host header; a path that is not in the table does not exist.
    app.router.redirect_slashes = False
    app.state.openapi = cache(partial(document, table))  # made when somebody asks for it
    return app


def _routes(table: list[Operation]) -> list[Route]:
    """One route for each path, so that a 405 names all of its methods."""
    of_path: dict[str, dict[str, Handler]] = {}
    for entry in table:
        of_path.setdefault(entry.path, {})[entry.method] = entry.handler
    return [Route(path, _by_method(handlers), methods=list(handlers)) for path, handlers in of_path.items()]


def _by_method(handlers: dict[str, Handler]) -> Handler:
    async def handle(request: Request) -> Response:
        return await handlers["GET" if request.method == "HEAD" else request.method](request)

    return handle
