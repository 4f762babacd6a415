"""An answer that breaks off after its first word, and begins anew at the next provider."""

import pytest
import trio

from scm_trio.errors import ContentFiltered, ProviderRateLimited, ProviderRejected, ProviderUnavailable, TimedOut
from scm_trio.model import Attempt, AttemptFailed, Delta, Finish, FinishReason, Prompt, Restart, ToolCall, Usage
from scm_trio.providers.breaker import THRESHOLD
from scm_trio.providers.fallback import Chain, Link, Terms
from scm_trio.providers.scripted import Batch, Fail, Pause, Scripted, Stall
from scm_trio.testing import cancel_at_every_step

from .asking import PROMPT, Reading, ask, text
from .faults import dialer_to
from .vendors import VENDORS

DONE = Finish(FinishReason.COMPLETED)
DOWN = ProviderUnavailable("down")
CALL = ToolCall("c", "f", "{}")
NAMES = ("first", "second", "third")


def providers(*scripts, **more):
    return [
        Scripted(list(script), name=name, models=("m",), **more) for name, script in zip(NAMES, scripts, strict=False)
    ]


def chain(*row, retries=0, restart=True, **terms):
    links = [Link(each, retries=retries) for each in row]
    return Chain(links, Terms(**{"jitter": lambda: 1.0, "restart": restart, **terms}))


@pytest.mark.parametrize("fault", [DOWN, ProviderRateLimited(), TimedOut(field="idle")], ids=lambda fault: fault.code)
async def test_the_next_in_line_says_the_answer_from_its_beginning(autojump_clock, fault):
    row = providers(["a", "b", Fail(fault)], ["x", "y"])
    events, failure = await ask(chain(*row))
    assert events == [
        Attempt(0, "first", "m"),
        Delta("a"),
        Delta("b"),
        AttemptFailed(fault.code, was_accepted=True),
        Attempt(1, "second", "m"),
        Restart(),
        Delta("x"),
        Delta("y"),
        DONE,
    ]
    assert failure is None
    # The first one was closed before the second one was asked, and is not asked again.
    assert [each.closed_streams for each in row] == [1, 1]


async def test_without_the_word_of_the_operator_a_broken_answer_stays_broken(autojump_clock):
    row = providers(["a", Fail(DOWN)], ["x"])
    events, failure = await ask(chain(*row, restart=False))
    assert (text(events), failure, row[1].prompts) == ("a", DOWN, [])


async def test_the_restart_comes_in_one_batch_with_the_first_word(autojump_clock):
    batches = []
    async with chain(*providers(["a", Fail(DOWN)], [Usage(5, 0), Pause(9), "x"])).stream(PROMPT) as stream:
        async for batch in stream:
            batches.append(tuple(batch))  # noqa: PERF401 - an asynchronous comprehension reads no better
    assert batches[2:6] == [
        (AttemptFailed("PROVIDER_UNAVAILABLE", was_accepted=True),),
        (Attempt(1, "second", "m"),),
        (Usage(5, 0),),
        (Restart(), Delta("x")),
    ]


async def test_a_stream_that_is_cut_without_a_finish_is_begun_anew(autojump_clock):
    class Cut(Scripted):
        def stream(self, prompt):
            batches = [(Delta("a"),)]

            async def read():
                await trio.lowlevel.checkpoint()
                if not batches:
                    raise StopAsyncIteration
                return batches.pop()

            return Reading(read)

    events, failure = await ask(chain(Cut([], name="first", models=("m",)), *providers([], ["x"])[1:]))
    assert (text(events), failure) == ("x", None)
    assert AttemptFailed("PROVIDER_UNAVAILABLE", was_accepted=True) in events
    events, failure = await ask(chain(Cut([], name="first", models=("m",))))
    assert (text(events), failure.code) == ("a", "PROVIDER_UNAVAILABLE")


@pytest.mark.parametrize("fault", [ProviderRejected(), ContentFiltered()], ids=lambda fault: fault.code)
async def test_what_would_not_get_better_elsewhere_is_not_begun_anew(autojump_clock, fault):
    row = providers(["a", Fail(fault)], ["x"])
    events, failure = await ask(chain(*row))
    assert (text(events), failure, row[1].prompts) == ("a", fault, [])


@pytest.mark.parametrize("last", [["a", DONE, Fail(DOWN)], [Batch(["a", DONE]), Fail(DOWN)]])
async def test_an_answer_that_was_finished_is_never_begun_anew(autojump_clock, last):
    row = providers(last, ["x"])
    events, failure = await ask(chain(*row))
    assert (text(events), failure, row[1].prompts) == ("a", DOWN, [])


async def test_a_tool_call_counts_as_a_word(autojump_clock):
    events, _ = await ask(chain(*providers([CALL, Fail(DOWN)], [CALL])))
    assert events[-3:] == [Restart(), CALL, DONE]


async def test_it_may_begin_anew_as_often_as_somebody_is_left(autojump_clock):
    events, failure = await ask(chain(*providers(["a", Fail(DOWN)], ["b", Fail(DOWN)], ["c"])))
    assert (text(events), failure, events.count(Restart())) == ("c", None, 2)
    cut = ProviderUnavailable("cut")
    events, failure = await ask(chain(*providers(["a", Fail(DOWN)], ["b", Fail(cut)])))
    assert (text(events), failure, events.count(Restart())) == ("b", cut, 1)


async def test_the_next_in_line_is_asked_with_its_own_retries_before_its_first_word(autojump_clock):
    scripts = [[Fail(ProviderRateLimited())], ["x"]]
    second = Scripted(lambda _: scripts.pop(0), name="second", models=("m",))
    events, failure = await ask(chain(*providers(["a", Fail(DOWN)]), second, retries=1))
    assert (text(events), failure) == ("x", None)
    assert [event.number for event in events if isinstance(event, Attempt)] == [0, 1, 2]
    assert trio.current_time() == 0.5


@pytest.mark.parametrize("fault", [ProviderRateLimited(), ContentFiltered()], ids=lambda fault: fault.code)
async def test_where_nobody_else_speaks_the_text_stands_and_so_does_its_failure(autojump_clock, fault):
    events, failure = await ask(chain(*providers(["a", Fail(DOWN)], [Pause(1), Fail(fault)])))
    assert (text(events), failure) == ("a", DOWN)
    assert Restart() not in events
    assert events[-1] == AttemptFailed(fault.code, was_accepted=True)


async def test_where_nobody_else_may_be_asked_the_text_stands_too(autojump_clock):
    row = providers(["a", Fail(DOWN)], [Fail(DOWN)])
    links = [Link(each, retries=0) for each in row]
    for _ in range(THRESHOLD):
        await ask(Chain(links[1:]))
    events, failure = await ask(Chain(links, Terms(restart=True)))
    assert (text(events), failure) == ("a", DOWN)
    assert events[-1] == AttemptFailed("PROVIDER_UNAVAILABLE", was_accepted=True)
    small = Scripted(["x"], name="small", models=("m",), context_tokens=1)
    events, failure = await ask(chain(row[0], small, fit=lambda _prompt, _tokens: None))
    assert (text(events), failure, small.prompts) == ("a", DOWN, [])


async def test_the_patience_with_the_next_in_line_begins_when_it_is_asked(autojump_clock):
    row = providers(["a", Pause(50), Fail(DOWN)], [Stall()])
    provider = chain(*row, patience_s=60)
    for _ in range(THRESHOLD):
        with trio.move_on_after(100):
            await ask(provider)
    assert provider.links[1].blocked("m", trio.current_time()) is None


@pytest.mark.parametrize("script", [["a", Fail(DOWN)], ["a", Pause(1), Fail(DOWN)]])
def test_a_cancel_at_any_step_leaves_nothing_open(script):
    async def scenario(scope):
        row = providers(script, [Pause(1), Fail(DOWN)], [Pause(1), "c"])
        provider = chain(*row)
        for link in provider.links:  # one more failure, or a probe that is not given back, would open them
            for _ in range(THRESHOLD - 2):
                link.breakers.of("m").fail(trio.current_time(), probe=False)
        with scope:
            await ask(provider)
        assert [each.open_streams for each in row] == [0, 0, 0]
        assert all(link.blocked("m", trio.current_time()) is None for link in provider.links)

    assert cancel_at_every_step(scenario) > 10


BROKEN = ["failing", "limiting", "garbage", "cut", "ended"]


@pytest.mark.parametrize("fault", [*(f"{how} in the middle" for how in BROKEN), "cut within a word"])
@pytest.mark.parametrize("name", VENDORS)
async def test_what_breaks_off_at_any_vendor_begins_anew(memory_net, autojump_clock, name, fault):
    vendor = VENDORS[name]
    first = vendor.provider(dialer_to(memory_net, vendor, fault))
    (second,) = providers(["x"])
    provider = chain(first, second)
    events, failure = await ask(provider, Prompt(next(iter(first.models), "m"), PROMPT.turns))
    assert Delta("春天") in events
    assert (text(events), failure) == ("x", None)
    await provider.aclose()
