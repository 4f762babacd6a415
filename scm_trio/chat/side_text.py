"""What side questions and their answers have in common as texts. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from scm_trio.model import Message
from scm_trio.protocol.texts import Lang

_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]")
_KANA = re.compile("[\u3040-\u30ff]")
_THINKING = re.compile(r"<(think|thinking|reasoning)>.*?(</\1>|$)", re.DOTALL | re.IGNORECASE)
_MARKS = re.compile(r"\*\*|__|~~|`+")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_QUOTES = "\"'\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u00ab\u00bb\u2039\u203a\u3008\u3009\u300a\u300b\u300c\u300d\u300e\u300f\u3010\u3011\uff02\uff07"
"""Straight, curly, angular and Chinese ones."""
_NOT_SHOWN = re.compile("[\u0000-\u001f\u007f-\u009f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_SPEAKERS = {"zh": ("用户", "助手"), "en": ("User", "Assistant")}


def lang_of(texts: Sequence[str]) -> Lang:
    """In which of our two languages to speak with the model about these texts: Chinese where they are Chinese."""
    letters = [char for text in texts for char in text if char.isalpha()]
    han = sum(1 for char in letters if _HAN.match(char))
    kana = sum(1 for char in letters if _KANA.match(char))
    return "zh" if han and not kana and 5 * han >= len(letters) else "en"


def transcript(said: Sequence[Message], lang: Lang, max_chars: int) -> str:
    """A conversation as one text, each message cut to ``max_chars``."""
    user, assistant = _SPEAKERS[lang]
    colon = "：" if lang == "zh" else ": "
    return "\n\n".join(
        f"{assistant if message.role == 'assistant' else user}{colon}{cut(message.content.strip(), max_chars)}"
        for message in said
    )


def without_thinking(text: str) -> str:
    """A model's text without what it thought aloud."""
    return _THINKING.sub("", text)


def plain_line(text: str) -> str:
    """One line for people: no markdown, no control characters, single spaces, no quotation marks around it."""
    text = _MARKS.sub("", _LINK.sub(r"\1", text))
    text = " ".join(_NOT_SHOWN.sub(" ", text).split()).lstrip("#>*•").strip()
    while len(text) > 1 and text[0] in _QUOTES and text[-1] in _QUOTES:
        text = text[1:-1].strip()
    return text


def cut(text: str, max_chars: int) -> str:
    """The beginning of a text, at most so many characters, cut between words and marked with ``…`` where it is cut."""
    if len(text) <= max_chars:
        return text
    kept = text[: max_chars - 1]
    if not text[len(kept)].isspace():
        kept = _whole_words(kept)
    return kept.rstrip(" ,.;:!?，。、；：！？-–—") + "…"


def _whole_words(text: str) -> str:
    """Without the word at the end that was cut, if there is another one before it; Chinese has no such words."""
    head, space, tail = text.rpartition(" ")
    if space and not _HAN.search(tail) and not _KANA.search(tail):
        return head
    # Nothing that belongs to the character before it is left out alone: accents, joiners, skin tones.
    while len(text) > 1 and _joins(text[-1]):
        text = text[:-1]
    return text


def _joins(char: str) -> bool:
    return char == "\u200d" or "\ufe00" <= char <= "\ufe0f" or "\U0001f3fb" <= char <= "\U0001f3ff"
