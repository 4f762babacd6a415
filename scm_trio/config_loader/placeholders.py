"""``${NAME}`` and ``${NAME:default}`` inside a value; ``$${`` is a literal ``${``."""

from __future__ import annotations

import re
from collections.abc import Mapping

from scm_trio.config_loader.values import WrongValue

_PLACEHOLDER = re.compile(r"\$(?P<escaped>\$\{)|\$\{(?P<inside>[^}]*)(?P<end>\}?)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def holds_placeholder(text: str) -> bool:
    return "${" in text


def names_in(text: str) -> list[str]:
    """The variables that ``expand`` would ask for."""
    inside = (match["inside"] for match in _PLACEHOLDER.finditer(text) if not match["escaped"])
    return [each.partition(":")[0] for each in inside]


def expand(text: str, environ: Mapping[str, str]) -> str:
    """Put the variables' values in; a variable that is set but empty counts as set.

    Raises:
        WrongValue: a variable is not set and has no default, or the placeholder is malformed.
    """

    def value(match: re.Match[str]) -> str:
        if match["escaped"]:
            return match["escaped"]
        name, colon, default = match["inside"].partition(":")
        if not match["end"] or not _NAME.fullmatch(name) or "${" in default:
            raise WrongValue("a placeholder ${NAME} or ${NAME:default}; a literal ${ is written $${")
        if name not in environ and not colon:
            # Another name may as well be a piece of a password.
            called = name if name.isupper() else "NAME"
            which = f"the environment variable {name}" if name.isupper() else "its environment variable"
            raise WrongValue(f"{which} to be set, or a default: ${{{called}:default}}")
        return environ.get(name, default)

    return _PLACEHOLDER.sub(value, text)
