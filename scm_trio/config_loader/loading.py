"""The whole way from a file and the environment to a ``Config``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path as FilePath

import attrs
from attrs import frozen

from scm_trio.config import Config
from scm_trio.config_loader.checks import contradictions
from scm_trio.config_loader.contradiction import Contradiction
from scm_trio.config_loader.keys import ROOT, dotted, key_at
from scm_trio.config_loader.reading import Reading
from scm_trio.config_loader.sources import Node, read_file
from scm_trio.config_loader.values import in_file, shown
from scm_trio.config_loader.variables import override
from scm_trio.config_loader.vendors import local_provider, vendor_providers
from scm_trio.errors import ConfigError


@frozen
class Loaded:
    """A configuration, and where each of its given keys comes from (``file:line`` or a variable) by dotted key."""

    config: Config
    origins: Mapping[str, str]


def load_config(path: FilePath | None, environ: Mapping[str, str]) -> Config:
    """Read the configuration: the environment beats the file, the file beats the defaults.

    Args:
        path: a YAML file with the key ``scm``; None: the environment alone.
        environ: ``SCM_*`` variables, variables for placeholders, and the vendors' own.

    Raises:
        ConfigError: something is unknown, wrong or contradictory; the text has one problem a line.
    """
    return load(path, environ).config


def load(path: FilePath | None, environ: Mapping[str, str]) -> Loaded:
    """As ``load_config``, with the origin of every value."""
    problems: list[str] = []
    root = read_file(path, problems) if path else Node({}, "environment")
    root = override(_with_vendors(root, environ), environ, problems)
    if not _has_providers(root):
        root = root.with_value(("ai", "providers", "local"), local_provider())
    reading = Reading(environ)
    config = _with_default_provider(reading.section(Config, root, (ROOT,)))
    problems += reading.problems
    problems += [
        f"{_origin(reading, found)}: {dotted(found.paths[0])}: {_text(found)}"
        for found in contradictions(config)
        if not any(_has_failed(reading, dotted(path)) for path in found.paths)
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    return Loaded(config, reading.origins)


def _has_providers(root: Node) -> bool:
    providers = root.entries.get("ai", Node(None, "")).entries.get("providers", Node(None, ""))
    # A value that is no mapping is wrong, and will be told so; it is no reason to add to it.
    return bool(providers.value)


def _with_vendors(root: Node, environ: Mapping[str, str]) -> Node:
    if _has_providers(root):
        return root
    for name, provider in vendor_providers(environ).items():
        root = root.with_value(("ai", "providers", name), provider)
    return root


def _with_default_provider(config: Config) -> Config:
    if config.ai.default_provider or not config.ai.providers:
        return config
    return attrs.evolve(config, ai=attrs.evolve(config.ai, default_provider=next(iter(config.ai.providers))))


def _has_failed(reading: Reading, key: str) -> bool:
    """Whether the key or one above it has a problem already: the rest would only be its echo."""
    return any(key == bad or key.startswith(f"{bad}.") for bad in reading.failed)


def _text(found: Contradiction) -> str:
    key = key_at(found.paths[0])
    got = "" if found.value is None or key is None else f", got {shown(key, in_file(key, found.value))}"
    item = "" if found.item is None else f" (item {found.item + 1})"
    return f"{found.text}{got}{item}"


def _origin(reading: Reading, found: Contradiction) -> str:
    """Where the first of the keys was given, or one below it."""
    items = reading.item_origins.get(dotted(found.paths[0]))
    if items and found.item is not None:
        return items[found.item]
    given = (
        origin
        for path in map(dotted, found.paths)
        for key, origin in reading.origins.items()
        if key == path or key.startswith(f"{path}.")
    )
    return next(given, "default")
