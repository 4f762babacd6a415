"""A YAML file -> nodes that know the line they come from."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Any

import yaml
from attrs import field, frozen

from scm_trio.config_loader.keys import ROOT, Path, dotted
from scm_trio.errors import ConfigError

_MERGE = "tag:yaml.org,2002:merge"
_TEXTS = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:timestamp"}
"""An API version such as 2024-10-21 is a date to YAML, and a text to us."""


@frozen
class Node:
    """A value and where it was given.

    Attributes:
        value: None, a bool, int, float or str, a list of nodes, or a dict of nodes by name.
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
        ConfigError: the file cannot be read, or it is no YAML.
    """
    try:
        document = yaml.compose(path.read_bytes(), Loader=yaml.SafeLoader)
        root = _Composed(str(path), problems).node(document, 1, ()) if document else Node({}, f"{path}:1")
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from exc
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        # Not str(exc): it quotes the text around the error, which may be a secret.
        raise ConfigError(f"{path}:{line}: this is no YAML: {exc.problem}") from None
    except yaml.YAMLError:
        raise ConfigError(f"{path}: this is no text in UTF-8") from None
    except RecursionError:
        raise ConfigError(f"{path}: values are nested too deeply, or contain themselves") from None
    if not isinstance(root.value, dict):
        problems.append(f"{root.origin}: expected a mapping with the key {ROOT}")
    for name, other in root.entries.items():
        if name != ROOT:
            problems.append(f"{other.origin}: {name}: unknown key; everything stands below {ROOT}")
    return root.entries.get(ROOT, Node({}, root.origin))


class _Composed:
    """Turns PyYAML's nodes into ours."""

    def __init__(self, name: str, problems: list[str]) -> None:
        self._name = name
        self._problems = problems
        self._constructor = yaml.constructor.SafeConstructor()
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
        try:
            return self._constructor.construct_object(node)
        except ValueError:
            return node.value

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Node]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            _refuse_complex(key)
            if key.value in seen:
                where = dotted((*path, key.value))
                self._problems.append(f"{self._name}:{line}: {where}: given before, in line {seen[key.value]}")
            seen[key.value] = line
        if any(key.tag == _MERGE for key, _ in node.value):
            self._constructor.flatten_mapping(node)
        entries = {}
        for key, value in node.value:
            _refuse_complex(key)
            entries[key.value] = self.node(value, key.start_mark.line + 1, (*path, key.value))
        return entries


def _refuse_complex(key: yaml.Node) -> None:
    if not isinstance(key, yaml.ScalarNode):
        raise yaml.MarkedYAMLError(problem="a key has to be a text", problem_mark=key.start_mark)
