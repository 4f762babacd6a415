"""What the three forms of an export have in common. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from attrs import define, field, frozen

from scm_trio.protocol.messages import SessionInfo, StoredMessage
from scm_trio.protocol.texts import Lang

UNTITLED = "chat"


@frozen
class Occasion:
    """What an export is about: the session, when it was asked for, and in whose language."""

    session: SessionInfo
    exported_at: str
    lang: Lang

    @property
    def title(self) -> str:
        return self.session.title or self.session.session_id


class Renderer(Protocol):
    """Makes the text of a file piece by piece: the head, any number of pages of messages, the tail."""

    @property
    def media_type(self) -> str: ...

    @property
    def ending(self) -> str:
        """Of the file's name, without the dot."""

    def head(self) -> str: ...

    def page(self, messages: Sequence[StoredMessage]) -> str: ...

    def tail(self) -> str: ...


@define
class Numbers:
    """Counts messages, so that one that does not follow the one before it can say which one it follows."""

    _numbers: dict[str, int] = field(factory=dict, init=False)
    _newest: str | None = field(default=None, init=False)

    def next(self, message: StoredMessage) -> tuple[int, int | None]:
        """Return the message's number, and that of the one it follows where it is not simply the one above."""
        number = self._numbers[message.message_id] = len(self._numbers) + 1
        parent, above = message.parent_message_id, self._newest
        self._newest = message.message_id
        return number, None if parent == above or parent is None else self._numbers.get(parent)


LABELS: dict[str, tuple[str, str]] = {
    "user": ("用户", "User"),
    "assistant": ("助手", "Assistant"),
    "reasoning": ("思考过程", "Reasoning"),
    "attachments": ("附件", "Attachments"),
    "reply": ("接第 {number} 条", "follows no. {number}"),
    "system": ("系统提示词", "System prompt"),
    "exported": ("导出于 {time}", "Exported {time}"),
}


def say(key: str, lang: Lang, **values: object) -> str:
    return LABELS[key][1 if lang == "en" else 0].format(**values)


def speaker(message: StoredMessage, lang: Lang) -> str:
    """Who speaks: the user by name, the assistant by its model."""
    name = message.user_id if message.role == "user" else message.model
    return say(message.role, lang) + (f" · {name}" if name else "")


def moment(timestamp: str) -> str:
    """``2026-01-02T03:04:05.678Z`` -> ``2026-01-02 03:04:05 UTC``."""
    return f"{timestamp[:10]} {timestamp[11:19]} UTC"


def size(count: int) -> str:
    """Bytes, for people."""
    if count < 1024:
        return f"{count} B"
    return f"{count / 1024:.1f} KiB" if count < 1_048_576 else f"{count / 1_048_576:.1f} MiB"
