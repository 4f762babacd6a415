"""Wire text <-> messages; the only home of camelCase.

Strict about what it takes: a wrong type is an error that names the field, never a coercion. Unknown fields are ignored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import attrs
import orjson
from attrs import frozen
from cattrs import AttributeValidationNote, BaseValidationError
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override
from cattrs.preconf.orjson import make_converter

from scm_trio.errors import BadJson, InvalidMessage, UnknownType
from scm_trio.protocol import messages

MAX_ID_CHARS = 128
NOT_IN_IDS = r"[\u0000-\u001f\u007f-\u009f\u2028\u2029]"
"""Control characters and line breaks, as a regular expression that Python and JavaScript read alike."""
LAST_TIME_S = 253_402_300_799.0
MAX_COUNT = 2**53 - 1
"""The largest integer that JavaScript holds exactly."""


@frozen
class Received:
    """A decoded message: its envelope, and ``data`` as an instance of the type's class."""

    kind: str
    data: Any
    session_id: str | None = None
    user_id: str | None = None
    request_id: str | None = None
    timestamp: str | None = None


class _Wrong(ValueError):
    """A value is not what its field takes; ``expected`` is a key of ``texts.EXPECTED`` or the choices themselves."""

    def __init__(self, expected: str) -> None:
        super().__init__(expected)
        self.expected = expected


class _WrongItem(ValueError):
    """The item at ``index`` of a list is wrong, for the reason in ``__cause__``."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


def camel(name: str) -> str:
    """``next_index`` -> ``nextIndex``."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def timestamp(epoch_s: float) -> str:
    """ISO-8601 in UTC with milliseconds and ``Z``; times after the year 9999 are told as its end."""
    milliseconds = math.floor(min(epoch_s, LAST_TIME_S) * 1000)
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


@lru_cache(maxsize=16)
def _second(epoch_s: int) -> str:
    # Every frame has a timestamp, and nearly all of them fall into the same second.
    return datetime.fromtimestamp(epoch_s, UTC).isoformat()[:19]


# ---- strict primitives

_not_in_ids = re.compile(NOT_IN_IDS)
_half_characters = re.compile("[\ud800-\udfff]")


def _text(value: Any, _: Any = None) -> str:
    if not isinstance(value, str) or "\x00" in value:
        raise _Wrong("text")
    return value


def is_id(text: str) -> bool:
    """The rule of ``messages.Id``, for ids that come in by another way than a message."""
    # Half a character cannot arrive in a message, but in a token it can.
    return 0 < len(text) <= MAX_ID_CHARS and not _not_in_ids.search(text) and not _half_characters.search(text)


def _id(value: Any, _: Any = None) -> str:
    if not isinstance(value, str) or not is_id(value):
        raise _Wrong("id")
    return value


def _boolean(value: Any, _: Any = None) -> bool:
    if not isinstance(value, bool):
        raise _Wrong("boolean")
    return value


def _integer(value: Any, _: Any = None) -> int:
    # JSON has one kind of number: 1.0 and 1 are the same value, and some languages write the former.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _Wrong("count")
    return value


def _count(value: Any, _: Any = None) -> int:
    count = _integer(value)
    if not 0 <= count <= MAX_COUNT:
        raise _Wrong("count")
    return count


def _number(value: Any, _: Any = None) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise _Wrong("number")
    return float(value)


def _on_orphan(converter: Any) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        if value is None or value in ("continue", "cancel"):
            return value
        if isinstance(value, dict):
            return converter.structure(value, messages.Grace)
        raise _Wrong("orphan")

    return structure


def _sequence(converter: Any, of: Any) -> Callable[[Any, Any], tuple[Any, ...]]:
    item = get_args(of)[0]

    def structure(value: Any, _: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _Wrong("list")
        items = []
        for index, each in enumerate(value):
            try:
                items.append(converter.structure(each, item))
            except (BaseValidationError, ValueError) as exc:
                raise _WrongItem(index) from exc
        return tuple(items)

    return structure


def _choice(kind: Any) -> Callable[[Any, Any], Any]:
    choices = get_args(kind)

    def structure(value: Any, _: Any) -> Any:
        if value not in choices:
            raise _Wrong(" | ".join(map(str, choices)))
        return value

    return structure


def _object(cls: type, converter: Any) -> Callable[[Any, Any], Any]:
    names: Any = {field.name: override(rename=camel(field.name)) for field in attrs.fields(cls)}
    inner: Any = make_dict_structure_fn(cls, converter, **names)
    hints = get_type_hints(cls)
    always_there = {f.name for f in attrs.fields(cls) if f.default is attrs.NOTHING}
    says_null = {camel(name) for name in always_there if NoneType in get_args(hints[name])}

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, dict):
            raise _Wrong("object")
        # To a JavaScript client null and absent are the same, but where the server says null it means it.
        return inner({key: each for key, each in value.items() if each is not None or key in says_null}, cls)

    return structure


def _plain(cls: type, converter: Any) -> Callable[[Any], dict[str, Any]]:
    fields = attrs.fields(cls)
    names: Any = {f.name: override(rename=camel(f.name), omit_if_default=f.default is None) for f in fields}
    return make_dict_unstructure_fn(cls, converter, **names)


def _same_as(wanted: Any) -> Callable[[Any], bool]:
    return lambda kind: kind is wanted


def _is_on_orphan(kind: Any) -> bool:
    return messages.Grace in get_args(kind)


def _is_literal(kind: Any) -> bool:
    return get_origin(kind) is Literal


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _build() -> Any:
    converter = make_converter()
    for kind, hook in ((str, _text), (bool, _boolean), (int, _integer), (float, _number)):
        converter.register_structure_hook(kind, hook)
    for new_type, hook in ((messages.Id, _id), (messages.Text, _text), (messages.Count, _count)):
        converter.register_structure_hook_func(_same_as(new_type), hook)
    converter.register_structure_hook_func(_is_on_orphan, _on_orphan(converter))
    converter.register_structure_hook_factory(_is_literal, _choice)
    converter.register_structure_hook_factory(_is_tuple, lambda kind: _sequence(converter, kind))
    converter.register_structure_hook_factory(attrs.has, lambda cls: _object(cls, converter))
    converter.register_unstructure_hook_factory(attrs.has, lambda cls: _plain(cls, converter))
    return converter


_converter = _build()
_to_plain: dict[type, Callable[[Any], Any]] = {}


# ---- decoding


def decode_client(text: str | bytes) -> Received:
    """Read a client's message.

    Raises:
        BadJson: no JSON object.
        UnknownType: ``type`` is none of the protocol's, or not for clients.
        InvalidMessage: ``field`` names the path, e.g. ``data.maxTokens``.
    """
    return _decode(text, messages.CLIENT_TYPES)


def decode_server(text: str | bytes) -> Received:
    """Read a server's message; errors as in ``decode_client``."""
    return _decode(text, messages.SERVER_TYPES)


def decode_body(text: bytes, cls: type) -> Any:
    """Read a JSON object that came by another way than a message: an instance of a class of ``messages.py``.

    Raises:
        BadJson: no JSON object.
        InvalidMessage: ``field`` names the path, e.g. ``members[1].role``.
    """
    return _structure(_object_in(text), cls, "")


def _object_in(text: str | bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise BadJson(f"at character {exc.pos}", position=exc.pos) from None
    if not isinstance(value, dict):
        raise BadJson("not an object", position=0)
    return value


def _decode(text: str | bytes, types_by_name: Mapping[str, type]) -> Received:
    envelope = _object_in(text)
    kind = envelope.get("type")
    if kind is None:
        raise InvalidMessage("missing", field="type", expected="missing")
    if not isinstance(kind, str):
        raise InvalidMessage("no text", field="type", expected="text")
    if kind not in types_by_name:
        raise UnknownType("unknown type", field="type", kind=kind[:64])
    cls = types_by_name[kind]
    body = envelope.get("data")
    if cls is messages.Error:
        detail = _structure(envelope.get("error"), messages.ErrorDetail, "error")
        data: Any = messages.Error(_structure(body, str, "data"), detail)
    else:
        data = _structure({} if body is None else body, cls, "data")
    return Received(
        kind=kind,
        data=data,
        session_id=_structure(envelope.get("sessionId"), messages.Id | None, "sessionId"),
        user_id=_structure(envelope.get("userId"), messages.Id | None, "userId"),
        request_id=_structure(envelope.get("requestId"), messages.Id | None, "requestId"),
        timestamp=_structure(envelope.get("timestamp"), messages.Text | None, "timestamp"),
    )


def request_id_of(text: str | bytes) -> str | None:
    """The request id of a message that could not be decoded, so that its ``ERROR`` can echo it; None: it has none."""
    try:
        envelope = orjson.loads(text)
        body = envelope.get("data")
        inner = body.get("requestId") if isinstance(body, dict) else None
        return _id(envelope.get("requestId") or inner)
    except (ValueError, AttributeError):
        return None


def _structure(value: Any, cls: Any, root: str) -> Any:
    try:
        return _converter.structure(value, cls)
    except (BaseValidationError, _Wrong, ValueError, TypeError) as exc:
        path, cause = _innermost(exc, root)
        path = path.removeprefix(".")
        expected = (
            cause.expected if isinstance(cause, _Wrong) else "missing" if isinstance(cause, KeyError) else "value"
        )
        raise InvalidMessage(f"{path}: {expected}", field=path, expected=expected) from None


def _innermost(exc: BaseException, path: str) -> tuple[str, BaseException]:
    """The first failure at the bottom of a validation error, with its path in the wire's spelling."""
    if isinstance(exc, _WrongItem) and exc.__cause__:
        return _innermost(exc.__cause__, f"{path}[{exc.index}]")
    if not isinstance(exc, BaseValidationError):
        return path, exc
    first = exc.exceptions[0]
    names = [note.name for note in getattr(first, "__notes__", ()) if isinstance(note, AttributeValidationNote)]
    return _innermost(first, ".".join([path, *map(camel, names)]))


# ---- encoding


def encode(
    kind: str,
    data: Any,
    *,
    at: str,
    session_id: str | None = None,
    user_id: str | None = None,
    request_id: str | None = None,
) -> bytes:
    """Write a message as one UTF-8 JSON object.

    Args:
        kind: the wire's type name.
        data: an instance of the type's class in ``messages``.
        at: the timestamp, made by ``timestamp``.
        session_id: left out when None, as are the next two.
        user_id: sender or subject.
        request_id: the request that this answers.
    """
    envelope: dict[str, Any] = {"type": kind}
    if session_id is not None:
        envelope["sessionId"] = session_id
    if user_id is not None:
        envelope["userId"] = user_id
    if request_id is not None:
        envelope["requestId"] = request_id
    if isinstance(data, messages.Error):
        envelope["data"] = data.text
        envelope["error"] = plain(data.detail)
    else:
        envelope["data"] = plain(data)
    envelope["timestamp"] = at
    return orjson.dumps(envelope)


def plain(data: Any) -> Any:
    """An attrs instance as JSON-ready dicts and lists in camelCase."""
    hook = _to_plain.get(data.__class__)
    if hook is None:
        hook = _to_plain[data.__class__] = _converter.get_unstructure_hook(data.__class__)
    return hook(data)
