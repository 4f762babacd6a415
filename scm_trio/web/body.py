"""A wire message as an answer's body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response

from scm_trio.protocol.codec import plain


def told(message: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer that says what an instance of one of the wire's classes says."""
    return Response(orjson.dumps(plain(message)), status, headers, "application/json")
