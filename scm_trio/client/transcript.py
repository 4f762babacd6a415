"""One answer put together from its frames, and checked: pure, no clock and no network."""

from __future__ import annotations

from hashlib import sha256

from attrs import define, evolve, field

from scm_trio.client.failures import Diverged
from scm_trio.protocol import messages

Place = tuple[int, int]
"""Where in the answer: code points of its text, and of its reasoning."""


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
    _end: Place = (0, 0)
    # Where frames may begin that tell again what is held: the places that were asked for, and where the last one ended.
    _asked: dict[int, Place] = field(factory=lambda: {0: (0, 0)}, repr=False)
    _followed: tuple[int, Place] = (0, (0, 0))

    @property
    def text(self) -> str:
        return "".join(self._text)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    def begin(self, start: messages.ChatStreamStart) -> None:
        """Take a START: the first one, one that goes on (``resumed``), or one that starts anew (``reset``)."""
        if self.message_id is None or start.reset:
            self.message_id, self.rev = start.message_id, start.rev
            self.rewind()
            return
        self._same_answer(start.message_id, start.rev)

    def rewind(self) -> None:
        """Forget the text: everything will come again."""
        self._text.clear()
        self._reasoning.clear()
        self.next_index, self._end = 0, (0, 0)
        self._asked, self._followed = {0: (0, 0)}, (0, (0, 0))

    def add(self, data: messages.ChatStreamData) -> None:
        """Take the frame that follows."""
        self._same_answer(data.message_id, data.rev)
        if data.index != self.next_index or data.next_index < data.index:
            raise Diverged(data.message_id, f"index {data.index} came where {self.next_index} was due")
        self.next_index = data.next_index
        self._end = _after(self._end, data)
        self._followed = self.next_index, self._end
        self._text.append(data.delta)
        if data.reasoning:
            self._reasoning.append(data.reasoning)

    def ask(self) -> int:
        """Note that the server is asked to go on from here; returns the position."""
        self._asked[self.next_index] = self._end
        return self.next_index

    def merge(self, data: messages.ChatStreamData) -> messages.ChatStreamData | None:
        """Take a frame that may tell again what is held; returns what is new of it, None where nothing is.

        A connection's position in an answer moves: it is told from the beginning to whoever comes in, and CHAT_RESUME
        goes to any place. So one frame may cover several others.
        """
        if data.index == self.next_index:
            self.add(data)
            return data
        self._same_answer(data.message_id, data.rev)
        place = self._followed[1] if data.index == self._followed[0] else self._asked.get(data.index)
        if place is None or data.next_index < data.index:
            raise Diverged(data.message_id, f"index {data.index} came where {self.next_index} was due")
        new_text = self._beyond(self.text, place[0], data.delta, data.message_id)
        new_reasoning = self._beyond(self.reasoning, place[1], data.reasoning or "", data.message_id)
        self._followed = data.next_index, _after(place, data)
        if data.next_index <= self.next_index:
            if new_text or new_reasoning:
                raise Diverged(data.message_id, f"index {data.index} says more than before")
            return None
        fresh = evolve(data, index=self.next_index, content=new_text, delta=new_text, reasoning=new_reasoning or None)
        self.add(fresh)
        return fresh

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

    @staticmethod
    def _beyond(held: str, begin: int, told: str, message_id: str) -> str:
        """What of ``told``, which stands at ``begin``, goes beyond what is held."""
        known = held[begin : begin + len(told)]
        if not told.startswith(known):
            raise Diverged(message_id, "it says something else than before")
        return told[len(known) :]


def _after(place: Place, data: messages.ChatStreamData) -> Place:
    return place[0] + len(data.delta), place[1] + len(data.reasoning or "")


@define
class Replay:
    """Everything is told again: what readers have got already is held back for as long as it is the same.

    ``text`` and ``reasoning`` are what they got.
    """

    _text: str = field(repr=False)
    _reasoning: str = field(repr=False)

    def extended(self, text: str, reasoning: str) -> Replay:
        """As this one, when readers got meanwhile what goes beyond it."""
        return Replay(max(self._text, text, key=len), max(self._reasoning, reasoning, key=len))

    def agrees(self, transcript: Transcript) -> bool:
        """Whether what is told now is, so far, what readers got; or more, or not all of it yet."""
        return _agree(self._text, transcript.text) and _agree(self._reasoning, transcript.reasoning)

    def is_over(self, transcript: Transcript) -> bool:
        """Whether all of it has been told again."""
        told_text, told_reasoning = len(transcript.text), len(transcript.reasoning)
        return told_text >= len(self._text) and told_reasoning >= len(self._reasoning)

    def news(self, transcript: Transcript, fresh: messages.ChatStreamData) -> messages.ChatStreamData | None:
        """What of the newest frame readers have not got; None: nothing."""
        text = _tail(fresh.delta, len(transcript.text) - len(self._text))
        reasoning = _tail(fresh.reasoning or "", len(transcript.reasoning) - len(self._reasoning))
        if not text and not reasoning:
            return None
        return evolve(fresh, content=text, delta=text, reasoning=reasoning or None)


def _agree(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def _tail(text: str, count: int) -> str:
    """The last ``count`` characters, at most all of them."""
    return text[max(0, len(text) - count) :] if count > 0 else ""
