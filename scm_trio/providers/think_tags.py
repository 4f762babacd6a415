"""Thinking that a model writes into its text, between ``<think>`` and ``</think>`` at the beginning. No clock, no network."""

from __future__ import annotations

from scm_trio.model import DeltaKind

_OPEN, _CLOSE = "<think>", "</think>"

Pieces = list[tuple[DeltaKind, str]]


class ThinkTags:
    """Tells the thinking of one answer from its text, cut anywhere. Tags further on in the text are text.

    Attributes:
        is_over: what follows is text, and need not be fed any more.
    """

    def __init__(self) -> None:
        self.is_over = False
        self._kind: DeltaKind | None = None  # of what is being read; None: the beginning, which may be a part of a tag
        self._is_blank = True  # white space after a tag belongs to nothing
        self._held = ""

    def feed(self, text: str) -> Pieces:
        """Return what can be told of the text so far."""
        self._held += text
        pieces: Pieces = []
        if self._kind is None:
            self._begin()
        if self._kind is DeltaKind.REASONING:
            self._think(pieces)
        if self._kind is DeltaKind.TEXT:
            self._speak(pieces)
        return pieces

    def close(self) -> Pieces:
        """Return what was held back; the answer is over."""
        held, self._held, self.is_over = self._held, "", True
        return [(self._kind or DeltaKind.TEXT, held)] if held else []

    def _begin(self) -> None:
        start = self._held.lstrip()
        if start.startswith(_OPEN):
            self._kind, self._held = DeltaKind.REASONING, start.removeprefix(_OPEN)
        elif not _OPEN.startswith(start):
            self._kind, self._is_blank = DeltaKind.TEXT, False

    def _think(self, pieces: Pieces) -> None:
        self._skip_blank()
        thought, closed, rest = self._held.partition(_CLOSE)
        if closed:
            self._kind, self._held, self._is_blank = DeltaKind.TEXT, rest, True
        else:
            # The end may be the beginning of the tag.
            kept = next(size for size in range(len(_CLOSE) - 1, -1, -1) if thought.endswith(_CLOSE[:size]))
            thought, self._held = thought[: len(thought) - kept], thought[len(thought) - kept :]
        if thought:
            pieces.append((DeltaKind.REASONING, thought))

    def _speak(self, pieces: Pieces) -> None:
        self._skip_blank()
        if self._held:
            pieces.append((DeltaKind.TEXT, self._held))
            self._held, self.is_over = "", True

    def _skip_blank(self) -> None:
        if self._is_blank:
            self._held = self._held.lstrip()
            self._is_blank = not self._held
