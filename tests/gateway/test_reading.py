"""What a peer says is read whatever it waits behind: cancels act at once, all else in its order, within bounds."""

from contextlib import asynccontextmanager
from functools import partial

import orjson
import pytest
import trio
import trio.testing

from scm_trio.gateway.inbox import MAX_WAITING, Inbox
from scm_trio.house import Parts, open_house
from scm_trio.providers.scripted import Pause, Scripted, Stall
from scm_trio.store.database import inline
from scm_trio.testing import Server, quiet_config, virtual_clock

from .serving import ask, ended, frame, kinds, parse_frames, replies, said, serving, text, upgrade

TALK = ["a", *[step for _ in range(3000) for step in (Pause(0.1), "x" * 50)]]


def one_way_stalled():
    """What the peer says is never held up; what he is told waits until he reads it."""
    to_server, from_peer = trio.testing.memory_stream_one_way_pair()
    to_peer, from_server = trio.testing.lockstep_stream_one_way_pair()
    return trio.StapledStream(to_server, from_server), trio.StapledStream(to_peer, from_peer)


async def stalled_visitor(server):
    """A peer who has asked r1, has seen the answer's beginning, and reads nothing from then on."""
    stream = server.dial(one_way_stalled)
    await stream.send_all(upgrade(token=server.token()))
    data = b""
    while b"\r\n\r\n" not in data:
        data += bytes(await stream.receive_some())
    await stream.send_all(text("CHAT_REQUEST", {"message": "Hi"}, requestId="r1"))
    while b"CHAT_STREAM_DATA" not in data:
        data += bytes(await stream.receive_some())
    await trio.sleep(1)
    return stream


async def closes_within(provider, seconds):
    with trio.fail_after(seconds):
        while provider.open_streams:  # noqa: ASYNC110  # nobody tells a test of it
            await trio.sleep(0.05)


class SlowStore:
    """Takes ``delay_s`` for everything."""

    def __init__(self):
        self.delay_s = 0.0

    async def offload(self, fn, *args):
        await trio.sleep(self.delay_s)
        return await inline(fn, *args)


@asynccontextmanager
async def stored_on(store, provider):
    parts = Parts(clock=virtual_clock(), offload=store.offload, providers={"openai": provider})
    async with open_house(quiet_config(), parts) as house, trio.open_nursery() as nursery:
        yield Server(house, nursery)
        nursery.cancel_scope.cancel()


# ---- a cancel does not wait


@pytest.mark.parametrize(
    "before",
    [
        [],
        [text("HEARTBEAT")],
        [text("SESSION_LIST")],
        [text("CHAT_CANCEL", {"requestId": "another"})],
        [text("DANCE"), text("HEARTBEAT"), text("CHAT_REQUEST", {"message": "Again"}, requestId="r1")],
        [text("HEARTBEAT")] * MAX_WAITING,
        [frame(9, b"ping"), frame(9, b"pong?")],
    ],
    ids=[
        "nothing",
        "a heartbeat",
        "a question to the store",
        "a cancel of nothing",
        "nonsense and a repeat",
        "much",
        "pings",
    ],
)
async def test_a_peer_who_takes_nothing_stops_his_answer_at_once(autojump_clock, before):
    provider = Scripted(TALK)
    async with serving(provider=provider) as server:
        stream = await stalled_visitor(server)
        await stream.send_all(b"".join(before) + text("CHAT_CANCEL", {"requestId": "r1"}))
        await closes_within(provider, 0.5)
        await trio.aclose_forcefully(stream)


@pytest.mark.parametrize("key", ["requestId", "messageId"])
async def test_a_cancel_does_not_wait_for_a_slow_store(autojump_clock, key):
    store, provider = SlowStore(), Scripted(["a", Stall()])
    async with stored_on(store, provider) as server, server.peer() as peer:
        await ask(peer)
        named = {"requestId": "r1", "messageId": (await peer.until("CHAT_STREAM_DATA"))[0]["data"]["messageId"]}
        store.delay_s = 8.0
        await peer.send("SESSION_LIST", {}, request_id="list")
        await peer.send("CHAT_CANCEL", {key: named[key]})
        await closes_within(provider, 0.5)
        seen = await peer.until("SESSION_LIST")
        (end,) = [each for each in [*seen, *await peer.until("CHAT_STREAM_END")] if each["type"] == "CHAT_STREAM_END"]
        assert (end["data"]["finishReason"], end["data"]["cancelMs"]) == ("cancelled", 0)


async def test_of_what_is_full_the_reader_waits_and_what_is_behind_is_read_later(autojump_clock):
    provider = Scripted(TALK)
    async with serving(provider=provider) as server:
        stream = await stalled_visitor(server)
        # One is being done, the others wait, one more is in the reader's hand.
        await stream.send_all(text("HEARTBEAT") * (MAX_WAITING + 2) + text("CHAT_CANCEL", {"requestId": "r1"}))
        with pytest.raises(trio.TooSlowError):
            await closes_within(provider, 2)
        await stream.receive_some()
        await stream.receive_some()
        await closes_within(provider, 2)
        await trio.aclose_forcefully(stream)


async def test_pings_that_came_while_nothing_was_taken_are_answered_by_the_newest_pong(autojump_clock):
    async with serving("a", Stall()) as server:
        stream = await stalled_visitor(server)
        await stream.send_all(text("HEARTBEAT"))
        await trio.sleep(1)
        await stream.send_all(frame(9, b"one") + frame(9, b"two") + text("HEARTBEAT", requestId="behind"))
        await trio.sleep(1)
        data = b""
        while b"behind" not in data:
            data += bytes(await stream.receive_some())
        frames, rest = parse_frames(data)
        assert [(opcode, payload) for opcode, payload in frames if opcode != 1] == [(10, b"two")]
        assert rest == b""
        await stream.send_all(frame(9, b"three"))
        assert bytes(await stream.receive_some()) == b"\x8a\x05three"
        await trio.aclose_forcefully(stream)


# ---- all else keeps its order


async def test_a_cancel_behind_its_own_request_finds_it_however_long_that_waits(autojump_clock):
    store, provider = SlowStore(), Scripted(["a", Stall()])
    async with stored_on(store, provider) as server, server.peer() as peer:
        store.delay_s = 8.0
        await peer.send("SESSION_LIST", {}, request_id="list")
        await ask(peer)
        await peer.send("CHAT_CANCEL", {"requestId": "r1"}, request_id="c1")
        store.delay_s = 0.0
        messages = await replies(peer, "r1", "CHAT_STREAM_END", "ERROR")
        assert kinds(messages) == ["START", "END"]
        assert messages[-1]["data"]["finishReason"] == "cancelled"
        # The cancel has found its request, and is answered by END alone.
        await peer.send("HEARTBEAT", request_id="beat")
        assert [each["type"] for each in await peer.until("HEARTBEAT")] == ["HEARTBEAT"]
    assert provider.open_streams == 0


async def test_a_cancel_between_two_of_the_same_request_counts_for_both(autojump_clock):
    store, provider = SlowStore(), Scripted(["a", Stall()])
    async with stored_on(store, provider) as server, server.peer() as peer:
        store.delay_s = 8.0
        await peer.send("SESSION_LIST", {}, request_id="list")
        await ask(peer)
        await peer.send("CHAT_CANCEL", {"requestId": "r1"})
        await ask(peer)
        store.delay_s = 0.0
        ends = [each for each in await replies(peer, "r1", "CHAT_STREAM_END") if each["type"] == "CHAT_STREAM_END"]
        assert [each["data"]["finishReason"] for each in ends] == ["cancelled"]
        await trio.sleep(5)
        assert provider.open_streams == 0


async def test_a_repeat_of_what_runs_is_ended_by_the_cancel_that_overtakes_it(autojump_clock):
    store, provider = SlowStore(), Scripted(["a", Stall()])
    async with stored_on(store, provider) as server:
        async with server.peer(session_id="elsewhere") as first:
            await ask(first, onOrphan="continue")
            await first.until("CHAT_STREAM_DATA")
        async with server.peer() as peer:
            store.delay_s = 8.0
            await peer.send("SESSION_LIST", {}, request_id="list")
            await ask(peer)
            await peer.send("CHAT_CANCEL", {"requestId": "r1"}, request_id="c1")
            await closes_within(provider, 0.5)
            store.delay_s = 0.0
            messages = await replies(peer, "r1", "CHAT_STREAM_END", "ERROR")
    assert (said(messages), messages[-1]["data"]["finishReason"]) == ("a", "cancelled")
    assert len(provider.prompts) == 1


async def test_a_cancel_that_has_been_lost_with_its_request_counts_when_that_comes_again(autojump_clock):
    store, provider = SlowStore(), Scripted(["a", Stall()])
    async with stored_on(store, provider) as server:
        async with server.peer() as peer:
            store.delay_s = 8.0
            await peer.send("SESSION_LIST")
            await ask(peer)
            await peer.send("CHAT_CANCEL", {"requestId": "r1"})
            await trio.sleep(1)
            server.house.gate.hub.everyone()[0].disconnect(None)
        store.delay_s = 0.0
        async with server.peer() as peer:
            await ask(peer)
            assert kinds(await replies(peer, "r1", "CHAT_STREAM_END", "ERROR")) == ["START", "END"]


async def test_answers_come_in_the_order_of_what_was_said_and_so_does_the_goodbye(autojump_clock):
    async with serving("a") as server, server.peer() as peer:
        await peer.send("SESSION_LIST", {}, request_id="1")
        await peer.send_text("{")
        await peer.send("CHAT_CANCEL", {"requestId": "none"}, request_id="3")
        await peer.send("CHAT_RESUME", {"messageId": "none"}, request_id="4")
        await peer.send("HEARTBEAT", request_id="5")
        await peer.send("DISCONNECT", request_id="6")
        await peer.send("HEARTBEAT", request_id="7")
        messages = [await peer.receive() for _ in range(6)]
        assert await peer.close_reason() == 1000
    assert [each["type"] for each in messages] == [
        "SESSION_LIST",
        "ERROR",
        "ERROR",
        "ERROR",
        "HEARTBEAT",
        "DISCONNECT",
    ]
    assert [each.get("requestId") for each in messages] == ["1", None, "3", "4", "5", "6"]


async def test_what_breaks_a_rule_ends_the_connection_when_all_before_is_answered(autojump_clock):
    store = SlowStore()
    async with stored_on(store, Scripted(["a"])) as server, server.peer() as peer:
        store.delay_s = 3.0
        await peer.send("SESSION_LIST", request_id="1")
        await peer.websocket.send_message(b"binary")
        assert (await peer.receive())["requestId"] == "1"
        goodbye, code = await ended(peer)
    assert (goodbye["code"], code) == ("BINARY", 1003)


@pytest.mark.parametrize("goodbye", [frame(8, b"\x03\xe8"), b""], ids=["close", "gone"])
async def test_a_question_of_a_peer_who_leaves_at_once_is_still_asked(autojump_clock, goodbye):
    store, provider = SlowStore(), Scripted(["a"])
    async with stored_on(store, provider) as server:
        stream = server.dial(trio.testing.memory_stream_pair)
        await stream.send_all(upgrade(token=server.token()))
        await trio.sleep(1)
        store.delay_s = 3.0
        await stream.send_all(
            text("TYPING_START")  # which looks into the store, and has no answer
            + text("CHAT_REQUEST", {"message": "Hi", "onOrphan": "continue"}, requestId="r1")
            + goodbye
        )
        await stream.send_eof()
        await trio.sleep(30)
        assert server.house.gate.hub.active == 0
        assert len(provider.prompts) == 1
        await trio.aclose_forcefully(stream)


async def test_who_is_silent_is_let_go_also_while_the_store_does_not_answer(autojump_clock):
    store = SlowStore()
    async with stored_on(store, Scripted(["a"])) as server:
        stream = server.dial(trio.testing.memory_stream_pair)
        await stream.send_all(upgrade(token=server.token()))
        await trio.sleep(1)
        store.delay_s = 10_000.0
        await stream.send_all(text("SESSION_LIST"))
        await trio.sleep(299)
        assert server.house.gate.hub.active == 1
        await trio.sleep(4)
        assert server.house.gate.hub.active == 0
        frames, _ = parse_frames(bytes(await stream.receive_some()).partition(b"\r\n\r\n")[2])
        goodbyes = [orjson.loads(payload)["data"]["code"] for opcode, payload in frames if b"DISCONNECT" in payload]
        assert goodbyes == ["SILENT"]
        await trio.aclose_forcefully(stream)
        store.delay_s = 0.0


# ---- bounds


async def test_an_inbox_takes_so_many_and_then_its_reader_waits(autojump_clock, nursery):
    inbox, done = Inbox(100), []

    async def note(number):
        await trio.sleep(1)
        done.append(number)

    for number in range(MAX_WAITING):
        await inbox.put(partial(note, number))
    with trio.move_on_after(5) as patience:
        await inbox.put(partial(note, "too early"))
    assert patience.cancelled_caught
    nursery.start_soon(inbox.work)
    await inbox.put(partial(note, MAX_WAITING))
    inbox.close()
    await trio.sleep(MAX_WAITING + 2)
    assert done == list(range(MAX_WAITING + 1))


async def test_an_inbox_holds_so_much_text_or_one_message(autojump_clock, nursery):
    inbox = Inbox(100)

    async def nothing():
        await trio.lowlevel.checkpoint()

    await inbox.put(nothing, 1000)
    with trio.move_on_after(5) as patience:
        await inbox.put(nothing, 1)
    assert patience.cancelled_caught
    nursery.start_soon(inbox.work)
    for _ in range(3):
        await inbox.put(nothing, 60)
    inbox.close()


async def test_a_cancel_that_stopped_its_request_ahead_of_both_their_turns_is_answered_by_the_end_alone(autojump_clock):
    store = SlowStore()
    async with stored_on(store, Scripted(["a", Stall()])) as server, server.peer() as peer:
        store.delay_s = 1.0
        await peer.send("SESSION_LIST", {})
        await ask(peer)
        for number in range(3):
            await peer.send("SESSION_LIST", {}, request_id=f"l{number}")
        await peer.send("CHAT_CANCEL", {"requestId": "r1"}, request_id="c1")
        messages = await peer.until("CHAT_STREAM_END")
        messages += [await peer.receive() for _ in range(1)]
        with trio.move_on_after(10):
            while True:
                messages.append(await peer.receive())
    assert "ERROR" not in [each["type"] for each in messages]
    (end,) = (each["data"] for each in messages if each["type"] == "CHAT_STREAM_END")
    assert end["finishReason"] == "cancelled"
