"""The table of routes, and the OpenAPI 3.1 document made from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

from attrs import field, frozen
from starlette.requests import Request
from starlette.responses import Response

from scm_trio import __version__
from scm_trio.protocol import messages
from scm_trio.protocol.schema import model_schemas
from scm_trio.web.errors import CODES

Schema = Mapping[str, Any]
Handler = Callable[[Request], Awaitable[Response]]

STRING: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
INTEGER: Schema = {"type": "integer"}
BOOLEAN: Schema = {"type": "boolean"}
TIME: Schema = {"type": "string", "format": "date-time"}
MOMENT: Schema = {"description": "ISO 8601", "anyOf": [{"type": "string", "format": "date"}, TIME]}
BYTES: Schema = {"type": "string", "contentMediaType": "application/octet-stream"}
ERROR: Schema = {"$ref": "#/components/schemas/Error"}
ID: Schema = {"type": "string", "minLength": 1, "maxLength": 128}

_COMPONENTS = "#/components/schemas/"
_BODIES = _COMPONENTS + "client."
_REFUSALS = {401: "The token is missing, invalid or expired", 403: "The caller may not do this"}
_CHALLENGE = {"WWW-Authenticate": "How a token has to come"}
_TOKENS: dict[str, Schema] = {
    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    "subprotocol": {
        "type": "apiKey",
        "in": "header",
        "name": "Sec-WebSocket-Protocol",
        "description": "For the WebSocket alone: `Bearer, JWT`, or the JWT alone.",
    },
    "queryToken": {"type": "apiKey", "in": "query", "name": "token", "description": "For the WebSocket alone."},
}


def object_of(**properties: Schema) -> Schema:
    """Return the schema of an object that has all of these."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def array_of(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def page_of(items: Schema) -> Schema:
    """Return the schema of a list as every route gives it."""
    return object_of(items=array_of(items), next={"type": ["string", "null"]})


def model(cls: type) -> Schema:
    """Return a reference to the schema of one of the wire's classes, which is listed in ``MODELS``."""
    return {"$ref": _COMPONENTS + cls.__name__}


MODELS = (
    messages.FileInfo,
    messages.Conversation,
    messages.SessionInfo,
    messages.SessionDeleted,
    messages.SessionPage,
    messages.MessagePage,
)
"""Classes of ``protocol/messages.py`` that routes answer with; those inside them come along."""


def accepted(cls: type) -> Schema:
    """Return a reference to the schema of one of the wire's classes as a client may send it, listed in ``BODIES``."""
    return {"$ref": _BODIES + cls.__name__}


BODIES = (messages.SessionCreate, messages.SessionPatch)
"""Classes of ``protocol/messages.py`` that routes take; those inside them come along."""


@frozen
class Answer:
    """A response.

    Attributes:
        text: what it says.
        schema: of its body.
        media_type: of its body; None: it has none.
        otherwise: further media types that it may have instead, with their schemas.
        headers: names of headers that it carries, with their meaning.
    """

    text: str
    schema: Schema = STRING
    media_type: str | None = "application/json"
    otherwise: Mapping[str, Schema] = field(factory=dict)
    headers: Mapping[str, str] = field(factory=dict)

    def describe(self) -> Schema:
        """Return the Response Object of OpenAPI."""
        bodies = {self.media_type: self.schema, **self.otherwise} if self.media_type else {}
        content = {media_type: {"schema": schema} for media_type, schema in bodies.items()}
        headers = {name: {"description": text, "schema": STRING} for name, text in self.headers.items()}
        return {
            "description": self.text,
            **({"headers": headers} if headers else {}),
            **({"content": content} if content else {}),
        }


@frozen
class Parameter:
    name: str
    text: str
    place: Literal["query", "path"] = "query"
    schema: Schema = STRING

    def describe(self) -> Schema:
        """Return the Parameter Object of OpenAPI."""
        return {
            "name": self.name,
            "in": self.place,
            "required": self.place == "path",
            "description": self.text,
            "schema": self.schema,
        }


@frozen
class Operation:
    """One route.

    Attributes:
        answers: every status that the handler itself may give.
        access: what the handler asks for; the refusals that follow from it need no ``answers``.
        form: the fields of the form that it takes, or
        body: the JSON.
        tokens: names of the ways in which a token may come, where the route has its own.
    """

    method: Literal["GET", "POST", "PATCH", "DELETE"]
    path: str
    handler: Handler
    summary: str
    answers: Mapping[int, Answer]
    access: Literal["public", "user", "admin"] = "public"
    parameters: tuple[Parameter, ...] = ()
    form: Schema | None = None
    body: Schema | None = None
    tokens: tuple[str, ...] = ()

    def describe(self) -> Schema:
        """Return the Operation Object of OpenAPI."""
        answers = dict(self.answers)
        for status in {"public": (), "user": (401,), "admin": (401, 403)}[self.access]:
            answers.setdefault(status, Answer(_REFUSALS[status], ERROR, headers=_CHALLENGE if status == 401 else {}))
        parameters = [parameter.describe() for parameter in self.parameters]
        if any(answer.schema is ERROR for answer in answers.values()):
            parameters.append({"$ref": "#/components/parameters/lang"})
        tokens = self.tokens or (() if self.access == "public" else ("bearer",))
        taken = {"multipart/form-data": self.form, "application/json": self.body}
        content = {media_type: {"schema": schema} for media_type, schema in taken.items() if schema is not None}
        return {
            "summary": self.summary,
            "operationId": self.handler.__name__,
            **({"parameters": parameters} if parameters else {}),
            **({"requestBody": {"required": True, "content": content}} if content else {}),
            "responses": {str(status): answer.describe() for status, answer in sorted(answers.items())},
            "security": [{token: []} for token in tokens],
        }


def document(operations: Sequence[Operation]) -> Schema:
    """Return the OpenAPI document of exactly these operations."""
    paths: dict[str, dict[str, Schema]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = operation.describe()
    error = object_of(code={"type": "string", "enum": list(CODES)}, message=STRING)
    used = {token for operation in operations for token in operation.tokens} | {"bearer"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "SCM AI chat gateway",
            "version": __version__,
            "description": "Plain HTTP beside the WebSocket. Sentences are Chinese, or English with `?lang=en` or "
            "`Accept-Language: en`. Every path may answer 404 or 405 to what is not listed here, and a request that is "
            "malformed, too large or too slow gets 400, 413, 431 or 408 before its route sees it; all as `Error`.",
        },
        "paths": paths,
        "components": {
            "schemas": {
                "Error": error,
                **model_schemas(MODELS, _COMPONENTS),
                **{f"client.{name}": each for name, each in model_schemas(BODIES, _BODIES, "client").items()},
            },
            "parameters": {"lang": Parameter("lang", "Language of sentences: en; anything else is zh").describe()},
            "securitySchemes": {name: scheme for name, scheme in _TOKENS.items() if name in used},
        },
    }
