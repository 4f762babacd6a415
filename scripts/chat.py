#!/usr/bin/env python3
"""Chat with a server in the terminal; the same as ``scm-trio chat``."""

from lib import environment

environment.enter()

from scm_trio.console import chat  # noqa: E402  # only here is it certain to be installed
from scm_trio.console.command import main  # noqa: E402

main(chat.run, "chat.py")
