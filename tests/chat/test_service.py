"""Requests become runs; runs are found, counted, forgotten and drained."""

import pytest
import trio

from scm_trio.chat.foretold import FORETOLD_S
from scm_trio.chat.service import Asker, Rules
from scm_trio.config import Ai, Streams
from scm_trio.errors import (
    InvalidMessage,
    NotFound,
    ShuttingDown,
    StoreError,
    TooManyStreams,
)
from scm_trio.model import FinishReason
from scm_trio.protocol.messages import Grace
from scm_trio.providers.scripted import Pause, Scripted, SlowClose, Stall

from .building import watch


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"message": "  \n"}, "data.message"),
        ({"message": "x" * 100_001}, "data.message"),
        ({"message": "Hi", "temperature": -0.1}, "data.temperature"),
        ({"message": "Hi", "temperature": 2.1}, "data.temperature"),
        ({"message": "Hi", "max_tokens": 0}, "data.maxTokens"),
        ({"message": "Hi", "timeout_ms": 0}, "data.timeoutMs"),
        ({"message": "Hi", "attachments": tuple("abcdefghi")}, "data.attachments"),
        ({"message": "Hi", "attachments": ("f1", "f2", "f1")}, "data.attachments[2]"),
        ({"message": "Hi", "parent_message_id": "a", "regenerate_of": "b"}, "data.regenerateOf"),
        ({"message": "Hi", "regenerate_of": "a", "edit_of": "b"}, "data.editOf"),
    ],
)
async def test_a_bad_request_starts_nothing(stage, autojump_clock, request_, field):
    service = stage.service({"a": Scripted(["x"])})
    with pytest.raises(InvalidMessage) as caught:
        stage.begin(service, **request_)
    assert caught.value.field == field
    assert service.live_runs == 0


async def test_a_question_is_trimmed_and_its_options_are_carried_on(stage, autojump_clock):
    service = stage.service({"a": Scripted(["x"])}, Rules(ai=Ai(system_prompt="Be brief.")))
    run = stage.begin(service, "  Hi \n", temperature=2, max_tokens=7, parent_message_id="p", conversation_id="c")
    question = run.plan.question
    assert (question.text, question.temperature, question.max_tokens, question.parent_id) == ("Hi", 2, 7, "p")
    assert (question.system_prompt, run.plan.conversation_id) == ("Be brief.", "c")
    await watch(run)


@pytest.mark.parametrize(
    ("on_orphan", "grace_s"), [(None, 60.0), ("continue", None), ("cancel", 0.0), (Grace(2500), 2.5)]
)
async def test_the_orphans_grace_is_the_askers_or_the_configured_one(stage, autojump_clock, on_orphan, grace_s):
    run = stage.begin(stage.service({"a": Scripted(["x"])}), on_orphan=on_orphan)
    assert run.plan.orphan_grace_s == grace_s
    await watch(run)


@pytest.mark.parametrize(("timeout_ms", "total_s"), [(None, 600.0), (2500, 2.5), (10**9, 600.0)])
async def test_a_client_may_shorten_the_total_time_and_not_lengthen_it(stage, autojump_clock, timeout_ms, total_s):
    run = stage.begin(stage.service({"a": Scripted(["x"])}), timeout_ms=timeout_ms)
    assert run.plan.deadlines.total_s == total_s
    await watch(run)


# ---- the same again


async def test_the_same_request_is_the_same_run_before_during_and_after(stage, autojump_clock):
    service = stage.service({"a": Scripted([Pause(1), "x"])})
    run = stage.begin(service, request_id="r1")
    assert stage.begin(service, request_id="r1") is run
    assert service.has("user001", "r1")
    await watch(run)
    assert stage.begin(service, "another text", request_id="r1") is run
    assert service.find("user001", request_id="r1") is run
    assert service.find("user001", message_id=run.info.message_id) is run


async def test_a_request_belongs_to_its_user(stage, autojump_clock):
    service = stage.service({"a": Scripted(["x"])})
    run = stage.begin(service, request_id="r1")
    other = stage.begin(service, request_id="r1", asker=Asker("user002", "session001"))
    assert other is not run
    for key in ({"message_id": run.info.message_id}, {"request_id": "none"}, {}):
        with pytest.raises(NotFound):
            service.find("user002", **key)
    await watch(run)
    await watch(other)


async def test_a_refused_request_may_be_asked_again(stage, autojump_clock):
    service = stage.service({"a": Scripted(["x"])})
    stage.journal.fail_open = StoreError("full")
    run = stage.begin(service, request_id="r1")
    await run.opened.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert not service.has("user001", "r1")
    assert service.live_runs == 0
    stage.journal.fail_open = None
    assert await watch(stage.begin(service, request_id="r1")) == "x"


async def test_ended_runs_are_forgotten_after_the_resume_window(stage, autojump_clock):
    service = stage.service({"a": Scripted(["x"])}, Rules(Streams(resume_window_s=100)))
    ended = stage.begin(service, request_id="r1")
    await watch(ended)
    live = stage.begin(service, request_id="r2")
    service.sweep(ended.ended_at + 99)
    assert service.has("user001", "r1")
    service.sweep(ended.ended_at + 100)
    assert not service.has("user001", "r1")
    with pytest.raises(NotFound):
        service.find("user001", message_id=ended.info.message_id)
    assert service.has("user001", "r2")
    await watch(live)


@pytest.mark.parametrize("answers", [["x"], ["x", Stall()]])
async def test_a_run_that_another_process_has_deleted_is_ended_and_forgotten(stage, autojump_clock, answers):
    service = stage.service({"a": Scripted(answers)})
    run = stage.begin(service, request_id="r1")
    stage.nursery.start_soon(watch, run)
    await trio.sleep(1)
    assert await service.recall("user001", run.info.message_id) is run
    stage.journal.deleted.add(run.info.message_id)
    with pytest.raises(NotFound):
        await service.recall("user001", run.info.message_id)
    assert not service.has("user001", "r1")
    await run.ended.wait()
    assert run.log.content == "x"


# ---- how many


async def test_a_user_may_have_so_many_answers_at_once(stage, autojump_clock):
    service = stage.service({"a": Scripted([Stall()])}, Rules(Streams(max_per_user=2)))
    runs = [stage.begin(service, request_id=f"r{number}") for number in range(2)]
    assert service.active("user001") == tuple(runs)
    with pytest.raises(TooManyStreams):
        stage.begin(service, request_id="r2")
    assert stage.begin(service, request_id="r1") is runs[1]
    other = stage.begin(service, asker=Asker("user002", "s"))
    service.cancel("user001", request_id="r0")
    await watch(runs[0])
    await trio.testing.wait_all_tasks_blocked()
    assert service.active("user001") == (runs[1],)
    again = stage.begin(service, request_id="r2")
    for run in (runs[1], other, again):
        run.cancel()
    for run in (runs[1], other, again):
        await watch(run)
    await trio.testing.wait_all_tasks_blocked()
    assert service.live_runs == 0
    assert service.active("user001") == ()


async def test_there_is_nothing_to_cancel_after_the_end(stage, autojump_clock):
    service = stage.service({"a": Scripted(["x"])})
    await watch(stage.begin(service, request_id="r1"))
    with pytest.raises(NotFound):
        service.cancel("user001", request_id="r1")


# ---- draining


async def drained_after(service, grace_s, hurry=None):
    began = trio.current_time()
    await service.drain(grace_s, hurry or trio.Event())
    return trio.current_time() - began


async def test_an_idle_service_is_drained_at_once(stage, autojump_clock):
    assert await drained_after(stage.service({"a": Scripted(["x"])}), 30) == 0.0


async def test_draining_lets_answers_finish_and_starts_none(stage, autojump_clock):
    service = stage.service({"a": Scripted([Pause(7), "x"])})
    run = stage.begin(service, request_id="r1", on_orphan="continue")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.drain, 30, trio.Event())
        await trio.sleep(1)
        with pytest.raises(ShuttingDown) as caught:
            stage.begin(service, request_id="r2")
        assert caught.value.retry_after_s
        assert stage.begin(service, request_id="r1") is run
    assert trio.current_time() - run.started_at == 7.0
    assert run.ending.reason is FinishReason.COMPLETED


async def test_after_the_grace_the_rest_is_interrupted_and_stored(stage, autojump_clock):
    service = stage.service({"a": Scripted(["half", Stall()])})
    run = stage.begin(service, on_orphan="continue")
    assert await drained_after(service, 5) == 5.0
    assert (run.ending.reason, run.ending.upstream_closed, run.failure) == (FinishReason.INTERRUPTED, None, None)
    assert stage.journal.ended[0][0] == "half"


async def test_hurry_ends_the_grace(stage, autojump_clock):
    service = stage.service({"a": Scripted(["half", Stall()])})
    run = stage.begin(service, on_orphan="continue")
    hurry = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.drain, 100, hurry)
        await trio.sleep(3)
        hurry.set()
    assert run.ending.reason is FinishReason.INTERRUPTED
    assert run.ending.duration_s == 3.0


async def test_draining_waits_for_a_stuck_provider_so_long_and_no_longer(stage, autojump_clock):
    service = stage.service({"a": Scripted([SlowClose(1000), "half", Stall()])})
    run = stage.begin(service, on_orphan="continue")
    await trio.sleep(1)
    assert await drained_after(service, 2) <= 17
    assert run.ending.reason is FinishReason.INTERRUPTED


async def test_a_cancel_that_overtakes_its_request_counts_when_that_comes(stage, autojump_clock):
    service = stage.service({"a": Scripted(["never", Stall()])})
    with pytest.raises(NotFound):
        service.cancel("user001", request_id="r1")
    for user_id, request_id in (("user002", "r1"), ("user001", "r2")):
        other = stage.begin(service, request_id=request_id, asker=Asker(user_id, "s"))
        await other.opened.wait()
        await trio.sleep(1)
        assert other.is_live
        other.cancel()
    run = stage.begin(service, request_id="r1")
    await watch(run)
    assert (run.ending.reason, run.log.content) == (FinishReason.CANCELLED, "")


async def test_a_foretold_cancel_is_forgotten_after_a_while(stage, autojump_clock):
    service = stage.service({"a": Scripted(["all of it"])})
    with pytest.raises(NotFound):
        service.cancel("user001", request_id="r1")
    await trio.sleep(FORETOLD_S)
    service.sweep(trio.current_time())
    assert await watch(stage.begin(service, request_id="r1")) == "all of it"
