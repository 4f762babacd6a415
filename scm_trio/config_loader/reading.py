"""Nodes -> the classes of ``config.py``; every problem is collected, none ends the reading."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, get_args

import attrs

from scm_trio.config import Provider, ProviderKind
from scm_trio.config_loader.keys import Key, Path, dotted, keys_of, readable
from scm_trio.config_loader.placeholders import expand, holds_placeholder
from scm_trio.config_loader.sources import Node
from scm_trio.config_loader.values import WrongValue, expected, parse, shown

MAX_NAME_CHARS = 128


class Reading:
    """One pass over the nodes.

    Attributes:
        problems: one line each.
        origins: where every given key was given, by its dotted path.
        item_origins: the same of the items of lists.
        failed: the keys with a problem; their values are defaults only so that the reading can go on.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []
        self.origins: dict[str, str] = {}
        self.item_origins: dict[str, list[str]] = {}
        self.failed: set[str] = set()

    def section(self, cls: type, node: Node, path: Path) -> Any:
        """Read the keys of one class; a key that is not given, or given without a value, has its default."""
        entries = self._entries(node, path)
        keys = keys_of(cls)
        self._refuse_unknown(entries, [key.name for key in keys], path)
        if cls is Provider:
            entries = _with_kind(entries, path[-1], node.origin)
        given = {}
        for key in keys:
            child = entries.get(key.name)
            if child is not None and child.value is not None:
                given[key.attribute] = self._value(key, child, (*path, key.name))
            elif key.default is attrs.NOTHING:
                self._problem((*path, key.name), node.origin, f"missing; expected {expected(key)}")
                given[key.attribute] = _stand_in(key)
        return cls(**given)

    def _value(self, key: Key, node: Node, path: Path) -> Any:
        if key.section:
            return self.section(key.section, node, path)
        if key.entries:
            return self._named(key.entries, node, path)
        self.origins[dotted(path)] = node.origin
        items = node.value if isinstance(node.value, list) else []
        self.item_origins[dotted(path)] = [item.origin for item in items]
        raw: object = node.value
        try:
            raw, is_text = self._raw(node)
            return parse(key, raw, is_text=is_text)
        except WrongValue as exc:
            if exc.item is None:
                self._problem(path, node.origin, f"expected {exc}, got {shown(key, raw)}")
            else:
                origin = items[exc.item].origin if items else node.origin
                self._problem(path, origin, f"expected {exc}, got {shown(key, exc.value)} (item {exc.item + 1})")
            return key.default if key.default is not attrs.NOTHING else _stand_in(key)

    def _named(self, cls: type, node: Node, path: Path) -> dict[str, Any]:
        named = {}
        for name, child in self._entries(node, path).items():
            here = (*path, name)
            if not name or len(name) > MAX_NAME_CHARS or not name.isprintable():
                self._problem(here, child.origin, f"expected a name of 1 to {MAX_NAME_CHARS} printable characters")
            named[name] = self.section(cls, child, here)
        return named

    def _entries(self, node: Node, path: Path) -> dict[str, Node]:
        if node.value is not None and not isinstance(node.value, dict):
            self._problem(path, node.origin, f"expected a mapping of keys, got {shown(None, node.value)}")
        return node.entries

    def _raw(self, node: Node) -> tuple[object, bool]:
        """A node's plain value with its placeholders filled in, and whether it is a text that has yet to be read."""
        if isinstance(node.value, list):
            return [self._item(index, item) for index, item in enumerate(node.value)], False
        if isinstance(node.value, str) and not node.is_text and holds_placeholder(node.value):
            return expand(node.value, self._environ), True
        return node.value, node.is_text

    def _item(self, index: int, node: Node) -> object:
        try:
            return self._raw(node)[0]
        except WrongValue as exc:
            raise WrongValue(str(exc), index, node.value) from None

    def _refuse_unknown(self, entries: Mapping[str, Node], known: list[str], path: Path) -> None:
        for name, child in entries.items():
            if name in known:
                continue
            called = readable(name)
            close = difflib.get_close_matches(called, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
            if child.value is None and not close:
                # In {secret: abc,def} YAML sees such a key, and it is a piece of the secret.
                self._problem(path, child.origin, f"a key without a value, which is unknown; {hint}")
            else:
                self._problem((*path, called), child.origin, f"unknown key; {hint}")

    def _problem(self, path: Path, origin: str, text: str) -> None:
        self.failed.add(dotted(path))
        self.problems.append(f"{origin}: {dotted(path)}: {text}")


def _stand_in(key: Key) -> str:
    """Some value for a key that has to be given, and was not."""
    return str(next(iter(get_args(key.kind)), ""))


def _with_kind(entries: dict[str, Node], name: str, origin: str) -> dict[str, Node]:
    """A provider that is called like a kind is of that kind."""
    kind = entries.get("kind")
    if (kind and kind.value is not None) or name not in get_args(ProviderKind):
        return entries
    return {**entries, "kind": Node(name, origin)}
