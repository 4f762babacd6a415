"""Vendors' lists, asked rarely and never waited for long."""

import pytest
import trio

from scm_trio.errors import ProviderAuth, ProviderUnavailable
from scm_trio.providers.fallback import Chain, Link
from scm_trio.providers.scripted import Scripted
from scm_trio.providers.vendor_lists import FAILED_S, FRESH_S, TIME_LIMIT_S, VendorList, VendorLists


class Listing(Scripted):
    """Tells what it is given, after a while: names, None, or a failure."""

    def __init__(self, told, *, takes_s=0.0, models=(), name="one"):
        super().__init__([], name=name, models=models)
        self.told, self.takes_s = told, takes_s
        self.asked = self.asking = 0

    async def list_models(self):
        self.asked += 1
        self.asking += 1
        try:
            await trio.sleep(self.takes_s)
        finally:
            self.asking -= 1
        if isinstance(self.told, Exception):
            raise self.told
        return self.told


def lists(**providers):
    return VendorLists({name: Chain([Link(each)]) for name, each in providers.items()})


async def test_each_vendor_tells_its_list_and_those_without_one_are_left_out(autojump_clock):
    found = await lists(one=Listing(("a", "b")), two=Listing(None), three=Scripted([]), four=Listing(())).read()
    assert found == {"one": VendorList(("a", "b")), "four": VendorList(())}


async def test_only_what_is_allowed_is_told(autojump_clock):
    found = await lists(one=Listing(("c", "a", "b"), models=("b", "c", "d"))).read()
    assert found["one"].models == ("c", "b")


async def test_a_list_is_kept_for_some_minutes(autojump_clock):
    vendor = Listing(("a",))
    kept = lists(one=vendor)
    await kept.read()
    vendor.told = ("b",)
    await trio.sleep(FRESH_S - 1)
    assert (await kept.read())["one"].models == ("a",)
    assert vendor.asked == 1
    await trio.sleep(1)
    assert (await kept.read())["one"].models == ("b",)
    assert vendor.asked == 2


async def test_that_there_is_no_list_is_remembered_too(autojump_clock):
    vendor = Listing(None)
    kept = lists(one=vendor)
    for _ in range(3):
        assert await kept.read() == {}
    assert vendor.asked == 1


@pytest.mark.parametrize("failure", [ProviderAuth("the-key"), ProviderUnavailable()], ids=lambda each: each.code)
async def test_a_vendor_that_fails_costs_its_own_entry_only(autojump_clock, failure):
    bad, good = Listing(failure), Listing(("a",))
    kept = lists(bad=bad, good=good)
    assert await kept.read() == {"bad": VendorList((), failure.code), "good": VendorList(("a",))}
    await trio.sleep(FAILED_S - 1)
    await kept.read()
    assert bad.asked == 1
    await trio.sleep(1)
    bad.told = ("b",)
    assert (await kept.read())["bad"] == VendorList(("b",))
    assert good.asked == 1


async def test_what_a_vendor_told_before_stands_while_it_fails(autojump_clock):
    vendor = Listing(("a",))
    kept = lists(one=vendor)
    await kept.read()
    await trio.sleep(FRESH_S)
    vendor.told = ProviderUnavailable()
    assert await kept.read() == {"one": VendorList(("a",), "PROVIDER_UNAVAILABLE")}


async def test_nobody_waits_longer_than_the_limit_for_all_of_them(autojump_clock):
    slow, slower, quick = Listing(("a",), takes_s=100), Listing(("b",), takes_s=1000), Listing(("c",), takes_s=4)
    kept = lists(slow=slow, slower=slower, quick=quick)
    found = await kept.read()
    assert trio.current_time() == TIME_LIMIT_S
    timeout = VendorList((), "TIMEOUT")
    assert found == {"slow": timeout, "slower": timeout, "quick": VendorList(("c",))}
    assert (slow.asking, slower.asking) == (0, 0)


async def test_many_who_ask_at_once_ask_a_vendor_once(autojump_clock):
    vendor = Listing(("a",), takes_s=3)
    kept = lists(one=vendor)
    found = []

    async def read():
        found.append(await kept.read())

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(read)
    assert found == [{"one": VendorList(("a",))}] * 5
    assert (vendor.asked, trio.current_time()) == (1, 3)


async def test_who_leaves_while_asking_leaves_the_question_to_the_next(autojump_clock):
    vendor = Listing(("a",), takes_s=3)
    kept = lists(one=vendor)
    with trio.move_on_after(1):
        await kept.read()
    assert vendor.asking == 0
    assert await kept.read() == {"one": VendorList(("a",))}
    assert vendor.asked == 2


async def test_a_vendor_that_hangs_holds_up_nobody_twice(autojump_clock):
    vendor = Listing(("a",), takes_s=100)
    kept = lists(one=vendor)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.read)
        await trio.sleep(1)
        assert await kept.read() == {"one": VendorList((), "TIMEOUT")}
        # That is the first one's verdict, as soon as it is there.
        assert trio.current_time() == TIME_LIMIT_S
        assert await kept.read() == {"one": VendorList((), "TIMEOUT")}
        assert (vendor.asked, trio.current_time()) == (1, TIME_LIMIT_S)
