"""A YAML file -> nodes that know the line they come from."""

from __future__ import annotations

from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from pathlib import Path as FilePath
from typing import Any

import yaml
from attrs import field, frozen

from scm_trio.config_loader.keys import ROOT, Path, dotted, key_at, readable
from scm_trio.errors import ConfigError

_MERGE = "tag:yaml.org,2002:merge"
_TEXTS = {f"tag:yaml.org,2002:{name}" for name in ("str", "timestamp", "value", "merge")}
"""An API version such as 2024-10-21 is a date to YAML, and a text to us; so are a lone = and <<."""
_SCALARS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "binary")}

_UNQUOTED = "a text that begins like this needs quotes"
_SENTENCES = (
    ("found undefined alias", f"* refers to an anchor, and there is none; {_UNQUOTED}"),
    ("second occurrence", f"& names an anchor, and this one is there already; {_UNQUOTED}"),
    ("found undefined tag handle", f"! begins a tag, and this one is unknown; {_UNQUOTED}"),
    ("found character", f"nothing can begin with this character; {_UNQUOTED}"),
    (
        "found unknown escape",
        "between double quotes a backslash begins an escape, and this is none; single ones take it",
    ),
    ("found unexpected end", "the quotes are never closed"),
    ("expected ','", "a comma or the closing bracket is missing"),
    ("mapping values", "a colon is not allowed here; a text that holds one needs quotes"),
    ("could not find expected ':'", "a key needs a colon and a space behind it"),
    ("expected <block end>", "the indentation is wrong, or a text needs quotes"),
    ("but found another document", "one document is expected"),
    ("expected a mapping", "<< takes a mapping or a list of such"),
)
"""How PyYAML begins to tell a problem, and what is said instead: its own words quote the file, where secrets stand."""
_UNKNOWN_TAG = f"! begins a tag, and this one is unknown; {_UNQUOTED}"


@frozen
class Node:
    """A value and where it was given.

    Attributes:
        value: None, a bool, int, float, str or bytes, a list of nodes, or a dict of nodes by name.
        origin: ``file:line`` or the name of an environment variable.
        is_text: it comes from a variable, so that its text has yet to be read as what its key expects.
    """

    value: Any = field(repr=False)
    origin: str
    is_text: bool = False

    @property
    def entries(self) -> dict[str, Node]:
        """What is below it by name; nothing where it is no mapping."""
        return self.value if isinstance(self.value, dict) else {}

    def with_value(self, path: Path, leaf: Node) -> Node:
        """The same tree with ``leaf`` at ``path``; a scalar in the way stays, for the reading to complain about."""
        if not path:
            return leaf
        if self.value is not None and not isinstance(self.value, dict):
            return self
        below = self.entries.get(path[0], Node(None, leaf.origin))
        return Node({**self.entries, path[0]: below.with_value(path[1:], leaf)}, self.origin)


def read_file(path: FilePath, problems: list[str]) -> Node:
    """Read what is below the key ``scm``; what is wrong with the text itself goes to ``problems``.

    Raises:
        ConfigError: the file cannot be read, or it is no YAML. The text repeats nothing of the file.
    """
    try:
        raw = path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from exc
    root = _composed(str(path), _decoded(str(path), raw), problems)
    if not isinstance(root.value, dict):
        problems.append(f"{root.origin}: expected a mapping with the key {ROOT}")
    for name, other in root.entries.items():
        if name != ROOT:
            called = "a key without a value" if other.value is None else dotted((readable(name),))
            problems.append(f"{other.origin}: {called}: unknown key; everything stands below {ROOT}")
    return root.entries.get(ROOT, Node({}, root.origin))


def _decoded(name: str, raw: bytes) -> str:
    encoding = "utf-16" if raw.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8"
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as exc:
        place = _place(raw[: exc.start].decode(encoding, "replace"))
        raise ConfigError(f"{name}:{place}: this is no text in UTF-8") from None


def _composed(name: str, text: str, problems: list[str]) -> Node:
    try:
        loader = yaml.SafeLoader(text)
    except yaml.reader.ReaderError as exc:
        sentence = "this is no YAML: a character that is not allowed, or only escaped"
        raise ConfigError(f"{name}:{_place(text[: exc.position])}: {sentence}") from None
    try:
        document = _document(name, loader)
        return _Composed(name, problems, loader).node(document, 1, ()) if document else Node({}, f"{name}:1")
    except yaml.MarkedYAMLError as exc:
        raise _no_yaml(name, exc.problem_mark or exc.context_mark, _sentence(exc)) from None
    except RecursionError:
        raise ConfigError(f"{name}: values are nested too deeply, or contain themselves") from None
    finally:
        loader.dispose()


def _place(before: str) -> str:
    """Line and column of what follows ``before``."""
    return f"{before.count(chr(10)) + 1}:{len(before) - (before.rfind(chr(10)) + 1) + 1}"


def _document(name: str, loader: yaml.SafeLoader) -> yaml.Node | None:
    try:
        return loader.get_single_node()
    except (ValueError, OverflowError):
        # Numbers that Python cannot take, in an escape or in a directive: PyYAML lets them through.
        raise _no_yaml(name, loader.get_mark(), "a number that is far too large") from None


def _no_yaml(name: str, mark: yaml.Mark | None, sentence: str) -> ConfigError:
    place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
    return ConfigError(f"{place}: this is no YAML: {sentence}")


def _sentence(exc: yaml.MarkedYAMLError) -> str:
    problem = exc.problem or ""
    return next((ours for theirs, ours in _SENTENCES if problem.startswith(theirs)), "it cannot be read from here on")


class _Composed:
    """Turns PyYAML's nodes into ours."""

    def __init__(self, name: str, problems: list[str], loader: yaml.SafeLoader) -> None:
        self._name = name
        self._problems = problems
        self._loader = loader
        self._done: dict[yaml.Node, Any] = {}

    def node(self, node: yaml.Node, line: int, path: Path) -> Node:
        # Remembered, because an anchor is one node in several places.
        if node not in self._done:
            self._done[node] = self._value(node, path)
        return Node(self._done[node], f"{self._name}:{line}")

    def _value(self, node: yaml.Node, path: Path) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.node(item, item.start_mark.line + 1, path) for item in node.value]
        if node.tag in _TEXTS:
            return node.value
        if node.tag not in _SCALARS:
            raise _no_yaml(self._name, node.start_mark, _UNKNOWN_TAG)
        try:
            return self._loader.construct_object(node)
        except (ValueError, LookupError, OverflowError, yaml.YAMLError):
            if self._is_tagged(node):
                raise _no_yaml(self._name, node.start_mark, "the value is not what its tag says") from None
            return node.value

    def _is_tagged(self, node: Any) -> bool:
        """Whether its type was written out, and not only guessed from how it looks."""
        guess = self._loader.resolve(yaml.ScalarNode, node.value, (True, False))  # type: ignore[no-untyped-call]
        return node.style is not None or node.tag != guess

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Node]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            self._refuse_complex(key)
            if key.value in seen:
                self._problems.append(f"{self._name}:{line}: {_again((*path, key.value))}, in line {seen[key.value]}")
            seen[key.value] = line
        if any(key.tag == _MERGE for key, _ in node.value):
            self._loader.flatten_mapping(node)
        entries = {}
        for key, value in node.value:
            self._refuse_complex(key)
            entries[key.value] = self.node(value, key.start_mark.line + 1, (*path, key.value))
        return entries

    def _refuse_complex(self, key: yaml.Node) -> None:
        if not isinstance(key, yaml.ScalarNode):
            raise _no_yaml(self._name, key.start_mark, "a key has to be a text")


def _again(path: Path) -> str:
    above = path
    # Below a key that holds a value even a name may be a piece of a secret.
    while above and above != (ROOT,) and not (above[0] == ROOT and key_at(above)):
        above = above[:-1]
    if above == path:
        return f"{dotted(path)}: given before"
    return f"{dotted(above)}: a key in it is given before" if above else "a key is given before"
