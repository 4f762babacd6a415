"""The code samples of the document that this project began with, to the letter."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "seed"
PLAIN = [(FOLDER / name).read_text(encoding="utf-8") for name in ("connect.js", "stream.js", "normal.js")]


def vue_script() -> str:
    """The script block of the Vue sample, cut out as a build tool does it."""
    component = (FOLDER / "chat.vue").read_text(encoding="utf-8")
    return component.partition("<script>")[2].partition("</script>")[0]
