"""The parent's side of the child process, with tiny scripts in the place of the model server."""

from __future__ import annotations

import sys

import pytest
import trio

from scm_trio.providers.local_process import ServerFailed, spawn_server
from scm_trio.providers.local_server import ServerSettings

SETTINGS = ServerSettings("/models/tiny.gguf", "tiny", "key", context_tokens=1000, cores=1)


def script(text: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", text)


def is_alive(child) -> bool:
    return child.process.poll() is None


async def test_the_port_comes_when_the_child_says_it_is_ready() -> None:
    echo = "import json, sys; s = json.loads(input()); print(json.dumps({'port': s['context_tokens']}), flush=True)"
    async with spawn_server(SETTINGS, script(f"{echo}; sys.stdin.read()")) as child:
        assert await child.port() == 1000
        assert is_alive(child)
    assert child.process.returncode == 0


async def test_a_child_that_ends_while_serving_is_noticed_with_its_status() -> None:
    async with spawn_server(
        SETTINGS, script("input(); print('{\"port\": 1}', flush=True); raise SystemExit(7)")
    ) as child:
        assert await child.port() == 1
        assert await child.ended() == "the local model's process ended with status 7"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('input(); print(\'{"error": "no magic"}\')', "could not be loaded: no magic"),
        ("input()", "ended while it was loading"),
        ("input(); print('hello')", "something else than its port"),
        ("input(); print('[]')", "something else than its port"),
        ("input(); print('{}')", "something else than its port"),
        ("input(); print('x' * 200_000)", "something else than its port"),
    ],
)
async def test_a_child_that_does_not_come_up_says_why(text: str, words: str) -> None:
    async with spawn_server(SETTINGS, script(text)) as child:
        with pytest.raises(ServerFailed, match=words):
            await child.port()


async def test_a_child_that_never_listened_is_a_failed_one() -> None:
    async with spawn_server(SETTINGS, script("")) as child:
        await child.ended()
        with pytest.raises(ServerFailed, match="before it was told"):
            await child.port()


async def test_a_command_that_does_not_exist_is_a_failed_child() -> None:
    with pytest.raises(ServerFailed, match="no process for the local model"):
        async with spawn_server(SETTINGS, ("/nowhere/python",)):
            pass


async def test_a_child_that_ignores_the_end_of_its_input_is_killed_after_the_grace() -> None:
    deaf = script("import time; print('{\"port\": 1}', flush=True); time.sleep(600)")
    async with spawn_server(SETTINGS, deaf, stop_grace_s=0) as child:
        await child.port()
    assert child.process.returncode == -9


async def test_a_cancelled_parent_still_stops_its_child() -> None:
    with trio.CancelScope() as scope:
        async with spawn_server(SETTINGS, script("import sys; sys.stdin.read()")) as child:
            scope.cancel()
            await child.port()
    assert scope.cancelled_caught
    assert child.process.returncode is not None
