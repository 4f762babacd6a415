"""The messages as JSON Schema (2020-12), generated from the attrs models.

A client schema says what the server accepts: more fields may come, and null is the same as absent. A server schema
says what the server sends: every field that is always there is required, and there are no others.
"""

from __future__ import annotations

from collections.abc import Iterable
from inspect import getdoc, isclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs

from scm_trio import errors
from scm_trio.model import FinishReason
from scm_trio.protocol import messages
from scm_trio.protocol.codec import MAX_COUNT, MAX_ID_CHARS, NOT_IN_IDS, camel

Direction = Literal["client", "server"]
Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

TYPES: dict[Direction, dict[str, type]] = {"client": messages.CLIENT_TYPES, "server": messages.SERVER_TYPES}
_PLAIN = {str: "string", bool: "boolean", int: "integer", float: "number"}
_NAMED: dict[Any, Schema] = {
    messages.Id: {
        "description": f"1 to {MAX_ID_CHARS} characters, none of them a control character or a line break.",
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_ID_CHARS,
        "not": {"pattern": NOT_IN_IDS},
    },
    messages.Text: {"description": "Any text without NUL.", "type": "string", "not": {"pattern": r"\u0000"}},
    messages.Count: {"description": "A whole number.", "type": "integer", "minimum": 0, "maximum": MAX_COUNT},
}
MOMENT: Schema = {"description": "ISO-8601, UTC, with Z.", "type": "string", "format": "date-time"}


def error_codes() -> list[str]:
    """Every code that an ``ERROR`` can carry, in the order of ``errors.py``."""
    failures = (each for each in vars(errors).values() if isclass(each) and issubclass(each, errors.RequestFailed))
    return list(dict.fromkeys(each.code for each in failures))


# Where the protocol is narrower than the model's type.
_NARROWER: dict[tuple[type, str], Schema] = {
    (messages.ErrorDetail, "code"): {"enum": error_codes()},
    (messages.ChatStreamEnd, "finished"): {"const": True},
    (messages.ChatStreamEnd, "sha256"): {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    **{
        (cls, "finish_reason"): {"enum": [reason.value for reason in FinishReason]}
        for cls in (messages.ChatStreamEnd, messages.ChatResponse, messages.StoredMessage)
    },
}


def definitions(direction: Direction, refer: str = "#/$defs/") -> dict[str, Schema]:
    """The schema of every message of a direction by its wire type, then those of the values inside them.

    Args:
        direction: who sends the messages.
        refer: what stands before a definition's name in a reference.
    """
    models = _Models(refer, strict=direction == "server")
    found = {kind: models.envelope(kind, cls) for kind, cls in TYPES[direction].items()}
    return found | dict(sorted(models.inner.items()))


def document(direction: Direction) -> Schema:
    """A whole JSON Schema that takes exactly the messages of a direction."""
    says = "accepts from a client" if direction == "client" else "sends"
    return {
        "$schema": DIALECT,
        "$id": f"urn:scm-trio:protocol:{direction}",
        "title": f"{direction.capitalize()} messages",
        "description": f"Every message that the server {says}.",
        "oneOf": [{"$ref": f"#/$defs/{kind}"} for kind in TYPES[direction]],
        "$defs": definitions(direction),
    }


def model_schemas(classes: Iterable[type], refer: str, direction: Direction = "server") -> dict[str, Schema]:
    """The schemas of what is sent, by the names of the classes: these, and those inside them.

    Args:
        classes: of ``messages.py``.
        refer: what stands before a name in a reference.
        direction: who sends it.
    """
    models = _Models(refer, strict=direction == "server")
    for cls in classes:
        models.refer_to(cls)
    return dict(sorted(models.inner.items()))


class _Models:
    """Turns models into schemas and keeps, in ``inner``, those that are referred to by name."""

    def __init__(self, refer: str, *, strict: bool) -> None:
        self.inner: dict[str, Schema] = {}
        self._refer = refer
        self._strict = strict

    def envelope(self, kind: str, cls: type) -> Schema:
        described = {"title": kind, **_description(cls), "type": "object"}
        fields = self._sent(cls) if self._strict else self._accepted(cls)
        fields["properties"] = {"type": {"const": kind}, **fields["properties"]}
        return described | fields

    def _accepted(self, cls: type) -> Schema:
        data = self._object(cls)
        has_required = "required" in data
        properties = dict.fromkeys(("sessionId", "userId", "requestId"), _nullable(self._of(messages.Id)))
        properties["data"] = data if has_required else _nullable(data)
        properties["timestamp"] = _nullable(self._of(messages.Text))
        return {"properties": properties, "required": ["type", "data"] if has_required else ["type"]}

    def _sent(self, cls: type) -> Schema:
        properties: Schema = {name: {"type": "string"} for name in ("sessionId", "userId", "requestId")}
        if cls is messages.Error:
            bodies = {"data": {"type": "string"}, "error": self._of(messages.ErrorDetail)}
        else:
            bodies = {"data": self._object(cls)}
        properties |= {**bodies, "timestamp": MOMENT}
        return {
            "properties": properties,
            "required": ["type", *bodies, "timestamp"],
            "additionalProperties": False,
        }

    def _object(self, cls: type) -> Schema:
        hints = get_type_hints(cls)
        properties = {camel(each.name): self._field(cls, each, hints[each.name]) for each in attrs.fields(cls)}
        required = [camel(each.name) for each in attrs.fields(cls) if self._is_required(each)]
        schema: Schema = {"type": "object", "properties": properties}
        if required:
            schema["required"] = required
        if self._strict:
            schema["additionalProperties"] = False
        return schema

    def _is_required(self, field: attrs.Attribute[Any]) -> bool:
        return field.default is not None if self._strict else field.default is attrs.NOTHING

    def _field(self, cls: type, field: attrs.Attribute[Any], kind: Any) -> Schema:
        if (cls, field.name) in _NARROWER:
            return _NARROWER[cls, field.name]
        is_moment = field.name.endswith("_at") or field.name == "server_time"
        schema = MOMENT if is_moment else self._of(_without_none(kind))
        if self._is_required(field):
            return _nullable(schema) if self._strict and NoneType in get_args(kind) else schema
        # The server leaves out what is None; a client may also say null.
        return schema if self._strict else _nullable(schema) | _default(field)

    def _of(self, kind: Any) -> Schema:
        if kind in _PLAIN:
            return {"type": _PLAIN[kind]}
        if kind in _NAMED:
            return self._refer_to(kind.__name__, _NAMED[kind])
        if attrs.has(kind):
            return self.refer_to(kind)
        origin, inside = get_origin(kind), get_args(kind)
        if origin is Literal:
            return {"enum": list(inside)}
        if origin is tuple:
            return {"type": "array", "items": self._of(inside[0])}
        if origin in (Union, UnionType):
            return {"anyOf": [self._of(each) for each in inside]}
        raise TypeError(f"no schema for {kind}")

    def refer_to(self, cls: type) -> Schema:
        """Return a reference to a class, whose schema is then in ``inner``."""
        return self._refer_to(cls.__name__, {**_description(cls), **self._object(cls)})

    def _refer_to(self, name: str, schema: Schema) -> Schema:
        self.inner[name] = schema
        return {"$ref": self._refer + name}


def _without_none(kind: Any) -> Any:
    if get_origin(kind) not in (Union, UnionType):
        return kind
    return Union[tuple(each for each in get_args(kind) if each is not NoneType)]  # noqa: UP007 - made at run time


def _nullable(schema: Schema) -> Schema:
    if "anyOf" in schema:
        return {"anyOf": [*schema["anyOf"], {"type": "null"}]}
    if schema.keys() == {"type"}:
        return {"type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def _default(field: attrs.Attribute[Any]) -> Schema:
    if field.default is None:
        return {}
    return {"default": list(field.default) if isinstance(field.default, tuple) else field.default}


def _description(cls: type) -> Schema:
    text = getdoc(cls)
    return {} if text is None else {"description": " ".join(text.replace("``", "`").split())}
