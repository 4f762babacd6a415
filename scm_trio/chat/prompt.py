"""What the model is told: the branch of the conversation, trimmed to the model's context. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from scm_trio.errors import ContextTooLong
from scm_trio.model import Message, Prompt, Turn

TURN_OVERHEAD_TOKENS = 4
"""Role marks and separators around each turn."""
IMAGE_TOKENS = 1600
"""An image, whatever its size: vendors scale large ones down until they count about so many, and less for small ones.
Trimming too much history costs little, a prompt beyond the context costs the answer."""
ANSWER_SHARE = 4
"""An answer without a limit of its own gets one part in this many of the context."""


def estimate_tokens(text: str) -> int:
    """A rough count without a tokenizer: four ASCII characters a token, one other character a token.

    On the safe side for Chinese, Japanese and Korean; used for trimming and where a provider tells no usage.
    """
    wide = sum(1 for char in text if char > "\x7f")
    return wide + -(-(len(text) - wide) // 4)


def estimate_turns(turns: Iterable[Turn]) -> int:
    """Tokens of a whole prompt, the marks around its turns included."""
    return sum(map(_cost, turns))


def build_turns(
    system: str | None,
    history: Sequence[Message],
    question: str,
    *,
    context_tokens: int | None,
    max_tokens: int | None,
) -> tuple[Turn, ...]:
    """System prompt, as much of the newest history as fits, and the question.

    History is dropped from its oldest end, and never so that it would begin with an answer.

    Raises:
        ContextTooLong: not even the question fits.
    """
    head = (Turn("system", system),) if system else ()
    tail = Turn("user", question)
    past = [Turn(message.role, message.content) for message in history if message.content]
    if context_tokens is not None:
        past = _newest_that_fit(past, context_tokens, max_tokens, (*head, tail))
    while past and past[0].role == "assistant":
        past = past[1:]
    return (*head, *past, tail)


def fits(prompt: Prompt, context_tokens: int) -> bool:
    """Whether a prompt that was built for another model leaves this context room for an answer."""
    return estimate_turns(prompt.turns) <= context_tokens - _answer_room(prompt.max_tokens, context_tokens)


def _answer_room(max_tokens: int | None, context_tokens: int) -> int:
    return min(max_tokens or context_tokens // ANSWER_SHARE, context_tokens // 2)


def _newest_that_fit(
    past: Sequence[Turn], context_tokens: int, max_tokens: int | None, fixed: Sequence[Turn]
) -> list[Turn]:
    room = context_tokens - _answer_room(max_tokens, context_tokens) - estimate_turns(fixed)
    if room < 0:
        raise ContextTooLong(f"the question alone passes {context_tokens} tokens")
    kept: list[Turn] = []
    for turn in reversed(past):
        room -= _cost(turn)
        if room < 0:
            break
        kept.append(turn)
    return kept[::-1]


def _cost(turn: Turn) -> int:
    return estimate_tokens(turn.content) + IMAGE_TOKENS * len(turn.images) + TURN_OVERHEAD_TOKENS
