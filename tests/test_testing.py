"""The public test kit keeps its own promises."""

import pytest
import trio
import trio.testing

from scm_trio.providers.scripted import Pause, Scripted, Stall
from scm_trio.testing import EPOCH_S, Cut, Hang, Split, cancel_at_every_step, open_server, virtual_clock


async def test_the_example_of_the_module_works(autojump_clock):
    provider = Scripted(["Hello", Stall()])
    async with open_server({"openai": provider}) as server, server.peer("user001") as peer:
        await peer.send("CHAT_REQUEST", {"message": "Hi"}, request_id="r1")
        await peer.until("CHAT_STREAM_DATA")
        await peer.send("CHAT_CANCEL", {"requestId": "r1"})
        end = (await peer.until("CHAT_STREAM_END"))[-1]
        assert end["data"]["finishReason"] == "cancelled"
        assert provider.open_streams == 0


async def test_the_clock_follows_virtual_time_and_its_ids_count(autojump_clock):
    clock = virtual_clock()
    assert clock.now() == EPOCH_S
    await trio.sleep(3600)
    assert clock.now() == EPOCH_S + 3600
    assert [clock.new_id(), clock.new_id()] == [f"{number:024x}" for number in (1, 2)]


async def test_a_peer_reads_the_close_code_and_1006_where_there_is_none(autojump_clock):
    async with open_server({"openai": Scripted(["a"])}) as server:
        async with server.peer() as peer:
            await peer.send("DISCONNECT")
            assert await peer.close_reason() == 1000
        async with server.peer() as peer:
            await trio.aclose_forcefully(peer.stream)
            assert await peer.close_reason() == 1006


async def test_leaving_the_server_cuts_its_connections_and_ends_its_answers(autojump_clock):
    provider = Scripted(["a", Stall()])
    async with open_server({"openai": provider}) as server:
        stream = server.dial()
        async with server.peer() as peer:
            await peer.send("CHAT_REQUEST", {"message": "Hi", "onOrphan": "continue"})
            await peer.until("CHAT_STREAM_DATA")
    assert await stream.receive_some() == b""
    assert provider.open_streams == 0


async def test_the_client_library_is_served_as_well(autojump_clock):
    async with open_server({"openai": Scripted(["a", Pause(1), "b"])}) as server, server.chat() as chat:
        assert [text async for text in chat.ask("Hi")] == ["a", "b"]


async def test_a_cut_stream_passes_so_many_bytes_and_breaks(autojump_clock):
    ours, theirs = trio.testing.memory_stream_pair()
    cut = Cut(theirs, 5)
    await ours.send_all(b"abcdefgh")
    await cut.wait_send_all_might_not_block()
    await cut.send_all(b"back")
    assert [await cut.receive_some(3), await cut.receive_some()] == [b"abc", b"de"]
    with pytest.raises(trio.BrokenResourceError):
        await cut.receive_some()
    assert await ours.receive_some() == b"back"
    await cut.aclose()


async def test_a_split_stream_hands_out_pieces(autojump_clock):
    ours, theirs = trio.testing.memory_stream_pair()
    split = Split(theirs, 3)
    await ours.send_all(b"abcdefgh")
    assert [await split.receive_some(), await split.receive_some(2), await split.receive_some(100)] == [
        b"abc",
        b"de",
        b"fgh",
    ]


# ---- cancel at every step


def test_every_step_of_a_scenario_is_struck_once():
    reached = []

    async def scenario(scope):
        with scope:
            for number in range(5):
                await trio.sleep(1)
                reached.append(number)

    runs = cancel_at_every_step(scenario)
    assert runs >= 5
    # The last run is not struck any more; the first is struck before anything has happened.
    assert reached[-5:] == [0, 1, 2, 3, 4]
    assert reached.count(0) < runs + 1


def test_what_does_not_hold_is_found():
    async def scenario(scope):
        begun = ended = 0
        with scope:
            begun += 1
            await trio.sleep(1)
            ended += 1
        assert begun == ended

    with pytest.raises(AssertionError):
        cancel_at_every_step(scenario)


def test_a_scenario_that_spins_is_found():
    async def scenario(scope):
        while True:
            await trio.lowlevel.checkpoint()

    with pytest.raises(Hang, match="step 1"):
        cancel_at_every_step(scenario, watchdog_s=0.2)


def test_a_scenario_that_never_lets_go_is_found_too():
    async def scenario(scope):
        while True:
            pass

    with pytest.raises(Hang, match="step 1"):
        cancel_at_every_step(scenario, watchdog_s=0.2)


def test_a_scenario_that_waits_for_nothing_is_found():
    async def scenario(scope):
        await trio.sleep_forever()

    with pytest.raises(Hang, match="step 1"):
        cancel_at_every_step(scenario, watchdog_s=0.2)


def test_a_scenario_that_fails_because_it_was_stopped_hangs_all_the_same():
    async def scenario(scope):
        try:
            await trio.sleep_forever()
        finally:
            raise AssertionError("stopped")

    with pytest.raises(Hang, match="step 1"):
        cancel_at_every_step(scenario, watchdog_s=0.2)


def test_a_scenario_with_too_many_steps_is_told():
    async def scenario(scope):
        with scope:
            for _ in range(100):
                await trio.lowlevel.checkpoint()

    with pytest.raises(AssertionError, match="more than 10 steps"):
        cancel_at_every_step(scenario, max_steps=10)
