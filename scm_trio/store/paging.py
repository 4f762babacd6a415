"""Pages and their cursors. A cursor is text that a client hands back and does not look into."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from typing import Generic, TypeVar

import orjson
from attrs import frozen

from scm_trio.errors import InvalidMessage

T = TypeVar("T")

MAX_PAGE = 100
MAX_PAGE_CHARS = 250_000
"""Of the texts of a page: written as JSON it stays below what clients take in one message, a megabyte."""
MAX_NUMBER = 2**63 - 1


@frozen
class Page(Generic[T]):
    """A piece of a list. ``next`` is the cursor of what follows, None where nothing does."""

    items: tuple[T, ...]
    next: str | None = None


def page_size(limit: int) -> int:
    """How many items a page has when a client asks for ``limit``: at least 1, at most ``MAX_PAGE``."""
    return max(1, min(limit, MAX_PAGE))


def fitting(sizes: Iterable[int]) -> int:
    """How many items of these sizes, in characters, make a page together: at least one."""
    room, count = MAX_PAGE_CHARS, 0
    for size in sizes:
        room -= size
        if count and room < 0:
            break
        count += 1
    return count


def encode_cursor(*parts: float | str) -> str:
    return urlsafe_b64encode(orjson.dumps(parts)).rstrip(b"=").decode()


def decode_cursor(cursor: str, *types: type) -> list[float | str]:
    """The parts of a cursor that ``encode_cursor`` made.

    Raises:
        InvalidMessage: it is none of ours, or one of another list.
    """
    try:
        parts = orjson.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except ValueError:
        parts = None
    if (
        not isinstance(parts, list)
        or [type(part) for part in parts] != list(types)
        or not all(map(_is_possible, parts))
    ):
        raise InvalidMessage("not a cursor of this list", field="before", expected="cursor")
    return parts


def _is_possible(part: float | str) -> bool:
    """Whether both databases can compare with it."""
    return "\0" not in part if isinstance(part, str) else abs(part) <= MAX_NUMBER
