"""What the model is asked for a title, and what its text is worth as one. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from scm_trio.chat.side_text import cut, lang_of, plain_line, transcript, without_thinking
from scm_trio.model import Message, Turn

MAX_TITLE_CHARS = 30
MAX_SAID_CHARS = 60
"""Longer than that it is no title but an answer, and is not cut to one."""
MESSAGE_CHARS = 500
"""Of the question and of the answer, that the model is shown."""
MAX_COMMON_CHARS = 6
"""What is longer and stands in our own instruction is a piece of that."""
ENOUGH_CHARS = 400
"""A model that has not come to a title by then does not do so."""

_ASKED = {
    "en": "Write a short title for this conversation, in its own language, of at most five words. "
    "Answer with the title alone.",
    "zh": "为这段对话起一个简短的标题，不超过十五个字。只回答标题本身。",
}
_LABEL = re.compile(
    r"^(?:(?:short |chat |conversation )?title|subject|topic|标题|题目|主题)\s*(?:is|[:：—-])\s*", re.IGNORECASE
)
_TURN = re.compile(r"^(?:user|assistant|human|ai|system|用户|助手|系统)\s*[:：]", re.IGNORECASE)
_TALK = re.compile(
    r"^(?:(?:i|i['’]\w+|you|you['’]re|we|let['’]s|sorry|sure|certainly|of course|here (?:is|are)|as an ai|as a language)\b|"
    r"[我你您]|抱歉|对不起|很抱歉|作为一个|作为人工|好的|当然|以下是)",
    re.IGNORECASE,
)
"""Somebody who speaks to somebody writes no title."""
_EMPTY_WORDS = {
    "title",
    "untitled",
    "none",
    "n/a",
    "null",
    "标题",
    "无标题",
    "conversation",
    "chat",
    "new chat",
    "对话",
    "新对话",
}
_END = " .。,，;；:：!！、…-–—"


def title_turns(said: Sequence[Message]) -> tuple[Turn, ...]:
    """The prompt for the title of a conversation that begins like this."""
    lang = lang_of([message.content for message in said])
    end = "标题：" if lang == "zh" else "Title:"
    return (Turn("user", f"{transcript(said, lang, MESSAGE_CHARS)}\n\n---\n{_ASKED[lang]}\n\n{end}"),)


def is_enough(text: str) -> bool:
    """Whether there is nothing to wait for any more: the line is complete, or it will never be one."""
    said = without_thinking(text)
    complete, _, _ = said.rpartition("\n")
    return len(said) > ENOUGH_CHARS or bool(_lines(complete))


def title_from(text: str, question: str) -> str | None:
    """The title in a model's text; None where there is none that is of use.

    Args:
        text: what the model said.
        question: what the conversation began with.
    """
    lines = _lines(without_thinking(text))
    if not lines:
        return None
    title = plain_line(_LABEL.sub("", lines[0])).strip(_END)
    return cut(title, MAX_TITLE_CHARS) if _is_title(title, question) else None


def title_of(question: str) -> str | None:
    """A title without a model: the first words of the question; None where it has none."""
    lines = [line.strip(_END) for line in map(plain_line, question.splitlines())]
    first = next((line for line in lines if any(char.isalnum() for char in line)), "")
    return cut(first, MAX_TITLE_CHARS) or None


def _lines(text: str) -> list[str]:
    """Those that say something, and do not just announce it: "Here is a title:"."""
    lines = [plain_line(line) for line in text.splitlines()]
    return [line for line in lines if any(char.isalnum() for char in line) and line[-1] not in ":："]


def _is_title(title: str, question: str) -> bool:
    if not any(char.isalnum() for char in title) or len(title) > MAX_SAID_CHARS:
        return False
    if title.casefold() in _EMPTY_WORDS or _TURN.match(title) or _TALK.match(title):
        return False
    return not _repeats_prompt(title, question) and not _goes_round(title)


def _repeats_prompt(title: str, question: str) -> bool:
    """It says what it was asked to do, or the whole of a long question again."""
    folded = title.casefold()
    if len(folded) > MAX_COMMON_CHARS and any(folded in asked.casefold() for asked in _ASKED.values()):
        return True
    whole = plain_line(question).strip(_END).casefold()
    return len(title) > MAX_TITLE_CHARS and whole.startswith(folded)


def _goes_round(title: str) -> bool:
    """Small models say the same word again and again."""
    words = title.casefold().split()
    return len(words) > 3 and len(set(words)) * 2 <= len(words)
