"""Whole conversations, for those who may read them."""

import pytest

from scm_trio.chat.conversations import Conversations
from scm_trio.errors import NotFound
from scm_trio.model import Message
from scm_trio.store.access import enter
from scm_trio.store.database import inline, open_database
from scm_trio.store.members import add_members
from scm_trio.store.messages import add_message


@pytest.fixture
async def conversations(nursery):
    async with open_database("sqlite://", offload=inline) as database:
        await nursery.start(database.run_writer)
        await database.write(enter, "ann", "s1", "g1", 1.0)
        await database.write(add_members, "g1", {"bob": "viewer"}, 1.0)
        await database.write(add_message, Message("q1", "g1", "c1", None, "user", "ann", "why?", created_at=1.0))
        yield Conversations(database)


@pytest.mark.parametrize(("user", "reference", "name"), [("ann", "s1", "s1"), ("ann", "g1", "s1"), ("bob", "g1", "g1")])
async def test_every_member_reads_it_under_his_own_name_of_it(conversations, user, reference, name):
    excerpt = await conversations.open(user, reference, leaf_id=None, whole=False)
    assert (excerpt.session.session_id, excerpt.message_ids) == (name, ("q1",))
    (message,), following = await conversations.page(excerpt, 0)
    assert (message.content, following) == ("why?", 1)


@pytest.mark.parametrize(("user", "reference"), [("bob", "s1"), ("eve", "s1"), ("eve", "g1"), ("ann", "g2")])
async def test_nobody_else_does(conversations, user, reference):
    with pytest.raises(NotFound):
        await conversations.open(user, reference, leaf_id=None, whole=True)
