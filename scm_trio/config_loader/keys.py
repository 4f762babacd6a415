"""Every key of the configuration, as the classes of ``config.py`` define them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import attrs
from attrs import frozen

from scm_trio.config import Config

Path = tuple[str, ...]
"""A key's place: the file's spelling of every step, e.g. ``("scm", "auth", "secret")``."""

ROOT = "scm"
ANY = "NAME"
"""Stands in a path for a name that the file chooses, of a provider or a model."""
_UNKNOWN_NAME = re.compile(r"[\w.-]{1,40}")


@frozen
class Key:
    """One field of a configuration class.

    Attributes:
        name: its kebab-case name in the file.
        attribute: its name in the class.
        kind: its type, without ``| None``.
        optional: whether None is a value of it.
        default: ``attrs.NOTHING`` where it has to be given.
        metadata: see ``config.py``.
    """

    name: str
    attribute: str
    kind: Any
    optional: bool
    default: Any
    metadata: Mapping[str, Any]

    @property
    def section(self) -> type | None:
        """The class of the keys below it; None: it holds a value."""
        return self.kind if attrs.has(self.kind) else None

    @property
    def entries(self) -> type | None:
        """The class of its entries where it is a mapping with free names."""
        return get_args(self.kind)[1] if get_origin(self.kind) is dict else None

    @property
    def is_secret(self) -> bool:
        return bool(self.metadata.get("secret"))

    @property
    def is_milliseconds(self) -> bool:
        return self.metadata.get("unit") == "ms"


@cache
def keys_of(cls: type) -> tuple[Key, ...]:
    """The keys of one section, in the order of its class."""
    hints = get_type_hints(cls)
    return tuple(_key(field, hints[field.name]) for field in attrs.fields(cls))


def _key(field: attrs.Attribute[Any], hint: Any) -> Key:
    optional = False
    if get_origin(hint) in (Union, UnionType):
        hint, _none = get_args(hint)
        optional = True
    factory = getattr(field.default, "factory", None)
    default = factory() if factory else field.default
    name = field.metadata.get("key", field.name.replace("_", "-"))
    return Key(name, field.name, hint, optional, default, field.metadata)


def leaves(cls: type = Config, path: Path = (ROOT,)) -> Iterator[tuple[Path, Key]]:
    """Every key that holds a value; ``ANY`` stands for free names."""
    for key in keys_of(cls):
        here = (*path, key.name)
        if key.section:
            yield from leaves(key.section, here)
        elif key.entries:
            yield from leaves(key.entries, (*here, ANY))
        else:
            yield here, key


def key_at(path: Path) -> Key | None:
    """The key that a path leads to; for a name that the file chooses, the key above it; None: nothing is called so."""
    cls: type | None = Config
    found: Key | None = None
    steps = iter(path[1:])
    for step in steps:
        found = next((key for key in keys_of(cls) if key.name == step), None) if cls else None
        if found is None:
            return None
        cls = found.section or found.entries
        if found.entries:
            next(steps, None)
    return found


def dotted(path: Path) -> str:
    """A key's name for people, on one line whatever the file calls its providers."""
    return ".".join(step if step.isprintable() else json.dumps(step) for step in path)


def readable(name: str) -> str:
    """The beginning of a name that nobody knows; ``api-key:abc`` is a key and its value to everybody but YAML."""
    start = _UNKNOWN_NAME.match(name)
    shown = start[0] if start else ""
    return shown if shown == name else f"{shown}…"


def capitals(name: str) -> str:
    """A name as environment variables spell it: ``base-url`` -> ``BASE_URL``, ``gpt-4.1`` -> ``GPT_4_1``."""
    return re.sub(r"[^A-Z0-9]", "_", name.upper())


def variable(path: Path) -> str:
    """The environment variable that overrides a key."""
    return "_".join(capitals(step) for step in path)
