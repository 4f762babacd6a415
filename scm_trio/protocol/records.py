"""What is stored, as wire messages: a session, a message, a file. Pure.

History, export, pushes and uploads all take their shapes from here, so that they cannot differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

from scm_trio.model import File, Message, Session, Usage
from scm_trio.protocol import messages
from scm_trio.protocol.codec import timestamp

Status = Literal["sent", "delivered", "read"]


def session(
    stored: Session,
    *,
    role: messages.Role = "owner",
    members: Sequence[messages.Member] = (),
    unread: int = 0,
) -> messages.SessionInfo:
    """A session as one of its members sees it.

    Args:
        stored: the session; its ``session_id`` is what this member calls it.
        role: the member's own.
        members: everybody; without any, the owner is alone.
        unread: messages after the member's read marker.
    """
    return messages.SessionInfo(
        session_id=stored.session_id,
        global_id=stored.global_id,
        title=stored.title,
        archived=stored.archived,
        model=stored.model,
        provider=stored.provider,
        system_prompt=stored.system_prompt,
        role=role,
        members=tuple(members) or (messages.Member(messages.Id(stored.owner_id), "owner"),),
        unread=unread,
        created_at=timestamp(stored.created_at),
        updated_at=timestamp(stored.updated_at),
    )


def message(
    stored: Message, session_id: str, status: Status = "sent", *, offline: bool | None = None
) -> messages.StoredMessage:
    """A message as one of its session's members sees it.

    Args:
        stored: the message with its attachments.
        session_id: as that member calls the session.
        status: how far the message has come.
        offline: True where it came while the member was away.
    """
    return messages.StoredMessage(
        message_id=stored.message_id,
        session_id=session_id,
        # A session's own conversation is kept under its global id: what its members call it is theirs to know.
        conversation_id=session_id if stored.conversation_id == stored.session_id else stored.conversation_id,
        parent_message_id=stored.parent_id,
        role=cast(Literal["user", "assistant"], stored.role),  # no other is ever stored
        user_id=stored.user_id,
        content=stored.content,
        status=status,
        created_at=timestamp(stored.created_at),
        attachments=tuple(map(attachment, stored.attachments)),
        reasoning=stored.reasoning or None,
        model=stored.model,
        provider=stored.provider,
        finish_reason=stored.finish_reason,
        usage=None if stored.usage is None else usage(stored.usage),
        offline=offline,
    )


def attachment(stored: File) -> messages.Attachment:
    return messages.Attachment(stored.file_id, stored.name, stored.media_type, stored.size_bytes)


def file(stored: File) -> messages.FileInfo:
    return messages.FileInfo(
        stored.file_id, stored.name, stored.media_type, stored.size_bytes, timestamp(stored.created_at)
    )


def usage(spent: Usage) -> messages.TokenUsage:
    return messages.TokenUsage(
        prompt_tokens=spent.prompt_tokens,
        completion_tokens=spent.completion_tokens,
        reasoning_tokens=spent.reasoning_tokens,
        source=spent.source,
    )
