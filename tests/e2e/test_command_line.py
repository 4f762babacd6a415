"""``scm-trio`` as a person types it."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import jwt
import pytest
import yaml
from attrs import frozen
from websockets.sync.client import connect

from scm_trio import __version__
from tests.e2e.client import Client
from tests.e2e.process import SECRET, ServerProcess, environment, running_server, settings

LIMIT_S = 120.0
WRONG = {
    "unknown key": ("server:\n    prot: 1", ["scm.yml:4", "scm.server.prot", "port"]),
    "short secret": ("auth: {secret: short}", ["scm.auth.secret", "32 bytes"]),
    "no such certificate": (
        f"auth: {{secret: {SECRET}}}\n  server: {{tls: {{certificate: no.pem, key: no.pem}}}}",
        ["scm.server.tls", "no.pem"],
    ),
}


@frozen
class Done:
    code: int
    out: str
    err: str


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "scm_trio", *arguments],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> Done:
    with process:
        try:
            out, err = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()
    return Done(process.returncode, out, err)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("commands")
    (made / "scm.yml").write_text(yaml.safe_dump({"scm": settings(made)}))
    return made


@pytest.fixture(scope="module")
def done(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Done]]:
    """All commands at once: most of their time is the start of the interpreter."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        running = {
            "version": start(folder, "--version"),
            "token": start(folder, "token", "--user", "李", "--ttl", "60", "--role", "admin", "--config", "scm.yml"),
            "config": start(folder, "config", "--config", "scm.yml"),
            "migrate": start(folder, "migrate", "--config", "scm.yml"),
        }
        for name, (wrong, _) in WRONG.items():
            place = tmp_path_factory.mktemp("wrong")
            (place / "scm.yml").write_text(f"scm:\n  ai: {{providers: {{echo: {{kind: scripted}}}}}}\n  {wrong}\n")
            running[name] = start(place, "serve", "--config", "scm.yml", "--port", "0")
        place = tmp_path_factory.mktemp("taken")
        (place / "scm.yml").write_text(yaml.safe_dump({"scm": settings(place)}))
        running["taken"] = start(place, "serve", "--config", "scm.yml", "--port", port)
        ended = {name: finish(process) for name, process in running.items()}
        yield {**ended, "port": Done(0, port, "")}


def test_the_version_is_told(done: Mapping[str, Done]) -> None:
    assert done["version"] == Done(0, f"{__version__}\n", "")


def test_a_token_is_signed_with_the_configured_secret(done: Mapping[str, Done]) -> None:
    assert done["token"].code == 0, done["token"].err
    claims = jwt.decode(done["token"].out.strip(), SECRET, ["HS256"])
    assert claims["sub"] == "李"
    assert claims["roles"] == ["admin"]


def test_the_effective_configuration_hides_its_secrets(done: Mapping[str, Done]) -> None:
    shown = done["config"]
    assert shown.code == 0, shown.err
    assert SECRET not in shown.out + shown.err
    assert yaml.safe_load(shown.out)["scm"]["websocket"]["message"]["max-size"] == 1_048_576


def test_the_database_is_made_without_a_server(done: Mapping[str, Done], folder: Path) -> None:
    assert done["migrate"] == Done(0, "The database is up to date.\n", "")
    assert (folder / "chat.db").exists()


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_configuration_is_one_clear_line(done: Mapping[str, Done], name: str) -> None:
    assert done[name].code == 1
    assert done[name].err.startswith("scm-trio: ")
    assert done[name].err.count("\n") == 1
    for word in WRONG[name][1]:
        assert word in done[name].err


def test_a_port_in_use_is_one_clear_line(done: Mapping[str, Done]) -> None:
    assert done["taken"].code == 1
    assert done["taken"].err.startswith("scm-trio: ")
    assert done["taken"].err.count("\n") == 1
    assert f"127.0.0.1:{done['port'].out}" in done["taken"].err
    assert "in use" in done["taken"].err


def test_a_server_without_a_secret_says_so_and_prints_a_token_that_it_takes(tmp_path: Path) -> None:
    with running_server(tmp_path, auth={}) as server:
        said = (tmp_path / "stdout.log").read_text()
        assert "DEVELOPMENT MODE" in said
        issued = next(line.split()[1] for line in said.splitlines() if line.split()[:1] == ["token"])
        with connect(server.chat_url("dev"), additional_headers=_bearer(issued), proxy=None) as websocket:
            assert Client(websocket).connect["data"]["userId"] == "dev"
        typed = finish(start(tmp_path, "token", "--user", "dev2", "--config", "scm.yml")).out.strip()
        with connect(server.chat_url("dev2"), additional_headers=_bearer(typed), proxy=None) as websocket:
            assert Client(websocket).connect["data"]["userId"] == "dev2"
        assert issued not in server.log()
        assert _mode(server) == 0o600


def _bearer(issued: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {issued}"}


def _mode(server: ServerProcess) -> int:
    (secret,) = server.config_file.parent.glob("*.secret")
    return secret.stat().st_mode & 0o777
