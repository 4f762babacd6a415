"""What is fixed when a run begins."""

from __future__ import annotations

from attrs import field, frozen

from scm_trio.model import AnswerInfo


@frozen
class Deadlines:
    """Seconds; each has one meaning of its own. The connect timeout is the provider's."""

    first_token_s: float
    idle_s: float
    total_s: float


@frozen
class Question:
    """What is asked, and where in the conversation."""

    text: str = field(repr=False)
    parent_id: str | None
    """None: go on from the newest message."""
    system_prompt: str | None = field(repr=False)
    temperature: float | None
    max_tokens: int | None


@frozen
class Plan:
    """Everything that is fixed when a run begins."""

    info: AnswerInfo
    question: Question
    context_tokens: int | None
    user_id: str
    session_id: str
    """As the asker calls it."""
    conversation_id: str
    streaming: bool
    deadlines: Deadlines
    orphan_grace_s: float | None
    """None: goes on without viewers until it is done."""
    max_bytes: int
