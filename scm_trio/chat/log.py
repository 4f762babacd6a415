"""The log of one answer: deltas are appended once, and every viewer reads them with a cursor of its own.

While a viewer's socket is busy its deltas pile up here and nowhere else; they leave together in its next frame.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

import trio

from scm_trio.model import Chunk, Delta, DeltaKind

MAX_DELTA_CHARS = 16_384
"""A longer piece from a provider is split, so that every delta fits into one frame."""


class AnswerLog:
    """Append-only; the position of a delta is its index on the wire.

    Attributes:
        sealed: nothing will be appended any more.
    """

    def __init__(self, max_bytes: int) -> None:
        # The text of delta i ends at _ends[i] of the whole; beside it whether it is reasoning, and when it came.
        self._texts: list[str] = []
        self._whole: str | None = None
        self._ends = array("Q", (0,))
        self._reasoning = bytearray()
        self._appended_at = array("d")
        self._joined = ["", ""]
        self._joined_upto = 0
        self._changed = trio.lowlevel.ParkingLot()
        self._hash = hashlib.sha256()
        self._room_bytes = max_bytes
        self._length = 0
        self.sealed = False

    @property
    def next_index(self) -> int:
        return len(self._reasoning)

    @property
    def length(self) -> int:
        """Code points of the content so far, reasoning not counted."""
        return self._length

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    @property
    def content(self) -> str:
        return self._join()[0]

    @property
    def reasoning(self) -> str:
        return self._join()[1]

    def append(self, deltas: Sequence[Delta], now: float) -> bool:
        """Append; False when the answer has reached its limit and was cut, at a whole character."""
        fits = True
        for delta in deltas:
            reasoning = delta.kind is DeltaKind.REASONING
            for start in range(0, len(delta.text), MAX_DELTA_CHARS):
                whole = delta.text[start : start + MAX_DELTA_CHARS]
                piece = self._fit(whole)
                fits = len(piece) == len(whole)
                if piece:
                    self._texts.append(piece)
                    self._ends.append(self._ends[-1] + len(piece))
                    self._reasoning.append(reasoning)
                    self._appended_at.append(now)
                    if not reasoning:
                        self._length += len(piece)
                        self._hash.update(piece.encode())
                if not fits:
                    break
            if not fits:
                break
        self._changed.unpark_all()
        return fits

    def seal(self) -> None:
        """Nothing more will come. What stays is kept small: an ended answer waits here for viewers who return."""
        self._join()
        self._whole = "".join(self._texts)
        self._texts.clear()
        self.sealed = True
        self._changed.unpark_all()

    def take(self, cursor: int, max_chars: int) -> Chunk | None:
        """Everything of one kind from ``cursor`` on, at most about ``max_chars``; None when there is nothing newer.

        The first delta always comes whole: a delta has one index.
        """
        if cursor >= self.next_index:
            return None
        kind, limit = self._reasoning[cursor], self._ends[cursor] + max_chars
        end = cursor + 1
        while end < self.next_index and self._reasoning[end] == kind and self._ends[end + 1] <= limit:
            end += 1
        whole, ends = self._whole, self._ends
        return Chunk(
            index=cursor,
            next_index=end,
            text="".join(self._texts[cursor:end]) if whole is None else whole[ends[cursor] : ends[end]],
            reasoning=bool(kind),
            appended_at=self._appended_at[cursor],
        )

    def nudge(self) -> None:
        """Let every waiting viewer look again."""
        self._changed.unpark_all()

    async def wait(self, cursor: int) -> None:
        """Return when there is something newer than ``cursor``, when the log is sealed, or after a nudge."""
        if cursor >= self.next_index and not self.sealed:
            await self._changed.park()

    def _fit(self, piece: str) -> str:
        """As much of the piece as there is room for, which is then taken."""
        size = len(piece) if piece.isascii() else len(piece.encode())
        if size > self._room_bytes:
            piece = piece.encode()[: self._room_bytes].decode(errors="ignore")
            size = self._room_bytes
        self._room_bytes -= size
        return piece

    def _join(self) -> list[str]:
        """Content and reasoning so far; only what is new since the last time has to be joined."""
        for kind in (0, 1):
            new = [
                text
                for at, text in enumerate(self._texts[self._joined_upto :], self._joined_upto)
                if self._reasoning[at] == kind
            ]
            self._joined[kind] += "".join(new)
        self._joined_upto = self.next_index
        return self._joined
