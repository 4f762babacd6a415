"""Reading JSON that a vendor has cut without respect for characters."""

from __future__ import annotations

import re
from typing import Any

import orjson

_HALF = re.compile(rb"(\\\\|\\u[dD][89abAB]\w\w\\u[dD][c-fC-F]\w\w)|\\u[dD][89a-fA-F]\w\w")
"""An escaped half of a surrogate pair without its other half; group 1: what only looks like one."""


def loads(data: bytes) -> Any:
    """Parse ``data``; a character of which only a part is there becomes U+FFFD.

    Raises:
        ValueError: this is no JSON.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        whole = data.decode("utf-8", "replace").encode()
        return orjson.loads(_HALF.sub(lambda match: match[1] or rb"\ufffd", whole))
