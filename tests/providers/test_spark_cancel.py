from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from scm_trio import errors
from scm_trio.providers.connections import Dialer
from scm_trio.providers.spark_socket import CLOSE_TIMEOUT_S
from scm_trio.providers.spark_websocket import SparkWebSocket
from scm_trio.testing import cancel_at_every_step

from .spark_memory import COMPLETED, LAST, PROMPT, Bug, answer, breaking, failure_of, is_closed, provider_over, stall
from .spark_server import SparkServer, frame


@pytest.fixture
def server(nursery) -> SparkServer:
    return SparkServer(nursery)


async def test_no_connection_in_time_is_a_timeout(autojump_clock):
    async def open_stream(host, port):
        await trio.sleep_forever()

    failure = await failure_of(provider_over(Dialer(open_stream=open_stream)))
    assert (type(failure), failure.field) == (errors.TimedOut, "connect")
    assert trio.current_time() == pytest.approx(3)


async def test_connecting_and_shaking_hands_have_one_deadline(memory_net, autojump_clock):
    async def handler(peer):
        await trio.sleep_forever()

    dialer = memory_net.dialer(handler)

    async def open_stream(host, port):
        await trio.sleep(2)
        return await dialer.open_stream(host, port)

    failure = await failure_of(provider_over(Dialer(open_stream=open_stream)))
    assert (type(failure), failure.field) == (errors.TimedOut, "connect")
    assert trio.current_time() == pytest.approx(3)
    assert await is_closed(memory_net.client_ends[0])


@pytest.mark.parametrize("fault", [OSError("no route"), UnicodeError("no name")])
async def test_no_connection_at_all_is_unavailable(autojump_clock, fault):
    async def open_stream(host, port):
        raise fault

    failure = await failure_of(provider_over(Dialer(open_stream=open_stream)))
    assert type(failure) is errors.ProviderUnavailable
    assert failure.detail == f"spark: {type(fault).__name__}: {fault}"


async def test_a_cancel_closes_the_connection_at_once(server, autojump_clock):
    provider = provider_over(server.dialer(stall))
    with trio.move_on_after(5) as scope:
        await answer(provider)
    assert scope.cancelled_caught
    assert trio.current_time() == 5
    assert await is_closed(server.client_ends[0])
    await trio.testing.wait_all_tasks_blocked()
    assert server.ends == [(5, 1006)]


async def test_a_cancel_while_shaking_hands_closes_the_connection(memory_net, autojump_clock):
    async def handler(peer):
        await peer.stream.receive_some()
        await trio.sleep_forever()

    with trio.move_on_after(1) as scope:
        await answer(provider_over(memory_net.dialer(handler)))
    assert scope.cancelled_caught
    assert await is_closed(memory_net.client_ends[0])


@pytest.mark.parametrize("server_reads", [True, False])
async def test_leaving_early_closes_the_connection(server, autojump_clock, server_reads):
    async def script(session):
        await session.say(frame("a"))
        if server_reads:
            await session.websocket.get_message()
        await trio.sleep(60)

    async with provider_over(server.dialer(script)).stream(PROMPT) as events:
        await anext(events)
    assert trio.current_time() <= CLOSE_TIMEOUT_S
    assert await is_closed(server.client_ends[0])


class Boom(Exception):
    """The consumer's own failure."""


async def test_what_the_consumer_raises_leaves_as_it_is(server, autojump_clock):
    boom = Boom()
    with pytest.raises(Boom) as raised:
        async with provider_over(server.dialer(stall)).stream(PROMPT):
            raise boom
    assert raised.value is boom
    assert await is_closed(server.client_ends[0])


async def test_a_failure_of_the_reading_task_is_not_hidden(server, autojump_clock):
    with pytest.raises(Bug):
        await answer(provider_over(breaking(server.dialer(stall), reads=1, bug=True)))
    assert await is_closed(server.client_ends[0])


async def test_the_consumers_own_failure_comes_before_that_of_the_reading_task(server, autojump_clock):
    async def consume(provider: SparkWebSocket) -> None:
        async with provider.stream(PROMPT):
            try:
                await trio.sleep_forever()
            finally:
                raise Boom

    with pytest.raises(Boom):
        await consume(provider_over(breaking(server.dialer(stall), reads=1, bug=True)))


async def test_a_cancel_from_outside_comes_before_a_failure_of_the_reading_task(server, autojump_clock):
    async def script(session):
        await trio.sleep(5)
        await stall(session)

    with trio.CancelScope() as scope:
        async with provider_over(breaking(server.dialer(script), reads=1, bug=True)).stream(PROMPT):
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
                scope.cancel()
                await trio.testing.wait_all_tasks_blocked()
            await trio.sleep_forever()
    assert scope.cancelled_caught


def test_a_cancel_at_any_step_leaves_nothing_behind():
    @asynccontextmanager
    async def serving():
        async with trio.open_nursery() as nursery:
            yield SparkServer(nursery)
            nursery.cancel_scope.cancel()

    async def scenario(scope):
        async with serving() as server:
            provider = provider_over(server.saying(frame("a"), LAST))
            said = []
            with scope:
                said = await answer(provider)
            assert scope.cancelled_caught or said[-1] == COMPLETED
            for stream in server.client_ends:
                assert await is_closed(stream)
            assert trio.current_time() <= CLOSE_TIMEOUT_S

    assert cancel_at_every_step(scenario) > 20
