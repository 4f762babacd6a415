"""A connection that breaks at any byte of any frame, in either direction, costs nothing but time."""

from contextlib import suppress
from itertools import count

import pytest
import trio

from scm_trio.client import ConnectionLost
from scm_trio.config import Messages, WebSocket
from scm_trio.providers.scripted import Pause, Reasoning, Scripted, Stall
from scm_trio.testing import open_server, quiet_config
from tests.client.network import Network, cut_to_client, cut_to_server, stored

WHOLE = [Reasoning("嗯"), "供应", Pause(0.1), "链🚚"]
ENDLESS = ["好", Stall()]
CONFIG = quiet_config(websocket=WebSocket(message=Messages(rate_limit_per_minute=0)))

PARTS = 4
"""Tests that share the bytes, so that they can run side by side."""

both_ways = pytest.mark.parametrize("cut", [cut_to_client, cut_to_server])


async def one_answer(chat):
    """An answer to its end; returns what the store has to hold then."""
    answer = chat.ask("whole")
    assert "".join([delta async for delta in answer]) == answer.text == "供应链🚚"
    assert (answer.reasoning, answer.end.finish_reason) == ("嗯", "completed")
    return [("user", "whole"), ("assistant", "供应链🚚")]


async def two_answers(chat):
    """And another one, until it is stopped in the middle."""
    first = await one_answer(chat)
    async with chat.ask("endless") as answer:
        async for delta in answer:
            assert delta == "好"
            end = await answer.cancel()
    assert (answer.text, end.finish_reason, end.upstream_closed) == ("好", "cancelled", True)
    return [*first, ("user", "endless"), ("assistant", "好")]


async def hold_on_breaking_connections(converse, *faults, first=1, step=1):
    """Hold the conversation with the last of the faults after more and more bytes, until it is not reached any more.

    A chat that does not even open is opened again. Returns at how many bytes that was.
    """
    provider = Scripted(lambda prompt: WHOLE if prompt.turns[-1].content == "whole" else ENDLESS)
    *earlier, cut = faults
    async with open_server({"scripted": provider}, CONFIG) as server:
        for after_bytes in count(first, step):
            user_id, network = f"user-{after_bytes}", Network(server, *earlier, cut(after_bytes))
            wanted = None
            while wanted is None:
                with suppress(ConnectionLost):
                    async with network.chat(user_id) as chat:
                        wanted = []
                        wanted = await converse(chat)
                        assert chat.divergences == 0
            rows, attempts = await stored(server, user_id)
            assert [(role, content) for role, content, _ in rows] == wanted
            assert attempts == len(wanted) // 2
            if network.dials <= len(faults):
                break
        # The server may take a moment to see that the last one is gone.
        await trio.sleep(1)
        assert provider.open_streams == server.house.gate.service.live_runs == server.house.gate.hub.active == 0
    return after_bytes


@pytest.mark.parametrize("part", range(PARTS))
@both_ways
async def test_a_cut_after_any_byte_costs_nothing_but_time(autojump_clock, cut, part):
    assert await hold_on_breaking_connections(one_answer, cut, first=1 + part, step=PARTS) > 500


# Which bytes these are differs from frame to frame; a step that divides no length of one meets all kinds.


@both_ways
async def test_a_cut_before_or_after_a_stop_costs_nothing_but_time(autojump_clock, cut):
    assert await hold_on_breaking_connections(two_answers, cut, step=7) > 500


@both_ways
async def test_a_cut_while_coming_back_costs_nothing_but_time(autojump_clock, cut):
    middle_of_the_answer = cut_to_client(1500)
    assert await hold_on_breaking_connections(one_answer, middle_of_the_answer, cut, step=7) > 500
