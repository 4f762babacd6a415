"""aimock, an npm package of another maker: one process that speaks as OpenAI, Azure and Anthropic do, by script.

A script is a list of fixtures, each ``{"match": {"userMessage": …}, "response": {…}, …}``; the first that fits the last
question answers it, whichever vendor is asked.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import frozen

from tests.e2e.process import until

COMMAND = Path(__file__).parent / "node" / "node_modules" / "@copilotkit" / "aimock" / "dist" / "cli.js"
KEY = "sk-aimock-0123456789"
PIECE_CHARS = 6
START_LIMIT_S = 30.0
Fixture = dict[str, Any]


@frozen
class Aimock:
    """A running one."""

    url: str

    def asked(self) -> list[dict[str, Any]]:
        """The requests so far, oldest first: ``path``, ``headers`` without their secrets, and ``body``.

        Bodies have OpenAI's form whoever was asked.
        """
        request = urllib.request.Request(f"{self.url}/__aimock/journal", headers={"Authorization": f"Bearer {KEY}"})
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)


@contextmanager
def running_aimock(folder: Path, fixtures: Sequence[Fixture]) -> Iterator[Aimock]:
    """Start it on a free port; it takes ``KEY`` only."""
    script, output = folder / "aimock.json", folder / "aimock.log"
    script.write_text(json.dumps({"fixtures": list(fixtures)}, ensure_ascii=False), encoding="utf-8")
    command = ["node", str(COMMAND), "-p", "0", "-f", str(script), "-c", str(PIECE_CHARS), "--validate-on-load"]
    with output.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "AIMOCK_API_KEYS": KEY},
        )

    def address() -> str | None:
        assert process.poll() is None, f"aimock did not start:\n{output.read_text()}"
        found = re.search(r"listening on (http://127\.0\.0\.1:\d+)", output.read_text(encoding="utf-8"))
        return found[1] if found else None

    try:
        yield Aimock(until(address, "aimock is up", START_LIMIT_S))
    finally:
        process.kill()
        process.wait()
