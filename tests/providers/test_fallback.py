"""Asking again and asking somebody else, in virtual time."""

import math

import attrs
import pytest
import trio

from scm_trio import config
from scm_trio.errors import (
    ContentFiltered,
    ContextTooLong,
    ModelUnknown,
    ProviderAuth,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnavailable,
    TimedOut,
)
from scm_trio.model import Attempt, AttemptFailed, Delta, Finish, FinishReason, Prompt, ToolCall, Usage
from scm_trio.providers.breaker import FIRST_REST_S, THRESHOLD
from scm_trio.providers.catalogue import build_providers, chain_providers
from scm_trio.providers.fallback import MAX_WAIT_S, Chain, Link, Terms
from scm_trio.providers.keys import KeyRing
from scm_trio.providers.scripted import Fail, Pause, Scripted, SlowClose, Stall
from scm_trio.testing import cancel_at_every_step

from .asking import PROMPT, Reading, ask, text

DONE = Finish(FinishReason.COMPLETED)
DOWN = ProviderUnavailable("down")


class Moods(Scripted):
    """Answers each question with the next script; the last one for ever."""

    def __init__(self, *scripts, name="first", models=("m",), context_tokens=None):
        self.scripts = [list(script) for script in scripts]
        super().__init__(self._mood, name=name, models=models, context_tokens=context_tokens)

    def _mood(self, _prompt):
        return self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]


def chain(*providers, retries=2, **terms):
    links = [each if isinstance(each, Link) else Link(each, retries=retries) for each in providers]
    return Chain(links, Terms(**{"jitter": lambda: 1.0, **terms}))


def attempts(events):
    return [(event.number, event.provider, event.model) for event in events if isinstance(event, Attempt)]


async def test_an_answer_at_once_is_one_attempt(autojump_clock):
    first, second = Moods(["a", Usage(1, 2)]), Moods(["never"], name="second")
    events, failure = await ask(chain(first, second))
    assert events == [Attempt(0, "first", "m"), Delta("a"), Usage(1, 2), DONE]
    assert failure is None
    assert second.prompts == []


def test_a_chain_looks_like_its_primary():
    provider = chain(Moods(["a"], models=("x", "y"), context_tokens=500), Moods(["b"], name="second"))
    assert (provider.name, provider.models, provider.context_tokens) == ("first", ("x", "y"), 500)


async def test_closing_a_chain_closes_its_primary_alone():
    first, second = Moods(["a"]), Moods(["b"], name="second")
    await chain(first, second).aclose()
    assert (first.closed, second.closed) == (True, False)


TRANSIENT = [DOWN, ProviderRateLimited(), TimedOut(field="connect")]


@pytest.mark.parametrize("fault", TRANSIENT, ids=lambda fault: fault.code)
@pytest.mark.parametrize("before", [[], [Pause(1)], [Usage(5, 0), Pause(1)]], ids=["refused", "cut", "after usage"])
async def test_what_passes_is_asked_again(autojump_clock, fault, before):
    first = Moods([*before, Fail(fault)], [*before, Fail(fault)], ["a"])
    events, failure = await ask(chain(first))
    assert attempts(events) == [(0, "first", "m"), (1, "first", "m"), (2, "first", "m")]
    told = [event for event in events if isinstance(event, AttemptFailed)]
    assert told == [AttemptFailed(fault.code, bool(before), 0.5), AttemptFailed(fault.code, bool(before), 1.0)]
    assert (text(events), failure) == ("a", None)
    assert trio.current_time() == 1.5 + 2 * bool(before)
    assert first.open_streams == 0


async def test_the_jitter_is_full(autojump_clock):
    await ask(chain(Moods([Fail(DOWN)], ["a"]), jitter=lambda: 0.0))
    assert trio.current_time() == 0
    await ask(chain(Moods([Fail(DOWN)], ["a"]), jitter=lambda: 0.5))
    assert trio.current_time() == 0.25


async def test_the_wait_grows_up_to_eight_seconds(autojump_clock):
    events, failure = await ask(chain(Moods([Fail(DOWN)]), retries=4))
    waits = [event.retry_in_s for event in events if isinstance(event, AttemptFailed)]
    assert waits == [0.5, 1, 2, 4, None]
    assert failure is DOWN
    events, _ = await ask(chain(*[Moods([Fail(ProviderRateLimited())])] * 2, retries=4))
    assert len(attempts(events)) == 10


async def test_a_wait_that_the_vendor_asks_for_is_obeyed(autojump_clock):
    await ask(chain(Moods([Fail(ProviderRateLimited(retry_after_s=MAX_WAIT_S))], ["a"])))
    assert trio.current_time() == MAX_WAIT_S + 0.5


async def test_a_wait_that_is_too_long_is_told_or_fallen_over_at_once(autojump_clock):
    busy = ProviderRateLimited(retry_after_s=MAX_WAIT_S + 1)
    events, failure = await ask(chain(Moods([Fail(busy)])))
    assert failure is busy
    assert events[1:] == [AttemptFailed("PROVIDER_RATE_LIMITED")]
    events, failure = await ask(chain(Moods([Fail(busy)]), Moods(["b"], name="second")))
    assert (text(events), failure) == ("b", None)
    assert trio.current_time() == 0


async def test_nobody_waits_long_for_a_vendor_where_another_could_answer(autojump_clock):
    for wait_s, who, at_s in ((8, "first", 8.5), (9, "second", 0)):
        busy = ProviderRateLimited(retry_after_s=wait_s)
        began_at = trio.current_time()
        events, failure = await ask(chain(Moods([Fail(busy)], ["a"]), Moods(["b"], name="second")))
        assert (attempts(events)[-1][1], failure, trio.current_time() - began_at) == (who, None, at_s)


async def test_where_the_other_cannot_be_asked_the_wait_is_obeyed(autojump_clock):
    small = Moods(["b"], name="small", context_tokens=1)
    first = Moods([Fail(ProviderRateLimited(retry_after_s=20))], ["a"])
    events, _ = await ask(chain(first, small, fit=lambda _prompt, _tokens: None))
    assert (text(events), trio.current_time()) == ("a", 20.5)


@pytest.mark.parametrize(("stream", "at_s"), [(True, 20.5), (False, 42.0)])
async def test_a_wait_that_would_outlast_the_answer_is_told_instead(autojump_clock, stream, at_s):
    busy = ProviderRateLimited(retry_after_s=20)
    _, failure = await ask(chain(Moods([Fail(busy)]), patience_s=30), Prompt("m", PROMPT.turns, stream=stream))
    assert (failure, failure.retry_after_s, trio.current_time()) == (busy, 20, pytest.approx(at_s, abs=0.5))


def told(failure, **what):
    for name, value in what.items():
        setattr(failure, name, value)
    return failure


@pytest.mark.parametrize("fault", [DOWN, ProviderRateLimited()], ids=lambda fault: fault.code)
async def test_a_vendor_that_does_not_want_to_be_asked_again_is_not(autojump_clock, fault):
    fault = told(type(fault)(), again_here=False)
    events, failure = await ask(chain(Moods([Fail(fault)])))
    assert (len(attempts(events)), failure) == (1, fault)
    events, failure = await ask(chain(Moods([Fail(fault)]), Moods(["b"], name="second")))
    assert (text(events), failure) == ("b", None)
    first = Keyed({"x": fault, "y": "a"})
    first.keys.refuse({"x"}, ProviderRateLimited())
    events, failure = await ask(chain(first.link()))
    assert (text(events), failure) == ("a", None)


async def test_a_refusal_that_is_the_vendor_s_own_fault_is_fallen_over(autojump_clock):
    strange = told(ProviderRejected("a web page"), elsewhere=True)
    events, failure = await ask(chain(Moods([Fail(strange)]), Moods(["b"], name="second")))
    assert (text(events), failure, len(attempts(events))) == ("b", None, 2)


async def test_without_retries_the_next_is_asked_at_once(autojump_clock):
    events, _ = await ask(chain(Moods([Fail(DOWN)]), Moods(["b"], name="second"), retries=0))
    assert attempts(events) == [(0, "first", "m"), (1, "second", "m")]
    assert trio.current_time() == 0


async def test_an_answer_that_ends_without_a_word_is_a_failure(autojump_clock):
    class Mute(Moods):
        async def aclose(self):
            pass

        def stream(self, prompt):
            return Reading(_nothing)

    events, failure = await ask(chain(Mute([]), Moods(["b"], name="second"), retries=0))
    assert (text(events), failure) == ("b", None)
    assert events[1] == AttemptFailed("PROVIDER_UNAVAILABLE", was_accepted=True)


async def _nothing():
    await trio.lowlevel.checkpoint()
    raise StopAsyncIteration


ABOUT_THE_QUESTION = [ProviderRejected(), ContextTooLong(), ContentFiltered(), ModelUnknown(model="m")]


@pytest.mark.parametrize("fault", ABOUT_THE_QUESTION, ids=lambda fault: fault.code)
async def test_what_is_about_the_question_is_asked_once(autojump_clock, fault):
    second = Moods(["b"], name="second")
    events, failure = await ask(chain(Moods([Fail(fault)]), second))
    # A filter has read the question, and is paid for that.
    assert events == [Attempt(0, "first", "m"), AttemptFailed(fault.code, fault.code == "CONTENT_FILTERED")]
    assert failure is fault
    assert second.prompts == []


async def test_a_refused_key_is_not_retried_but_another_provider_may_answer(autojump_clock):
    events, failure = await ask(chain(Moods([Fail(ProviderAuth())]), Moods(["b"], name="second")))
    assert attempts(events) == [(0, "first", "m"), (1, "second", "m")]
    assert failure is None
    _, failure = await ask(chain(Moods([Fail(ProviderAuth())])))
    assert failure.code == "PROVIDER_AUTH"


@pytest.mark.parametrize("word", ["a", ToolCall("c", "f", "{}")], ids=["text", "tool call"])
async def test_after_the_first_word_nothing_is_retried(autojump_clock, word):
    first, second = Moods([word, Fail(DOWN)]), Moods(["b"], name="second")
    events, failure = await ask(chain(first, second))
    assert failure is DOWN
    assert len(events) == 2
    assert (len(first.prompts), second.prompts) == (1, [])


async def test_when_nobody_can_help_the_primarys_failure_is_told(autojump_clock):
    busy = ProviderRateLimited()
    others = Moods([Fail(ProviderRejected())], name="second"), Moods([Fail(DOWN)], name="third")
    events, failure = await ask(chain(Moods([Fail(DOWN)], [Fail(busy)]), *others, retries=1))
    assert failure is busy
    assert [provider for _, provider, _ in attempts(events)] == ["first", "first", "second", "third", "third"]


async def test_what_a_fallbacks_filter_blocks_is_blocked(autojump_clock):
    blocked, third = ContentFiltered(), Moods(["c"], name="third")
    _, failure = await ask(chain(Moods([Fail(DOWN)]), Moods([Fail(blocked)], name="second"), third, retries=0))
    assert failure is blocked
    assert third.prompts == []


@pytest.mark.parametrize(("models", "asked"), [(("x", "m"), "m"), (("x", "y"), "x"), ((), "m")])
async def test_a_fallback_is_asked_for_the_same_model_if_it_has_it(autojump_clock, models, asked):
    second = Moods(["b"], name="second", models=models)
    events, _ = await ask(chain(Moods([Fail(DOWN)]), second, retries=0))
    assert second.prompts[0].model == asked
    assert attempts(events)[1] == (1, "second", asked)


async def test_a_fallback_with_too_small_a_context_is_skipped(autojump_clock):
    small, large = Moods(["b"], name="small", context_tokens=256), Moods(["c"], name="large", context_tokens=10_000)
    sizes = []

    def fit(prompt, tokens):
        sizes.append(tokens)
        return attrs.evolve(prompt, max_tokens=7) if tokens > 1000 else None

    # The primary's own context has been seen to already.
    first = Moods([Fail(DOWN)], context_tokens=100)
    events, _ = await ask(chain(first, small, large, retries=0, fit=fit))
    assert [provider for _, provider, _ in attempts(events)] == ["first", "large"]
    assert set(sizes) == {256, 10_000}
    assert [each.max_tokens for each in (*first.prompts, *large.prompts)] == [None, 7]


# ---- the breaker


async def test_an_open_breaker_sends_everybody_to_the_next(autojump_clock):
    first, second = Moods([Fail(DOWN)]), Moods(["b"], name="second")
    provider = chain(first, second, retries=0)
    for _ in range(THRESHOLD):
        await ask(provider)
    events, failure = await ask(provider)
    assert (attempts(events), text(events), failure) == ([(0, "second", "m")], "b", None)
    assert len(first.prompts) == THRESHOLD


async def test_an_open_breaker_without_a_fallback_tells_the_wait(autojump_clock):
    first = Moods([Fail(DOWN)])
    provider = chain(first, retries=0)
    for _ in range(THRESHOLD):
        await ask(provider)
    await trio.sleep(5)
    events, failure = await ask(provider)
    assert events == [AttemptFailed("PROVIDER_UNAVAILABLE")]
    assert (failure.code, failure.retry_after_s) == ("PROVIDER_UNAVAILABLE", FIRST_REST_S - 5)
    assert len(first.prompts) == THRESHOLD


async def test_retries_stop_when_the_breaker_opens(autojump_clock):
    first = Moods([Fail(DOWN)])
    await ask(chain(first, retries=9))
    assert len(first.prompts) == THRESHOLD


async def test_the_breaker_is_the_models_own_and_shared_by_chains(autojump_clock):
    link = Link(Moods([Fail(DOWN)], models=("m", "n")), retries=0)
    for _ in range(THRESHOLD):
        await ask(chain(link))
    events, _ = await ask(chain(link), Prompt("n", ()))
    assert len(attempts(events)) == 1
    events, failure = await ask(chain(Moods([Fail(DOWN)], name="other"), link, retries=0))
    assert [provider for _, provider, _ in attempts(events)] == ["other"]
    assert failure is DOWN


async def test_a_probe_closes_the_breaker(autojump_clock):
    first = Moods(*[[Fail(DOWN)]] * THRESHOLD, ["a"])
    provider = chain(first, Moods(["b"], name="second"), retries=0)
    for _ in range(THRESHOLD):
        await ask(provider)
    await trio.sleep(FIRST_REST_S)
    for _ in range(2):
        events, _ = await ask(provider)
        assert attempts(events) == [(0, "first", "m")]


async def test_only_one_probe_goes_out(autojump_clock):
    first = Moods(*[[Fail(DOWN)]] * THRESHOLD, [Pause(3), "a"])
    provider = chain(first, Moods(["b"], name="second"), retries=0)
    for _ in range(THRESHOLD):
        await ask(provider)
    await trio.sleep(FIRST_REST_S)
    texts = []

    async def one():
        events, _ = await ask(provider)
        texts.append(text(events))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(one)
    assert sorted(texts) == ["a", "b", "b"]


async def test_a_probe_that_is_cancelled_leaves_the_place_to_the_next(autojump_clock):
    first = Moods(*[[Fail(DOWN)]] * THRESHOLD, [Stall()], ["a"])
    provider = chain(first, Moods(["b"], name="second"), retries=0)
    for _ in range(THRESHOLD):
        await ask(provider)
    await trio.sleep(FIRST_REST_S)
    with trio.move_on_after(1):
        await ask(provider)
    events, _ = await ask(provider)
    assert text(events) == "a"
    assert first.open_streams == 0


@pytest.mark.parametrize(
    ("patience_s", "stream", "asked"), [(10, True, "second"), (11, True, "first"), (10, False, "first")]
)
async def test_a_provider_that_stays_silent_for_the_whole_patience_has_failed(
    autojump_clock, patience_s, stream, asked
):
    first = Link(Moods(*[[Stall()]] * THRESHOLD, ["a"]), first_token_s=math.inf)
    provider = chain(first, Moods(["b"], name="second"), patience_s=patience_s)

    async def give_up():
        with trio.move_on_after(10):
            await ask(provider, Prompt("m", (), stream=stream))

    async with trio.open_nursery() as nursery:
        for _ in range(THRESHOLD):
            nursery.start_soon(give_up)
    events, _ = await ask(provider)
    assert attempts(events)[0][1] == asked


@pytest.mark.parametrize(("asked_at_s", "is_blamed"), [(9, False), (7, True), (0.5, True)])
async def test_who_was_asked_late_is_not_blamed_for_the_silence_of_another(autojump_clock, asked_at_s, is_blamed):
    first = Link(Moods([Pause(asked_at_s), Fail(DOWN)]), retries=0, first_token_s=math.inf)
    provider = chain(first, Moods([Stall()], name="second"), retries=0, patience_s=10)

    async def give_up():
        with trio.move_on_after(10):
            await ask(provider)

    async with trio.open_nursery() as nursery:
        for _ in range(THRESHOLD):
            nursery.start_soon(give_up)
    first, second = (link.blocked("m", trio.current_time()) for link in provider.links)
    assert first is not None
    assert (second is not None) == is_blamed


@pytest.mark.parametrize("fault", ABOUT_THE_QUESTION, ids=lambda fault: fault.code)
async def test_questions_that_are_refused_do_not_open_the_breaker(autojump_clock, fault):
    first = Moods([Fail(fault)])
    provider = chain(first)
    for _ in range(3 * THRESHOLD):
        await ask(provider)
    assert len(first.prompts) == 3 * THRESHOLD


async def test_a_bug_in_a_provider_is_no_verdict(autojump_clock):
    first = Moods([Fail(ZeroDivisionError())])
    provider = chain(first)
    for _ in range(2 * THRESHOLD):
        with pytest.raises(ZeroDivisionError):
            await ask(provider)
    assert len(first.prompts) == 2 * THRESHOLD


# ---- keys


class Keyed(Moods):
    """Refuses by key: a failure, or an answer."""

    def __init__(self, answers, **more):
        super().__init__([], **more)
        self.answers = answers
        self.keys = KeyRing(list(answers), trio.current_time)
        self.used = ""

    def _mood(self, _prompt):
        (key,) = self.keys.pick()
        self.used += key
        answer = self.answers[key]
        if isinstance(answer, str):
            return [answer]
        self.keys.refuse({key}, answer)
        return [Fail(answer)]

    def link(self, retries=2):
        return Link(self, retries=retries, keys=self.keys)


@pytest.mark.parametrize("fault", [ProviderAuth(), ProviderRateLimited(retry_after_s=40)], ids=lambda fault: fault.code)
async def test_another_key_is_tried_at_once_and_costs_no_retry(autojump_clock, fault):
    first = Keyed({"x": fault, "y": fault, "z": "a"})
    events, failure = await ask(chain(first.link(retries=0)))
    assert (text(events), failure, first.used) == ("a", None, "xyz")
    assert len(attempts(events)) == 3
    assert trio.current_time() == 0
    # The others rest.
    await ask(chain(first.link(retries=0)))
    assert first.used == "xyzz"


async def test_a_model_that_no_key_may_use_leaves_the_keys_to_the_others(autojump_clock):
    forbidden = ProviderAuth(field="permission")
    first = Keyed({"x": forbidden, "y": forbidden})
    events, failure = await ask(chain(first.link(), Moods(["b"], name="second")))
    assert (first.used, text(events), failure) == ("xy", "b", None)
    assert first.keys.failure() is None
    _, failure = await ask(chain(first.link()))
    assert (first.used, failure) == ("xyxy", forbidden)


async def test_when_every_key_rests_the_next_provider_is_asked_without_a_try(autojump_clock):
    first = Keyed({"x": ProviderAuth(), "y": ProviderAuth()})
    provider = chain(first.link(), Moods(["b"], name="second"))
    await ask(provider)
    events, failure = await ask(provider)
    assert (first.used, text(events), failure) == ("xy", "b", None)
    assert attempts(events) == [(0, "second", "m")]
    events, failure = await ask(chain(first.link()))
    assert events == [AttemptFailed("PROVIDER_AUTH")]
    assert failure.retry_after_s == 600


async def test_a_retry_waits_for_a_key_to_wake(autojump_clock):
    first = Keyed({"x": ProviderRateLimited(retry_after_s=9), "y": ProviderRateLimited(retry_after_s=12)})
    _, failure = await ask(chain(first.link(retries=1)))
    assert first.used == "xyx"
    assert failure.code == "PROVIDER_RATE_LIMITED"
    assert trio.current_time() == 9.5


# ---- leaving


@pytest.mark.parametrize("script", [[Fail(ProviderRateLimited(retry_after_s=20))], [Stall()], ["a", Stall()]])
async def test_leaving_is_immediate_at_any_moment(autojump_clock, script):
    first = Moods(script)
    with trio.move_on_after(3):
        await ask(chain(first))
    assert trio.current_time() == 3
    assert first.open_streams == 0


async def test_who_leaves_while_a_provider_is_closing_is_not_told_of_another_attempt(autojump_clock):
    first, second = Moods([SlowClose(50), Fail(DOWN)]), Moods(["b"], name="second")
    told = []
    with trio.move_on_after(3):
        async with chain(first, second, retries=0).stream(PROMPT) as batches:
            async for batch in batches:
                told += batch
    assert trio.current_time() == 50
    assert told == [Attempt(0, "first", "m")]
    assert second.prompts == []


async def test_a_chain_that_is_left_between_two_events_closes_its_provider(autojump_clock):
    first = Moods(["a", "b"])
    async with chain(first).stream(PROMPT) as events:
        assert await anext(events) == (Attempt(0, "first", "m"),)
        assert await anext(events) == (Delta("a"),)
    assert (first.open_streams, first.closed_streams) == (0, 1)


def test_a_cancel_at_any_step_leaves_nothing_open_and_no_probe_out():
    async def scenario(scope):
        first = Moods(*[[Fail(DOWN)]] * THRESHOLD, [Pause(1), Fail(DOWN)])
        second = Moods([Pause(1), Fail(DOWN)], ["b", "c"], name="second")
        link = Link(first, retries=0)
        for _ in range(THRESHOLD):
            await ask(chain(link))
        await trio.sleep(FIRST_REST_S)
        with scope:
            await ask(chain(link, second, retries=1))
        assert (first.open_streams, second.open_streams) == (0, 0)
        await trio.sleep(2 * FIRST_REST_S)
        assert link.blocked("m", trio.current_time()) is None

    assert cancel_at_every_step(scenario) > 10


# ---- the configuration


def test_every_configured_provider_gets_its_chain():
    settings = {
        "one": config.Provider("openai", api_keys=("k1", "k2"), retries=5, models=("m",)),
        "two": config.Provider("scripted"),
        "three": config.Provider("scripted", retries=0),
    }
    ai = config.Ai(fallback=("three", "one"), providers=settings)
    chains = chain_providers(build_providers(ai, connect_timeout_s=1), ai, Terms())
    rows = {name: [link.provider.name for link in chained.links] for name, chained in chains.items()}
    assert rows == {"one": ["one", "three"], "two": ["two", "three", "one"], "three": ["three", "one"]}
    assert [link.retries for link in chains["two"].links] == [2, 0, 5]
    assert chains["two"].links[2] is chains["one"].links[0]
    assert len(chains["one"].links[0].keys) == 2
    assert chains["two"].links[0].keys is None
