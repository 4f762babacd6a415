#!/usr/bin/env python3
"""Hold a running server to its promises about stopping answers; the same as ``scm-trio cancel``."""

from lib import environment

environment.enter()

from scm_trio.console import cancel  # noqa: E402  # only here is it certain to be installed
from scm_trio.console.command import main  # noqa: E402

main(cancel.run, "cancel.py")
