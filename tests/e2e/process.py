"""A real server process: started on a free port, asked to leave by SIGTERM, and held to a clean exit."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jwt
import yaml

SECRET = "a secret for the tests of a real server process"
START_LIMIT_S = 60.0
STOP_LIMIT_S = 60.0
POLL_S = 0.02
COVERAGE_VARIABLES = ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")

T = TypeVar("T")


def until(condition: Callable[[], T], what: str, within_s: float = 30.0) -> T:
    """Poll until the condition is true; returns what it returned."""
    deadline = time.monotonic() + within_s
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {what}")
        time.sleep(POLL_S)
    return result


def token(user: str = "user001", *, ttl_s: float = 3600.0, secret: str = SECRET, **claims: Any) -> str:
    return jwt.encode({"sub": user, "exp": time.time() + ttl_s, **claims}, secret, "HS256")


def settings(folder: Path, upstream_url: str | None = None, **sections: Any) -> dict[str, Any]:
    """The ``scm`` mapping of a configuration file; ``sections`` replace whole sections.

    Without titles, unless the section asks for them: each is one more question to the provider, at a moment of
    its own, with a row of its own in the ledger.
    """
    ai: dict[str, Any] = {"default-provider": "echo", "providers": {"echo": {"kind": "scripted"}}}
    if upstream_url is not None:
        fake = {"kind": "openai", "base-url": upstream_url, "api-key": "a key for the fake"}
        ai = {
            "default-provider": "openai",
            "default-model": "gpt-4",
            "providers": {"openai": fake, **ai["providers"]},
        }
    whole = {
        "auth": {"secret": SECRET, "refresh": True},
        "ai": ai,
        "store": {"url": f"sqlite:///{folder / 'chat.db'}"},
        "websocket": {"message": {"rate-limit": 0}},
        **sections,
    }
    return {**whole, "ai": {"titles": False, **whole["ai"]}}


class ServerProcess:
    """A running server; ``program`` is what the interpreter is told to run.

    Attributes:
        port: where it listens.
        log_file: what it wrote to standard error.
    """

    def __init__(
        self,
        folder: Path,
        scm: Mapping[str, Any],
        *,
        measured: bool = True,
        program: Sequence[str] = ("-m", "scm_trio"),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.config_file = folder / "scm.yml"
        self.config_file.write_text(yaml.safe_dump({"scm": dict(scm)}, allow_unicode=True), encoding="utf-8")
        self.log_file = folder / "stderr.log"
        announcement = folder / "stdout.log"
        command = [sys.executable, *program, "serve", "--config", str(self.config_file), "--port", "0"]
        with announcement.open("wb") as out, self.log_file.open("ab") as err:
            self.process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment(measured)
            )
        try:
            self.port = int(until(lambda: self._announced(announcement), "the server is up", START_LIMIT_S))
        except BaseException:
            self.kill()
            raise
        self.scheme = "https" if scm.get("server", {}).get("tls") else "http"

    def _announced(self, announcement: Path) -> str | None:
        assert self.process.poll() is None, f"the server did not start:\n{self.log()}"
        found = re.search(r"^ *page +https?://[^/]*:(\d+)/", announcement.read_text(encoding="utf-8"), re.MULTILINE)
        return found[1] if found else None

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def base_url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def chat_url(self, user: str = "user001", session: str = "session001", query: str = "") -> str:
        address = f"ws{self.scheme[4:]}://127.0.0.1:{self.port}/scm/websocket/ai/chat"
        return f"{address}?userId={user}&sessionId={session}{query}"

    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def is_running(self) -> bool:
        return self.process.poll() is None

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def rss_bytes(self) -> int:
        resident_pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return resident_pages * os.sysconf("SC_PAGE_SIZE")

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self, within_s: float = STOP_LIMIT_S) -> int:
        return self.process.wait(within_s)

    def stop(self) -> None:
        """SIGTERM, and a clean exit."""
        assert self.is_running(), f"the server has ended with {self.process.returncode}:\n{self.log()}"
        self.terminate()
        assert self.wait() == 0, self.log()
        assert "Traceback (most recent call last)" not in self.log()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def environment(measured: bool = True) -> dict[str, str]:
    """This process's, without anything that configures the server; a process to be killed is not measured."""
    gone = () if measured else COVERAGE_VARIABLES
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SCM_", "OPENAI_", "ANTHROPIC_", "AZURE_", "SPARK_")) and name not in gone
    }


@contextmanager
def running_server(
    folder: Path, upstream_url: str | None = None, *, measured: bool = True, **sections: Any
) -> Iterator[ServerProcess]:
    """A server that is stopped in the end, unless the test has done so."""
    server = ServerProcess(folder, settings(folder, upstream_url, **sections), measured=measured)
    try:
        yield server
        if server.is_running():
            server.stop()
    finally:
        server.kill()
