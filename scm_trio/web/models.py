"""Providers and models on offer."""

from __future__ import annotations

from attrs import frozen
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from scm_trio.web.openapi import BOOLEAN, STRING, Answer, Operation, array_of, object_of, page_of
from scm_trio.web.services import WebServices

_PROVIDER = object_of(provider=STRING, models=array_of(STRING), default=BOOLEAN)


@frozen
class ModelRoutes:
    services: WebServices

    def operations(self) -> list[Operation]:
        offer = Answer("Each provider with its models, the default model first", page_of(_PROVIDER))
        return [
            Operation(
                "GET", "/scm/ai/models", self.models, "Providers and models on offer", {200: offer}, access="user"
            )
        ]

    async def models(self, request: Request) -> Response:
        await self.services.user(request)
        return JSONResponse({"items": [dict(item) for item in self.services.models()], "next": None})
