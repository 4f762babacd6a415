"""One value: what its key expects, whether it fits, how it is shown and how it is written back."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Literal, get_args, get_origin

from scm_trio.config_loader.keys import Key
from scm_trio.config_loader.urls import MASK, masked

MAX_NUMBER = 2**53 - 1
MAX_SHOWN_CHARS = 60
MAX_SHOWN_BITS = 128

_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_INTEGER = re.compile(r"\s*[+-]?[0-9]{1,18}\s*")
_DECIMAL = re.compile(r"\s*[+-]?[0-9]{1,18}(\.[0-9]{1,18})?\s*")
_UNWRITABLE = re.compile("[\x00\ud800-\udfff]")
"""NUL, and what is left of bytes in the environment that are no UTF-8."""
PRIVATE_KEY = "PRIVATE KEY-----"
"""Stands in every PEM text of one."""


class WrongValue(ValueError):
    """A value is not what its key expects; the text says what would be.

    Attributes:
        item: which one of a list it is about, from 0; None: the whole value.
        value: that item.
    """

    def __init__(self, text: str, item: int | None = None, value: object = None) -> None:
        super().__init__(text)
        self.item = item
        self.value = value


def expected(key: Key) -> str:
    """What a key takes, for people."""
    choices = get_args(key.kind) if get_origin(key.kind) is Literal else None
    if choices:
        return f"one of {', '.join(choices)}"
    if key.kind is bool:
        return "true or false"
    if key.kind is str:
        return "a URL" if key.metadata.get("url") else "a text"
    if get_origin(key.kind) is tuple:
        return "a list of texts"
    words = {int: "a whole number", float: "a number"}[key.kind]
    if key.is_milliseconds:
        words = "a whole number of milliseconds"
    upper = f" to {key.metadata['max']}" if "max" in key.metadata else ""
    return f"{words} from {key.metadata.get('min', 0)}{upper}"


def parse(key: Key, raw: object, *, is_text: bool) -> Any:
    """Turn the file's value into the class's: milliseconds into seconds, lists into tuples.

    Args:
        key: what it is for.
        raw: a scalar of YAML or a list of such.
        is_text: it comes from a variable: a text that has to be read as what the key expects.

    Raises:
        WrongValue: it does not fit.
    """
    if raw is None or (raw == "" and key.optional):
        return key.default
    value: Any = _read(key, raw) if is_text and isinstance(raw, str) else raw
    if get_origin(key.kind) is tuple and isinstance(value, list):
        _check_items(value)
    elif not _fits(key, value):
        raise WrongValue(expected(key))
    if _is_masked(key, value):
        raise WrongValue(f"the value itself: {MASK} only stands for it in print")
    if key.is_milliseconds:
        return value / 1000
    if key.kind is float:
        return float(value)
    return tuple(value) if isinstance(value, list) else value


def _read(key: Key, text: str) -> object:
    """A variable's text as the value that YAML would have made of it; the text itself where there is none."""
    if key.kind is bool:
        return _BOOLEANS.get(text.strip().lower(), text)
    if get_origin(key.kind) is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    if (key.kind is int or key.is_milliseconds) and _INTEGER.fullmatch(text):
        return int(text)
    if key.kind is float and _DECIMAL.fullmatch(text):
        return float(text)
    return text


def _check_items(items: list[object]) -> None:
    for index, item in enumerate(items):
        if not _is_text(item):
            quotes = ", in quotes where they look like something else" if isinstance(item, bool | int | float) else ""
            raise WrongValue(f"a list of texts{quotes}", index, item)


def _fits(key: Key, value: object) -> bool:
    if key.kind is str:
        return _is_text(value)
    if key.kind is bool:
        return isinstance(value, bool)
    if get_origin(key.kind) is tuple:
        return False
    if get_origin(key.kind) is Literal:
        return isinstance(value, str) and value in get_args(key.kind)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if isinstance(value, float) and (key.kind is int or key.is_milliseconds or not math.isfinite(value)):
        return False
    return bool(key.metadata.get("min", 0) <= value <= key.metadata.get("max", MAX_NUMBER))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != "" and not _UNWRITABLE.search(value)


def _is_masked(key: Key, value: object) -> bool:
    """Whether someone starts the server with what ``effective`` printed, its secrets still hidden."""
    texts = value if isinstance(value, list) else [value]
    if key.is_secret:
        return MASK in texts
    return bool(key.metadata.get("url")) and any(MASK in str(text) for text in texts)


def shown(key: Key | None, raw: object) -> str:
    """A value for an error message: secrets hidden, long texts cut; without a key it may be a secret, too."""
    if isinstance(raw, dict):
        return "a mapping"
    if isinstance(raw, list):
        return "a list"
    if key is None:
        return "a single value"
    if key.is_secret:
        return MASK
    if key.metadata.get("url") and not (isinstance(raw, str) and "://" in raw):
        # Whatever it is, it may be meant for the key beside it.
        return "a text without ://" if isinstance(raw, str) else "a single value"
    if isinstance(raw, bytes):
        return "binary data"
    if isinstance(raw, int) and raw.bit_length() > MAX_SHOWN_BITS:
        return "a far larger number"
    text = json.dumps(_harmless(raw) if isinstance(raw, str) else raw, ensure_ascii=False)
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}…"


def _harmless(text: str) -> str:
    """A text of any key: URLs and private keys land where they do not belong, too."""
    if PRIVATE_KEY in text:
        return MASK
    return masked(text) if "://" in text else text


def in_file(key: Key, value: Any) -> Any:
    """The file's own value for the class's: milliseconds for seconds, whole numbers where they are."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    number = value * 1000 if key.is_milliseconds else value
    return round(number) if key.is_milliseconds or number == round(number) else number


def printable(key: Key, value: Any) -> Any:
    """Turn the class's value back into the file's; secrets become ``***``, and what a URL may hide as well."""
    if isinstance(value, (tuple, list)):
        return [printable(key, item) for item in value]
    if not isinstance(value, str):
        return in_file(key, value)
    if key.is_secret or PRIVATE_KEY in value:
        return MASK
    text = masked(value) if key.metadata.get("url") else value
    # What looks like a placeholder is one when it is read again, unless it is escaped.
    return text.replace("${", "$${")
