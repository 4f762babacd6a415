"""A bug of ours costs one answer: never the server, and never an END."""

import attrs
import pytest
import trio
import trio.testing

from scm_trio.chat.run import CLOSE_LIMIT_S, STORE_LIMIT_S
from scm_trio.model import FinishReason
from scm_trio.providers.scripted import Pause, Scripted, SlowClose, Stall

from .building import watch


async def test_a_bug_before_the_run_is_stored_refuses_the_request(stage, autojump_clock):
    stage.journal.fail_open = ValueError("a bug")
    run = stage.start(Scripted(["never"]))
    await run.opened.wait()
    assert run.refusal.code == "INTERNAL"
    await trio.testing.wait_all_tasks_blocked()
    assert stage.done == [run]


async def test_a_bug_in_the_journal_still_ends_the_answer(stage, autojump_clock):
    stage.journal.fail_end = ValueError("a bug")
    stage.observer.live = -1  # the run never reports its end
    run = stage.start(Scripted(["a", Pause(3), "b"]))
    await watch(run)
    stage.observer.live = 0
    assert (run.failure.code, run.ending.reason) == ("INTERNAL", FinishReason.ERROR)
    assert run.log.sealed
    await trio.testing.wait_all_tasks_blocked()
    assert stage.done == [run]


async def test_a_bug_in_a_checkpoint_costs_nothing_but_that(stage, autojump_clock):
    stage.journal.fail_checkpoint = ValueError("a bug")
    run = stage.start(Scripted(["a", Pause(1.5), "b", Pause(1), "c"]))
    with run.viewer():
        await trio.sleep(1.2)
        stage.journal.fail_checkpoint = None
        await run.ended.wait()
    assert (run.failure, run.ending.reason) == (None, FinishReason.COMPLETED)
    assert stage.journal.checkpoints == [(2.0, "ab")]


async def test_a_journal_that_hangs_at_the_start_refuses_the_request_in_time(stage, autojump_clock):
    stage.journal.open_s = 1000.0
    run = stage.start(Scripted(["never"]))
    began = trio.current_time()
    await run.opened.wait()
    assert trio.current_time() - began == STORE_LIMIT_S
    assert (run.refusal.code, run.refusal.retryable) == ("SERVER_BUSY", True)


async def test_a_hanging_checkpoint_does_not_hold_a_cancel_back(stage, autojump_clock):
    stage.journal.checkpoint_s = 1000.0
    run = stage.start(Scripted(["a", Stall()]))
    with run.viewer():
        await trio.sleep(2)
        run.cancel()
        await run.ended.wait()
    assert run.ending.duration_s == 2.0


async def test_a_provider_that_hangs_in_its_closing_holds_no_place(stage, autojump_clock):
    provider = Scripted([SlowClose(100), "a", Stall()])
    run = stage.start(provider)
    with run.viewer():
        await trio.sleep(1)
        run.cancel()
        await run.ended.wait()
    assert run.ending.upstream_closed is False
    assert run.ending.duration_s == 1 + CLOSE_LIMIT_S
    assert stage.done == [run]
    assert provider.open_streams == 1


async def test_a_provider_that_hangs_after_a_timeout_is_not_waited_for_either(stage, autojump_clock):
    run = stage.start(Scripted([SlowClose(100), "a", Stall()]))
    await watch(run)
    assert run.failure.field == "idle"
    assert run.ending.duration_s == pytest.approx(60 + CLOSE_LIMIT_S, abs=0.5)


async def test_a_whole_body_may_take_longer_than_a_first_token(stage, autojump_clock):

    stage.journal.answer = attrs.evolve(stage.journal.answer, stream=False)
    run = stage.start(Scripted([Pause(200), "whole"]), streaming=False)
    assert await watch(run) == "whole"
    assert run.failure is None
