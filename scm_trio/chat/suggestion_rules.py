"""What the model is asked for follow-up questions, and how they are found in its text. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from scm_trio.chat.side_text import lang_of, plain_line, transcript, without_thinking
from scm_trio.model import Message, Turn

COUNT = 3
MAX_QUESTION_CHARS = 120
"""What is longer is no question that fits on a button."""
MESSAGE_CHARS = 800
"""Of each message, that the model is shown."""
ENOUGH_CHARS = 2000

_ASKED = {
    "en": "Write three short questions that the user could ask next, in the language of this conversation. "
    "One question a line, and nothing else.",
    "zh": "写出用户接下来可能会问的三个简短问题。每行一个问题，不要写别的内容。",
}
_BULLET = re.compile(
    r"^\s*(?:[-*+•·‣▪–—]\s+|\(?\d{1,2}\s*[.)、:：\uff0e）]\s*|[①②③④⑤⑥⑦⑧⑨]\s*|[（(][一二三四五]\s*[）)]\s*|[一二三四五]、\s*)"
)
_LABEL = re.compile(r"^(?:follow-?up )?(?:question|q|问题)\s*\d*\s*[:：.)]\s*", re.IGNORECASE)
_TURN = re.compile(r"^(?:user|assistant|human|ai|system|用户|助手|系统)\s*[:：]", re.IGNORECASE)
_STATEMENT = re.compile(r"[。！!]|\.(?:\s|$)")
_SENTENCE = re.compile(r"[^?？]*[?？]+[\"'”’」』]?")


def suggestion_turns(said: Sequence[Message]) -> tuple[Turn, ...]:
    """The prompt for what could be asked next in this branch."""
    lang = lang_of([message.content for message in said])
    return (Turn("user", f"{transcript(said, lang, MESSAGE_CHARS)}\n\n---\n{_ASKED[lang]}"),)


def is_enough(text: str) -> bool:
    """Whether there is nothing to wait for any more: all lines are complete, or they never will be."""
    said = without_thinking(text)
    complete, _, _ = said.rpartition("\n")
    as_json = said.lstrip().startswith(("[", "{", "`"))
    return len(said) > ENOUGH_CHARS or (not as_json and len(questions_in(complete, ())) >= COUNT)


def questions_in(text: str, asked: Sequence[str]) -> tuple[str, ...]:
    """At most three different questions in a model's text: a JSON array, a list, or one a line.

    Args:
        text: what the model said.
        asked: questions that have been asked already; they are left out.
    """
    text = without_thinking(text)
    if len(text) > ENOUGH_CHARS:
        text = text.rpartition("\n")[0]  # nobody listened to the end of its last line
    seen = {_folded(question) for question in asked}
    found: list[str] = []
    listed = _from_json(text)
    for candidate in _from_lines(text) if listed is None else listed:
        question = plain_line(_LABEL.sub("", plain_line(candidate)))
        folded = _folded(question)
        if folded and folded not in seen and _is_question(question):
            seen.add(folded)
            found.append(question)
    return tuple(found[:COUNT])


def _is_question(text: str) -> bool:
    """One short sentence, with a question mark or none; who makes statements has not understood what was wanted."""
    begins_well = text[0].isalnum() or text[0] in "¿¡"
    return begins_well and len(text) <= MAX_QUESTION_CHARS and not _TURN.match(text) and not _STATEMENT.search(text)


def _from_json(text: str) -> list[str] | None:
    """The texts of a JSON array, however it is wrapped; None where there is no such array."""
    start, end = text.find("["), text.rfind("]")
    if start < 0 or end < start:
        return None
    try:
        value = json.loads(text[start : end + 1])
    except (ValueError, RecursionError):
        return None
    return list(_texts(value))


def _texts(value: Any) -> Iterator[str]:
    """Of an array's entries; of an object, its first text."""
    for each in value if isinstance(value, list) else ():
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict):
            yield from [text for text in each.values() if isinstance(text, str)][:1]


def _from_lines(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if line.strip() and not line.strip().startswith("```")]
    listed = [_BULLET.sub("", line) for line in lines if _BULLET.match(line)]
    if listed:
        return listed
    asking = [line for line in lines if "?" in line or "？" in line]
    if len(asking) == 1:
        return [sentence for sentence in _SENTENCE.findall(asking[0]) if sentence.strip()]
    # A model that writes no question marks may still have written questions; but not what announces them.
    return asking or [line for line in lines if not line.rstrip().endswith((":", "："))]


def _folded(question: str) -> str:
    """What makes two questions the same."""
    return "".join(char for char in question.casefold() if char.isalnum())
