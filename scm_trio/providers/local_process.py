"""The parent's side of the local model's child process: start it, hear that it is ready, stop it."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from subprocess import DEVNULL, PIPE
from typing import Protocol, cast

import trio
from attrs import frozen

from scm_trio.providers.local_server import ServerSettings

STOP_GRACE_S = 3.0
_KILL_GRACE_S = 1.0
_MAX_ANNOUNCEMENT_BYTES = 65_536
_COMMAND = (sys.executable, "-m", "scm_trio.providers.local_server")


class ServerFailed(Exception):
    """The child did not come up; the text says why and is fit for a log."""


class Child(Protocol):
    """A model server in a process of its own."""

    async def port(self) -> int:
        """Wait until the child answers requests and return its port on 127.0.0.1. To be called once.

        Raises:
            ServerFailed: it will never answer.
        """

    async def ended(self) -> str:
        """Wait until the child is gone and say how."""


Spawn = Callable[[ServerSettings], AbstractAsyncContextManager[Child]]
"""Starts a child; when the context is left, it is gone. Entering raises ServerFailed."""


@frozen
class _Process:
    process: trio.Process
    stdin: trio.lowlevel.FdStream
    stdout: trio.lowlevel.FdStream
    settings: ServerSettings

    async def port(self) -> int:
        heard = b""
        try:
            await self.stdin.send_all(self.settings.to_line())
            async for data in self.stdout:
                heard += data
                if b"\n" in heard or len(heard) > _MAX_ANNOUNCEMENT_BYTES:
                    break
        except trio.BrokenResourceError as exc:
            raise ServerFailed("the local model's process ended before it was told what to load") from exc
        return _announced_port(heard)

    async def ended(self) -> str:
        return f"the local model's process ended with status {await self.process.wait()}"


def _announced_port(heard: bytes) -> int:
    line, newline, _ = heard.partition(b"\n")
    if not newline and len(heard) <= _MAX_ANNOUNCEMENT_BYTES:
        raise ServerFailed("the local model's process ended while it was loading")
    try:
        announcement = json.loads(line)
        if "error" not in announcement:
            return int(announcement["port"])
    except (ValueError, TypeError, LookupError) as exc:
        raise ServerFailed("the local model's process said something else than its port") from exc
    raise ServerFailed(f"the local model could not be loaded: {announcement['error']}")


@asynccontextmanager
async def spawn_server(
    settings: ServerSettings, command: Sequence[str] = _COMMAND, stop_grace_s: float = STOP_GRACE_S
) -> AsyncIterator[Child]:
    """Start a model server as a child process and stop it on the way out: it is killed after ``stop_grace_s``.

    Raises:
        ServerFailed: no process could be started.
    """
    try:
        # stderr goes nowhere: what the library logs may quote prompts.
        process = await trio.lowlevel.open_process(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
    except OSError as exc:
        raise ServerFailed(f"no process for the local model: {exc.strerror}") from exc
    child = _Process(
        process,
        cast(trio.lowlevel.FdStream, process.stdin),  # both are there: pipes were asked for
        cast(trio.lowlevel.FdStream, process.stdout),
        settings,
    )
    try:
        yield child
    finally:
        await _stop(child, stop_grace_s)


async def _stop(child: _Process, grace_s: float) -> None:
    child.stdin.close()
    child.stdout.close()
    with trio.move_on_after(grace_s, shield=True):
        await child.process.wait()
    child.process.kill()
    with trio.move_on_after(_KILL_GRACE_S, shield=True):
        await child.process.wait()
