"""One at a time, for each user."""

from functools import partial

import trio
import trio.testing

from scm_trio.chat.turns import Turns


async def test_what_one_user_asks_for_waits_for_his_own_and_for_nobody_elses(autojump_clock):
    turns, order = Turns(), []

    async def take(name, user, seconds):
        async with turns.of(user):
            order.append(f"{name} begins")
            await trio.sleep(seconds)
            order.append(f"{name} ends")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take, "first", "ann", 3)
        await trio.sleep(0.1)
        nursery.start_soon(take, "second", "ann", 1)
        nursery.start_soon(take, "other", "bob", 1)
        with trio.move_on_after(1):
            await take("impatient", "ann", 1)
        assert "ann" in turns
    assert order == ["first begins", "other begins", "other ends", "first ends", "second begins", "second ends"]
    assert not turns._locks


async def test_who_gives_up_in_the_moment_of_a_change_takes_nobodys_turn_away(autojump_clock):
    turns, most = Turns(), 0
    inside = 0

    async def take(hold):
        nonlocal inside, most
        async with turns.of("ann"):
            inside += 1
            most = max(most, inside)
            await hold()
            inside -= 1

    async def come(later):
        await go.wait()
        for _ in range(later):
            await trio.lowlevel.checkpoint()
        await take(partial(trio.sleep, 1))

    async def wait_in_vain(scope):
        with scope:
            await take(trio.lowlevel.checkpoint)

    for _ in range(50):
        go, scope = trio.Event(), trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, go.wait)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(wait_in_vain, scope)
            await trio.testing.wait_all_tasks_blocked()
            for later in (0, 3, 1):
                nursery.start_soon(come, later)
            await trio.testing.wait_all_tasks_blocked()
            # The holder ends, others come, and the one who waits leaves: all at once.
            go.set()
            scope.cancel()
    assert most == 1
    assert not turns._locks
