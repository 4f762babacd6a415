"""The nouns every layer shares: frozen values without behaviour.

Times are UTC seconds since the epoch (``*_at``) or plain seconds (``*_s``).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import attrs
from attrs import evolve, field, frozen

Role = Literal["system", "user", "assistant"]
MemberRole = Literal["viewer", "member", "owner"]
"""What a member of a session may do, the least first: viewers read, members ask, owners change members and delete."""
MessageStatus = Literal["sent", "delivered", "read"]
UsageSource = Literal["provider", "estimated"]


@frozen
class Principal:
    """Who is on the other side of a connection, as a verified token says."""

    user_id: str
    roles: frozenset[str] = frozenset()
    expires_at: float = float("inf")

    @property
    def is_admin(self) -> bool:
        return "admin" in self.roles


@frozen
class Session:
    """A chat session. ``session_id`` is what its owner, who began it, calls it; ``global_id`` is unique for all users."""

    global_id: str
    session_id: str
    owner_id: str
    title: str | None = None
    model: str | None = None
    provider: str | None = None
    system_prompt: str | None = None
    archived: bool = False
    created_at: float = 0.0
    updated_at: float = 0.0

    def name_for(self, user_id: str) -> str:
        """What a member calls it."""
        return self.session_id if self.owner_id == user_id else self.global_id


@frozen
class Usage:
    """Tokens of one answer. ``prompt_tokens`` holds all input tokens, cached ones included."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cached_tokens: int = 0
    source: UsageSource = "provider"

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@frozen
class File:
    """An uploaded file. ``name`` is a label for people, ``media_type`` is what its content turned out to be."""

    file_id: str
    user_id: str
    """Whoever uploaded it."""
    name: str = field(repr=False)
    media_type: str
    size_bytes: int
    created_at: float = 0.0

    @property
    def is_image(self) -> bool:
        return self.media_type.startswith("image/")

    @property
    def is_text(self) -> bool:
        return self.media_type.startswith("text/") or self.media_type == "application/json"


@frozen
class Message:
    """A stored message, one node of its conversation's tree."""

    message_id: str
    session_id: str
    """The session's global id."""
    conversation_id: str
    parent_id: str | None
    role: Role
    user_id: str
    content: str
    reasoning: str = ""
    model: str | None = None
    provider: str | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    created_at: float = 0.0
    attachments: tuple[File, ...] = ()
    """In the order in which they were attached; filled in by ``store/files.py``."""
    sequence: int = field(default=0, eq=False)
    """Its place in the order of storing, where that is known."""

    def is_news_to(self, user_id: str) -> bool:
        """Whether a user did not say it himself: an answer, or another's question."""
        return self.role == "assistant" or self.user_id != user_id


@frozen
class Image:
    """A picture that goes along with a turn; ``media_type`` is like ``image/png``."""

    media_type: str
    data: bytes = field(repr=False)


@frozen
class Turn:
    """One turn of a prompt."""

    role: Role
    content: str
    images: tuple[Image, ...] = ()


@frozen
class Prompt:
    """Everything a provider needs to answer. Options that are None are left out of the vendor's request."""

    model: str
    turns: tuple[Turn, ...]
    stream: bool = True
    temperature: float | None = None
    max_tokens: int | None = None

    @property
    def has_images(self) -> bool:
        return any(turn.images for turn in self.turns)

    def without_images(self) -> Prompt:
        """The same for who cannot see, which the turns say that had some."""
        return evolve(self, turns=tuple(_unseen(turn) if turn.images else turn for turn in self.turns))


def _unseen(turn: Turn) -> Turn:
    return evolve(turn, content=f"[You cannot see the attached images.]\n\n{turn.content}", images=())


class DeltaKind(StrEnum):
    TEXT = "text"
    REASONING = "reasoning"
    REFUSAL = "refusal"


@frozen
class Delta:
    """A piece of an answer, never empty."""

    text: str
    kind: DeltaKind = DeltaKind.TEXT


@frozen
class ToolCall:
    """A whole tool call of the model, put together from its fragments."""

    call_id: str
    name: str
    arguments: str


class FinishReason(StrEnum):
    """How an answer ended, in the words of the wire (docs/protocol.md, CHAT_STREAM_END)."""

    COMPLETED = "completed"
    LENGTH = "length"
    CONTENT_FILTER = "content_filter"
    TOOL_CALLS = "tool_calls"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"
    TOO_LARGE = "too_large"
    ERROR = "error"


@frozen
class Finish:
    """The provider's own word that its answer is over; ``raw`` is the vendor's term."""

    reason: FinishReason
    raw: str | None = None


@frozen
class Queued:
    """The next provider has no place free for us; until its ``Attempt`` comes nobody is asked."""


@frozen
class Attempt:
    """A provider is about to be asked: at first (``number`` 0), again, or instead of another one.

    Attributes:
        is_blind: the prompt's images are kept from it.
    """

    number: int
    provider: str
    model: str
    is_blind: bool = False


@frozen
class AttemptFailed:
    """The attempt failed; another one or the failure itself follows.

    Attributes:
        code: how it ended, an error code of the wire.
        was_accepted: whether the provider had begun to respond, so that it may charge for the prompt.
        retry_in_s: seconds until the same provider is asked again; None: it is not.
        field: what the failure is about, as in ``RequestFailed``.
        detail: what the vendor said, for logs.
    """

    code: str
    was_accepted: bool = False
    retry_in_s: float | None = None
    field: str | None = attrs.field(default=None, eq=False)
    detail: str = attrs.field(default="", eq=False, repr=False)


@frozen
class Restart:
    """What was said so far counts no more: the attempt that began last says the answer from its beginning."""


ProviderEvent = Delta | ToolCall | Usage | Finish | Queued | Attempt | AttemptFailed | Restart
"""The last four come only from a provider that stands for several attempts."""


@frozen
class AnswerInfo:
    """What is known of an answer when it begins."""

    message_id: str
    user_message_id: str
    request_id: str | None
    model: str
    provider: str


@frozen
class Chunk:
    """Neighbouring deltas of one kind, merged. ``next_index`` - ``index`` says how many they were."""

    index: int
    next_index: int
    text: str
    reasoning: bool
    appended_at: float
    """Monotonic seconds at which the oldest of them came from the provider."""


@frozen
class Ending:
    """How an answer ended.

    Attributes:
        upstream_closed: only on a cancelled answer: whether the provider's connection was closed in time.
        cancel_s: only on a cancelled answer: seconds from the wish to the closed connection.
    """

    reason: FinishReason
    usage: Usage
    duration_s: float
    upstream_closed: bool | None = None
    cancel_s: float | None = None
