"""Whose search is done when, and where; what it finds is tested with the store and over HTTP."""

import pytest
import trio
from attrs import Factory, define

from scm_trio.chat import searching
from scm_trio.chat.searching import AT_ONCE, Found, Search
from scm_trio.model import Message
from scm_trio.store.paging import Page
from scm_trio.store.search import Hit, SearchQuery


@define
class Slow:
    """A database in which each search takes a second, and the threads beside it."""

    running: list[str] = Factory(list)
    most: int = 0
    read: list[str] = Factory(list)
    offloaded: list[str] = Factory(list)
    text: str = "a needle"

    async def read_now(self, fn, user_id, query):
        self.running.append(user_id)
        self.most = max(self.most, len(self.running))
        try:
            await trio.sleep(1)
        finally:
            self.running.remove(user_id)
        self.read.append(user_id)
        message = Message("m1", "g1", "c1", None, "user", user_id, self.text, created_at=1.0)
        return Page((Found(Hit(message, 1, "s1"), "read"),), "on")

    async def offload(self, fn, *args):
        self.offloaded.append("during" if self.running else "after")
        return fn(*args)

    async def settle(self):
        await trio.lowlevel.checkpoint()


@pytest.fixture
def slow(monkeypatch):
    slow = Slow()

    async def catch_up(_):
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(searching, "catch_up", catch_up)
    return slow


@pytest.fixture
def search(slow):
    class Reading:
        read = staticmethod(slow.read_now)

    return Search(Reading(), slow, slow.offload)


async def test_a_user_has_one_search_at_a_time_and_another_users_gets_its_turn(search, slow, autojump_clock):
    async with trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(search.find, "ann", SearchQuery("needle"))
        await trio.sleep(0.5)
        assert slow.running == ["ann"]
        began = trio.current_time()
        await search.find("bob", SearchQuery("needle"))
        assert trio.current_time() - began == pytest.approx(1)
        assert slow.read == ["ann", "bob"]
    assert slow.read.count("ann") == 12
    assert slow.most == 2


async def test_all_users_together_leave_half_of_the_database_to_others(search, slow, autojump_clock):
    async with trio.open_nursery() as nursery:
        for number in range(3 * AT_ONCE):
            nursery.start_soon(search.find, f"u{number}", SearchQuery("needle"))
    assert slow.most == AT_ONCE
    assert len(slow.read) == 3 * AT_ONCE


async def test_a_search_that_nobody_waits_for_any_more_leaves_the_queue(search, slow, autojump_clock):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(search.find, "ann", SearchQuery("needle"))
        with trio.move_on_after(0.5):
            await search.find("ann", SearchQuery("needle"))
        await search.find("ann", SearchQuery("needle"))
    assert slow.read == ["ann", "ann"]


async def test_snippets_are_made_when_the_database_is_done_and_not_in_its_threads(search, slow, autojump_clock):
    page = await search.find("ann", SearchQuery("needle"))
    assert ([found.snippet for found in page.items], page.next) == (["a <mark>needle</mark>"], "on")
    assert slow.offloaded == ["after"]
