"""Lines that a person types, or that come through a pipe."""

from __future__ import annotations

import os
import readline
import sys
import termios
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TextIO

import trio

ReadLine = Callable[[str], Awaitable[str | None]]
"""Shows the prompt and returns the next line without its end; None: there are no more."""
OpenLines = Callable[[bool], AbstractContextManager[ReadLine]]
"""Opens the lines; the argument says whether they are remembered."""

HISTORY_LINES = 1000


@contextmanager
def open_lines(history: bool) -> Iterator[ReadLine]:
    """Lines of standard input: with editing and history where it is a terminal."""
    if sys.stdin.isatty():
        with _terminal_as_it_was(sys.stdin.fileno()), _remembered(history_path() if history else None):
            yield from_keyboard
    else:
        with piped(sys.stdin) as read_line:
            yield read_line


def history_path() -> Path:
    """The history file, below the XDG state directory."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "scm-trio" / "chat-history"


async def from_keyboard(prompt: str) -> str | None:
    line = None
    try:
        # Abandoned when the chat ends while somebody sits at the prompt: a thread in ``input`` cannot be woken.
        line = await trio.to_thread.run_sync(_type, prompt, abandon_on_cancel=True)
    finally:
        if line is None:
            # The prompt's line was not ended by a person.
            print(file=sys.stderr)
    return line


def _type(prompt: str) -> str | None:
    try:
        return input(prompt)
    except EOFError:
        return None


@contextmanager
def piped(source: TextIO) -> Iterator[ReadLine]:
    """Lines of a pipe or file; the prompt is not shown."""
    # A file object of its own: an abandoned reader would hold the lock of sys.stdin, which the interpreter wants at exit.
    lines = os.fdopen(os.dup(source.fileno()), encoding="utf-8", errors="replace")
    reading = False

    async def read_line(_prompt: str) -> str | None:
        nonlocal reading
        reading = True
        line = await trio.to_thread.run_sync(lines.readline, abandon_on_cancel=True)
        reading = False
        return line.rstrip("\n") if line else None

    try:
        yield read_line
    finally:
        # While an abandoned reader waits for a line, closing would wait for it.
        if not reading:
            lines.close()


@contextmanager
def _terminal_as_it_was(descriptor: int) -> Iterator[None]:
    # An abandoned readline leaves the terminal without echo.
    state = termios.tcgetattr(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, state)


@contextmanager
def _remembered(path: Path | None) -> Iterator[None]:
    """Load the history and save it at the end; the file is its owner's alone. Without a place for it there is none."""
    readline.set_auto_history(path is not None)
    if path is None:
        yield
        return
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        path.chmod(0o600)
        readline.read_history_file(path)
    try:
        yield
    finally:
        readline.set_history_length(HISTORY_LINES)
        with suppress(OSError):
            readline.write_history_file(path)
            path.chmod(0o600)
