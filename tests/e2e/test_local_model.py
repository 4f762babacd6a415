"""The real small model in its real child process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from scm_trio import config
from scm_trio.errors import ContextTooLong, ProviderUnavailable
from scm_trio.model import Delta, Finish, FinishReason, Prompt, ProviderEvent, Turn, Usage
from scm_trio.providers import base
from scm_trio.providers.local import Local, local_available, local_provider

MODEL = "smollm2-135m-instruct"
QUIET_S = 0.2


@pytest.fixture
def _unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process would leave half a file of coverage data behind."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


def asking(text: str, max_tokens: int | None = None) -> Prompt:
    return Prompt(MODEL, (Turn("user", text),), max_tokens=max_tokens)


@asynccontextmanager
async def running_model(**settings: object) -> AsyncIterator[Local]:
    provider = local_provider("local", config.Provider("local", **settings), connect_timeout_s=30)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(60):
            await nursery.start(lambda task_status: provider.run(task_status=task_status))
        yield provider
        nursery.cancel_scope.cancel()


async def everything(batches: AsyncIterator[base.Batch]) -> list[ProviderEvent]:
    return [event async for batch in batches for event in batch]


async def asked_until_answered(provider: Local, prompt: Prompt) -> list[ProviderEvent]:
    """Ask as a caller with retries does: a connection may break before anybody has seen the process die."""
    while True:
        with suppress(ProviderUnavailable):
            async with provider.stream(prompt) as batches:
                return await everything(batches)
        await trio.lowlevel.checkpoint()


def model_processes(parent_pid: int) -> list[int]:
    """The pids of model servers that this parent started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status, command = (folder / "stat").read_text(), (folder / "cmdline").read_bytes()
        except OSError:  # it ended in the meantime
            continue
        if int(status.rpartition(")")[2].split()[1]) == parent_pid and b"local_server" in command:
            found.append(int(folder.name))
    return found


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


async def stands_still(pid: int) -> None:
    """Return when the process has used no processor for ``QUIET_S``."""
    while True:
        before = cpu_ticks(pid)
        await trio.sleep(QUIET_S)
        if cpu_ticks(pid) <= before + 1:
            return


async def test_the_model_streams_an_answer_with_usage_and_an_end() -> None:
    assert local_available()
    async with running_model() as provider:
        with trio.fail_after(60):
            async with provider.stream(asking("What is supply chain management?")) as batches:
                events = await everything(batches)
    text = "".join(event.text for event in events if isinstance(event, Delta))
    assert "logistics" in text.lower()
    assert sum(isinstance(event, Delta) for event in events) > 10
    usage = next(event for event in events if isinstance(event, Usage))
    assert usage.completion_tokens > 10
    assert events[-1] == Finish(FinishReason.COMPLETED, "stop")


async def test_an_answer_without_a_limit_is_kept_short() -> None:
    async with running_model() as provider:
        with trio.fail_after(120):
            async with provider.stream(asking("Count from 1 to 5000, every number on its own line.")) as batches:
                events = await everything(batches)
    usage = next(event for event in events if isinstance(event, Usage))
    assert usage.completion_tokens <= 512


@pytest.mark.parametrize(
    ("batches_read", "within_s"),
    # While it reads the prompt, the server looks once a second whether its client is still there; left alone it would
    # compute three times as long as is allowed here.
    [pytest.param(0, 5, id="while it reads the prompt"), pytest.param(5, 1, id="in the middle of the answer")],
)
async def test_leaving_an_answer_stops_the_computing(batches_read: int, within_s: float) -> None:
    question = "Write a very long story about these goods: " + "bolts and nuts and " * (5 if batches_read else 250)
    async with running_model() as provider:
        (pid,) = model_processes(os.getpid())
        with trio.move_on_after(60 if batches_read else 0.3) as patience:
            async with provider.stream(asking(question, max_tokens=900)) as batches:
                for _ in range(batches_read or 1):
                    await anext(batches)
        assert patience.cancelled_caught == (batches_read == 0)
        with trio.fail_after(within_s + QUIET_S):
            await stands_still(pid)


async def test_two_users_are_answered_at_once() -> None:
    order: list[str] = []

    async def user(name: str, provider: Local) -> None:
        async with provider.stream(asking("Tell me about warehouses.", max_tokens=60)) as batches:
            while await anext(batches, None):
                order.append(name)

    async with running_model() as provider, trio.open_nursery() as nursery:
        nursery.start_soon(user, "one", provider)
        nursery.start_soon(user, "two", provider)
    first_end = min(len(order) - 1 - order[::-1].index(name) for name in ("one", "two"))
    assert {"one", "two"} <= set(order[:first_end])


async def test_a_prompt_beyond_the_context_is_refused_as_too_long() -> None:
    async with running_model(context_tokens=256) as provider:
        with pytest.raises(ContextTooLong):
            async with provider.stream(asking("stock level " * 400)) as batches:
                await anext(batches)


async def test_a_file_that_is_no_model_is_reported(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF and nothing else")
    async with running_model(model_path=str(broken)) as provider:
        with pytest.raises(ProviderUnavailable, match=r"could not be loaded.*broken\.gguf"):
            async with provider.stream(asking("hello")):
                pass


@pytest.mark.usefixtures("_unmeasured")
async def test_a_killed_model_breaks_its_answer_and_the_next_one_is_served() -> None:
    async with running_model() as provider:
        (pid,) = model_processes(os.getpid())
        async with provider.stream(asking("Write a very long story.", max_tokens=1500)) as batches:
            await anext(batches)
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(ProviderUnavailable):
                await everything(batches)
        with trio.fail_after(30):
            assert await asked_until_answered(provider, asking("Say hello.", max_tokens=5))
        assert model_processes(os.getpid()) not in ([], [pid])


async def test_the_child_is_gone_when_run_is_cancelled() -> None:
    async with running_model():
        (pid,) = model_processes(os.getpid())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def heard(stream: trio.abc.ReceiveStream, words: bytes) -> None:
    said = b""
    async for data in stream:
        said += data
        if words in said:
            return
    pytest.fail(f"only this was said: {said!r}")


PARENT = """
import sys, trio
from scm_trio import config
from scm_trio.providers.local import local_provider

async def main():
    provider = local_provider("local", config.Provider("local"), connect_timeout_s=30)
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: provider.run(task_status=task_status))
        print("ready", flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@pytest.mark.usefixtures("_unmeasured")
async def test_the_child_dies_with_a_parent_that_is_killed() -> None:
    parent = await trio.lowlevel.open_process([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    try:
        with trio.fail_after(60):
            await heard(parent.stdout, b"ready\n")
        (pid,) = model_processes(parent.pid)
        child = os.pidfd_open(pid)
    finally:
        parent.kill()
        await parent.wait()
        await parent.stdout.aclose()
    try:
        with trio.fail_after(5):
            await trio.lowlevel.wait_readable(child)
    finally:
        os.close(child)
