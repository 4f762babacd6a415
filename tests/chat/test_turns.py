"""One at a time, for each user."""

import trio

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
