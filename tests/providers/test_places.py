"""How many ask a vendor at a time, and how long the others wait."""

import pytest
import trio
import trio.testing

from scm_trio.errors import ProviderUnavailable, ServerBusy
from scm_trio.model import Attempt, AttemptFailed, Queued
from scm_trio.providers.breaker import THRESHOLD
from scm_trio.providers.fallback import Chain, Link
from scm_trio.providers.places import WAIT_LIMIT_S, Places
from scm_trio.providers.scripted import Fail, Pause, Scripted, Stall
from scm_trio.testing import cancel_at_every_step

from .asking import ask, text


async def test_no_more_than_so_many_hold_a_place(autojump_clock):
    places = Places("acme", 2)
    got = trio.Event()

    async def hold():
        async with places.one():
            got.set()
            await trio.sleep_forever()

    async with places.one(), trio.open_nursery() as nursery:
        # One task may hold several, and a third has to wait.
        async with places.one():
            nursery.start_soon(hold)
            await trio.testing.wait_all_tasks_blocked()
            assert (places.taken, got.is_set()) == (2, False)
        await got.wait()
        assert places.taken == 2
        nursery.cancel_scope.cancel()
    assert places.taken == 0


def test_a_cancelled_wait_takes_no_place():
    async def scenario(scope):
        places = Places("acme", 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(for_a_second, places)
            with scope:
                async with places.one():
                    await trio.sleep(1)
        assert places.taken == 0

    assert cancel_at_every_step(scenario) > 1


async def for_a_second(places):
    async with places.one():
        await trio.sleep(1)


async def test_nobody_waits_for_ever(autojump_clock):
    places = Places("acme", 1)
    async with places.one():
        with pytest.raises(ServerBusy) as caught:
            async with places.one():
                pytest.fail("there was no place")
        assert trio.current_time() == WAIT_LIMIT_S
    assert (caught.value.retryable, caught.value.retry_after_s) == (True, WAIT_LIMIT_S)


def scripted(script, name):
    return Scripted(script, name=name, models=("m",))


async def test_who_finds_no_place_is_served_elsewhere(autojump_clock):
    provider = Chain(
        [Link(scripted(["a", Stall()], "first"), places=Places("first", 1)), Link(scripted(["x"], "second"))]
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, provider)
        await trio.testing.wait_all_tasks_blocked()
        events, failure = await ask(provider)
        nursery.cancel_scope.cancel()
    assert (text(events), failure, trio.current_time()) == ("x", None, WAIT_LIMIT_S)
    # Who was never asked has no attempt.
    assert events[:2] == [Queued(), Attempt(0, "second", "m")]


async def test_where_nobody_else_is_there_the_queue_is_told(autojump_clock):
    provider = Chain([Link(scripted(["a", Stall()], "first"), places=Places("first", 1))])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, provider)
        await trio.testing.wait_all_tasks_blocked()
        events, failure = await ask(provider)
        nursery.cancel_scope.cancel()
    assert events == [Queued(), AttemptFailed("SERVER_BUSY")]
    assert (failure.code, failure.retry_after_s) == ("SERVER_BUSY", WAIT_LIMIT_S)


async def test_who_gets_a_place_when_the_vendor_is_found_dead_does_not_ask_it(autojump_clock):
    first = scripted([Pause(1), Fail(ProviderUnavailable())], "first")
    link = Link(first, retries=0, places=Places("first", 1))
    provider = Chain([link, Link(scripted(["x"], "second"))])
    for _ in range(THRESHOLD - 1):
        link.breakers.of("m").fail(trio.current_time(), probe=False)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask, provider)
    assert len(first.prompts) == 1
    assert link.places.taken == 0


async def test_waiting_for_a_place_is_no_silence_of_the_vendor(autojump_clock):
    speaking = scripted(["a", Pause(WAIT_LIMIT_S - 1)], "first")
    provider = Chain([Link(speaking, first_token_s=5.0, places=Places("first", 1))])
    answers = []

    async def keep():
        answers.append(await ask(provider))

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(keep)
    assert [(text(events), failure) for events, failure in answers] == [("a", None)] * 2


async def test_a_crowd_at_a_healthy_vendor_does_not_open_its_breaker(autojump_clock):
    provider = Chain([Link(scripted(["a", Stall()], "first"), first_token_s=5.0, places=Places("first", 1))])
    async with trio.open_nursery() as nursery:
        for _ in range(2 * THRESHOLD):
            nursery.start_soon(ask, provider)
        await trio.sleep(WAIT_LIMIT_S + 1)
        assert provider.links[0].blocked("m", trio.current_time()) is None
        nursery.cancel_scope.cancel()
    assert provider.links[0].places.taken == 0
