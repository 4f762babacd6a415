"""``schemathesis`` reads the OpenAPI document of a real server and tries everything that it promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.e2e.client import chatting
from tests.e2e.process import ServerProcess, environment, running_server, token

# All checks, but for what a document cannot say: that a plain GET on the WebSocket's path is never fine, that of any bytes
# only those of a picture or a text are taken, which texts are cursors, that no period ends before it begins, that a session
# has an owner and names a provider that there is. And which things there are, so that they are found.
CONFIGURATION = """
[warnings]
fail-on = ["missing_auth", "missing_test_data", "missing_deserializer", "unused_openapi_auth"]

[checks]
enabled = true

[[operations]]
include-path = "/scm/websocket/ai/chat"
checks.positive_data_acceptance.enabled = false
checks.negative_data_rejection.enabled = false

[[operations]]
include-path = "/scm/ai/files"
include-method = "POST"
checks.positive_data_acceptance.enabled = false
checks.negative_data_rejection.enabled = false

[[operations]]
include-path = "/scm/ai/sessions"
checks.positive_data_acceptance.enabled = false

[[operations]]
include-path = "/scm/ai/search"
checks.positive_data_acceptance.enabled = false

[[operations]]
include-path = "/scm/ai/sessions/{id}"
include-method = "PATCH"
checks.positive_data_acceptance.enabled = false

[[operations]]
include-path = "/scm/ai/sessions/{id}/messages"
parameters = {"path.id" = "session001"}
checks.positive_data_acceptance.enabled = false

[[operations]]
include-path = "/assets/{name}"
parameters = {"path.name" = "main.js"}

[[operations]]
include-path = "/scm/ai/sessions/{id}/export"
parameters = {"path.id" = "session001"}

[[operations]]
include-path = "/scm/ai/files/{id}"
parameters = {"path.id" = "FILE"}
"""
LIMIT_S = 240


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tried").mkdir()
    return tmp_path / "tried"


def upload(server: ServerProcess, headers: dict[str, str]) -> str:
    answer = httpx.post(
        f"{server.base_url}/scm/ai/files",
        files={"file": ("a.png", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + b"\x00\x00\x00\x01" * 2 + bytes(43))},
        headers=headers,
        trust_env=False,
        timeout=30,
    )
    assert answer.status_code == 201
    file_id: str = answer.json()["fileId"]
    return file_id


def test_every_route_keeps_what_the_document_promises(tmp_path: Path, folder: Path) -> None:
    with running_server(tmp_path / "server") as server:
        bearer = {"Authorization": f"Bearer {token(roles=['admin'])}"}
        with chatting(server) as client:
            client.answer("你好", provider="echo", model="echo")
        configuration = folder / "schemathesis.toml"
        configuration.write_text(CONFIGURATION.replace("FILE", upload(server, bearer)), encoding="utf-8")
        document = httpx.get(f"{server.base_url}/scm/ai/openapi.json", trust_env=False, timeout=30)
        # From a file: read from its address, the document's own route would not be tried.
        (folder / "openapi.json").write_bytes(document.content)
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(configuration)),
            *("run", "openapi.json", "--url", server.base_url),
            *("--header", f"Authorization: {bearer['Authorization']}"),
            *("--phases", "examples,coverage,fuzzing,stateful"),
            *("--max-examples", "20", "--generation-deterministic", "--request-timeout", "30", "--no-color"),
        ]
        done = subprocess.run(
            command,
            check=False,
            cwd=folder,
            env={**environment(measured=False), "NO_PROXY": "*", "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
        )
        assert done.returncode == 0, done.stdout
        operations = sum(len(item) for item in document.json()["paths"].values())
        assert f"{operations} selected / {operations} total" in done.stdout
        found = re.search(r"(\d+) generated", done.stdout)
        assert found is not None, done.stdout
        assert int(found[1]) > 20 * operations
        assert server.is_running()
        for words in ("http request failed", "http response incomplete", "store failed"):
            assert words not in server.log()
