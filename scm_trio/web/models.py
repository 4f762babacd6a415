"""Providers and models on offer."""

from __future__ import annotations

from attrs import frozen
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from scm_trio.chat.offer import OfferedProvider
from scm_trio.config import Alias
from scm_trio.errors import InvalidMessage
from scm_trio.web.openapi import (
    BOOLEAN,
    ERROR,
    STRING,
    Answer,
    Operation,
    Parameter,
    Schema,
    array_of,
    object_of,
    page_of,
)
from scm_trio.web.services import WebServices

_ANSWERS = {"true": True, "false": False}

_VENDOR: Schema = {
    "oneOf": [object_of(models=array_of(STRING), error={"type": ["string", "null"]}), {"type": "null"}],
    "description": "with `vendor=true` only; null where the vendor has no list; with an `error`, what it told before",
}
_PROVIDER = object_of(provider=STRING, models=array_of(STRING), default=BOOLEAN)
_MODEL = object_of(provider=STRING, model=STRING)
_OFFER: Schema = page_of({**_PROVIDER, "properties": {**_PROVIDER["properties"], "vendor": _VENDOR}})
_PARAMETERS = (
    Parameter(
        "vendor", "also ask the vendors what they list, which may take some seconds", schema={"enum": list(_ANSWERS)}
    ),
)


@frozen
class ModelRoutes:
    services: WebServices

    def operations(self) -> list[Operation]:
        more = {
            "aliases": array_of(object_of(alias=STRING, provider=STRING, model=STRING)),
            "default": {"oneOf": [_MODEL, {"type": "null"}], "description": "null where a request has to name a model"},
        }
        schema = object_of(**_OFFER["properties"], **more)
        return [
            Operation(
                "GET",
                "/scm/ai/models",
                self.models,
                "Providers and models on offer",
                {
                    200: Answer("Each provider with its models, the default model first", schema),
                    400: Answer("A parameter is not valid", ERROR),
                },
                access="user",
                parameters=_PARAMETERS,
            )
        ]

    async def models(self, request: Request) -> Response:
        await self.services.user(request)
        ask_vendors = _ANSWERS.get(request.query_params.get("vendor", "false"))
        if ask_vendors is None:
            raise InvalidMessage(field="vendor", expected="boolean")
        offer = await self.services.models(ask_vendors)
        return JSONResponse(
            {
                "items": [_item(each, index == 0, ask_vendors) for index, each in enumerate(offer.providers)],
                "next": None,
                "aliases": [{"alias": name, **_model(alias)} for name, alias in offer.aliases.items()],
                "default": None if offer.default is None else _model(offer.default),
            }
        )


def _item(offered: OfferedProvider, is_default: bool, asked: bool) -> dict[str, object]:
    item: dict[str, object] = {"provider": offered.name, "models": list(offered.models), "default": is_default}
    if asked:
        vendor = offered.vendor
        item["vendor"] = None if vendor is None else {"models": list(vendor.models), "error": vendor.error}
    return item


def _model(place: Alias) -> dict[str, object]:
    return {"provider": place.provider, "model": place.model}
