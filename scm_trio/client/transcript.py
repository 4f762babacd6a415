"""One answer put together from its frames, and checked: pure, no clock and no network."""

from __future__ import annotations

from hashlib import sha256

from attrs import define, field

from scm_trio.client.failures import Diverged
from scm_trio.protocol import messages


@define
class Transcript:
    """What an answer says so far.

    Every method raises ``Diverged`` where a frame does not go on from what is held.
    """

    message_id: str | None = None
    rev: int = 0
    next_index: int = 0
    _text: list[str] = field(factory=list, repr=False)
    _reasoning: list[str] = field(factory=list, repr=False)

    @property
    def text(self) -> str:
        return "".join(self._text)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    def begin(self, start: messages.ChatStreamStart) -> None:
        """Take a START: the first one, one that goes on (``resumed``), or one that starts anew (``reset``)."""
        if self.message_id is None or start.reset:
            self.message_id, self.rev, self.next_index = start.message_id, start.rev, 0
            self._text.clear()
            self._reasoning.clear()
            return
        self._same_answer(start.message_id, start.rev)

    def add(self, data: messages.ChatStreamData) -> None:
        self._same_answer(data.message_id, data.rev)
        if data.index != self.next_index or data.next_index < data.index:
            raise Diverged(data.message_id, f"index {data.index} came where {self.next_index} was due")
        self.next_index = data.next_index
        self._text.append(data.delta)
        if data.reasoning:
            self._reasoning.append(data.reasoning)

    def verify(self, end: messages.ChatStreamEnd) -> None:
        """Compare the text with the server's own account of it."""
        self._same_answer(end.message_id, end.rev)
        text = self.text
        if len(text) != end.length:
            raise Diverged(end.message_id, f"{len(text)} code points are here, {end.length} were sent")
        if sha256(text.encode()).hexdigest() != end.sha256:
            raise Diverged(end.message_id, "the checksum differs")

    def _same_answer(self, message_id: str, rev: int) -> None:
        if self.message_id is None:
            raise Diverged(message_id, "it has no START")
        if message_id != self.message_id:
            raise Diverged(self.message_id, f"a frame of {message_id} came in between")
        if rev != self.rev:
            raise Diverged(message_id, f"revision {rev} came without a reset, this is {self.rev}")
