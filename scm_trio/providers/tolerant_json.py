"""Reading JSON that a vendor has cut without respect for characters, or has not escaped."""

from __future__ import annotations

import re
from typing import Any

import orjson

_HALF = re.compile(rb"(\\\\|\\u[dD][89abAB]\w\w\\u[dD][c-fC-F]\w\w)|\\u[dD][89a-fA-F]\w\w")
"""An escaped half of a surrogate pair without its other half; group 1: what only looks like one."""
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
"""What JSON allows nowhere unless it is escaped, and is no white space between values either."""


def loads(data: bytes) -> Any:
    """Parse ``data``; a character of which only a part is there becomes U+FFFD, one that should be escaped is.

    Raises:
        ValueError: this is no JSON.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        whole = data.decode("utf-8", "replace").encode()
        whole = _HALF.sub(lambda match: match[1] or rb"\ufffd", whole)
        return orjson.loads(_CONTROL.sub(lambda match: b"\\u%04x" % match[0][0], whole))
