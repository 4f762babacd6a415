"""A provider that falls silent, where its own patience is shorter than the answer's."""

from math import inf

import pytest
import trio

from scm_trio.errors import ProviderUnavailable
from scm_trio.model import Attempt, AttemptFailed, Delta, Finish, FinishReason, Prompt, Restart, Usage
from scm_trio.providers.breaker import THRESHOLD
from scm_trio.providers.fallback import Chain, Link, Terms
from scm_trio.providers.scripted import Batch, Fail, Pause, Scripted, SlowClose, Stall
from scm_trio.testing import cancel_at_every_step

from .asking import PROMPT, Reading, ask, text
from .faults import WORD, dialer_to
from .vendors import VENDORS

WHOLE = Prompt("m", PROMPT.turns, stream=False)
DONE = Finish(FinishReason.COMPLETED)
FIRST_TOKEN_S, IDLE_S = 8.0, 5.0


def scripted(script, name="first"):
    return Scripted(script, name=name, models=("m",))


def link(provider, retries=2, first_token_s=FIRST_TOKEN_S, idle_s=IDLE_S):
    return Link(provider, retries=retries, first_token_s=first_token_s, idle_s=idle_s)


def chain(*scripts, restart=False, **more):
    links = [
        link(script if isinstance(script, Scripted) else scripted(script, name), **more)
        for script, name in zip(scripts, ("first", "second"), strict=False)
    ]
    return Chain(links, Terms(restart=restart))


@pytest.mark.parametrize("script", [[Stall()], [Pause(FIRST_TOKEN_S + 1), "late"], [Usage(5, 0), Stall()]])
async def test_who_says_nothing_in_time_is_replaced_and_not_asked_again(autojump_clock, script):
    provider = chain(script, ["x"])
    events, failure = await ask(provider)
    assert [event.provider for event in events if isinstance(event, Attempt)] == ["first", "second"]
    assert AttemptFailed("TIMEOUT", was_accepted=True) in events
    assert (text(events), failure, trio.current_time()) == ("x", None, FIRST_TOKEN_S)
    assert provider.links[0].provider.open_streams == 0


async def test_unless_told_otherwise_each_gets_half_of_what_is_left_while_there_is_another(autojump_clock):
    row = [Link(scripted([Stall()], name)) for name in ("first", "second", "third")]
    began_at = []
    with trio.move_on_after(60):
        async with Chain(row, Terms(patience_s=60)).stream(PROMPT) as batches:
            async for batch in batches:
                began_at += [(event.provider, trio.current_time()) for event in batch if isinstance(event, Attempt)]
    assert began_at == [("first", 0), ("second", 30), ("third", 45)]
    # The last one was silent until the reader left.
    assert trio.current_time() == 60


async def test_whom_nobody_could_replace_has_all_of_the_time(autojump_clock):
    slow, dead = scripted([Pause(50), "a"]), Link(scripted([Fail(ProviderUnavailable())], "second"), retries=0)
    for _ in range(THRESHOLD):
        await ask(Chain([dead]))
    events, failure = await ask(Chain([Link(slow), dead], Terms(patience_s=60)))
    assert (text(events), failure, trio.current_time()) == ("a", None, 50)


async def test_every_attempt_has_the_whole_patience(autojump_clock):
    scripts = [[Pause(FIRST_TOKEN_S - 1), Fail(ProviderUnavailable())], [Pause(FIRST_TOKEN_S - 1), "a"]]
    provider = Chain([link(Scripted(lambda _: scripts.pop(0), name="first", models=("m",)))])
    events, failure = await ask(provider)
    assert (text(events), failure) == ("a", None)


async def test_where_nobody_else_is_there_the_silence_is_told_as_a_deadline_that_passed(autojump_clock):
    events, failure = await ask(chain([Stall()]))
    assert (failure.code, failure.field) == ("TIMEOUT", "first_token")
    assert events[-1] == AttemptFailed("TIMEOUT", was_accepted=True)


async def test_silence_opens_the_breaker(autojump_clock):
    provider = chain([Stall()], ["x"])
    async with trio.open_nursery() as nursery:
        for _ in range(THRESHOLD):
            nursery.start_soon(ask, provider)
    assert provider.links[0].blocked("m", trio.current_time()) is not None


async def test_a_whole_body_may_take_its_time(autojump_clock):
    events, failure = await ask(chain([Pause(100), "a"], ["x"]), WHOLE)
    assert (text(events), failure) == ("a", None)


@pytest.mark.parametrize("restart", [False, True])
async def test_words_that_keep_coming_are_never_cut(autojump_clock, restart):
    slowly = [step for word in "abcdef" for step in (Pause(IDLE_S - 0.1), word)]
    events, failure = await ask(chain(slowly, ["x"], restart=restart))
    assert (text(events), failure) == ("abcdef", None)


async def test_an_answer_that_stalls_begins_anew_where_that_is_wanted(autojump_clock):
    provider = chain(["a", Pause(2), "b", Stall()], ["x", "y"], restart=True)
    events, failure = await ask(provider)
    assert events[2:] == [
        Delta("b"),
        AttemptFailed("TIMEOUT", was_accepted=True),
        Attempt(1, "second", "m"),
        Restart(),
        Delta("x"),
        Delta("y"),
        DONE,
    ]
    assert (failure, trio.current_time()) == (None, 2 + IDLE_S)
    assert provider.links[0].provider.open_streams == 0


@pytest.mark.parametrize("restart", [False, True])
async def test_an_answer_that_stalls_at_the_last_one_has_failed(autojump_clock, restart):
    provider = chain(*[["a", Stall()]] * (1 + restart), restart=restart)
    events, failure = await ask(provider)
    assert (text(events), failure.code, failure.field) == ("a", "TIMEOUT", "idle")
    assert [each.provider.open_streams for each in provider.links] == [0] * len(provider.links)


@pytest.mark.parametrize("said", [["a", Usage(1, 1)], ["a", Batch([Usage(1, 1)])]])
async def test_what_is_no_word_does_not_put_the_deadline_off(autojump_clock, said):
    script = [said[0], Pause(IDLE_S - 1), *said[1:], Stall()]
    _, failure = await ask(chain(script, restart=True))
    assert (failure.field, trio.current_time()) == ("idle", IDLE_S)


@pytest.mark.parametrize("restart", [False, True])
async def test_who_has_finished_may_be_slow_to_go(autojump_clock, restart):
    events, failure = await ask(chain(["a", DONE, Pause(100)], ["x"], restart=restart))
    assert (text(events), failure) == ("a", None)
    events, failure = await ask(chain(["a", DONE, SlowClose(100)], ["x"], restart=restart))
    assert (text(events), failure) == ("a", None)


async def test_a_reader_who_left_while_the_silent_one_was_closed_is_told_nothing_more(autojump_clock):
    provider = chain([SlowClose(3), Stall()], ["x"])
    with trio.move_on_after(FIRST_TOKEN_S + 1):
        await ask(provider)
    assert provider.links[1].provider.prompts == []
    assert provider.links[0].provider.open_streams == 0


async def test_both_deadlines_at_once_are_the_reader_s(autojump_clock):
    provider = chain([Stall()], ["x"])
    with trio.move_on_after(FIRST_TOKEN_S) as scope:
        await ask(provider)
    assert scope.cancelled_caught
    assert provider.links[0].provider.open_streams == 0


@pytest.mark.parametrize("idle_s", [inf, 100.0])
async def test_a_word_that_comes_when_the_patience_is_over_comes_too_late(autojump_clock, idle_s):
    class JustLate(Scripted):
        """Speaks in the very moment, as where a busy loop comes late to both."""

        def stream(self, prompt):
            return Reading(_just_late)

    first = JustLate(["late"], name="first", models=("m",))
    events, failure = await ask(Chain([link(first, idle_s=idle_s), link(scripted(["x"], "second"))]))
    assert (text(events), failure) == ("x", None)
    assert AttemptFailed("TIMEOUT", was_accepted=True) in events


async def _just_late():
    with trio.CancelScope(shield=True):
        await trio.sleep(FIRST_TOKEN_S)
    return (Delta("late"),)


async def test_where_nobody_else_could_help_the_silence_is_told(autojump_clock):
    _, failure = await ask(chain([Stall()], [Fail(ProviderUnavailable())], retries=0))
    assert (failure.code, failure.field) == ("TIMEOUT", "first_token")


@pytest.mark.parametrize("script", [[Stall()], ["a", Stall()]])
def test_a_cancel_at_any_step_leaves_nothing_open(script):
    async def scenario(scope):
        provider = chain(script, [Pause(1), "c"], restart=True)
        with scope:
            await ask(provider)
        assert [each.provider.open_streams for each in provider.links] == [0, 0]
        assert all(each.blocked("m", trio.current_time()) is None for each in provider.links)

    assert cancel_at_every_step(scenario) > 5


SILENT = {
    "connect timeout": "",
    "no head": "",
    "silence before the first word": "",
    "keep-alives before the first word": "",
    "silence in the middle": WORD,
    "keep-alives in the middle": WORD,
}


@pytest.mark.parametrize("fault", SILENT)
@pytest.mark.parametrize("name", VENDORS)
async def test_every_vendor_that_falls_silent_is_replaced(memory_net, autojump_clock, name, fault):
    vendor = VENDORS[name]
    first = vendor.provider(dialer_to(memory_net, vendor, fault))
    provider = Chain([link(first, 0, 2.0, 2.0), link(scripted(["x"], "second"), 0, inf, inf)], Terms(restart=True))
    events, failure = await ask(provider, Prompt(next(iter(first.models), "m"), PROMPT.turns))
    assert (text(events), failure) == ("x", None)
    assert (Delta(WORD) in events) == bool(SILENT[fault])
    assert trio.current_time() == pytest.approx(2.0, abs=0.5)
    for stream in memory_net.client_ends:
        with pytest.raises((trio.ClosedResourceError, trio.BrokenResourceError)):
            await stream.send_all(b"is it closed?")
    await provider.aclose()
