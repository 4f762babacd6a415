"""The chat page: plain HTML, CSS and JavaScript modules, read once and kept in memory."""

from __future__ import annotations

from hashlib import sha256
from importlib.resources import files

from attrs import frozen
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from scm_trio.web.openapi import ERROR, Answer, Operation, Parameter

_MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

# The page runs its own files and talks to its own origin; nothing inline, nothing from elsewhere, no frames.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@frozen
class _Asset:
    body: bytes
    media_type: str
    etag: str


def _load() -> dict[str, _Asset]:
    assets = {}
    for file in files(__package__).joinpath("assets").iterdir():
        body = file.read_bytes()
        media_type = _MEDIA_TYPES[file.name.rpartition(".")[2]]
        assets[file.name] = _Asset(body, media_type, f'"{sha256(body).hexdigest()[:32]}"')
    return assets


class PageRoutes:
    def __init__(self) -> None:
        self._assets = _load()

    def operations(self) -> list[Operation]:
        unchanged = Answer("The caller has it already", media_type=None)
        page = Answer("The page", media_type="text/html")
        return [
            Operation("GET", "/", self.page, "The chat page", {200: page, 304: unchanged}),
            Operation(
                "GET",
                "/assets/{name}",
                self.asset,
                "A part of the chat page",
                {200: Answer("The file", media_type="*/*"), 304: unchanged, 404: Answer("No such file", ERROR)},
                parameters=(Parameter("name", "Name of the file", "path"),),
            ),
        ]

    async def page(self, request: Request) -> Response:
        return self._respond(request, "index.html")

    async def asset(self, request: Request) -> Response:
        return self._respond(request, request.path_params["name"])

    def _respond(self, request: Request, name: str) -> Response:
        asset = self._assets.get(name)
        if asset is None:
            raise HTTPException(404)
        headers = {
            "ETag": asset.etag,
            # Asked for again each time, answered with 304: after an upgrade nobody runs half of the old page.
            "Cache-Control": "no-cache",
            "Content-Security-Policy": _PAGE_POLICY,
        }
        if asset.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(asset.body, headers={**headers, "Content-Type": asset.media_type})
