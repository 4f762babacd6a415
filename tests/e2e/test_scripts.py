"""The client scripts against a live server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.process import ServerProcess, environment, token
from tests.e2e.upstream import ANSWER, FakeUpstream

SCRIPTS = Path(__file__).parents[2] / "scripts"
LIMIT_S = 180.0


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(token("script-user"))
    return file


def run(script: str, server: ServerProcess, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    address = f"ws://127.0.0.1:{server.port}"
    return subprocess.run(
        [sys.executable, str(SCRIPTS / script), address, *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def test_chat_asks_once_and_prints_the_answer(server: ServerProcess, token_file: Path, tmp_path: Path) -> None:
    done = run("chat.py", server, "--token-file", str(token_file), "--once", "你好", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ANSWER


def test_chat_says_why_it_was_not_let_in(server: ServerProcess, tmp_path: Path) -> None:
    done = run("chat.py", server, "--once", "你好", folder=tmp_path)
    assert done.returncode == 1
    assert "token" in done.stderr
    assert "Traceback" not in done.stderr


def test_load_finds_every_answer_whole(server: ServerProcess, token_file: Path, tmp_path: Path) -> None:
    arguments = ("--token-file", str(token_file), "--clients", "5", "--requests", "3", "--json")
    done = run("load.py", server, *arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads(done.stdout)
    assert (report["answers_ok"], report["failed"]) == (15, 0)


def test_cancel_finds_every_promise_kept(
    server: ServerProcess, upstream: FakeUpstream, token_file: Path, tmp_path: Path
) -> None:
    question = "slow train"
    arguments = ("--token-file", str(token_file), "--message", question, "--rounds", "1", "--limit-s", "20")
    done = run("cancel.py", server, *arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    about = [each for each in upstream.exchanges if each.question == question]
    assert all(each.over.wait(20) for each in about)
    assert sum(each.left.is_set() for each in about) >= 5, "most of the ways reach the provider as a closed connection"
