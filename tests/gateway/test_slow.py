"""Viewers who take their time: nothing is lost, nothing is queued, nobody else waits."""

from itertools import pairwise

import pytest
import trio
import trio.testing

from scm_trio.config import Connections, Messages
from scm_trio.providers.scripted import Batch, Pause, Scripted
from scm_trio.testing import Cut, Split

from .serving import answer, ask, check_contiguous, kinds, said, serving, upgrade, websocket

LOCKSTEP = trio.testing.lockstep_stream_pair
SECONDS = [step for number in range(60) for step in (f"{number} ", Pause(0.5))]
ALL = "".join(f"{number} " for number in range(60))


async def test_deltas_pile_up_for_a_slow_viewer_and_leave_together(autojump_clock):
    async with serving(*SECONDS) as server, server.peer(pair=LOCKSTEP) as slow:
        await ask(slow)
        messages = []
        while not messages or messages[-1]["type"] != "CHAT_STREAM_END":
            await trio.sleep(4)
            message = await slow.receive()
            if message["type"] != "HEARTBEAT":
                messages.append(message)
    assert said(messages) == ALL
    check_contiguous(messages)
    assert kinds(messages).count("DATA") < 15


async def test_a_viewer_who_takes_nothing_is_cut_off_and_nobody_else_notices(autojump_clock):
    config = websocket(message=Messages(write_timeout_s=5.0))
    async with (
        serving(*SECONDS, config=config) as server,
        server.peer(pair=LOCKSTEP) as stuck,
        server.peer(session_id="elsewhere") as other,
    ):
        await ask(stuck)
        (start,) = await stuck.until("CHAT_STREAM_START")
        await other.send("CHAT_RESUME", {"messageId": start["data"]["messageId"]})
        began = trio.current_time()
        messages = await other.until("CHAT_STREAM_END")
        # The other one is served on time.
        assert trio.current_time() - began == pytest.approx(30, abs=0.6)
        assert said(messages) == ALL
        assert kinds([m for m in messages if m["type"] != "HEARTBEAT"]).count("DATA") >= 58
        # The stuck one has been gone for long.
        assert server.house.gate.hub.active == 1
        page, _ = server.house.gate.metrics.render()
        assert b'scm_closes_total{code="4410"} 1.0' in page


@pytest.mark.parametrize("handshake_timeout_s", [3.0, 30.0])
async def test_a_viewer_who_is_stuck_from_the_first_byte_is_cut_off(autojump_clock, handshake_timeout_s):
    config = websocket(session=Connections(handshake_timeout_s=handshake_timeout_s))
    async with serving(config=config) as server:
        ours = server.dial(LOCKSTEP)
        await ours.send_all(upgrade(token=server.token()))
        await trio.sleep(handshake_timeout_s + 15)
        assert server.house.gate.hub.active == 0


async def test_an_idle_viewer_who_stops_taking_is_found_out_by_the_heartbeat(autojump_clock):
    async with serving() as server, server.peer(pair=LOCKSTEP):
        # The peer's library takes what is on its way; a second and a third beat find nobody.
        await trio.sleep(120)
        assert server.house.gate.hub.active == 0


async def test_an_answer_goes_on_without_the_viewer_who_was_cut_off(autojump_clock):
    config = websocket(message=Messages(write_timeout_s=2.0))
    async with serving(*SECONDS, config=config) as server:
        async with server.peer(pair=LOCKSTEP) as stuck:
            await ask(stuck)
            (start,) = await stuck.until("CHAT_STREAM_START")
            await trio.sleep(20)
        async with server.peer(session_id="elsewhere") as again:
            await again.send("CHAT_RESUME", {"messageId": start["data"]["messageId"]})
            messages = await again.until("CHAT_STREAM_END")
    assert said(messages) == ALL
    assert messages[-1]["data"]["finishReason"] == "completed"


async def test_a_burst_leaves_in_few_frames(autojump_clock):
    burst = Batch(["x"] * 5000)
    async with serving(burst, burst) as server, server.peer() as peer:
        messages = await answer(peer)
    assert said(messages) == "x" * 10_000
    assert kinds(messages).count("DATA") <= 2


async def test_a_very_long_answer_is_split_into_frames_of_a_bounded_size(autojump_clock):
    whole = "链" * 200_000
    async with serving(whole) as server, server.peer() as peer:
        messages = await answer(peer)
    assert said(messages) == whole
    check_contiguous(messages)
    assert max(len(m["data"]["content"]) for m in messages if m["type"] == "CHAT_STREAM_DATA") <= 65_536


async def test_frames_keep_the_distance_that_a_client_asks_for_and_the_first_goes_at_once(autojump_clock):
    provider = Scripted([step for number in range(20) for step in (f"{number} ", Pause(0.05))])
    async with serving(provider=provider) as server, server.peer(query="&coalesceMs=200") as peer:
        await ask(peer)
        began, times, messages = trio.current_time(), [], []
        while not messages or messages[-1]["type"] != "CHAT_STREAM_END":
            messages.append(await peer.receive())
            if messages[-1]["type"] == "CHAT_STREAM_DATA":
                times.append(trio.current_time())
    assert times[0] == began
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps[:4] == pytest.approx([0.2] * 4)
    assert len(times) <= 6
    assert said(messages) == "".join(f"{number} " for number in range(20))
    check_contiguous(messages)


async def test_the_end_does_not_wait_for_the_distance_twice(autojump_clock):
    async with serving("a", Pause(0.1), "b") as server, server.peer(query="&coalesceMs=500") as peer:
        began = trio.current_time()
        messages = await answer(peer)
        assert trio.current_time() - began == pytest.approx(0.5)
    assert kinds(messages) == ["START", "DATA", "DATA", "END"]


async def test_a_slow_network_that_splits_every_read_changes_nothing(autojump_clock):
    def pair():
        ours, theirs = trio.testing.memory_stream_pair()
        return ours, Split(theirs, 3)

    async with serving("供应", "链") as server, server.peer(pair=pair) as peer:
        assert said(await answer(peer, "什么是供应链？")) == "供应链"


@pytest.mark.parametrize("after_bytes", [1, 300, 700, 800, 900])
async def test_a_connection_that_breaks_anywhere_costs_itself_only(autojump_clock, after_bytes):
    async with serving("a", "b") as server:

        def pair():
            ours, theirs = trio.testing.memory_stream_pair()
            return ours, Cut(theirs, after_bytes)

        with trio.move_on_after(5):
            try:
                async with server.peer(pair=pair) as peer:
                    while True:
                        await ask(peer, "x" * 100, None)
            except Exception:  # noqa: BLE001 - however the peer's library takes it
                pass
        async with server.peer("user002") as other:
            assert said(await answer(other)) == "ab"
