"""``SCM_*`` variables -> the keys that they override."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

from scm_trio.config import Config, Provider
from scm_trio.config_loader.keys import ANY, ROOT, Key, Path, capitals, dotted, keys_of, leaves, variable
from scm_trio.config_loader.placeholders import names_in
from scm_trio.config_loader.sources import Node

PREFIX = f"{capitals(ROOT)}_"
NO_KEYS = frozenset({"SCM_TOKEN"})
"""What else may stand in the environment: the console's access token."""


def override(root: Node, environ: Mapping[str, str], problems: list[str]) -> Node:
    """The tree with every ``SCM_*`` variable in its place; those that fit no key, nor a placeholder, go to ``problems``."""
    named = set(_placeholders(root))
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in NO_KEYS:
            continue
        path = next(_paths(name.removeprefix(PREFIX), Config, root), None)
        if path is None and name in named:
            continue  # the file uses it under a name of its own choice
        if path is None:
            problems.append(_unknown(name, root))
        else:
            root = root.with_value(path, Node(environ[name], name, is_text=True))
    return root


def _placeholders(node: Node) -> Iterator[str]:
    """The variables that the values of a tree name."""
    if isinstance(node.value, str):
        yield from names_in(node.value)
    for below in node.value if isinstance(node.value, list) else node.entries.values():
        yield from _placeholders(below)


def _paths(rest: str, cls: type, node: Node) -> Iterator[Path]:
    """The keys that the rest of a variable's name may mean, best first."""
    for key in keys_of(cls):
        spelled = capitals(key.name)
        below = node.entries.get(key.name, Node({}, node.origin))
        if rest == spelled and not key.section and not key.entries:
            yield (key.name,)
        elif rest.startswith(f"{spelled}_"):
            tail = rest.removeprefix(f"{spelled}_")
            found = _paths(tail, key.section, below) if key.section else _named(tail, key, below)
            yield from ((key.name, *path) for path in found)


def _named(rest: str, key: Key, node: Node) -> Iterator[Path]:
    """Paths below a mapping with free names: first the names that the file gives, the longest before the others."""
    if not key.entries:
        return
    known = sorted(node.entries, key=len, reverse=True)
    names = [(name, capitals(name)) for name in known]
    if key.entries is Provider:
        # Only providers can be new: a model's name cannot be guessed from capitals.
        cuts = [at for at, letter in enumerate(rest) if letter == "_" and at]
        names += [(rest[:at].lower().replace("_", "-"), rest[:at]) for at in cuts]
    for name, spelled in names:
        if rest.startswith(f"{spelled}_"):
            below = node.entries.get(name, Node({}, node.origin))
            yield from ((name, *path) for path in _paths(rest.removeprefix(f"{spelled}_"), key.entries, below))


def _unknown(name: str, root: Node) -> str:
    providers = [*root.entries.get("ai", root).entries.get("providers", Node({}, "")).entries, ANY]
    known = {
        variable(path): path
        for template, _ in leaves()
        for provider in providers
        for path in [tuple(provider if step == ANY else step for step in template)]
    }
    closest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    return f"{name}: no key has this name; the closest is {closest} ({dotted(known[closest])})"
