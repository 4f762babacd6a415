"""A server that kills itself at an SQL statement. Run as a program: its orders' file, then the command's arguments.

The order, written by a test at any time, is a line ``WHEN PATTERN``: at the first statement that matches the regular
expression the process dies by SIGKILL ``before`` it is executed; or at the ``commit`` of its transaction; or ``after`` that.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

from scm_trio.cli import main
from scm_trio.store import writer


class Mortal:
    def __init__(self, orders: Path) -> None:
        self._orders = orders
        self._is_near = False

    def watch(self, connection: Any, _: object) -> None:
        connection.set_trace_callback(self.hear)

    def hear(self, statement: str) -> None:
        when, _, pattern = self._orders.read_text().strip().partition(" ")
        if when and re.search(pattern, statement):
            self._is_near = True
            self._die_if(when == "before")
        if statement == "COMMIT" and self._is_near:
            self._die_if(when == "commit")

    def committed(self) -> None:
        self._die_if(self._is_near)

    def _die_if(self, condition: bool) -> None:
        if condition:
            os.kill(os.getpid(), signal.SIGKILL)


def enter(arguments: list[str]) -> None:
    mortal = Mortal(Path(arguments.pop(0)))
    event.listen(Engine, "connect", mortal.watch)
    honest = writer.commit

    def commit(engine: Engine, batch: Any) -> Any:
        outcomes = honest(engine, batch)
        mortal.committed()
        return outcomes

    writer.commit = commit
    main(arguments)


if __name__ == "__main__":
    enter(sys.argv[1:])
