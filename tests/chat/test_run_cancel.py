"""A cancel is a join: at any moment, any number of times, and it says how it went."""

import pytest
import trio

from scm_trio.chat.run import CLOSE_LIMIT_S, Deadlines
from scm_trio.model import FinishReason, Usage
from scm_trio.providers.scripted import Pause, Scripted, SlowClose, Stall

from .building import watch


async def cancel_after(run, seconds, times=1):
    with run.viewer():
        await trio.sleep(seconds)
        for _ in range(times):
            run.cancel()
        await run.ended.wait()
    return run.ending


@pytest.mark.parametrize(("steps", "said"), [([Stall()], ""), (["half", Stall()], "half")])
async def test_a_cancel_keeps_what_was_said_and_closes_the_provider(stage, autojump_clock, steps, said):
    provider = Scripted(steps)
    run = stage.start(provider)
    ending = await cancel_after(run, 3)
    assert (ending.reason, ending.upstream_closed, ending.cancel_s) == (FinishReason.CANCELLED, True, 0.0)
    assert ending.duration_s == 3.0
    assert run.failure is None
    assert run.log.content == said
    assert stage.journal.ended == [(said, ending)]
    assert provider.open_streams == 0


async def test_a_cancelled_answer_keeps_the_count_of_its_prompt_that_was_told_early(stage, autojump_clock):
    early = Usage(prompt_tokens=500, completion_tokens=1, source="estimated")
    run = stage.start(Scripted([early, "four and twenty", Stall()]))
    ending = await cancel_after(run, 3)
    assert ending.usage == Usage(500, 4, source="estimated")


async def test_many_cancels_are_one(stage, autojump_clock):
    run = stage.start(Scripted([Stall()]))
    ending = await cancel_after(run, 1, times=3)
    run.cancel()
    assert ending.reason is FinishReason.CANCELLED
    assert len(stage.journal.ended) == 1


async def test_a_cancel_while_the_run_is_being_stored_never_asks_the_provider_for_more(stage, autojump_clock):
    stage.journal.open_s = 2.0
    provider = Scripted(["never"])
    run = stage.start(provider)
    ending = await cancel_after(run, 1)
    assert run.refusal is None
    assert (ending.reason, ending.upstream_closed) == (FinishReason.CANCELLED, True)
    assert ending.duration_s == 2.0
    assert run.log.next_index == 0
    assert provider.open_streams == 0


async def test_a_cancel_before_the_run_has_taken_a_step_still_ends_it_properly(stage, autojump_clock):
    run = stage.start(Scripted(["never"]))
    run.cancel()
    ending = await cancel_after(run, 0)
    assert ending.reason is FinishReason.CANCELLED


async def test_a_cancel_that_crosses_the_providers_own_end_changes_nothing(stage, autojump_clock):
    stage.journal.end_s = 2.0
    run = stage.start(Scripted([Pause(1), "whole"]))
    ending = await cancel_after(run, 2)
    assert (ending.reason, ending.upstream_closed) == (FinishReason.COMPLETED, None)


async def test_a_cancel_of_an_ended_run_changes_nothing(stage, autojump_clock):
    run = stage.start(Scripted(["whole"]))
    await watch(run)
    run.cancel()
    assert run.ending.reason is FinishReason.COMPLETED


async def test_end_waits_until_a_slow_provider_is_closed(stage, autojump_clock):
    provider = Scripted([SlowClose(1.25), "a", Stall()])
    run = stage.start(provider)
    ending = await cancel_after(run, 3)
    assert (ending.upstream_closed, ending.cancel_s, ending.duration_s) == (True, 1.25, 4.25)
    assert provider.open_streams == 0


@pytest.mark.parametrize("cancel_at_s", [3.0, 3.4])
async def test_a_provider_that_does_not_close_is_told_and_not_waited_for(stage, autojump_clock, cancel_at_s):
    provider = Scripted([SlowClose(100), "a", Stall()])
    run = stage.start(provider)
    ending = await cancel_after(run, cancel_at_s)
    assert (ending.reason, ending.upstream_closed) == (FinishReason.CANCELLED, False)
    assert ending.cancel_s == pytest.approx(CLOSE_LIMIT_S)
    assert trio.current_time() - run.started_at == pytest.approx(cancel_at_s + CLOSE_LIMIT_S)
    assert provider.open_streams == 1


async def test_a_failure_that_follows_from_a_cancel_is_none(stage, autojump_clock):
    class Clumsy(Scripted):
        def stream(self, prompt):
            return _ClumsyStream()

    class _ClumsyStream:
        async def __aenter__(self):
            return self

        async def __aexit__(self, *exc):
            raise OSError("closing failed")

        def __aiter__(self):
            return self

        async def __anext__(self):
            await trio.sleep_forever()

    run = stage.start(Clumsy([]))
    ending = await cancel_after(run, 1)
    assert (ending.reason, run.failure) == (FinishReason.CANCELLED, None)


# ---- nobody watches


async def leave_after(run, seconds):
    with run.viewer():
        await trio.sleep(seconds)
    left_at = trio.current_time()
    await run.ended.wait()
    return trio.current_time() - left_at


ENDLESS = [step for _ in range(400) for step in ("word ", Pause(1))]


async def test_a_run_that_nobody_watches_is_cancelled_after_its_grace(stage, autojump_clock):
    provider = Scripted(ENDLESS)
    run = stage.start(provider)
    assert await leave_after(run, 2.5) == 60.0
    assert (run.ending.reason, run.ending.upstream_closed, run.ending.cancel_s) == (FinishReason.CANCELLED, True, 0.0)
    assert stage.journal.ended[0][0] == "word " * 63
    assert provider.open_streams == 0


async def test_a_viewer_who_returns_in_time_keeps_the_run_alive(stage, autojump_clock):
    run = stage.start(Scripted(ENDLESS))
    with run.viewer():
        await trio.sleep(1)
    await trio.sleep(59)
    with run.viewer():
        await trio.sleep(100)
        assert run.is_live
    assert await leave_after(run, 0) == 60.0


async def test_a_run_with_another_viewer_left_goes_on(stage, autojump_clock):
    run = stage.start(Scripted(["a", Pause(100), "b"]), deadlines=Deadlines(200, 200, 600))
    with run.viewer():
        with run.viewer():
            await trio.sleep(1)
        await run.ended.wait()
    assert run.log.content == "ab"


async def test_a_run_without_a_grace_goes_on_to_its_end(stage, autojump_clock):
    run = stage.start(Scripted([Pause(30), "a", Pause(50), "b"]), orphan_grace_s=None)
    assert await leave_after(run, 1) == 79.0
    assert run.ending.reason is FinishReason.COMPLETED


async def test_a_grace_of_nothing_cancels_at_once(stage, autojump_clock):
    run = stage.start(Scripted(ENDLESS), orphan_grace_s=0.0)
    assert await leave_after(run, 2.5) == 0.0
    assert run.ending.reason is FinishReason.CANCELLED


async def test_a_run_left_while_it_is_being_stored_is_cancelled_when_it_begins(stage, autojump_clock):
    stage.journal.open_s = 5.0
    run = stage.start(Scripted(ENDLESS), orphan_grace_s=0.0)
    await leave_after(run, 1)
    assert run.ending.reason is FinishReason.CANCELLED
    assert run.ending.duration_s == 5.0


async def test_a_timeout_beats_a_longer_grace(stage, autojump_clock):
    run = stage.start(Scripted([Stall()]), deadlines=Deadlines(10, 5, 60))
    assert await leave_after(run, 1) == 9.0
    assert run.ending.reason is FinishReason.TIMEOUT


async def test_an_orphan_whose_provider_does_not_close_is_still_a_cancelled_one(stage, autojump_clock):
    run = stage.start(Scripted([SlowClose(100), "a", Stall()]), orphan_grace_s=10.0)
    waited = await leave_after(run, 1)
    assert (run.ending.reason, run.ending.upstream_closed, run.failure) == (FinishReason.CANCELLED, False, None)
    assert waited == pytest.approx(10 + CLOSE_LIMIT_S, abs=1)


async def test_a_cancel_after_a_deadline_has_passed_does_not_change_why_the_answer_ended(stage, autojump_clock):
    provider = Scripted(["half", SlowClose(20.0), Stall()])
    run = stage.start(provider, deadlines=Deadlines(first_token_s=5.0, idle_s=5.0, total_s=600.0))
    ending = await cancel_after(run, 7.0)
    assert (ending.reason, run.failure.field) == (FinishReason.TIMEOUT, "idle")
    assert (ending.upstream_closed, ending.cancel_s) == (None, None)
    assert ending.duration_s == 5.0 + CLOSE_LIMIT_S
