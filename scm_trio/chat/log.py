"""The log of one answer: deltas are appended once, and every viewer reads them with a cursor of its own.

While a viewer's socket is busy its deltas pile up here and nowhere else; they leave together in its next frame.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import trio

from scm_trio.model import Chunk, Delta, DeltaKind

MAX_DELTA_CHARS = 65_536
"""A longer piece from a provider is split, so that every delta fits into one frame."""


class AnswerLog:
    """Append-only; the position of a delta is its index on the wire.

    Attributes:
        sealed: nothing will be appended any more.
    """

    def __init__(self, max_bytes: int) -> None:
        self._texts: list[str] = []
        self._reasoning: list[bool] = []
        self._appended_at: list[float] = []
        self._changed = trio.lowlevel.ParkingLot()
        self._hash = hashlib.sha256()
        self._room_bytes = max_bytes
        self._length = 0
        self.sealed = False

    @property
    def next_index(self) -> int:
        return len(self._texts)

    @property
    def length(self) -> int:
        """Code points of the content so far, reasoning not counted."""
        return self._length

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    @property
    def content(self) -> str:
        return self._join(reasoning=False)

    @property
    def reasoning(self) -> str:
        return self._join(reasoning=True)

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
        self.sealed = True
        self._changed.unpark_all()

    def take(self, cursor: int, max_chars: int) -> Chunk | None:
        """Everything of one kind from ``cursor`` on, at most about ``max_chars``; None when there is nothing newer.

        The first delta always comes whole: a delta has one index.
        """
        if cursor >= len(self._texts):
            return None
        reasoning = self._reasoning[cursor]
        end, chars = cursor, 0
        while end < len(self._texts) and self._reasoning[end] is reasoning:
            chars += len(self._texts[end])
            if chars > max_chars and end > cursor:
                break
            end += 1
        return Chunk(
            index=cursor,
            next_index=end,
            text="".join(self._texts[cursor:end]),
            reasoning=reasoning,
            appended_at=self._appended_at[cursor],
        )

    def nudge(self) -> None:
        """Let every waiting viewer look again."""
        self._changed.unpark_all()

    async def wait(self, cursor: int) -> None:
        """Return when there is something newer than ``cursor``, when the log is sealed, or after a nudge."""
        if cursor >= len(self._texts) and not self.sealed:
            await self._changed.park()

    def _fit(self, piece: str) -> str:
        """As much of the piece as there is room for, which is then taken."""
        size = len(piece) if piece.isascii() else len(piece.encode())
        if size > self._room_bytes:
            piece = piece.encode()[: self._room_bytes].decode(errors="ignore")
            size = self._room_bytes
        self._room_bytes -= size
        return piece

    def _join(self, *, reasoning: bool) -> str:
        return "".join(text for text, kind in zip(self._texts, self._reasoning, strict=True) if kind is reasoning)
