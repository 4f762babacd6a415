"""Texts as words for the full text search, the same for both databases. Pure.

A text becomes its words with one space between them: without upper case, accents and full width, and with every
character of a script that puts no spaces between words as a word of its own. So a phrase of Chinese characters of any
length is found, and a term of letters finds every word that begins with it. An emoji is a word, too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from html import escape
from itertools import chain

from attrs import frozen

from scm_trio.errors import InvalidMessage

MAX_QUERY_CHARS = 200
MAX_TERMS = 10
BEFORE_CHARS = 40
"""What a snippet shows before its first match,"""
SNIPPET_CHARS = 160
"""and in all."""

_PIECE_CHARS = 8192
"""What is looked through character by character to find a place in a text."""

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
    """The part of a text around its first match, as HTML: escaped, with the matches between ``<mark>`` tags.

    Matches are looked for in the text's words, as the search does, however far apart those stand in the text itself.
    """
    matches = _matches(f" {normalised(text)} ", terms)
    first = next(matches, None)
    start, before = (0, 0) if first is None else _place(text, first[0])
    begin = max(0, min(start - BEFORE_CHARS, len(text) - SNIPPET_CHARS))
    end = min(len(text), begin + SNIPPET_CHARS)
    # Which character each of the letters from there on comes from.
    owners = [at for at in range(start, end) for _ in range(_letters(text[at]))]
    pieces = ["…" if begin else ""]
    at = begin
    for opening, closing in chain([first] if first else [], matches):
        if opening - before >= len(owners):
            break
        # Two words of one character, such as those of ½, are marked together.
        opens = max(at, owners[opening - before])
        closes = owners[closing - before] + 1 if closing - before < len(owners) else end
        if opens < closes:
            pieces += [escape(text[at:opens]), "<mark>", escape(text[opens:closes]), "</mark>"]
            at = closes
    return "".join([*pieces, escape(text[at:end]), "…" if end < len(text) else ""])


def _matches(words: str, terms: Sequence[Term]) -> Iterator[tuple[int, int]]:
    """The first and the last letter of each match in normalised words, in order; spaces do not count.

    No word is part of two matches; of those that begin at the same word the longest is taken. Each term is looked for
    once from the beginning to the end, by an algorithm whose time does not grow with the term's length.
    """
    ahead = {term: words.find(term.pattern) for term in terms}
    at = letters = 0
    while ahead := {term: place for term, place in ahead.items() if place >= 0}:
        start = min(ahead.values())
        end = max(_end(words, start, term) for term, place in ahead.items() if place == start)
        opening = letters + _letters_in(words, at, start)
        letters = opening + _letters_in(words, start, end)
        yield opening, letters - 1
        at = end
        ahead = {term: place if place >= end else words.find(term.pattern, end) for term, place in ahead.items()}


def _end(words: str, start: int, term: Term) -> int:
    """Where a match ends: with the word that its last one is the beginning of."""
    return words.index(" ", start + len(term.pattern.rstrip()))


def _letters_in(words: str, start: int, end: int) -> int:
    return end - start - words.count(" ", start, end)


def _place(text: str, letter: int) -> tuple[int, int]:
    """The character that a letter of a text's words comes from, and how many letters stand before that character."""
    at = before = 0
    for step in (_PIECE_CHARS, 1):
        while before + (count := _letters(text[at : at + step])) <= letter:
            at, before = at + step, before + count
    return at, before


def _letters(text: str) -> int:
    return len(text.translate(_FOLDED).replace(" ", ""))


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
