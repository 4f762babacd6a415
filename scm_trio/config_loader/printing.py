"""``Config`` -> the file's own text, and the list of all keys for the documentation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import yaml
from attrs import frozen

from scm_trio.config import Config, Provider
from scm_trio.config_loader.keys import ROOT, Path, dotted, keys_of, leaves, variable
from scm_trio.config_loader.values import expected, printable


@frozen
class Reference:
    """One key for a table of all of them; ``default`` is written as in the file, empty where there is none."""

    key: str
    variable: str
    default: str
    expected: str


def effective(config: Config, *, origins: Mapping[str, str] | None = None) -> str:
    """The configuration as YAML in the file's keys and units; secrets and passwords in URLs are ``***``.

    Loaded again, with the secrets given anew by the environment, it makes the same ``Config``.

    Args:
        config: what ``load`` returned.
        origins: ``Loaded.origins``; every given key then has its origin as a comment.
    """
    return "\n".join([f"{ROOT}:", *_section(config, (ROOT,), origins or {}), ""])


def reference() -> list[Reference]:
    """Every key; NAME stands for a provider's or a model's own."""
    return [
        Reference(
            dotted(path),
            variable(path),
            "" if key.default in (attrs.NOTHING, None) else _scalar(printable(key, key.default)),
            expected(key),
        )
        for path, key in leaves()
    ]


def _section(section: Any, path: Path, origins: Mapping[str, str]) -> Iterator[str]:
    indent = "  " * len(path)
    cls: type = type(section)
    for key in keys_of(cls):
        value = getattr(section, key.attribute)
        here = (*path, key.name)
        if isinstance(section, Provider) and section.kind not in key.metadata.get("kinds", (section.kind,)):
            continue
        if key.section:
            yield f"{indent}{key.name}:"
            yield from _section(value, here, origins)
        elif key.entries:
            yield f"{indent}{key.name}:" if value else f"{indent}{key.name}: {{}}"
            for name, entry in value.items():
                yield f"{indent}  {_scalar(name)}:"
                yield from _section(entry, (*here, name), origins)
        else:
            text = "" if value is None else f" {_scalar(printable(key, value))}"
            origin = origins.get(dotted(here))
            yield f"{indent}{key.name}:{text}" + (f"  # {origin}" if origin else "")


def _scalar(value: Any) -> str:
    """A scalar, or a list of texts, on one line."""
    text = _dump(value)
    # Only in double quotes line breaks, of which YAML knows many, and control characters are escaped.
    return text if text.isprintable() else _dump(value, '"')


def _dump(value: Any, style: str | None = None) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, default_style=style, allow_unicode=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")
