"""What a terminal is shown and how it interrupts: text from elsewhere never reaches it raw."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import Literal, TextIO

import trio
from rich.console import Console

Interrupts = Callable[[], AbstractContextManager[AsyncIterator[int]]]
"""Opens a stream of interrupts, one item for every Ctrl-C."""

_REMOVED = {
    # Control characters but newline and tab: they move the cursor, ring, rename the window, answer as the keyboard.
    **dict.fromkeys(set(range(0x20)) - {0x09, 0x0A}),
    **dict.fromkeys(range(0x7F, 0xA0)),
    # Embeddings, overrides and isolates of writing direction: they show a line in another order than it has.
    **dict.fromkeys(range(0x202A, 0x202F)),
    **dict.fromkeys(range(0x2066, 0x206A)),
    # Line and paragraph separators, which some terminals take for a new line.
    0x2028: "\n",
    0x2029: "\n",
}


def harmless(text: str) -> str:
    """Text that a terminal only displays: without control and escape characters and direction overrides.

    It works character by character, so an escape sequence that is cut across two pieces is taken apart as well.
    """
    return text.translate(_REMOVED)


class Screen:
    """Answers go to standard output, everything said about them to standard error."""

    def __init__(self, *, color: bool = True, output: TextIO | None = None, errors: TextIO | None = None) -> None:
        system: Literal["auto"] | None = "auto" if color else None
        self.output = Console(file=output or sys.stdout, color_system=system, highlight=False)
        self.errors = Console(file=errors or sys.stderr, color_system=system, highlight=False)

    def say(self, text: str) -> None:
        """A piece of an answer, as it comes."""
        self.output.out(harmless(text), end="", highlight=False)

    def think(self, text: str) -> None:
        """A piece of a model's reasoning."""
        self.errors.out(harmless(text), end="", style="dim", highlight=False)

    def end_line(self) -> None:
        self.output.out("", highlight=False)

    def note(self, text: str) -> None:
        """One line about what happens."""
        self.errors.out(one_line(text), style="dim", highlight=False)

    def error(self, text: str) -> None:
        """One line about what went wrong."""
        self.errors.out(one_line(text), style="red", highlight=False)


def one_line(text: str) -> str:
    return " ".join(harmless(text).split())


def ctrl_c() -> AbstractContextManager[AsyncIterator[int]]:
    """Take SIGINT as something to be read, in place of a KeyboardInterrupt."""
    return trio.open_signal_receiver(signal.SIGINT)
