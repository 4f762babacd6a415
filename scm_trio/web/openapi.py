"""The table of routes, and the OpenAPI 3.1 document made from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

from attrs import frozen
from starlette.requests import Request
from starlette.responses import Response

from scm_trio import __version__

Schema = Mapping[str, Any]
Handler = Callable[[Request], Awaitable[Response]]

STRING: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
INTEGER: Schema = {"type": "integer"}
BOOLEAN: Schema = {"type": "boolean"}
TIME: Schema = {"type": "string", "format": "date-time"}
ERROR: Schema = {"$ref": "#/components/schemas/Error"}

_REFUSALS = {401: "The token is missing, invalid or expired", 403: "The caller may not do this"}


def object_of(**properties: Schema) -> Schema:
    """Return the schema of an object that has all of these."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def array_of(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def page_of(items: Schema) -> Schema:
    """Return the schema of a list as every route gives it."""
    return object_of(items=array_of(items), next={"type": ["string", "null"]})


@frozen
class Answer:
    """A response: what it says, its body's schema and media type; without a body, ``media_type`` is None."""

    text: str
    schema: Schema = STRING
    media_type: str | None = "application/json"

    def describe(self) -> Schema:
        """Return the Response Object of OpenAPI."""
        content = {"content": {self.media_type: {"schema": self.schema}}} if self.media_type else {}
        return {"description": self.text, **content}


@frozen
class Parameter:
    name: str
    text: str
    place: Literal["query", "path"] = "query"
    schema: Schema = STRING


@frozen
class Operation:
    """One route. ``access`` says what its handler asks for; the refusals that follow from it need no ``answers``."""

    method: Literal["GET", "POST", "PATCH", "DELETE"]
    path: str
    handler: Handler
    summary: str
    answers: Mapping[int, Answer]
    access: Literal["public", "user", "admin"] = "public"
    parameters: tuple[Parameter, ...] = ()

    def describe(self) -> Schema:
        """Return the Operation Object of OpenAPI."""
        answers = dict(self.answers)
        for status in {"public": (), "user": (401,), "admin": (401, 403)}[self.access]:
            answers.setdefault(status, Answer(_REFUSALS[status], ERROR))
        return {
            "summary": self.summary,
            "operationId": self.handler.__name__,
            **({"parameters": [_parameter(parameter) for parameter in self.parameters]} if self.parameters else {}),
            "responses": {str(status): answer.describe() for status, answer in sorted(answers.items())},
            "security": [] if self.access == "public" else [{"bearer": []}],
        }


def _parameter(parameter: Parameter) -> Schema:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
        "description": parameter.text,
        "schema": parameter.schema,
    }


def document(operations: Sequence[Operation]) -> Schema:
    """Return the OpenAPI document of exactly these operations."""
    paths: dict[str, dict[str, Schema]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = operation.describe()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "SCM AI chat gateway",
            "version": __version__,
            "description": "Plain HTTP beside the WebSocket. Sentences are Chinese, or English with `?lang=en` or "
            "`Accept-Language: en`.",
        },
        "paths": paths,
        "components": {
            "schemas": {"Error": object_of(code=STRING, message=STRING)},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }
