"""``python -m scm_trio`` is the ``scm-trio`` command."""

from scm_trio.cli import main

main()
