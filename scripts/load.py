#!/usr/bin/env python3
"""Load a server and measure its answers; the same as ``scm-trio load``."""

from lib import environment

environment.enter()

from scm_trio.console import load  # noqa: E402  # only here is it certain to be installed
from scm_trio.console.command import main  # noqa: E402

main(load.run, "load.py")
