"""What a client knows of an answer, and what it asked: the reference reading of the wire contract. Pure."""

from __future__ import annotations

import hashlib
from typing import Any

from attrs import define, field

Message = dict[str, Any]


class Gap(Exception):
    """A frame does not go on from anything that this client has."""


@define(eq=False)
class Ask:
    """One question, as its user knows it, whichever device asked.

    Attributes:
        message_id: the answer's, once the server has told it.
        user_message_id: the stored question's, likewise.
        answers_again: it repeats a question that is stored already, and adds none of its own (regenerateOf).
    """

    user: str
    session_id: str
    question: str
    request_id: str | None
    streaming: bool = True
    options: Message = field(factory=dict)
    message_id: str | None = None
    user_message_id: str | None = None
    times_sent: int = 0

    @property
    def answers_again(self) -> bool:
        return "regenerateOf" in self.options

    def request(self) -> Message:
        """The CHAT_REQUEST."""
        data = {"message": self.question, **self.options}
        if not self.streaming:
            data["streaming"] = False
        request = {"type": "CHAT_REQUEST", "sessionId": self.session_id, "data": data}
        return request if self.request_id is None else {**request, "requestId": self.request_id}


@define(eq=False)
class Copy:
    """A device's copy of one answer; it outlives connections.

    Attributes:
        rev: the attempt that the text belongs to.
        cursor: the next delta that is wanted.
        end: the data of its END or CHAT_RESPONSE, once it has come.
    """

    rev: int = 0
    cursor: int = 0
    end: Message | None = None
    _text: str = ""
    _lengths: dict[int, int] = field(factory=lambda: {0: 0})

    def restart(self, rev: int) -> None:
        """Forget the text: everything comes again."""
        self.rev, self.cursor, self._text, self._lengths = rev, 0, "", {0: 0}

    def take(self, data: Message) -> None:
        """Take a DATA frame that goes on from the cursor, or repeats what is there: a running answer may be shown unasked
        from its beginning before a resume is answered.

        Raises:
            Gap: it does neither, or it repeats something else.
        """
        index, next_index, text = data["index"], data["nextIndex"], data["content"]
        begin = self._lengths.get(index)
        if begin is None or index > self.cursor:
            raise Gap(f"a frame from {index}, there is text up to {self.cursor}")
        is_known = next_index <= self.cursor
        there = self._text[begin : begin + len(text)] if is_known else self._text[begin:]
        if not text.startswith(there) or (is_known and there != text):
            raise Gap(f"the frame from {index} says something else than before")
        self._lengths[next_index] = begin + len(text)
        if not is_known:
            self.cursor, self._text = next_index, self._text[:begin] + text

    @property
    def positions(self) -> list[int]:
        """Where a frame has ended, so that a resume may go on from there."""
        return sorted(self._lengths)

    @property
    def text(self) -> str:
        return self._text

    @property
    def sha256(self) -> str:
        return digest(self._text)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def brief(message: Message) -> str:
    """A message in a few words, without its texts."""
    data = message.get("data")
    words = [message["type"], message.get("requestId") or "-"]
    if isinstance(data, dict):
        keys = (
            *("messageId", "index", "nextIndex", "rev", "resumed", "reset"),
            *("finishReason", "length", "fromIndex", "code"),
        )
        words += [f"{key}={data[key]}" for key in keys if key in data]
    if "error" in message:
        words.append(message["error"]["code"])
    return " ".join(words)
