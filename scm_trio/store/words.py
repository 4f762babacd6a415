"""Texts as words for the full text search, the same for both databases. Pure.

A text becomes its words with one space between them: without upper case, accents and full width, and with every
character of a script that puts no spaces between words as a word of its own. So a phrase of Chinese characters of any
length is found, and a term of letters finds every word that begins with it. An emoji is a word, too.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from html import escape
from itertools import accumulate

from attrs import frozen

from scm_trio.errors import InvalidMessage

MAX_QUERY_CHARS = 200
MAX_TERMS = 10
BEFORE_CHARS = 40
"""What a snippet shows before its first match,"""
SNIPPET_CHARS = 160
"""and in all."""

_WINDOW_CHARS = 8192
_OVERLAP_CHARS = 1024
"""Longer than any match can be."""

_UNSPACED = re.compile(
    "["
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Burmese, Khmer
    "\u1100-\u11ff\ua960-\ua97f\uac00-\ud7ff"  # Korean: its words are spaced, but grow at their ends
    "\u2e80-\u2fdf\u3005-\u3007\u3040-\u318f\u31a0-\u31bf\u31f0-\u31ff"  # kana, bopomofo, radicals
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese characters
    "]"
)
_ACCENTS = re.compile("[\u0300-\u036f]")
_VARIANTS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
"""Selectors behind an emoji or a Chinese character."""
_TERMS = re.compile(r'["“”„]([^"“”„]*)["“”„]|([^\s"“”„]+)')


@frozen
class Term:
    """Words that have to follow one another; a text also matches with a longer last word if ``is_prefix``."""

    words: tuple[str, ...]
    is_prefix: bool

    @property
    def pattern(self) -> str:
        """What is found in `` words of a text `` with a space at both ends exactly if the text matches."""
        return f" {' '.join(self.words)}{'' if self.is_prefix else ' '}"

    @property
    def expression(self) -> str:
        """The same as a regular expression, with any number of spaces between two words."""
        return f"{' +'.join(map(re.escape, self.words))}{'[^ ]*' if self.is_prefix else ''}"


def normalised(text: str) -> str:
    """The words of a text."""
    return " ".join(text.translate(_FOLDED).split())


def parse_query(text: str) -> tuple[Term, ...]:
    """The terms of a query, all of which have to match: what stands between spaces, or between quotation marks.

    Nothing is left of punctuation.

    Raises:
        InvalidMessage: it is too long.
    """
    if len(text) > MAX_QUERY_CHARS:
        raise InvalidMessage(field="q", expected="too_long")
    found = [normalised(quoted or plain).split() for quoted, plain in _TERMS.findall(text)]
    terms = dict.fromkeys(Term(tuple(words), not _UNSPACED.match(words[-1])) for words in found if words)
    if len(terms) > MAX_TERMS:
        raise InvalidMessage(field="q", expected="too_long")
    return tuple(terms)


def snippet(text: str, terms: Sequence[Term]) -> str:
    """The part of a text around its first match, as HTML: escaped, with the matches between ``<mark>`` tags."""
    spans = _matches(text, terms)
    start = spans[0][0] if spans else 0
    begin = max(0, min(start - BEFORE_CHARS, len(text) - SNIPPET_CHARS))
    end = min(len(text), begin + SNIPPET_CHARS)
    pieces = ["…" if begin else ""]
    at = begin
    for first, last in spans:
        if first < end:
            pieces += [escape(text[at:first]), "<mark>", escape(text[first : min(last, end)]), "</mark>"]
            at = min(last, end)
    return "".join([*pieces, escape(text[at:end]), "…" if end < len(text) else ""])


def _matches(text: str, terms: Sequence[Term]) -> list[tuple[int, int]]:
    """Where the first match stands, and those in its neighbourhood."""
    # The longest first: of two that begin at the same word it is taken.
    patterns = sorted((each.expression for each in terms), key=len, reverse=True)
    expression = re.compile(f"(?<= )(?:{'|'.join(patterns)})(?= )")
    for offset in range(0, len(text), _WINDOW_CHARS):
        spans = _matches_in(text[offset : offset + _WINDOW_CHARS + _OVERLAP_CHARS], expression, is_first=not offset)
        if spans:
            return [(offset + first, offset + last) for first, last in spans]
    return []


def _matches_in(text: str, expression: re.Pattern[str], *, is_first: bool) -> list[tuple[int, int]]:
    pieces = [_FOLDED[ord(char)] for char in text]
    # Only at the beginning of the text is it certain that no word is cut.
    pieces[0] = f" {pieces[0]}" if is_first else pieces[0]
    ends = list(accumulate(map(len, pieces)))
    found = expression.finditer(f"{''.join(pieces)} ")
    return [(bisect_right(ends, each.start()), bisect_left(ends, each.end()) + 1) for each in found]


class _Folding(dict[int, str]):
    """For ``str.translate``: what each character becomes, computed when it is first met."""

    def __missing__(self, code: int) -> str:
        self[code] = "".join(map(_spaced, _folded(chr(code))))
        return self[code]


def _folded(char: str) -> str:
    plain = _ACCENTS.sub("", unicodedata.normalize("NFKD", char))
    return unicodedata.normalize("NFKC", plain.casefold())


def _spaced(char: str) -> str:
    kind = unicodedata.category(char)
    if _UNSPACED.match(char) or kind == "So":
        return f" {char} "
    if kind == "Cf" or _VARIANTS.match(char):
        return ""
    return char if kind[0] in "LNM" else " "


_FOLDED = _Folding()
