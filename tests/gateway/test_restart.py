"""An answer that begins anew while people watch it."""

import random
from hashlib import sha256

import pytest
import trio
import trio.testing

from scm_trio.errors import ProviderUnavailable
from scm_trio.providers.fallback import Chain, Link, Terms
from scm_trio.providers.scripted import Batch, Fail, Pause, Scripted, Stall
from scm_trio.testing import Split, open_server

from .serving import ask, check_contiguous, kinds, replies, said

CUT = ProviderUnavailable("cut")
ELSEWHERE = "session002"  # where nothing is shown unasked
LOCKSTEP = trio.testing.lockstep_stream_pair


def paced(text, gap_s=1.0):
    """One character at a time, so that an index is a place in the text."""
    return [step for char in text for step in (char, Pause(gap_s))]


def chain(*scripts):
    row = [
        Scripted(list(script), name=name, models=(f"{name}-1",))
        for name, script in zip(("openai", "azure", "local"), scripts, strict=False)
    ]
    return Chain([Link(each, retries=0) for each in row], Terms(jitter=lambda: 1.0, restart=True))


class Screen:
    """What one connection shows of one answer; refuses every frame that does not go on from the one before."""

    def __init__(self, asked_for=0):
        self.text, self.rev, self.next = "", None, asked_for
        self.resets = 0
        self.ends = []

    def take(self, message):
        data = message["data"]
        if message["type"] == "CHAT_STREAM_START":
            assert self.rev is None or data["reset"] or data["resumed"]
            self.rev = data["rev"]
            if data["reset"]:
                self.text, self.next, self.resets = "", 0, self.resets + 1
        elif message["type"] == "CHAT_STREAM_DATA":
            assert (data["rev"], data["index"]) == (self.rev, self.next)
            self.text = self.text[: data["index"]] + data["content"]
            self.next = data["nextIndex"]
        elif message["type"] == "CHAT_STREAM_END":
            self.ends.append(data)
            assert data["rev"] == self.rev
            assert data["length"] == len(self.text) == self.next
            assert data["sha256"] == sha256(self.text.encode()).hexdigest()

    async def follow(self, peer, slowness=lambda: 0.0):
        while not self.ends:
            await trio.sleep(slowness())
            self.take(await peer.receive())
        return self


async def test_a_viewer_is_told_to_forget_and_reads_the_new_text_from_its_beginning(autojump_clock):
    provider = chain([*paced("abc"), Fail(CUT)], paced("xyz!"))
    async with open_server({"openai": provider}) as server, server.peer() as peer:
        await ask(peer)
        messages = await peer.until("CHAT_STREAM_END")
    shown = ["START", "DATA", "DATA", "DATA", "INFO", "START", "DATA", "DATA", "DATA", "DATA", "END"]
    assert kinds(messages) == shown
    first, again, end = messages[0]["data"], messages[5]["data"], messages[-1]["data"]
    assert (first["rev"], first["reset"], first["provider"], first["model"]) == (0, False, "openai", "openai-1")
    assert (again["rev"], again["reset"], again["resumed"]) == (1, True, False)
    assert (again["provider"], again["model"], again["messageId"]) == ("azure", "azure-1", first["messageId"])
    assert messages[4]["data"]["code"] == "FALLBACK"
    assert messages[5]["requestId"] == "r1"
    check_contiguous(messages[6:])
    assert said(messages[6:]) == "xyz!"
    assert (end["rev"], end["length"], end["finishReason"]) == (1, 4, "completed")
    assert end["sha256"] == sha256(b"xyz!").hexdigest()


async def test_what_was_said_stays_until_somebody_else_speaks(autojump_clock):
    provider = chain(["half", Fail(CUT)], [Pause(30), Fail(CUT)])
    async with open_server({"openai": provider}) as server, server.peer() as peer:
        await ask(peer)
        messages = [m for m in await peer.until("CHAT_STREAM_END") if m["type"] != "HEARTBEAT"]
    assert kinds(messages) == ["START", "DATA", "INFO", "ERROR", "END"]
    assert messages[3]["error"]["generationStarted"] is True
    assert (messages[-1]["data"]["rev"], messages[-1]["data"]["length"]) == (0, 4)


async def test_an_answer_in_one_piece_is_the_new_text_alone(autojump_clock):
    class Chatty(Scripted):
        """Streams although it was asked for one body, as some servers do."""

        def stream(self, prompt):
            return super().stream(trio_prompt(prompt))

    first = Chatty(["half", Pause(1), Fail(CUT)], name="openai", models=("openai-1",))
    second = Scripted(["whole"], name="azure", models=("azure-1",))
    provider = Chain([Link(first, retries=0), Link(second, retries=0)], Terms(restart=True))
    async with open_server({"openai": provider}) as server, server.peer() as peer:
        await ask(peer, streaming=False)
        messages = await peer.until("CHAT_RESPONSE")
    assert kinds(messages) == ["INFO", "CHAT_RESPONSE"]
    response = messages[-1]["data"]
    assert (response["content"], response["provider"], response["finishReason"]) == ("whole", "azure", "completed")


def trio_prompt(prompt):
    return type(prompt)(prompt.model, prompt.turns, stream=True)


@pytest.mark.parametrize("rev", [0, 1])
async def test_a_place_in_what_was_forgotten_is_reset(autojump_clock, rev):
    provider = chain([*paced("abc"), Fail(CUT)], paced("xyz!"))
    async with (
        open_server({"openai": provider}) as server,
        server.peer() as peer,
        server.peer(session_id=ELSEWHERE) as other,
    ):
        await ask(peer)
        message_id = (await peer.until("CHAT_STREAM_START"))[-1]["data"]["messageId"]
        await trio.sleep(5.5)
        await other.send("CHAT_RESUME", {"messageId": message_id, "rev": rev, "fromIndex": 2})
        messages = await replies(other, "r1", "CHAT_STREAM_END")
    start = messages[0]["data"]
    assert (start["rev"], start["reset"], start["resumed"]) == (1, rev == 0, rev == 1)
    assert said(messages) == ("xyz!" if rev == 0 else "z!")
    check_contiguous(messages, 0 if rev == 0 else 2)


@pytest.mark.parametrize("later_s", [1, 1000])
async def test_what_is_kept_is_the_new_text(autojump_clock, later_s):
    provider = chain(["half", Fail(CUT)], ["whole"])
    async with open_server({"openai": provider}) as server:
        async with server.peer() as peer:
            await ask(peer)
            end = (await peer.until("CHAT_STREAM_END"))[-1]["data"]
        await trio.sleep(later_s)
        async with server.peer() as again:
            await again.send("CHAT_RESUME", {"messageId": end["messageId"], "rev": 1, "fromIndex": 0})
            messages = await again.until("CHAT_STREAM_END")
    assert said(messages) == "whole"
    start = messages[0]["data"]
    assert (start["rev"], start["resumed"], start["provider"]) == (1, True, "azure")
    assert messages[-1]["data"]["sha256"] == end["sha256"]


async def test_a_running_answer_is_offered_with_the_beginning_it_is_at(autojump_clock):
    provider = chain(["half", Fail(CUT)], ["x", "y", Stall()])
    async with open_server({"openai": provider}) as server, server.peer() as peer:
        await ask(peer)
        await peer.until("INFO")
        await trio.sleep(1)
        async with server.peer(session_id=ELSEWHERE) as other:
            (run,) = other.connect["data"]["activeRuns"]
        await peer.send("CHAT_CANCEL", {"requestId": "r1"})
        await peer.until("CHAT_STREAM_END")
    assert (run["rev"], run["nextIndex"]) == (1, 2)


async def test_a_viewer_who_is_busy_with_the_old_text_never_sees_the_two_mixed(autojump_clock):
    """Its socket is full when the answer begins anew, and is still full when the answer ends."""
    provider = chain([*paced("abcdef", 0.5), Fail(CUT)], ["x", "y", "z"])
    async with open_server({"openai": provider}) as server, server.peer(pair=LOCKSTEP) as peer:
        await ask(peer)
        await trio.sleep(8)
        screen = await Screen().follow(peer)
    assert (screen.text, screen.rev) == ("xyz", 1)


async def test_a_viewer_who_waits_between_two_frames_is_told_at_its_next_turn(autojump_clock):
    provider = chain(["a", Pause(0.1), "b", Pause(0.1), Fail(CUT)], ["x", Pause(0.1), "y"])
    async with open_server({"openai": provider}) as server, server.peer(query="&coalesceMs=500") as peer:
        await ask(peer)
        messages = await peer.until("CHAT_STREAM_END")
    # The second frame would have been of the old text: it is never made.
    assert [(m["data"]["content"], m["data"]["rev"]) for m in messages if m["type"] == "CHAT_STREAM_DATA"] == [
        ("a", 0),
        ("xy", 1),
    ]


async def test_a_viewer_who_was_busy_meanwhile_needs_nothing_more_to_be_told(autojump_clock):
    provider = chain([*paced("abc", 0.5), Fail(CUT)], [Pause(1), "x", Stall()])
    async with open_server({"openai": provider}) as server, server.peer(pair=LOCKSTEP) as peer:
        await ask(peer)
        await trio.sleep(8)
        screen = Screen()
        with trio.fail_after(5):
            while screen.text != "x":
                screen.take(await peer.receive())
        assert (screen.rev, screen.resets) == (1, 1)
        await peer.send("CHAT_CANCEL", {"requestId": "r1"})
        await screen.follow(peer)


async def test_the_new_beginning_is_told_at_once_also_to_who_wants_few_frames(autojump_clock):
    provider = chain(["a", Pause(5), Fail(CUT)], [Pause(1), "x", Stall()])
    async with open_server({"openai": provider}) as server, server.peer(query="&coalesceMs=500") as peer:
        await ask(peer)
        await peer.until("INFO")
        began = trio.current_time()
        assert kinds(await peer.until("CHAT_STREAM_DATA")) == ["START", "DATA"]
        assert trio.current_time() - began == pytest.approx(1)
        await peer.send("CHAT_CANCEL", {"requestId": "r1"})
        await peer.until("CHAT_STREAM_END")


async def test_who_asks_the_same_again_much_later_has_nothing_to_forget(autojump_clock):
    provider = chain(["half", Fail(CUT)], ["whole"])
    async with open_server({"openai": provider}) as server:
        async with server.peer() as peer:
            await ask(peer)
            await peer.until("CHAT_STREAM_END")
        await trio.sleep(1000)
        async with server.peer() as peer:
            await ask(peer)
            messages = await peer.until("CHAT_STREAM_END")
    assert kinds(messages) == ["START", "DATA", "END"]
    assert (messages[0]["data"]["rev"], messages[0]["data"]["reset"]) == (1, False)
    assert said(messages) == "whole"


async def test_a_resume_that_crosses_the_new_beginning_is_answered_with_it(autojump_clock, monkeypatch):
    """The position was right when the message came, and wrong when the START could be sent."""
    provider = chain(["a", "b", Pause(5), Fail(CUT)], ["x", Stall()])
    async with (
        open_server({"openai": provider}) as server,
        server.peer() as peer,
        server.peer(session_id=ELSEWHERE) as other,
    ):
        await ask(peer)
        message_id = (await peer.until("CHAT_STREAM_DATA"))[-1]["data"]["messageId"]
        run = server.house.gate.service.find("user001", request_id="r1")
        # Its viewer finds that out only when it is its turn, since nothing awaits in between.
        original = run.begin_anew

        def resume_first():
            for link in server.house.gate.hub.everyone():
                for viewer in link.viewers.values():
                    viewer.move(2, resumed=True)
            original()

        monkeypatch.setattr(run, "begin_anew", resume_first)
        await other.send("CHAT_RESUME", {"messageId": message_id, "fromIndex": 2})
        await other.until("CHAT_STREAM_START")
        screen = Screen()
        while screen.text != "x":
            screen.take(await other.receive())
        assert (screen.rev, screen.resets) == (1, 1)
        await peer.send("CHAT_CANCEL", {"requestId": "r1"})
        await other.until("CHAT_STREAM_END")


async def test_a_cancel_while_the_next_provider_is_waited_for_keeps_the_text(autojump_clock):
    provider = chain(["half", Fail(CUT)], [Stall()])
    async with open_server({"openai": provider}) as server, server.peer() as peer:
        await ask(peer)
        await peer.until("INFO")
        await trio.sleep(3)
        await peer.send("CHAT_CANCEL", {"requestId": "r1"})
        end = (await peer.until("CHAT_STREAM_END"))[-1]["data"]
    assert (end["finishReason"], end["rev"], end["length"], end["upstreamClosed"]) == ("cancelled", 0, 4, True)


# ---- many at once


async def watcher(server, rng, message_id, screens):
    """One of many: comes at any time, by any way, fast or slow, leaves and comes back, and jumps about."""
    await trio.sleep(rng.uniform(0, 30))
    query = rng.choice(["", "&coalesceMs=500", "&coalesceMs=37"])
    pair = rng.choice([trio.testing.memory_stream_pair, LOCKSTEP, in_pieces])
    place = rng.choice([None, {}, {"rev": 1, "fromIndex": 3}, {"fromIndex": 4}])
    session_id = "session001" if place is None else ELSEWHERE
    async with server.peer("user001", session_id, query=query, pair=pair) as peer:
        screen = Screen((place or {}).get("fromIndex", 0))
        # Who comes too late to be shown a running answer asks for it.
        if place is not None or not peer.connect["data"]["activeRuns"]:
            await peer.send("CHAT_RESUME", {"messageId": message_id, **(place or {})})
        delays = rng.choice([[0.0], [0.0, 0.2], [1.5], [0.0, 7.0]])
        screens.append(await screen.follow(peer, lambda: rng.choice(delays)))


def in_pieces():
    ours, theirs = trio.testing.memory_stream_pair()
    return ours, Split(theirs, 7)


@pytest.mark.parametrize("seed", range(12))
async def test_every_viewer_ends_with_the_new_text_whatever_it_was_doing(autojump_clock, seed):
    rng = random.Random(seed)
    first, second, last = "abcdefghij", "klmnopqrs", "the text that counts"
    provider = chain([*paced(first), Fail(CUT)], [Pause(2), *paced(second, 0.7), Fail(CUT)], paced(last, 0.5))
    screens = []
    async with open_server({"openai": provider}) as server, server.peer() as asker:
        await ask(asker)
        start = await asker.receive()
        async with trio.open_nursery() as nursery:
            for _ in range(9):  # ten connections are a user's limit
                nursery.start_soon(watcher, server, rng, start["data"]["messageId"], screens)
            own = Screen()
            own.take(start)
            await own.follow(asker)
    assert [(screen.text, screen.rev, len(screen.ends)) for screen in [own, *screens]] == [(last, 2, 1)] * 10
    assert len({screen.ends[0]["sha256"] for screen in screens}) == 1
    assert own.resets == 2


async def test_a_burst_of_both_texts_reaches_a_viewer_as_one_restart(autojump_clock):
    provider = chain([Batch(["a"] * 500), Fail(CUT)], [Batch(["b"] * 500)])
    async with open_server({"openai": provider}) as server, server.peer() as peer:
        await ask(peer)
        screen = await Screen().follow(peer)
    assert (screen.text, screen.rev) == ("b" * 500, 1)


# ---- the client library


async def test_the_client_library_holds_the_new_text_and_checks_it(autojump_clock):
    provider = chain([*paced("abc"), Fail(CUT)], paced("xyz!"))
    async with open_server({"openai": provider}) as server, server.chat() as chat:
        answer = chat.ask("Hi")
        texts, resets = [], 0
        async for event in answer.events():
            resets += getattr(event, "reset", False)
            texts.append(answer.text)
        end = await answer.finish()
    assert (answer.text, resets, end.rev, answer.start.provider) == ("xyz!", 1, 1, "azure")
    assert "abc" in texts
    assert not [each for each in texts if "c" in each and "x" in each]
