"""What is fixed when a side question is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from attrs import field, frozen

from scm_trio.model import Turn


@frozen
class Aside:
    """A small question to a model about an answer, outside of its conversation.

    Attributes:
        kind: what it is good for.
        user_id: who pays.
        session_id: the global id of the session that it is about.
        answer_id: the answer that it is about.
        provider: who should be asked, and
        model: for what; the default ones where they are not on offer.
        turns: what is asked.
        max_tokens: of the model's text and thinking.
        is_enough: whether a text so far is all that is needed.
    """

    kind: Literal["title", "suggestions"]
    user_id: str
    session_id: str
    answer_id: str
    provider: str | None
    model: str | None
    turns: tuple[Turn, ...] = field(repr=False)
    max_tokens: int
    is_enough: Callable[[str], bool]
