"""A run whose answer breaks off after its first word and begins anew elsewhere."""

import pytest
import trio

from scm_trio.chat.prompt import estimate_tokens, estimate_turns
from scm_trio.errors import ProviderUnavailable
from scm_trio.model import FinishReason, Usage
from scm_trio.providers.fallback import Chain, Link, Terms
from scm_trio.providers.scripted import Batch, Fail, Pause, Reasoning, Scripted, Stall
from scm_trio.store import ledger, runs
from scm_trio.testing import EPOCH_S, open_server

from .building import PROMPT, plan, watch

CUT = ProviderUnavailable("cut")
ASKED = estimate_turns(PROMPT.turns)


def chain(*scripts):
    row = [
        Scripted(list(script), name=name, models=(f"{name}-1",))
        for name, script in zip(("scripted", "backup", "third"), scripts, strict=False)
    ]
    return Chain([Link(each, retries=0) for each in row], Terms(jitter=lambda: 1.0, restart=True))


def told(run):
    return [(notice.code, notice.provider) for notice in run.notices]


async def test_the_log_begins_anew_and_only_the_new_text_is_stored(stage, autojump_clock):
    run = stage.start(chain([Reasoning("hm"), "old", Pause(1.5), Fail(CUT)], [Pause(1), "new", Pause(2), "er"]))
    assert await watch(run) == "newer"
    assert (run.rev, run.log.reasoning, run.log.length) == (1, "", 5)
    assert [content for content, _ in stage.journal.ended] == ["newer"]
    assert (run.info.provider, run.info.model) == ("backup", "backup-1")
    assert (run.ending.reason, run.failure) == (FinishReason.COMPLETED, None)
    assert told(run) == [("FALLBACK", "backup")]
    # One first token per answer.
    assert stage.observer.first_tokens == [0.0]


async def test_a_checkpoint_follows_the_text_that_stands(stage, autojump_clock):
    run = stage.start(chain(["a", "b", "c", Pause(2.5), Fail(CUT)], [Pause(2), "x", Pause(2)]))
    await watch(run)
    assert stage.journal.checkpoints == [(1.0, "abc"), (5.0, "x")]


async def test_a_checkpoint_that_was_under_way_does_not_stand_for_the_new_text(stage, autojump_clock):
    stage.journal.checkpoint_s = 3.0
    run = stage.start(chain(["a", "b", "c", Pause(2), Fail(CUT)], ["x", Pause(8)]))
    await watch(run)
    assert [at for at, _ in stage.journal.checkpoints] == [4.0, 8.0]
    assert run.saved_upto == (1, 1)


async def test_each_attempt_is_settled_with_what_it_cost(stage, autojump_clock):
    run = stage.start(chain(["old words", Pause(1), Fail(CUT)], [Usage(7, 0), "new", Usage(7, 9)]))
    await watch(run)
    assert stage.journal.attempts == [
        (0, "scripted", "scripted-1", "PROVIDER_UNAVAILABLE"),
        (1, "backup", "backup-1", None),
    ]
    (second,) = run.attempts.unsaved
    assert (second.outcome, second.usage) == ("completed", Usage(7, 9))
    assert run.ending.usage == Usage(7, 9)


async def test_what_broke_off_is_estimated_where_its_provider_did_not_tell(autojump_clock):
    provider = chain([Reasoning("thinking"), "old words", Pause(1), Fail(CUT)], ["new"])
    async with open_server({"scripted": provider}) as server, server.peer() as peer:
        await peer.send("CHAT_REQUEST", {"message": "Hello"})
        await peer.until("CHAT_STREAM_END")
        new, old = await server.house.database.read(ledger.attempts, "user001", 0.0, 2 * EPOCH_S)
    thought, said = estimate_tokens("thinking"), estimate_tokens("old words")
    assert old.usage == Usage(ASKED, said + thought, thought, source="estimated")
    assert (old.outcome, old.duration_ms) == ("PROVIDER_UNAVAILABLE", 1000)
    assert new.usage == Usage(ASKED, estimate_tokens("new"), source="estimated")


async def test_a_text_that_stands_is_told_with_its_own_usage(autojump_clock):
    provider = chain([Usage(5, 6), "old", Fail(CUT)], [Pause(1), Fail(CUT)])
    async with open_server({"scripted": provider}) as server, server.peer() as peer:
        await peer.send("CHAT_REQUEST", {"message": "Hello"}, request_id="r1")
        end = (await peer.until("CHAT_STREAM_END"))[-1]["data"]
        second, first = await server.house.database.read(ledger.attempts, "user001", 0.0, 2 * EPOCH_S)
        stored = await server.house.gate.service.recall("user001", end["messageId"])
    assert (first.usage, second.usage) == (Usage(5, 6), Usage(ASKED, source="estimated"))
    assert end["totalTokens"] == 11
    assert (end["finishReason"], end["rev"]) == ("error", 0)
    assert (stored.info.provider, stored.log.content) == ("scripted", "old")


async def test_when_nobody_else_speaks_the_failure_is_that_of_the_text(stage, autojump_clock):
    run = stage.start(chain(["old", Fail(CUT)], [Fail(ProviderUnavailable("down"))]))
    assert await watch(run) == "old"
    assert run.failure is CUT
    assert (run.ending.reason, run.rev) == (FinishReason.ERROR, 0)
    assert run.info.provider == "scripted"


async def test_the_next_provider_is_waited_for_like_the_first_one(stage, autojump_clock):
    deadlines = plan().deadlines.__class__(first_token_s=30.0, idle_s=5.0, total_s=600.0)
    run = stage.start(chain(["old", Pause(4), Fail(CUT)], [Pause(29), "new"]), deadlines=deadlines)
    assert await watch(run) == "new"
    assert trio.current_time() == 33
    run = stage.start(chain(["old", Pause(4), Fail(CUT)], [Stall()]), deadlines=deadlines)
    assert await watch(run) == "old"
    assert trio.current_time() == 33 + 34
    assert (run.failure.code, run.failure.field, run.ending.reason.value) == ("TIMEOUT", "first_token", "timeout")
    assert [row.outcome for row in run.attempts.unsaved] == ["timeout"]


async def test_the_gap_between_two_words_is_watched_again_afterwards(stage, autojump_clock):
    run = stage.start(chain(["old", Fail(CUT)], ["new", Stall()]))
    assert await watch(run) == "new"
    assert (trio.current_time(), run.failure.field) == (60, "idle")


async def test_a_cancel_before_the_next_provider_speaks_keeps_the_text(stage, autojump_clock):
    run = stage.start(chain(["old", Fail(CUT)], [Usage(9, 0), Stall()]))
    with run.viewer():
        await trio.sleep(3)
        run.cancel()
        await run.ended.wait()
    assert (run.log.content, run.rev, run.ending.reason) == ("old", 0, FinishReason.CANCELLED)
    assert run.ending.usage.completion_tokens == estimate_tokens("old")
    assert [(row.outcome, row.usage) for row in run.attempts.unsaved] == [("cancelled", Usage(9, 0))]


async def test_the_room_for_an_answer_is_new_too(stage, autojump_clock):
    run = stage.start(chain(["x" * 900, Fail(CUT)], ["y" * 900]), max_bytes=1000)
    assert await watch(run) == "y" * 900
    assert run.failure is None


async def test_both_texts_may_come_in_bursts(stage, autojump_clock):
    run = stage.start(chain([Batch("ab"), Fail(CUT)], [Batch("xyz"), Fail(CUT)], [Batch("1234")]))
    assert await watch(run) == "1234"
    assert (run.rev, told(run)) == (2, [("FALLBACK", "backup"), ("FALLBACK", "third")])


@pytest.mark.parametrize(("at_s", "content", "provider"), [(3, "old", "scripted"), (8, "new", "backup")])
async def test_a_crash_leaves_the_text_to_who_said_it(autojump_clock, at_s, content, provider):
    chained = chain(["old", Pause(1.5), Fail(CUT)], [Pause(4), "new", Stall()])
    async with open_server({"scripted": chained}) as server, server.peer() as peer:
        await peer.send("CHAT_REQUEST", {"message": "Hi"}, request_id="r1")
        await trio.sleep(at_s)
        await server.house.database.write(runs.seal_interrupted, 0.0, estimate_tokens)
        message_id = server.house.gate.service.find("user001", request_id="r1").info.message_id
        sealed = await server.house.database.read(runs.find_run, message_id)
        second, first = await server.house.database.read(ledger.attempts, "user001", 0.0, 2 * EPOCH_S)
        stored = await server.house.gate.service._journal.recall("user001", message_id)
        await peer.send("CHAT_CANCEL", {"requestId": "r1"})
        await peer.until("CHAT_STREAM_END")
    assert (stored.content, sealed.provider) == (content, provider)
    assert (first.outcome, second.outcome) == ("PROVIDER_UNAVAILABLE", "interrupted")
    assert first.usage.completion_tokens == estimate_tokens("old")
    assert second.usage.completion_tokens == (estimate_tokens("new") if provider == "backup" else 0)
