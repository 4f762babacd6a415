"""JSON values that a model's fields accept, and some that they may not, drawn from the models themselves."""

from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs
from hypothesis import strategies as st

from scm_trio.protocol import messages
from scm_trio.protocol.codec import MAX_COUNT, MAX_ID_CHARS, camel

Path = tuple[str | int, ...]

_unicode = st.characters(exclude_categories=["Cs"])
_line = st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])

ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.sampled_from(["", "\x00", "a\n", "x" * (MAX_ID_CHARS + 1), "cancel", "owner", "online", "1", 1.0, 2**53, -1]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["graceMs", "userId", "role", "x"]) | st.text(_unicode), inner, max_size=2)
    ),
    max_leaves=4,
)

_LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    messages.Id: st.text(_line, min_size=1, max_size=12) | st.just("🚀" * MAX_ID_CHARS),
    messages.Text: st.text(_unicode.filter(lambda char: char != "\x00"), max_size=20),
    messages.Count: st.integers(0, MAX_COUNT),
    str: st.text(_unicode.filter(lambda char: char != "\x00"), max_size=20),
    bool: st.booleans(),
    int: st.integers(-(2**53), 2**53),
    float: st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**40), 2**40),
    NoneType: st.none(),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """JSON that a field of this type takes."""
    if kind in _LEAVES:
        return _LEAVES[kind]
    if attrs.has(kind):
        return objects(kind)
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Literal:
        return st.sampled_from(inside)
    if origin is tuple:
        return st.lists(values(inside[0]), max_size=3)
    assert origin in (Union, UnionType), kind
    return st.one_of([values(each) for each in inside])


def objects(cls: type) -> st.SearchStrategy[dict[str, Any]]:
    """A client's JSON object for a model: optional fields may be absent or null, others may come besides."""
    hints = get_type_hints(cls)
    needed = {camel(f.name): values(hints[f.name]) for f in attrs.fields(cls) if f.default is attrs.NOTHING}
    optional = {
        camel(f.name): st.none() | values(hints[f.name]) for f in attrs.fields(cls) if f.default is not attrs.NOTHING
    }
    more = st.dictionaries(st.sampled_from(["x", "Message", "session_id"]), ANY_JSON, max_size=1)
    return st.builds(lambda extra, known: extra | known, more, st.fixed_dictionaries(needed, optional=optional))


def client_messages(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    """A whole message that a client may send."""
    cls = messages.CLIENT_TYPES[kind]
    ids = st.none() | values(messages.Id)
    data = objects(cls)
    if all(field.default is not attrs.NOTHING for field in attrs.fields(cls)):
        data = st.none() | data
    return st.fixed_dictionaries(
        {"type": st.just(kind), "data": data},
        optional={
            "sessionId": ids,
            "userId": ids,
            "requestId": ids,
            "timestamp": st.none() | values(messages.Text),
            "x": ANY_JSON,
        },
    )


def places(value: Any, path: Path = ()) -> Iterator[Path]:
    """The path of everything inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield (*path, key)
        yield from places(each, (*path, key))


def spelled(path: Path) -> str:
    """A path as the wire names it: ``data.members[1].role``."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")


def put(message: Any, path: Path, value: Any) -> None:
    for key in path[:-1]:
        message = message[key]
    message[path[-1]] = value


def take(message: Any, path: Path) -> None:
    for key in path[:-1]:
        message = message[key]
    del message[path[-1]]
