"""What any vendor's refusal tells besides its code: how long to wait, and a detail that is fit for a log."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from email.utils import parsedate_to_datetime

MAX_DETAIL_CHARS = 500

_LIKE_A_KEY = re.compile(r"""\bsk-[^\s"',]+|\bbearer\s+\S+""", re.IGNORECASE)


MAX_WAIT_S = 86_400.0
"""Nobody waits longer than a day, whatever a server asks for."""


def retry_after_s(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """Return the seconds to wait that the server asks for: ``retry-after-ms``, else ``retry-after``, else None.

    Args:
        headers: the response's; names in lower case, or a mapping that does not care.
        now: the time for a ``retry-after`` that is a date, where the server does not tell its own.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return min(milliseconds / 1000, MAX_WAIT_S)
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None:
        return min(seconds, MAX_WAIT_S)
    then = _date(value)
    if then is None:
        return None
    # The server's clock, if it tells: ours may be off.
    return min(max(0.0, then - (_date(headers.get("date")) or now())), MAX_WAIT_S)


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """Return ``text`` cut to 500 characters, without ``secrets`` and without anything that looks like a key."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return _LIKE_A_KEY.sub("***", text)[:MAX_DETAIL_CHARS]


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _date(value: str | None) -> float | None:
    try:
        return parsedate_to_datetime(value or "").timestamp()
    except (ValueError, OverflowError):
        return None
