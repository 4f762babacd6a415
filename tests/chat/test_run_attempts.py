"""A run whose provider stands for several attempts: ledger rows, notices, and who answered in the end."""

import pytest
import trio

from scm_trio.chat.prompt import estimate_tokens
from scm_trio.errors import ProviderRateLimited, ProviderUnavailable, StoreError
from scm_trio.model import Attempt, AttemptFailed, Delta, FinishReason, Usage
from scm_trio.providers.fallback import Chain, Link, Terms
from scm_trio.providers.scripted import Fail, Pause, Scripted, SlowClose, Stall
from scm_trio.store import runs
from scm_trio.testing import open_server

from .building import PROMPT, watch

DOWN = ProviderUnavailable("down")


class Moods(Scripted):
    """Answers each question with the next script; the last one for ever."""

    def __init__(self, *scripts, name="scripted"):
        self.scripts = [list(script) for script in scripts]
        super().__init__(
            lambda _: self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0],
            name=name,
            models=("scripted-1",) if name == "scripted" else (f"{name}-1",),
        )


def chain(*providers, retries=2):
    return Chain([Link(each, retries=retries) for each in providers], Terms(jitter=lambda: 1.0))


def told(run):
    return [(notice.code, notice.provider) for notice in run.notices]


async def test_an_answer_at_once_needs_no_further_row_and_no_notice(stage, autojump_clock):
    run = stage.start(chain(Moods(["a"])))
    assert await watch(run) == "a"
    assert (stage.journal.attempts, run.notices) == ([], [])


async def test_each_attempt_is_noted_before_it_begins_and_settled_when_it_failed(stage, autojump_clock):
    run = stage.start(chain(Moods([Fail(DOWN)]), Moods(["b"], name="backup"), retries=1))
    assert await watch(run) == "b"
    assert stage.journal.attempts == [
        (0, "scripted", "scripted-1", "PROVIDER_UNAVAILABLE"),
        (1, "scripted", "scripted-1", None),
        (1, "scripted", "scripted-1", "PROVIDER_UNAVAILABLE"),
        (2, "backup", "backup-1", None),
    ]
    assert told(run) == [("RETRYING", "scripted"), ("FALLBACK", "backup")]
    assert (run.info.provider, run.info.model) == ("backup", "backup-1")
    assert run.plan.info.provider == "scripted"
    assert run.failure is None


async def test_a_store_that_fails_costs_no_answer_and_loses_no_row(stage, autojump_clock):
    stage.journal.fail_attempt = StoreError("full")
    run = stage.start(chain(Moods([Fail(DOWN)], ["a"])))
    assert await watch(run) == "a"
    assert [(row.number, row.outcome) for row in run.attempts.unsaved] == [
        (0, "PROVIDER_UNAVAILABLE"),
        (1, "completed"),
    ]


async def test_a_store_that_hangs_holds_an_attempt_up_for_so_long_only(stage, autojump_clock):
    stage.journal.attempt_s = 10_000
    run = stage.start(chain(Moods([Fail(DOWN)], ["a"])))
    assert await watch(run) == "a"


async def test_a_cancel_while_it_waits_for_a_retry_is_immediate(stage, autojump_clock):
    run = stage.start(chain(Moods([Fail(ProviderRateLimited(retry_after_s=20))])))
    with run.viewer():
        await trio.sleep(3)
        run.cancel()
        await run.ended.wait()
    assert trio.current_time() == 3
    assert run.ending.reason is FinishReason.CANCELLED
    # What ended the attempt stays what it was.
    assert stage.journal.attempts == [(0, "scripted", "scripted-1", "PROVIDER_RATE_LIMITED")]


async def test_the_first_token_deadline_is_for_all_attempts_together(stage, autojump_clock):
    run = stage.start(chain(Moods([Pause(40), Fail(DOWN)], [Stall()])))
    await watch(run)
    assert trio.current_time() == 60
    assert run.failure.field == "first_token"
    assert [row.outcome for row in run.attempts.unsaved] == ["timeout"]


async def test_when_every_attempt_failed_the_answer_fails(stage, autojump_clock):
    run = stage.start(chain(Moods([Fail(DOWN)]), retries=1))
    await watch(run)
    assert run.failure is DOWN
    assert run.ending.reason is FinishReason.ERROR
    # It was refused each time: nothing was spent.
    assert run.ending.usage == Usage(source="estimated")
    assert [row[3] for row in stage.journal.attempts] == ["PROVIDER_UNAVAILABLE", None, "PROVIDER_UNAVAILABLE"]


async def test_what_an_attempt_cost_is_what_its_provider_said_or_an_estimate(stage, autojump_clock):
    stage.journal.fail_attempt = StoreError("full")
    first = Moods([Usage(7, 0), Pause(1), Fail(DOWN)], [Pause(1), Fail(DOWN)], [Fail(DOWN)], ["a"])
    run = stage.start(chain(first, retries=3))
    await watch(run)
    usages = [row.usage for row in run.attempts.unsaved]
    assert usages[0] == Usage(7, 0)
    assert [usage.prompt_tokens > 0 for usage in usages] == [True, True, False, True]
    assert [usage.source for usage in usages] == ["provider", "estimated", "estimated", "estimated"]


async def test_a_first_attempt_may_go_elsewhere_at_once(stage, autojump_clock):
    run = stage.start(Scripted([Attempt(0, "backup", "backup-1"), Delta("b")]))
    assert await watch(run) == "b"
    assert stage.journal.attempts == [(0, "backup", "backup-1", None)]
    assert told(run) == [("FALLBACK", "backup")]


async def test_who_asked_nobody_has_spent_nothing(stage, autojump_clock):
    run = stage.start(Scripted([AttemptFailed("PROVIDER_UNAVAILABLE"), Fail(DOWN)]))
    await watch(run)
    assert run.ending.usage == Usage(source="estimated")
    assert stage.journal.attempts == [(0, "scripted", "scripted-1", "PROVIDER_UNAVAILABLE")]


async def test_a_failure_is_the_outcome_in_the_ledger(stage, autojump_clock):
    stage.journal.fail_end = StoreError("full")
    run = stage.start(Moods(["a", Fail(DOWN)]))
    await watch(run)
    assert [row.outcome for row in run.attempts.unsaved] == ["PROVIDER_UNAVAILABLE"]
    assert PROMPT.turns


# ---- the rows themselves

LEDGER = (
    "SELECT attempt_id, provider, model, outcome, duration_ms, prompt_tokens, source FROM usage ORDER BY attempt_id"
)


async def rows(server):
    return await server.house.database.read(lambda conn: [tuple(row) for row in conn.exec_driver_sql(LEDGER)])


async def asked(server, **data):
    async with server.peer() as peer:
        await peer.send("CHAT_REQUEST", {"message": "Hi", **data}, request_id="r1")
        return await peer.until("CHAT_STREAM_END", "CHAT_RESPONSE")


@pytest.mark.parametrize("streaming", [True, False])
async def test_the_ledger_has_one_row_per_attempt(autojump_clock, streaming):
    provider = chain(Moods([Fail(DOWN)]), Moods(["b"], name="backup"), retries=1)
    async with open_server({"scripted": provider}) as server:
        end = (await asked(server, streaming=streaming))[-1]
        found = await rows(server)
        message_id = end["data"]["messageId"]
        stored = await server.house.gate.service.recall("user001", message_id)
    assert [row[1:5] for row in found] == [
        ("scripted", "scripted-1", "PROVIDER_UNAVAILABLE", 0),
        ("scripted", "scripted-1", "PROVIDER_UNAVAILABLE", 0),
        ("backup", "backup-1", "completed", 0),
    ]
    assert [row[0] for row in found] == [f"{message_id}-{number}" for number in range(3)]
    assert [row[5] > 0 for row in found] == [False, False, True]
    assert (stored.info.provider, stored.info.model) == ("backup", "backup-1")


async def test_the_same_request_again_is_billed_once(autojump_clock):
    provider = chain(Moods([Fail(DOWN)], ["a"], ["never"]))
    async with open_server({"scripted": provider}) as server:
        await asked(server)
        await asked(server)
        found = await rows(server)
    assert [row[3] for row in found] == ["PROVIDER_UNAVAILABLE", "completed"]


async def test_a_cancelled_attempt_is_settled_as_such(autojump_clock):
    provider = chain(Moods([Fail(DOWN)], [Stall()]))
    async with open_server({"scripted": provider}) as server, server.peer() as peer:
        await peer.send("CHAT_REQUEST", {"message": "Hi"}, request_id="r1")
        await peer.until("INFO")
        await trio.sleep(2)
        await peer.send("CHAT_CANCEL", {"requestId": "r1"})
        await peer.until("CHAT_STREAM_END")
        found = await rows(server)
    assert [(row[3], row[4]) for row in found] == [("PROVIDER_UNAVAILABLE", 0), ("cancelled", 1500)]


async def test_a_run_that_has_ended_while_a_failed_attempt_closes_begins_no_other(autojump_clock):
    slow, backup = Moods([SlowClose(20), Pause(1), Fail(DOWN)]), Moods(["b"], name="backup")
    async with open_server({"scripted": chain(slow, backup, retries=0)}) as server, server.peer() as peer:
        await peer.send("CHAT_REQUEST", {"message": "Hi"}, request_id="r1")
        await trio.sleep(2)
        await peer.send("CHAT_CANCEL", {"requestId": "r1"})
        end = (await peer.until("CHAT_STREAM_END"))[-1]["data"]
        assert (end["finishReason"], end["upstreamClosed"]) == ("cancelled", False)
        await trio.sleep(60)
        found = await rows(server)
    assert (slow.closed_streams, backup.prompts) == (1, [])
    assert [row[3] for row in found] == ["cancelled"]


async def test_a_crash_would_leave_one_running_row_which_the_next_start_settles(autojump_clock):
    provider = chain(Moods([Fail(DOWN)], ["so far", Stall()]))
    async with open_server({"scripted": provider}) as server, server.peer() as peer:
        await peer.send("CHAT_REQUEST", {"message": "Hi"}, request_id="r1")
        await peer.until("CHAT_STREAM_DATA")
        await trio.sleep(2)
        assert [row[3] for row in await rows(server)] == ["PROVIDER_UNAVAILABLE", "running"]
        await server.house.database.write(runs.seal_interrupted, 0.0, estimate_tokens)
        sealed = await rows(server)
        assert [row[3] for row in sealed] == ["PROVIDER_UNAVAILABLE", "interrupted"]
        await peer.send("CHAT_CANCEL", {"requestId": "r1"})
        await peer.until("CHAT_STREAM_END")
        assert await rows(server) == sealed


async def test_a_moved_first_attempt_keeps_its_one_row(autojump_clock):
    provider = Scripted([Attempt(0, "backup", "backup-1"), "b"])
    async with open_server({"scripted": provider}) as server:
        await asked(server)
        found = await rows(server)
    assert [row[1:4] for row in found] == [("backup", "backup-1", "completed")]


async def test_rows_that_could_not_be_written_in_time_come_with_the_end(autojump_clock, monkeypatch):
    from scm_trio.chat.journal import StoreJournal  # noqa: PLC0415 - only this test breaks it

    async def fail(self, run):
        await trio.lowlevel.checkpoint()
        raise StoreError("full")

    monkeypatch.setattr(StoreJournal, "attempt", fail)
    async with open_server({"scripted": chain(Moods([Fail(DOWN)], ["a"]))}) as server:
        await asked(server)
        found = await rows(server)
    assert [row[3] for row in found] == ["PROVIDER_UNAVAILABLE", "completed"]
