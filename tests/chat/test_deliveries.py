"""What was given is noted at once and made durable soon, in the order that the store can take."""

import pytest
import trio

from scm_trio.chat import deliveries
from scm_trio.chat.deliveries import Deliveries
from scm_trio.errors import StoreError
from scm_trio.model import Message


def message(sequence, session="g1", role="assistant", user="ann"):
    return Message(f"m{sequence}", session, session, None, role, user, "…", sequence=sequence)


class Store:
    """Takes what is in order of each session; ``missing`` are numbers that have not been given."""

    def __init__(self):
        self.writes = []
        self.missing = set()
        self.fails = False
        self.takes_s = 0.0

    async def write(self, _, given):
        await trio.sleep(self.takes_s)
        if self.fails:
            raise StoreError("down")
        self.writes.append(given)
        left = {}
        for place, sequences in given.items():
            rest = [each for each in sequences if any(gone < each for gone in self.missing)]
            if rest:
                left[place] = rest
        return left


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def here():
    return {"ann", "bob"}


@pytest.fixture
async def noted(store, here, nursery):
    made = Deliveries(store, here.__contains__)
    nursery.start_soon(made.keep)
    return made


async def test_what_is_noted_is_written_together_after_a_second(noted, store, autojump_clock):
    for number in (7, 5, 6):
        noted.note("ann", message(number))
    noted.note("bob", message(5))
    noted.note("ann", message(9, "g2"))
    await trio.sleep(0.9)
    assert store.writes == []
    await trio.sleep(0.2)
    assert store.writes == [{("ann", "g1"): [5, 6, 7], ("bob", "g1"): [5], ("ann", "g2"): [9]}]
    await trio.sleep(10)
    assert len(store.writes) == 1
    noted.note("bob", message(8))
    await trio.sleep(1.1)
    assert store.writes[1:] == [{("bob", "g1"): [8]}]


async def test_ones_own_question_needs_no_note(noted, store, autojump_clock):
    noted.note("ann", message(5, role="user"))
    noted.note("bob", message(5, role="user"))
    await noted.settle()
    assert store.writes == [{("bob", "g1"): [5]}]


async def test_who_looks_has_it_written_before(noted, store, autojump_clock):
    noted.note("ann", message(5))
    assert noted.is_noted("ann", message(5))
    await noted.settle("bob")
    assert store.writes == []
    await noted.settle("ann")
    assert store.writes == [{("ann", "g1"): [5]}]
    assert not noted.is_noted("ann", message(5))
    await noted.settle()
    assert len(store.writes) == 1


async def test_what_something_is_missing_before_is_kept_for_later(noted, store, autojump_clock):
    store.missing = {5}
    noted.note("ann", message(4))
    noted.note("ann", message(6))
    await noted.settle()
    assert not noted.is_noted("ann", message(4))
    assert noted.is_noted("ann", message(6))
    store.missing.clear()
    noted.note("ann", message(5))
    await trio.sleep(2)
    assert store.writes[-1] == {("ann", "g1"): [5, 6]}


async def test_it_is_forgotten_when_its_user_has_gone(noted, store, here, autojump_clock):
    store.missing = {5}
    here.remove("bob")
    for user in ("ann", "bob"):
        noted.note(user, message(6))
    await noted.settle()
    assert (noted.is_noted("ann", message(6)), noted.is_noted("bob", message(6))) == (True, False)


async def test_only_so_much_is_kept_for_later(noted, store, monkeypatch, autojump_clock):
    monkeypatch.setattr(deliveries, "MAX_LEFT", 3)
    store.missing = {0}
    for number in range(1, 11):
        noted.note("ann", message(number))
    await noted.settle()
    assert [number for number in range(1, 11) if noted.is_noted("ann", message(number))] == [8, 9, 10]


async def test_what_is_noted_during_a_write_is_not_lost(noted, store, autojump_clock):
    noted.note("ann", message(5))
    store.takes_s = 0.1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(noted.settle)
        await trio.sleep(0.05)
        noted.note("ann", message(6))
    await trio.sleep(2)
    assert store.writes == [{("ann", "g1"): [5]}, {("ann", "g1"): [6]}]


async def test_a_store_that_fails_is_tried_again(noted, store, autojump_clock):
    store.fails = True
    noted.note("ann", message(5))
    await trio.sleep(3.5)
    with pytest.raises(StoreError):
        await noted.settle()
    store.fails = False
    await trio.sleep(1)
    assert store.writes == [{("ann", "g1"): [5]}]


async def test_the_connections_of_a_user_take_turns_and_others_do_not_wait(noted, autojump_clock):
    order = []

    async def take(name, user, seconds):
        async with noted.turn(user):
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
    assert order == ["first begins", "other begins", "other ends", "first ends", "second begins", "second ends"]
    assert not noted.is_busy("ann")
    assert not noted.is_busy("bob")
