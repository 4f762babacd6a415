"""Wherever a client is cancelled: it lets go soon, with a plain cancellation, and no model goes on."""

import trio

from scm_trio.providers.scripted import Pause, Scripted, Stall
from scm_trio.testing import cancel_at_every_step, open_server
from tests.client.network import Network, cut_to_client, stored

MIDDLE_OF_THE_ANSWER = 1600
"""Bytes to the client."""


def tasks():
    return trio.lowlevel.current_statistics().tasks_living


def test_no_model_goes_on_for_a_client_that_was_cancelled_at_any_step():
    async def scenario(scope):
        provider = Scripted(["a", Stall()])
        async with open_server({"scripted": provider}) as server:
            with scope:
                async with server.chat() as chat:
                    with trio.move_on_after(1):
                        async for _ in chat.ask("?"):
                            pass
            let_go_at = trio.current_time()
            assert let_go_at <= 1 + 1 + 2
            # Well below the minute that an orphan is given.
            await trio.sleep(1)
            assert provider.open_streams == 0

    assert cancel_at_every_step(scenario) > 50


def test_a_chat_that_is_cancelled_at_any_step_of_coming_back_leaves_nothing_behind():
    async def scenario(scope):
        provider = Scripted(["a", Pause(0.5), "b", Pause(0.5), "c"])
        async with open_server({"scripted": provider}) as server:
            await trio.testing.wait_all_tasks_blocked()
            network, before = Network(server, cut_to_client(MIDDLE_OF_THE_ANSWER)), tasks()
            with scope:
                async with network.chat() as chat:
                    assert [delta async for delta in chat.ask("?")] == ["a", "b", "c"]
                    assert chat.reconnects == 1
            assert trio.current_time() <= 1 + 1 + 2
            # Where there was no connection to say it on, the server stops after the minute that an orphan is given.
            await trio.sleep(62)
            gate = server.house.gate
            assert provider.open_streams == gate.service.live_runs == gate.hub.active == 0
            assert tasks() == before
            rows, attempts = await stored(server)
            assert (len(rows), attempts) in ((0, 0), (2, 1))

    assert cancel_at_every_step(scenario) > 200


def test_an_answer_whose_reader_is_cancelled_at_any_step_gets_its_end_and_the_chat_goes_on():
    async def scenario(scope):
        provider = Scripted(lambda prompt: ["yes"] if prompt.turns[-1].content == "2" else ["a", Pause(0.5), "b"])
        async with open_server({"scripted": provider}) as server:
            network = Network(server, cut_to_client(MIDDLE_OF_THE_ANSWER))
            async with network.chat() as chat:
                answer = chat.ask("1", request_id="r-1")
                with scope:
                    async with answer:
                        assert [delta async for delta in answer] == ["a", "b"]
                        assert chat.reconnects == 1
                assert trio.current_time() <= 1 + 1
                assert [delta async for delta in chat.ask("2")] == ["yes"]
                # Sooner than the minute that an orphan is given.
                await trio.sleep(1)
                assert provider.open_streams == server.house.gate.service.live_runs == 0
                assert (answer.start is None) == (answer.end is None)
                assert chat.divergences == 0
            rows, attempts = await stored(server)
            asked = [content for role, content, _ in rows if role == "user"]
            assert asked in (["1", "2"], ["2"])
            assert answer.start is None or (asked[0], rows[1][1]) == ("1", answer.text)
            assert attempts == len(asked) == len(rows) / 2

    assert cancel_at_every_step(scenario) > 200
