"""Node and the npm package ``ws``: as a client of its own, and under the original document's samples."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.process import ServerProcess, token
from tests.e2e.seed_samples import FOLDER, vue_script
from tests.e2e.upstream import ANSWER, FakeUpstream

NODE = Path(__file__).parent / "node"
LIMIT_S = 120.0


pytestmark = pytest.mark.usefixtures("node_packages")


def node(script: str, *arguments: str, **variables: str) -> list[Any]:
    """Run a script; returns its output, a JSON value a line."""
    done = subprocess.run(
        ["node", str(NODE / script), *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_ws_streams_cancels_and_leaves(server: ServerProcess, upstream: FakeUpstream) -> None:
    events = node("chat.mjs", server.chat_url("node-user"), token("node-user"))
    assert [each["event"] for each in events if each["event"] != "message"] == ["open", "pong", "close"]
    assert events[0]["detail"] == "Bearer"
    assert events[-1]["detail"] == 1000
    messages = [each["detail"] for each in events if each["event"] == "message"]
    streamed = [each for each in messages if each.get("requestId") == "node-1"]
    assert "".join(each["data"].get("content", "") for each in streamed) == ANSWER
    cancelled = [each for each in messages if each.get("requestId") == "node-2"][-1]
    assert cancelled["data"]["finishReason"] == "cancelled"
    assert cancelled["data"]["upstreamClosed"] is True
    assert upstream.asked("hold node").left.wait(20)
    assert messages[-1]["type"] == "DISCONNECT"


def test_the_samples_of_the_original_document_run_unchanged(server: ServerProcess, tmp_path: Path) -> None:
    for file in FOLDER.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "chat.mjs").write_text(vue_script(), encoding="utf-8")
    (results,) = node("seed.mjs", str(tmp_path), SCM_PORT=str(server.port), SCM_JWT=token())
    plain, vue = results["plain"], results["vue"]
    assert plain["protocol"] == "Bearer"
    assert plain["welcome"]
    assert plain["streamed"] == plain["shown"] == plain["whole"] == ANSWER
    assert plain["closed"] == 1005, "the sample closes without a code"
    assert vue["question"] == "什么是库存周转率？"
    assert vue["answer"] == ANSWER
    assert vue["scrolled"] == 42
    (error,) = vue["errors"]
    assert error.startswith("错误: ")
    assert "[object Object]" not in error
    assert len(error) > len("错误: ")
