"""``Content-Disposition`` for what is to be saved, not shown (RFC 6266)."""

from __future__ import annotations

from urllib.parse import quote


def attachment(name: str) -> str:
    """The header's value: the name in ASCII for old clients, and whole (RFC 8187)."""
    plain = "".join(char if char.isascii() and char.isprintable() and char not in '"\\%' else "_" for char in name)
    exact = quote(name, safe="", encoding="utf-8", errors="replace")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{exact}"
