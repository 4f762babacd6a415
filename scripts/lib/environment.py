"""Lets a Python script run under the checkout's own interpreter, whichever one it was started with."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def enter() -> None:
    """Go on in ``.venv``; does not return when it has to change over."""
    python = ROOT / ".venv" / "bin" / "python"
    if Path(sys.prefix) == ROOT / ".venv":
        return
    if not python.exists():
        sys.exit(
            "scm_trio: run scripts/serve first, it installs what is needed\nscm_trio: 请先运行 scripts/serve 以安装依赖"
        )
    os.execv(python, [str(python), *sys.argv])  # noqa: S606  # the same script, no shell
