"""How the binary kinds of files begin: with a signature, and behind it a structure whose places are fixed. Pure.

Whether a picture can be shown is its viewer's to find out. This keeps out what only pretends, in a few bytes of text.
"""

from __future__ import annotations

import re
from collections.abc import Callable

PNG, JPEG, GIF, WEBP = IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
PDF = "application/pdf"

SIGNATURE_BYTES = 16
"""The longest signature ends here,"""
HEAD_BYTES = 1024
"""and here what is judged behind it: a GIF's colours may take 768."""

_SIGNATURES = (
    (re.compile(rb"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR"), PNG),
    (re.compile(rb"\xff\xd8\xff"), JPEG),
    (re.compile(rb"GIF8[79]a"), GIF),
    (re.compile(rb"RIFF....WEBPVP8", re.DOTALL), WEBP),
    (re.compile(rb"%PDF-"), PDF),
)
_LEAST_BYTES = {PNG: 67, JPEG: 100, GIF: 26, WEBP: 26, PDF: 64}
"""Of the smallest files with anything in them."""
_PDF_VERSION = re.compile(rb"%PDF-[12]\.\d[\s%]")
_VP8 = re.compile(rb".{12}VP8(?: .{7}\x9d\x01\x2a|L.{4}\x2f|X\x0a\x00\x00\x00)", re.DOTALL)
"""What each of WebP's three forms has at its beginning: a start code, a signature, a chunk of ten bytes."""


def kind_of(head: bytes) -> str | None:
    """The kind whose signature these first bytes have."""
    return next((kind for pattern, kind in _SIGNATURES if pattern.match(head)), None)


def is_sound(kind: str, head: bytes) -> bool:
    """Whether a file that has a kind's signature goes on as that kind does, as far as its beginning shows."""
    return bool(_JUDGES[kind](head))


def is_long_enough(kind: str, size_bytes: int) -> bool:
    return size_bytes >= _LEAST_BYTES[kind]


def _is_png(head: bytes) -> bool:
    """Width and height."""
    return any(head[16:20]) and any(head[20:24])


def _is_jpeg(head: bytes) -> bool:
    """A segment with its length, and at its end another marker, if that can be seen: a camera's segment is long."""
    length = int.from_bytes(head[4:6], "big")
    begins_a_segment = len(head) >= 6 and head[3] >= 0xC0 and not 0xD0 <= head[3] <= 0xD9 and length >= 2
    return begins_a_segment and head[4 + length : 5 + length] in {b"", b"\xff"}


def _is_gif(head: bytes) -> bool:
    """Behind the colours that it says it has, an image or an extension."""
    flags = head[10] if len(head) > 10 else 0
    colours_bytes = 3 << (flags & 0b111) + 1 if flags & 0b1000_0000 else 0
    return head[13 + colours_bytes : 14 + colours_bytes] in {b"\x2c", b"\x21"}


_JUDGES: dict[str, Callable[[bytes], object]] = {
    PNG: _is_png,
    JPEG: _is_jpeg,
    GIF: _is_gif,
    WEBP: _VP8.match,
    PDF: _PDF_VERSION.match,
}
