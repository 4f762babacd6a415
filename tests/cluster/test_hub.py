import pytest
import trio
from attrs import define, field

from scm_trio.cluster.hub import Hub, TooManyConnections
from scm_trio.errors import ServerBusy


@define(eq=False)
class Someone:
    connection_id: str
    user_id: str = "user001"
    reasons: list = field(factory=list)

    def disconnect(self, reason):
        self.reasons.append(reason)

    async def told(self):
        await trio.lowlevel.checkpoint()


def hub(most=10, per_user=10):
    return Hub(max_connections=most, max_connections_per_user=per_user)


def test_a_full_house_takes_nobody_until_somebody_leaves():
    full = hub(most=2)
    full.admit("a")
    full.admit("b")
    with pytest.raises(ServerBusy) as caught:
        full.admit("c")
    assert caught.value.retry_after_s == 5
    full.release("a")
    full.admit("c")
    assert full.active == 2


def test_a_user_with_enough_connections_gets_no_more():
    some = hub(per_user=1)
    some.admit("a")
    some.admit("b")
    with pytest.raises(TooManyConnections):
        some.admit("a")
    some.release("a")
    some.admit("a")


def test_connections_are_found_by_user_and_all_together():
    some = hub()
    one, two, other = Someone("1"), Someone("2"), Someone("3", "user002")
    for each in (one, two, other):
        some.join(each)
    assert list(some.of_user("user001")) == [one, two]
    assert list(some.of_user("nobody")) == []
    assert some.everyone() == [one, two, other]
    assert some.users == 2
    some.leave(one)
    assert list(some.of_user("user001")) == [two]
    some.leave(two)
    some.leave(other)
    assert (some.users, some.everyone()) == (0, [])


def test_leaving_twice_is_harmless():
    some = hub()
    one = Someone("1")
    some.join(one)
    some.leave(one)
    some.leave(one)
    assert some.users == 0


async def test_an_empty_house_is_waited_for(autojump_clock):
    some = hub()
    await some.wait_empty()
    some.admit("a")
    some.admit("b")

    async def leave_one_by_one():
        for user in ("a", "b"):
            await trio.sleep(1)
            some.release(user)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave_one_by_one)
        await some.wait_empty()
        assert trio.current_time() == 2.0
