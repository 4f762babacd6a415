"""Runs one console program as a command of its own."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import NoReturn

from cyclopts import App, CycloptsError

from scm_trio.console.access import USAGE


def main(program: Callable[..., Awaitable[int]], name: str) -> NoReturn:
    """Read the command line, run the program on Trio, exit with its code; 2 when it was called wrongly."""
    app = App(name=name, backend="trio")
    app.default(program)
    try:
        sys.exit(app(sys.argv[1:], exit_on_error=False, result_action="return_value"))
    except CycloptsError:
        # It has been printed.
        sys.exit(USAGE)
