"""How a run ends: by itself, by a failure, or by one of its deadlines."""

import attrs
import pytest
import trio

from scm_trio.chat.run import CLOSE_LIMIT_S, Deadlines
from scm_trio.errors import (
    ContentFiltered,
    ProviderAuth,
    ProviderUnavailable,
    TimedOut,
)
from scm_trio.model import Delta, Finish, FinishReason, ToolCall, Usage
from scm_trio.providers.scripted import Batch, Fail, Pause, Reasoning, Scripted, SlowClose, Stall

from .building import PROMPT, watch

LIMITS = Deadlines(first_token_s=10.0, idle_s=5.0, total_s=60.0)


class Truncated(Scripted):
    """Ends its stream without a word."""

    def stream(self, prompt):
        return _without_finish(super().stream(prompt))


class _without_finish:  # noqa: N801 - a context manager used like a function
    def __init__(self, inner):
        self.inner = inner

    async def __aenter__(self):
        events = await self.inner.__aenter__()

        async def texts():
            async for batch in events:
                if kept := [event for event in batch if not isinstance(event, Finish)]:
                    yield kept

        return texts()

    async def __aexit__(self, *exc):
        return await self.inner.__aexit__(*exc)


async def test_an_answer_is_streamed_stored_and_counted(stage, autojump_clock):
    provider = Scripted([Pause(2), "供应", "链"])
    run = stage.start(provider)
    assert await watch(run) == "供应链"
    assert (run.ending.reason, run.failure) == (FinishReason.COMPLETED, None)
    assert (run.ending.duration_s, run.ending.upstream_closed, run.ending.cancel_s) == (2.0, None, None)
    assert stage.journal.ended == [("供应链", run.ending)]
    assert stage.observer.first_tokens == [2.0]
    assert stage.observer.outcomes == ["completed"]
    assert provider.open_streams == 0
    assert not run.is_live
    await trio.testing.wait_all_tasks_blocked()
    assert stage.done == [run]


async def test_the_provider_is_asked_with_the_journals_prompt(stage, autojump_clock):
    provider = Scripted(["ok"])
    await watch(stage.start(provider))
    assert provider.prompts == [PROMPT]


@pytest.mark.parametrize("reason", [FinishReason.LENGTH, FinishReason.CONTENT_FILTER, FinishReason.TOOL_CALLS])
async def test_the_providers_own_reason_is_the_answers(stage, autojump_clock, reason):
    run = stage.start(Scripted(["cut", ToolCall("1", "f", "{}"), Finish(reason)]))
    await watch(run)
    assert (run.ending.reason, run.failure) == (reason, None)


async def test_usage_told_by_the_provider_is_taken_over(stage, autojump_clock):
    usage = Usage(prompt_tokens=7, completion_tokens=9)
    run = stage.start(Scripted(["a", Batch([usage, Finish(FinishReason.COMPLETED)])]))
    await watch(run)
    assert run.ending.usage == usage


@pytest.mark.parametrize(
    "end", [Fail(ProviderUnavailable("cut")), Finish(FinishReason.COMPLETED)], ids=["cut", "whole"]
)
async def test_what_the_prompt_cost_is_kept_where_the_answers_tokens_are_not_told(stage, autojump_clock, end):
    early = Usage(prompt_tokens=500, completion_tokens=1, cached_tokens=400, source="estimated")
    run = stage.start(Scripted([early, Reasoning("12345678"), "four and twenty", end]))
    await watch(run)
    assert run.ending.usage == Usage(500, 6, reasoning_tokens=2, cached_tokens=400, source="estimated")


async def test_usage_is_estimated_where_the_provider_tells_none(stage, autojump_clock):
    run = stage.start(Scripted([Reasoning("供应"), "chain of 8", "链"]))
    await watch(run)
    assert run.ending.usage == Usage(prompt_tokens=6, completion_tokens=6, reasoning_tokens=2, source="estimated")


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (ProviderAuth("401"), FinishReason.ERROR),
        (ContentFiltered("no"), FinishReason.CONTENT_FILTER),
        (TimedOut(field="connect"), FinishReason.TIMEOUT),
    ],
)
async def test_a_failure_before_the_first_token_is_told_with_its_reason(stage, autojump_clock, failure, reason):
    run = stage.start(Scripted([Fail(failure)]))
    assert await watch(run) == ""
    assert run.failure is failure
    assert run.ending.reason is reason
    assert stage.observer.first_tokens == []


async def test_a_failure_after_the_first_token_keeps_what_was_said(stage, autojump_clock):
    provider = Scripted(["half", Fail(ProviderUnavailable("cut"))])
    run = stage.start(provider)
    assert await watch(run) == "half"
    assert run.failure.code == "PROVIDER_UNAVAILABLE"
    assert stage.journal.ended[0][0] == "half"
    assert provider.closed_streams == 1


async def test_a_stream_without_a_finish_is_a_failure_and_no_whole_answer(stage, autojump_clock):
    run = stage.start(Truncated(["half"]))
    assert await watch(run) == "half"
    assert run.ending.reason is FinishReason.ERROR
    assert run.failure.code == "PROVIDER_UNAVAILABLE"


@pytest.mark.parametrize("steps", [[Fail(KeyError("bug"))], ["a", Fail(ValueError("bug"))], ["\ud800"]])
async def test_a_bug_in_a_provider_costs_its_answer_only(stage, autojump_clock, steps):
    run = stage.start(Scripted(steps))
    await watch(run)
    assert run.ending.reason is FinishReason.ERROR
    assert run.failure.code == "INTERNAL"


async def test_a_failure_right_behind_the_finish_is_a_failure(stage, autojump_clock):
    run = stage.start(Scripted(["a", Finish(FinishReason.COMPLETED), Fail(ProviderUnavailable("late"))]))
    await watch(run)
    assert run.ending.reason is FinishReason.ERROR


# ---- deadlines


@pytest.mark.parametrize(
    ("steps", "field", "after_s"),
    [
        ([Stall()], "first_token", 10.0),
        ([Pause(9), Usage(1, 1), Stall()], "first_token", 10.0),
        ([Pause(9), "a", Stall()], "idle", 14.0),
        ([Pause(9), "a", Pause(4), Reasoning("b"), Stall()], "idle", 18.0),
        (["a", *[Pause(4), "b"] * 100], "total", 60.0),
    ],
)
async def test_each_deadline_fires_at_its_own_moment_and_names_itself(stage, autojump_clock, steps, field, after_s):
    provider = Scripted(steps)
    run = stage.start(provider, deadlines=LIMITS)
    await watch(run)
    assert (run.ending.reason, run.failure.code, run.failure.field) == (FinishReason.TIMEOUT, "TIMEOUT", field)
    assert run.ending.duration_s == after_s
    assert run.ending.upstream_closed is None
    assert provider.open_streams == 0


async def test_the_total_time_counts_from_the_request_not_from_the_provider(stage, autojump_clock):
    stage.journal.open_s = 9.0
    run = stage.start(Scripted(["a", *[Pause(4), "b"] * 100]), deadlines=LIMITS)
    await watch(run)
    assert (run.failure.field, run.ending.duration_s) == ("total", 60.0)


async def test_an_answer_that_ends_just_in_time_is_whole(stage, autojump_clock):
    run = stage.start(Scripted([Pause(9.9), "a", Pause(4.9), "b"]), deadlines=LIMITS)
    assert await watch(run) == "ab"
    assert run.failure is None


async def test_a_provider_that_is_slow_to_close_after_a_timeout_is_waited_for(stage, autojump_clock):
    provider = Scripted([SlowClose(3), "a", Stall()])
    run = stage.start(provider, deadlines=LIMITS)
    await watch(run)
    assert (run.failure.field, run.ending.duration_s) == ("idle", 8.0)


@pytest.mark.parametrize(("total_s", "field", "after_s"), [(60.0, "idle", 5), (3.0, "total", 3)])
async def test_a_provider_that_does_not_close_after_a_timeout_is_still_timed_out(
    stage, autojump_clock, total_s, field, after_s
):
    limits = attrs.evolve(LIMITS, total_s=total_s)
    run = stage.start(Scripted([SlowClose(100), "a", Stall()]), deadlines=limits)
    await watch(run)
    assert (run.ending.reason, run.failure.code, run.failure.field) == (FinishReason.TIMEOUT, "TIMEOUT", field)
    assert run.ending.duration_s == pytest.approx(after_s + CLOSE_LIMIT_S, abs=1)


@pytest.mark.parametrize(("total_s", "grace_s"), [(6.0, 60.0), (60.0, 5.5)])
async def test_a_deadline_that_passes_while_another_is_closing_the_provider_changes_nothing(
    stage, autojump_clock, total_s, grace_s
):
    limits = attrs.evolve(LIMITS, total_s=total_s)
    run = stage.start(Scripted([SlowClose(3), "a", Stall()]), deadlines=limits, orphan_grace_s=grace_s)
    with run.viewer():
        await trio.sleep(0.1)
    await run.ended.wait()
    assert (run.ending.reason, run.failure.field, run.ending.duration_s) == (FinishReason.TIMEOUT, "idle", 8.0)


async def test_a_whole_answer_whose_connection_does_not_close_is_whole(stage, autojump_clock):
    run = stage.start(Scripted([SlowClose(100), "a"]), deadlines=attrs.evolve(LIMITS, total_s=20.0))
    assert await watch(run) == "a"
    assert (run.ending.reason, run.failure) == (FinishReason.COMPLETED, None)
    assert run.ending.duration_s <= 20 + CLOSE_LIMIT_S


async def test_a_whole_answer_is_judged_by_the_total_time_alone(stage, autojump_clock):
    stage.journal.answer = attrs.evolve(PROMPT, stream=False)
    run = stage.start(Scripted([Pause(50), "a"]), deadlines=LIMITS, streaming=False)
    assert await watch(run) == "a"
    run = stage.start(Scripted([Stall()]), deadlines=LIMITS, streaming=False)
    await watch(run)
    assert (run.failure.field, run.ending.duration_s) == ("total", 60.0)


# ---- size


async def test_an_answer_that_grows_too_large_is_cut_at_a_whole_character_and_told(stage, autojump_clock):
    provider = Scripted(["供应", "链", "never", Stall()])
    run = stage.start(provider, max_bytes=8)
    assert await watch(run) == "供应"
    assert (run.ending.reason, run.failure.code) == (FinishReason.TOO_LARGE, "RESPONSE_TOO_LARGE")
    assert run.failure.params == {"limit": 8}
    assert provider.open_streams == 0


async def test_an_answer_of_exactly_the_limit_is_whole(stage, autojump_clock):
    run = stage.start(Scripted(["供应", "链"]), max_bytes=9)
    assert await watch(run) == "供应链"
    assert run.failure is None


async def test_a_batch_that_is_too_large_and_finished_is_too_large(stage, autojump_clock):
    run = stage.start(Scripted([Batch([Delta("abc"), Finish(FinishReason.COMPLETED)])]), max_bytes=2)
    await watch(run)
    assert run.ending.reason is FinishReason.TOO_LARGE
