"""What is fixed when a run begins."""

from __future__ import annotations

from collections.abc import Callable

from attrs import field, frozen

from scm_trio.chat.choice import Choice
from scm_trio.model import AnswerInfo, Message, Prompt, Session
from scm_trio.providers.base import Provider


def _as_planned(_: Session) -> None:
    """Sessions change nothing."""


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
    regenerate_of: str | None = None
    """An answer whose question is asked again; ``text`` does not count then."""
    edit_of: str | None = None
    """A question that this one is asked instead of, in the same place."""
    attachments: tuple[str, ...] = ()
    """Ids of files; they do not count either where an answer is given again."""


@frozen
class Plan:
    """Everything that is fixed when a run begins."""

    info: AnswerInfo
    question: Question
    context_tokens: int | None
    user_id: str
    session_id: str
    """As the asker calls it."""
    conversation_id: str | None
    """None: the session's own."""
    streaming: bool
    deadlines: Deadlines
    orphan_grace_s: float | None
    """None: goes on without viewers until it is done."""
    max_bytes: int
    takes_images: bool = False
    """Whether the provider is shown images."""
    choose: Callable[[Session], Choice | None] = _as_planned
    """Who answers instead, where the session has defaults of its own."""


@frozen
class Opened:
    """What is known when a run's question has been stored.

    Attributes:
        prompt: what the model is told.
        session: where it was asked.
        question_id: the question's message.
        plan: the run's, by now suited to the session.
        provider: who answers, where that is not whom the run was begun with.
        asked: the question as it was stored; None where it had been before.
        has_unseen_images: whether the question has images that the model is not shown.
        members: the users who belong to the session.
        created: whether the session had not been there before.
    """

    prompt: Prompt
    session: Session
    question_id: str
    plan: Plan
    provider: Provider | None = None
    asked: Message | None = None
    has_unseen_images: bool = False
    members: tuple[str, ...] = ()
    created: bool = False


@frozen
class Said:
    """An answer that was stored, and the users who belonged to its session then."""

    message: Message
    members: tuple[str, ...]
