"""What a run tells its journal, and what it does when the journal fails."""

import pytest
import trio
import trio.testing

from scm_trio.chat.answer import StoredAnswer
from scm_trio.chat.persistence import LATE_RETRY_S
from scm_trio.chat.plan import Opened
from scm_trio.chat.run import STORE_LIMIT_S
from scm_trio.errors import Conflict, NotFound, StoreError
from scm_trio.model import AnswerInfo, Ending, FinishReason, Usage
from scm_trio.providers.scripted import Pause, Scripted, Stall

from .building import PROMPT, SESSION, Stage, watch


async def test_the_text_so_far_is_made_durable_each_second(stage, autojump_clock):
    run = stage.start(Scripted(["a", Pause(2.5), "b", Pause(1.2), "c"]))
    await watch(run)
    assert stage.journal.checkpoints == [(1.0, "a"), (3.0, "ab")]


async def test_a_silent_provider_costs_no_checkpoint(stage, autojump_clock):
    await watch(stage.start(Scripted([Pause(9.5), "a"])))
    assert stage.journal.checkpoints == []


async def test_a_failed_checkpoint_costs_nothing(stage, autojump_clock):
    stage.journal.fail_checkpoint = StoreError("full")
    run = stage.start(Scripted(["a", Pause(3), "b"]))
    assert await watch(run) == "ab"
    assert run.ending.reason is FinishReason.COMPLETED
    assert run.failure is None


async def test_a_stuck_checkpoint_does_not_hold_back_the_end_for_ever(stage, autojump_clock):
    stage.journal.checkpoint_s = 10_000.0
    run = stage.start(Scripted(["a", Pause(3), "b"]))
    with trio.fail_after(60):
        assert await watch(run) == "ab"


async def test_a_run_that_cannot_be_stored_is_refused_and_never_asked(stage, autojump_clock):
    stage.journal.fail_open = StoreError("full")
    provider = Scripted(["a"])
    run = stage.start(provider)
    await run.opened.wait()
    assert run.refusal.code == "INTERNAL"
    assert not run.is_live
    assert provider.prompts == []


async def test_a_question_that_is_stored_after_its_request_was_refused_begins_nothing(stage, autojump_clock):
    stage.journal.open_s = 10 * STORE_LIMIT_S
    run = stage.start(Scripted(["a"]))
    await run.opened.wait()
    assert run.refusal.code == "SERVER_BUSY"
    run.accept(Opened(PROMPT, SESSION, "msg-q", run.plan))
    assert (stage.begun, run.session) == ([], None)


async def test_a_request_that_the_journal_refuses_is_refused_with_its_reason(stage, autojump_clock):
    stage.journal.fail_open = NotFound(field="data.parentMessageId")
    run = stage.start(Scripted(["a"]))
    await run.opened.wait()
    assert run.refusal is stage.journal.fail_open


async def test_a_conflict_is_a_refusal(stage, autojump_clock):
    stage.journal.fail_open = Conflict()
    run = stage.start(Scripted(["a"]))
    await run.opened.wait()
    assert run.refusal.code == "CONFLICT"


async def test_a_run_whose_storing_was_given_up_leaves_nothing_and_is_refused_at_once(stage, autojump_clock):
    stage.journal.open_s = 10_000.0
    run = stage.start(Scripted(["never"]))
    await run.opened.wait()
    assert trio.current_time() == STORE_LIMIT_S
    assert run.refusal.code == "SERVER_BUSY"
    await trio.testing.wait_all_tasks_blocked()
    assert stage.journal.withdrawn == ["msg-a"]
    assert stage.done == [run]


async def test_an_answer_that_cannot_be_stored_still_ends_and_is_stored_later(stage, autojump_clock):
    stage.journal.fail_end = StoreError("full")
    run = stage.start(Scripted(["a"]))
    assert await watch(run) == "a"
    assert run.ending.reason is FinishReason.COMPLETED
    assert trio.current_time() == STORE_LIMIT_S
    assert stage.done == [run], "it holds no place any more"
    await trio.sleep(100)
    assert stage.journal.ended == []
    stage.journal.fail_end = None
    await trio.sleep(LATE_RETRY_S)
    assert stage.journal.ended == [("a", run.ending)]


async def test_a_store_that_fails_for_a_moment_delays_the_end_and_that_is_all(stage, autojump_clock):
    stage.journal.fail_end = StoreError("locked")
    run = stage.start(Scripted(["a"]))
    await trio.sleep(3.2)
    assert not run.ended.is_set()
    stage.journal.fail_end = None
    assert await watch(run) == "a"
    assert trio.current_time() == 3.5
    assert len(stage.journal.ended) == 1


async def test_storing_an_answer_may_take_so_long_and_no_longer(stage, autojump_clock):
    stage.journal.end_s = 10_000.0
    run = stage.start(Scripted(["a"]))
    await watch(run)
    assert trio.current_time() - run.started_at == STORE_LIMIT_S


async def test_an_answer_is_stored_before_its_end_is_told(stage, autojump_clock):
    stage.journal.end_s = 2.0
    run = stage.start(Scripted(["a"]))
    await watch(run)
    assert len(stage.journal.ended) == 1
    # Its length is the provider's time, not the database's.
    assert run.ending.duration_s == 0.0


async def test_a_known_request_is_answered_from_the_journal(stage, autojump_clock):
    info = AnswerInfo("msg-old", "msg-asked", "r1", "old-model", "old-provider")
    ending = Ending(FinishReason.LENGTH, Usage(1, 2), 3.0)
    stage.journal.answer = StoredAnswer(info, "user001", SESSION, True, "whole", "thought", ending, 2)
    provider = Scripted(["never"])
    run = stage.start(provider)
    assert await watch(run) == "whole"
    assert (run.info, run.ending, run.rev, run.log.reasoning) == (info, ending, 2, "thought")
    assert run.ended_at == trio.current_time()
    assert not run.is_live
    assert provider.prompts == []


@pytest.mark.parametrize("open_s", [0.0, 5.0])
async def test_a_runs_nursery_that_is_cancelled_leaves_nobody_waiting(autojump_clock, open_s):
    async with trio.open_nursery() as nursery:
        stage = Stage(nursery)
        stage.journal.open_s = open_s
        run = stage.start(Scripted([Stall()]))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    await run.opened.wait()
    assert (run.refusal is not None) is (open_s > 0)
    assert stage.done == [run]
