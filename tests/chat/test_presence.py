"""What is told of people while others are being looked at."""

import pytest
import trio
from attrs import define, field

from scm_trio.chat.presence import LEAVE_GRACE_S, Presence
from scm_trio.cluster.hub import Hub


@define(eq=False)
class Someone:
    connection_id: str
    user_id: str
    heard: list = field(factory=list)

    def tell_state(self, news):
        (status,) = news.data.users
        self.heard.append((status.user_id, status.status, trio.current_time()))


class SlowCircles:
    """Everybody knows the listener; it takes a second to find that out."""

    async def companions(self, user_id):
        await trio.sleep(1)
        return frozenset({"listener"})


@pytest.fixture
async def stage(nursery):
    hub, listener = Hub(max_connections=9, max_connections_per_user=9), Someone("c0", "listener")
    presence = Presence(SlowCircles(), hub)
    hub.join(listener)
    nursery.start_soon(presence.run)
    return presence, listener


async def test_who_leaves_while_others_are_looked_up_is_not_told_as_here(stage, autojump_clock):
    presence, listener = stage
    ann, bob = Someone("c1", "ann"), Someone("c2", "bob")
    presence.joined(ann)
    presence.joined(bob)
    await trio.sleep(0.5)
    presence.left(bob)
    await trio.sleep(2 * LEAVE_GRACE_S)
    assert listener.heard == [("ann", "online", 1.0)]


async def test_a_change_back_in_the_meantime_is_told_as_one(stage, autojump_clock):
    presence, listener = stage
    ann = Someone("c1", "ann")
    presence.joined(ann)
    await trio.sleep(3)
    presence.say(ann, "away")
    presence.say(ann, "online")
    await trio.sleep(3)
    presence.left(ann)
    presence.joined(ann)
    await trio.sleep(20)
    assert listener.heard == [("ann", "online", 1.0)]
