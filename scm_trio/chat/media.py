"""What a file is, told by its bytes as they come; and what it may be called. Pure.

Neither the name nor a header is believed. The name chooses only among the kinds of text, which are all equally harmless
once the content has turned out to be plain UTF-8.
"""

from __future__ import annotations

import codecs
import re
import unicodedata

from scm_trio.chat.signatures import HEAD_BYTES, IMAGES, PDF, SIGNATURE_BYTES, is_long_enough, is_sound, kind_of
from scm_trio.errors import InvalidMessage

TEXT = "text/plain"
TEXTS = (TEXT, "text/markdown", "text/csv", "application/json")
ALLOWED = (*IMAGES, PDF, *TEXTS)

MAX_NAME_CHARS = 120
UNNAMED = "file"

_MARKUP_CHARS = 65_536
"""How far into a text an HTML or SVG document is looked for behind blanks and comments."""

# What the WHATWG's rules for sniffing call binary: control characters that no text has.
_BINARY = re.compile("[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
# The group is atomic: of a thousand comments in a row each is read once.
_MARKUP = re.compile(
    r"\ufeff?(?>\s+|<!--.*?(?:-->|\Z))*"
    r"<(?:\?xml|!doctype\b|(?:html|head|title|base|link|meta|style|script|body|iframe|frameset|object|embed)[\s/>]"
    r"|(?:\w+:)?svg[\s/>])",
    re.IGNORECASE | re.DOTALL,
)
_BY_ENDING = {"md": "text/markdown", "markdown": "text/markdown", "csv": "text/csv", "json": "application/json"}
_ENDINGS = {
    "image/png": ("png",),
    "image/jpeg": ("jpg", "jpeg"),
    "image/gif": ("gif",),
    "image/webp": ("webp",),
    PDF: ("pdf",),
}
_TEXT_ENDINGS = ("txt", "md", "markdown", "csv", "tsv", "json", "jsonl", "log", "yaml", "yml", "toml", "ini")
_NOT_IN_NAMES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Categories of characters that are invisible or turn the writing round; they would let a name look like another."""


class Sniffer:
    """Fed with a file's bytes in order. It keeps no more than the beginning."""

    def __init__(self) -> None:
        self._head = b""
        self._size_bytes = 0
        self._binary: str | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._beginning = ""
        self._is_decided = False
        self._last = ""

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            InvalidMessage: whatever may follow, this is no file that is taken here.
        """
        before = self._head
        self._head += data[: HEAD_BYTES - len(before)]
        self._size_bytes += len(data)
        if not self._is_decided:
            if self._size_bytes < SIGNATURE_BYTES:
                return
            self._decide()
            data = before + data
        if self._binary is None:
            self._read_text(data)
        elif len(before) < HEAD_BYTES <= len(self._head) and not is_sound(self._binary, self._head):
            raise _refused()

    def media_type(self, name: str) -> str:
        """The file is complete: say what it is.

        Args:
            name: its label; the ending chooses among the kinds of text.

        Raises:
            InvalidMessage: no file that is taken here.
        """
        if not self._is_decided:
            self._decide()
            if self._binary is None:
                self._read_text(self._head)
        if self._binary is not None:
            if not is_sound(self._binary, self._head) or not is_long_enough(self._binary, self._size_bytes):
                raise _refused()
            return self._binary
        self._read_text(b"", final=True)
        if not self._beginning:
            raise InvalidMessage(field="file", expected="empty")
        if _MARKUP.match(self._beginning):
            raise _refused()
        told = _BY_ENDING.get(name.rpartition(".")[2].lower(), TEXT)
        is_json = self._beginning.lstrip("\ufeff \t\r\n")[:1] + self._last in ("{}", "[]")
        return told if told != "application/json" or is_json else TEXT

    def _decide(self) -> None:
        """Look at the signature. What has none is read as text."""
        self._is_decided = True
        self._binary = kind_of(self._head)

    def _read_text(self, data: bytes, *, final: bool = False) -> None:
        try:
            text = self._decoder.decode(data, final)
        except UnicodeDecodeError:
            raise _refused() from None
        if _BINARY.search(text):
            raise _refused()
        if len(self._beginning) < _MARKUP_CHARS:
            self._beginning += text[:_MARKUP_CHARS]
        self._last = text.rstrip()[-1:] or self._last


def _refused() -> InvalidMessage:
    return InvalidMessage("media type", field="file", expected="media_type")


def label(raw: str) -> str:
    """A file's name for people, whatever its sender wrote: no path, nothing invisible, not too long."""
    base = re.split(r"[/\\]", raw)[-1]
    composed = unicodedata.normalize("NFC", base)
    visible = "".join(char for char in composed if unicodedata.category(char) not in _NOT_IN_NAMES)
    name = " ".join(visible.split()).strip(". ")
    if len(name) > MAX_NAME_CHARS:
        stem, dot, ending = name.rpartition(".")
        keep = dot + ending if stem and len(ending) <= 10 else ""
        name = name[: MAX_NAME_CHARS - len(keep)].rstrip() + keep
    return name or UNNAMED


def download_name(name: str, media_type: str) -> str:
    """What a file is called when it is saved: never so that opening it would run it."""
    endings = _ENDINGS.get(media_type, _TEXT_ENDINGS)
    stem, dot, ending = name.rpartition(".")
    return name if stem and dot and ending.lower() in endings else f"{name}.{endings[0]}"
