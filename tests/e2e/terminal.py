"""A program in a terminal of its own: a pseudo-terminal, on which a test types and reads."""

from __future__ import annotations

import codecs
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.process import environment

PATIENCE_S = 60.0
CTRL_C, CTRL_D = "\x03", "\x04"
LOGIN = "import os, sys; os.login_tty(0); os.execv(sys.argv[1], sys.argv[1:])"
"""Only its own, controlling terminal turns what is typed into signals for a program."""


class Terminal:
    """What the program shows is collected in ``shown``."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._screen, keyboard = os.openpty()
        env = {**environment(), "TERM": "dumb", "XDG_STATE_HOME": str(folder), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", LOGIN, *command],
            cwd=folder,
            env=env,
            stdin=keyboard,
            stdout=keyboard,
            stderr=keyboard,
        )
        os.close(keyboard)
        self.shown = ""
        self._seen = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def type(self, text: str) -> None:
        os.write(self._screen, text.encode())

    def until(self, text: str, within_s: float = PATIENCE_S) -> str:
        """Wait until the program shows this; returns what it showed since the last time, up to it."""
        deadline = time.monotonic() + within_s
        while (at := self.shown.find(text, self._seen)) < 0:
            if not self._read(deadline - time.monotonic()):
                raise AssertionError(f"{text!r} was not shown, but:\n{self.shown}")
        begin, self._seen = self._seen, at + len(text)
        return self.shown[begin : self._seen]

    def leave(self, within_s: float = PATIENCE_S) -> int:
        """Wait until the program has ended; returns its exit code."""
        deadline = time.monotonic() + within_s
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(within_s)

    def _read(self, within_s: float) -> bool:
        readable, _, _ = select.select([self._screen], [], [], max(0.0, within_s))
        try:
            data = os.read(self._screen, 65_536) if readable else b""
        except OSError:
            # The other end is closed.
            data = b""
        self.shown += self._decoder.decode(data).replace("\r", "")
        return bool(data)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._screen)


@contextmanager
def terminal(command: Sequence[str], folder: Path) -> Iterator[Terminal]:
    running = Terminal(command, folder)
    try:
        yield running
    finally:
        running.close()
