"""What is stored, as wire messages. Pure.

History, export and pushes all take their shapes from here, so that they cannot differ.
"""

from __future__ import annotations

from typing import Literal, cast

from scm_trio.model import Message, Usage
from scm_trio.protocol import messages
from scm_trio.protocol.codec import timestamp

Status = Literal["sent", "delivered", "read"]


def message(
    stored: Message, session_id: str, status: Status = "sent", *, offline: bool | None = None
) -> messages.StoredMessage:
    """A message as one of its session's members sees it.

    Args:
        stored: the message.
        session_id: as that member calls the session.
        status: how far the message has come.
        offline: True where it came while the member was away.
    """
    return messages.StoredMessage(
        message_id=stored.message_id,
        session_id=session_id,
        conversation_id=stored.conversation_id,
        parent_message_id=stored.parent_id,
        role=cast(Literal["user", "assistant"], stored.role),  # no other is ever stored
        user_id=stored.user_id,
        content=stored.content,
        status=status,
        created_at=timestamp(stored.created_at),
        reasoning=stored.reasoning or None,
        model=stored.model,
        provider=stored.provider,
        finish_reason=stored.finish_reason,
        usage=None if stored.usage is None else usage(stored.usage),
        offline=offline,
    )


def usage(spent: Usage) -> messages.TokenUsage:
    return messages.TokenUsage(
        prompt_tokens=spent.prompt_tokens,
        completion_tokens=spent.completion_tokens,
        reasoning_tokens=spent.reasoning_tokens,
        source=spent.source,
    )
