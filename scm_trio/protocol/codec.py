"""Wire text <-> messages; the only home of camelCase.

Strict about what it takes: a wrong type is an error that names the field, never a coercion. Unknown fields are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, get_args, get_origin

import attrs
import orjson
from attrs import frozen
from cattrs import AttributeValidationNote, BaseValidationError
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override
from cattrs.preconf.orjson import make_converter

from scm_trio.errors import BadJson, InvalidMessage, UnknownType
from scm_trio.protocol import messages

MAX_ID_CHARS = 128
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
    """ISO-8601 in UTC with milliseconds and ``Z``."""
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


# ---- strict primitives


def _text(value: Any, _: Any = None) -> str:
    if not isinstance(value, str) or "\x00" in value:
        raise _Wrong("text")
    return value


def _id(value: Any, _: Any = None) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_CHARS or not value.isprintable():
        raise _Wrong("id")
    return value


def _boolean(value: Any, _: Any = None) -> bool:
    if not isinstance(value, bool):
        raise _Wrong("boolean")
    return value


def _integer(value: Any, _: Any = None) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _Wrong("count")
    return value


def _count(value: Any, _: Any = None) -> int:
    if not 0 <= _integer(value) <= MAX_COUNT:
        raise _Wrong("count")
    return int(value)


def _number(value: Any, _: Any = None) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise _Wrong("number")
    return float(value)


def _on_orphan(value: Any, _: Any = None) -> Any:
    if value is None or value in ("continue", "cancel"):
        return value
    if isinstance(value, Mapping) and "graceMs" in value:
        return messages.Grace(messages.Count(_count(value["graceMs"])))
    raise _Wrong("orphan")


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

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, dict):
            raise _Wrong("object")
        # To a JavaScript client null and absent are the same.
        return inner({key: each for key, each in value.items() if each is not None}, cls)

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
    converter.register_structure_hook_func(_is_on_orphan, _on_orphan)
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


def _decode(text: str | bytes, types_by_name: Mapping[str, type]) -> Received:
    try:
        envelope = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise BadJson(f"at character {exc.pos}", position=exc.pos) from None
    if not isinstance(envelope, dict):
        raise BadJson("not an object", position=0)
    kind = envelope.get("type")
    if kind is None:
        raise InvalidMessage("missing", field="type", expected="missing")
    if not isinstance(kind, str) or kind not in types_by_name:
        raise UnknownType("unknown type", field="type", kind=str(kind)[:64])
    cls = types_by_name[kind]
    body = envelope.get("data")
    if cls is messages.Error:
        data: Any = _structure({"text": body, "detail": envelope.get("error")}, cls, "")
    else:
        data = _structure({} if body is None else body, cls, "data")
    return Received(
        kind=kind,
        data=data,
        session_id=_structure(envelope.get("sessionId"), messages.Id | None, "sessionId"),
        user_id=_structure(envelope.get("userId"), messages.Id | None, "userId"),
        request_id=_structure(envelope.get("requestId"), messages.Id | None, "requestId"),
        timestamp=envelope.get("timestamp") if isinstance(envelope.get("timestamp"), str) else None,
    )


def _structure(value: Any, cls: Any, root: str) -> Any:
    try:
        return _converter.structure(value, cls)
    except (BaseValidationError, _Wrong, ValueError, TypeError) as exc:
        path, cause = next(_leaves(exc, root))
        expected = (
            cause.expected if isinstance(cause, _Wrong) else "missing" if isinstance(cause, KeyError) else "value"
        )
        raise InvalidMessage(f"{path}: {expected}", field=path, expected=expected) from None


def _leaves(exc: BaseException, path: str) -> Iterator[tuple[str, BaseException]]:
    """Every innermost failure below a validation error, with its path in the wire's spelling."""
    if isinstance(exc, _WrongItem) and exc.__cause__:
        yield from _leaves(exc.__cause__, f"{path}[{exc.index}]")
        return
    if not isinstance(exc, BaseValidationError):
        yield path, exc
        return
    for each in exc.exceptions:
        here = path
        for note in getattr(each, "__notes__", ()):
            if isinstance(note, AttributeValidationNote):
                here = f"{path}.{camel(note.name)}" if path else camel(note.name)
        yield from _leaves(each, here)


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
