"""Several server processes on one database, and users who ask all of them at once for the last of their quota."""

from contextlib import AsyncExitStack
from types import SimpleNamespace

import pytest
import trio

from scm_trio.chat.journal import StoreJournal
from scm_trio.chat.quota import Quotas
from scm_trio.config import Quota
from scm_trio.errors import QuotaExceeded
from scm_trio.model import AnswerInfo
from scm_trio.store import quota
from scm_trio.store.database import open_database
from scm_trio.store.engine import make_engine, parse_url
from tests.chat.building import plan

NOW = 1_700_000_000.0
TODAY = int(NOW // 86_400)
LIMITED = Quotas(Quota(tokens_per_day=10_000, answer_tokens=995), {})
"""With the six tokens of its prompt each request sets 1001 aside: nine of them fit."""


def asked(number, user, node):
    name = f"{node}-{user}-{number}"
    info = AnswerInfo(f"a-{name}", f"q-{name}", None, "scripted-1", "scripted")
    wanted = plan(info=info, user_id=user, session_id=f"s-{name}", conversation_id="c")
    return SimpleNamespace(plan=wanted, accept=lambda _: None)


class Node:
    """A server process's journal."""

    def __init__(self, name, database):
        ids = iter(range(1_000_000))
        self.name = name
        self.database = database
        self.journal = StoreJournal(database, lambda: NOW, lambda: f"{name}{next(ids)}", {}, None, LIMITED)
        self.opened = []
        self.refused = []

    async def ask(self, number, user):
        run = asked(number, user, self.name)
        try:
            await self.journal.open(run)
        except QuotaExceeded as exc:
            self.refused.append((user, exc))
        else:
            self.opened.append(user)


@pytest.fixture
async def nodes(shared_url, nursery):
    """Three of them, on connections of their own."""
    async with AsyncExitStack() as stack:
        opened = []
        for name in "xyz":
            database = await stack.enter_async_context(open_database(shared_url))
            await nursery.start(database.run_writer)
            opened.append(Node(name, database))
        yield opened


async def test_nobody_gets_more_than_there_is_wherever_they_ask(nodes):
    users = ("ann", "bob", "cleo")
    async with trio.open_nursery() as asking:
        for number in range(8):
            for node in nodes:
                # In another order at each node, as a deadlock would like it.
                for user in users if node is nodes[0] else reversed(users):
                    asking.start_soon(node.ask, number, user)
    opened = [user for node in nodes for user in node.opened]
    assert {user: opened.count(user) for user in users} == dict.fromkeys(users, 9)
    assert sum(len(node.refused) for node in nodes) == 3 * (24 - 9)
    for user in users:
        spent = await nodes[0].database.read(quota.amounts, user, TODAY)
        assert (spent.tokens, spent.requests) == (9009, 9)


async def test_a_request_waits_for_another_process_that_is_deciding_and_for_no_longer(postgres_url, nursery):
    async with open_database(postgres_url) as database:
        await nursery.start(database.run_writer)
        node = Node("x", database)
        engine = make_engine(parse_url(postgres_url))
        async with trio.open_nursery() as asking:
            with engine.begin() as other:
                quota.claim(other, "ann")
                asking.start_soon(node.ask, 1, "ann")
                # Others are not kept waiting by that.
                for number in range(3):
                    await node.ask(number, "bob")
                assert node.opened == ["bob"] * 3
        engine.dispose()
    assert node.opened == [*["bob"] * 3, "ann"]
