"""What is told of values that each fit their key, but not the rest."""

from __future__ import annotations

from typing import Any

from attrs import field, frozen

from scm_trio.config_loader.keys import Path


@frozen
class Contradiction:
    """A problem between keys, or between a key and what this version can do.

    Attributes:
        text: what is expected, or missing.
        paths: the keys it is about, the one to blame first.
        value: what that one is in the configuration; None: the text says it, or it is not the point.
        item: which one of its list is to blame, from 0.
    """

    text: str
    paths: tuple[Path, ...]
    value: Any = field(default=None, repr=False)
    item: int | None = None
