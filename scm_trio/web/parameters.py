"""The values of a query string, strictly read: a wrong one is an error that names its parameter."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from scm_trio.errors import InvalidMessage


def time_of(name: str, text: str | None, *, end: bool = False) -> float | None:
    """Seconds since the epoch of an ISO date or time; the end of a date where that is asked for.

    Raises:
        InvalidMessage: it is no ISO date or time.
    """
    if text is None:
        return None
    try:
        # A plus sign that was not escaped arrives as a space.
        moment = datetime.fromisoformat(text.replace(" ", "+"))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        if end and len(text) <= len("2026-01-31"):
            moment += timedelta(days=1)
        return moment.timestamp()
    except (ValueError, OverflowError) as exc:
        raise InvalidMessage(field=name, expected="date") from exc


def period_of(since: str | None, until: str | None) -> tuple[float | None, float | None]:
    """The parameters ``from`` and ``to`` together.

    Raises:
        InvalidMessage: one of them is no ISO date or time, or they are in the wrong order.
    """
    begin, end = time_of("from", since), time_of("to", until, end=True)
    if begin is not None and end is not None and begin > end:
        raise InvalidMessage(field="to", expected="period")
    return begin, end


def limit_of(text: str | None, *, default: int, most: int) -> int:
    """How many items are wanted.

    Raises:
        InvalidMessage: it is no number from 1 to ``most``.
    """
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and 1 <= int(text) <= most):
        raise InvalidMessage(field="limit", expected=f"1–{most}")
    return int(text)
