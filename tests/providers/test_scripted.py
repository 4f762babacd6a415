from __future__ import annotations

import pytest
import trio

from scm_trio.errors import ProviderUnavailable
from scm_trio.model import Delta, DeltaKind, Finish, FinishReason, Prompt, ToolCall, Turn, Usage
from scm_trio.providers.scripted import Batch, Fail, Pause, Reasoning, Scripted, SlowClose, Stall

PROMPT = Prompt("m", (Turn("user", "hello"),))
WHOLE = Prompt("m", (Turn("user", "hello"),), stream=False)
COMPLETED = Finish(FinishReason.COMPLETED)


async def answer(provider: Scripted, prompt: Prompt = PROMPT) -> list:
    async with provider.stream(prompt) as events:
        return [list(batch) async for batch in events]


async def test_every_step_is_a_batch_and_a_finish_is_added():
    provider = Scripted(["a", Delta("b"), Reasoning("hm"), Usage(1, 2), Batch(["c", ToolCall("1", "f", "{}")])])
    assert await answer(provider) == [
        [Delta("a")],
        [Delta("b")],
        [Delta("hm", DeltaKind.REASONING)],
        [Usage(1, 2)],
        [Delta("c"), ToolCall("1", "f", "{}")],
        [COMPLETED],
    ]


@pytest.mark.parametrize("last", [Finish(FinishReason.LENGTH), Batch(["b", Finish(FinishReason.LENGTH)])])
async def test_the_scripts_own_finish_is_the_only_one(last):
    batches = await answer(Scripted(["a", last]))
    assert [event for batch in batches for event in batch if isinstance(event, Finish)] == [Finish(FinishReason.LENGTH)]


async def test_an_empty_script_only_finishes():
    assert await answer(Scripted([])) == [[COMPLETED]]


async def test_an_empty_batch_says_nothing():
    assert await answer(Scripted(["a", Batch([]), "b"])) == [[Delta("a")], [Delta("b")], [COMPLETED]]


async def test_without_streaming_everything_is_one_batch():
    assert await answer(Scripted(["a", Usage(1, 2), "b"]), WHOLE) == [[Delta("a"), Usage(1, 2), Delta("b"), COMPLETED]]


async def test_a_script_may_depend_on_the_prompt():
    provider = Scripted(lambda prompt: [prompt.turns[-1].content])
    assert await answer(provider) == [[Delta("hello")], [COMPLETED]]


async def test_a_pause_takes_its_time(autojump_clock):
    await answer(Scripted(["a", Pause(5), "b", Pause(2)]))
    assert trio.current_time() == pytest.approx(7)


async def test_a_stall_lasts_for_ever(autojump_clock):
    provider = Scripted(["a", Stall(), "b"])
    said = []
    with trio.move_on_after(1000) as scope:
        async with provider.stream(PROMPT) as events:
            async for batch in events:
                said += batch
    assert scope.cancelled_caught
    assert said == [Delta("a")]


async def test_a_failure_comes_after_what_was_said():
    provider, said = Scripted(["a", Fail(ProviderUnavailable("x"))]), []

    async def listen():
        async with provider.stream(PROMPT) as events:
            async for batch in events:
                said.extend(batch)

    with pytest.raises(ProviderUnavailable):
        await listen()
    assert said == [Delta("a")]
    assert (provider.open_streams, provider.closed_streams) == (0, 1)


async def test_after_a_failure_there_is_nothing_more():
    async with Scripted(["a", Fail(ProviderUnavailable("x"))]).stream(PROMPT) as events:
        await anext(events)
        with pytest.raises(ProviderUnavailable):
            await anext(events)
        with pytest.raises(StopAsyncIteration):
            await anext(events)


async def test_a_failure_as_the_first_step_opens_no_stream():
    provider = Scripted([Fail(ProviderUnavailable("x"))])
    with pytest.raises(ProviderUnavailable):
        async with provider.stream(PROMPT):
            pytest.fail("the stream is open")
    assert (len(provider.prompts), provider.closed_streams) == (1, 0)


async def test_it_remembers_what_was_asked_and_what_is_open():
    provider = Scripted(["a"], name="fake", models=("one", "two"))
    async with provider.stream(PROMPT), provider.stream(WHOLE):
        assert (provider.open_streams, provider.closed_streams) == (2, 0)
    assert (provider.open_streams, provider.closed_streams) == (0, 2)
    assert provider.prompts == [PROMPT, WHOLE]
    assert (provider.name, provider.models, provider.context_tokens) == ("fake", ("one", "two"), None)


async def test_closing_may_take_long_even_when_cancelled(autojump_clock):
    provider = Scripted([SlowClose(5), "a", Stall()])
    with trio.move_on_after(1):
        await answer(provider)
    assert trio.current_time() == pytest.approx(6)
    assert provider.closed_streams == 1


async def test_it_can_be_closed():
    provider = Scripted([])
    await provider.aclose()
    assert provider.closed
