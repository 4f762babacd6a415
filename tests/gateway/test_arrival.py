"""What a user is told when he comes: what is unread, what runs, and what came while he was away."""

from contextlib import asynccontextmanager, suppress

import attrs
import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed

from scm_trio.chat import deliveries
from scm_trio.config import Store
from scm_trio.errors import StoreError
from scm_trio.providers.scripted import Pause, Scripted, Stall
from scm_trio.testing import open_server, quiet_config

from .serving import answer, ask, kinds, replies, said, serving
from .together import ANN, BOB, EVE, create, nothing_more, request, set_members

pytestmark = pytest.mark.usefixtures("both_databases")

START, DATA, END = "CHAT_STREAM_START", "CHAT_STREAM_DATA", "CHAT_STREAM_END"
LOCKSTEP = trio.testing.lockstep_stream_pair


def echo(prompt):
    return [f"re {prompt.turns[-1].content}"]


def contents(messages):
    return [each["data"]["content"] for each in messages if each["type"] == "CHAT_MESSAGE"]


async def take(peer, count):
    """The next ``count`` messages, all of them from the user's absence."""
    taken = [await peer.receive() for _ in range(count)]
    assert [(each["type"], each["data"]["offline"]) for each in taken] == [("CHAT_MESSAGE", True)] * count
    return contents(taken)


async def talk(ann, session_id, *questions):
    for question in questions:
        await answer(ann, question, f"ask-{question}", session_id=session_id)


def turns(*questions):
    return [text for question in questions for text in (question, f"re {question}")]


@asynccontextmanager
async def away(*absent):
    """A server, Ann there, and a session of hers with people who are not; everything is echoed."""
    async with serving(provider=Scripted(echo)) as server, server.peer() as ann:
        yield server, ann, (await create(ann, dict.fromkeys(absent, "member")))["sessionId"]


# ---- unread, running


async def test_it_is_told_what_is_unread_by_ones_own_names(autojump_clock):
    async with away(BOB) as (server, ann, session_id):
        await talk(ann, session_id, "one", "two")
        async with server.peer(BOB, "mine") as bob:
            assert bob.connect["data"]["unread"] == [{"sessionId": session_id, "count": 4}]
            missed = [(await bob.receive())["data"] for _ in range(4)]
            assert [each["status"] for each in missed] == ["delivered"] * 4
            reply = await request(bob, "MESSAGE_READ", {"sessionId": session_id, "messageId": missed[2]["messageId"]})
            assert reply["type"] == "MESSAGE_READ"
            await answer(bob, "own", "b1")
        async with server.peer(BOB, "mine") as bob:
            unread = {each["sessionId"]: each["count"] for each in bob.connect["data"]["unread"]}
            assert unread == {session_id: 1, "mine": 1}
        async with server.peer() as again:
            assert [each["sessionId"] for each in again.connect["data"]["unread"]] == [session_id]


async def test_it_is_told_what_runs_in_the_sessions_that_one_may_see(autojump_clock):
    async with serving("a", Stall()) as server, server.peer() as ann, server.peer(BOB) as bob, server.peer(EVE) as eve:
        shared = (await create(ann, {BOB: "viewer"}))["sessionId"]
        ids = {}
        for peer, name in ((ann, shared), (ann, "session001"), (bob, "session001"), (eve, "session001")):
            await ask(peer, "Hi", f"in {name}", session_id=name)
            start = (await replies(peer, f"in {name}", DATA))[0]
            ids[peer, name] = start["data"]["messageId"]
        expected = {
            ANN: {(shared, ids[ann, shared]), ("session001", ids[ann, "session001"])},
            BOB: {(shared, ids[ann, shared]), ("session001", ids[bob, "session001"])},
        }
        for user, runs in expected.items():
            async with server.peer(user, "elsewhere") as again:
                active = again.connect["data"]["activeRuns"]
                assert {(each["sessionId"], each["messageId"]) for each in active} == runs
                assert {(each["rev"], each["nextIndex"]) for each in active} == {(0, 1)}


async def test_a_session_named_by_its_global_id_is_called_by_ones_own_name(autojump_clock):
    async with serving("a") as server, server.peer() as ann:
        await answer(ann)
        global_id = (await request(ann, "SESSION_LIST"))["data"]["items"][0]["globalId"]
        async with server.peer(session_id=global_id) as again:
            assert (again.connect["sessionId"], again.connect["data"]["sessionId"]) == ("session001", "session001")
            await ask(ann, "Hi", "r2")
            assert {each["sessionId"] for each in await again.until(END)} == {"session001"}


async def test_a_store_that_fails_costs_what_it_knows_and_not_the_connection(autojump_clock, monkeypatch):
    async def fail(*_):
        raise StoreError("down")

    async with serving("a") as server:
        async with server.peer() as peer:
            await answer(peer)
        with monkeypatch.context() as patch:
            patch.setattr(server.house.gate.deliveries, "arrive", fail)
            async with server.peer() as peer:
                assert peer.connect["data"]["unread"] == []
                patch.undo()
                assert said(await answer(peer, "Hi", "r2")) == "a"


# ---- what came in one's absence


async def test_what_came_while_one_was_away_comes_in_order_and_once(autojump_clock):
    async with away(BOB, EVE) as (server, ann, session_id):
        other = (await create(ann, {BOB: "viewer"}))["sessionId"]
        await talk(ann, session_id, "one")
        await talk(ann, other, "two")
        await talk(ann, session_id, "three")
        async with server.peer(BOB, session_id) as bob:
            missed = [await bob.receive() for _ in range(6)]
            await nothing_more(bob)
        assert contents(missed) == turns("one", "two", "three")
        assert all(each["data"]["offline"] for each in missed)
        assert [each["sessionId"] for each in missed] == [session_id] * 2 + [other] * 2 + [session_id] * 2
        assert {each["userId"] for each in missed} == {ANN}
        async with server.peer(BOB) as bob:
            await nothing_more(bob)
        async with server.peer(EVE) as eve:
            assert await take(eve, 4) == turns("one", "three")


async def test_many_messages_come_in_batches(autojump_clock, monkeypatch):
    monkeypatch.setattr(deliveries, "BATCH", 3)
    async with away(BOB) as (server, ann, session_id):
        questions = [f"q{number}" for number in range(10)]
        await talk(ann, session_id, *questions)
        async with server.peer(BOB) as bob:
            assert await take(bob, 20) == turns(*questions)
            await nothing_more(bob)


async def test_what_was_seen_live_does_not_come_again(autojump_clock):
    async with away(BOB) as (server, ann, session_id):
        async with server.peer(BOB) as bob, server.peer(BOB, session_id) as watching:
            await talk(ann, session_id, "one")
            await watching.until(END)
            assert contents([await bob.receive() for _ in range(2)]) == turns("one")
        async with server.peer(BOB) as bob:
            await nothing_more(bob)
        await talk(ann, session_id, "two")
        async with server.peer(BOB) as bob:
            assert await take(bob, 2) == turns("two")
        async with server.peer() as again:
            await nothing_more(again)


@pytest.mark.parametrize("streaming", [True, False])
async def test_an_answer_whose_asker_did_not_wait_comes_when_he_is_back(autojump_clock, streaming):
    async with serving("a", Pause(5), "b") as server:
        async with server.peer() as peer:
            await ask(peer, onOrphan="continue", streaming=streaming)
            await trio.sleep(1)
        await trio.sleep(10)
        async with server.peer(session_id="elsewhere") as peer:
            assert await take(peer, 1) == ["ab"]
        async with server.peer() as peer:
            await nothing_more(peer)


async def test_an_answer_in_one_piece_counts_as_given_to_who_got_it(autojump_clock):
    async with serving("a") as server:
        async with server.peer() as peer:
            await ask(peer, streaming=False)
            await peer.until("CHAT_RESPONSE")
        async with server.peer() as peer:
            await nothing_more(peer)


async def test_two_connections_at_once_share_what_has_come(autojump_clock):
    async with away(BOB) as (server, ann, session_id):
        questions = [f"q{number}" for number in range(40)]
        await talk(ann, session_id, *questions)
        got = {}

        async def listen(name, *, task_status):
            async with server.peer(BOB, pair=LOCKSTEP) as bob:
                task_status.started()
                got[name] = []
                while True:
                    message = await bob.receive()
                    if message["type"] == "CHAT_MESSAGE":
                        got[name].append(message["data"]["content"])

        async with trio.open_nursery() as nursery:
            for name in range(3):
                await nursery.start(listen, name)
            await trio.sleep(100)
            nursery.cancel_scope.cancel()
        assert sorted(text for texts in got.values() for text in texts) == sorted(turns(*questions))
        assert all(texts == [text for text in turns(*questions) if text in texts] for texts in got.values())


@pytest.mark.parametrize("read", [0, 1, 2, 7, 16, 17, 39])
async def test_what_had_not_left_when_the_connection_broke_comes_again(autojump_clock, read):
    async with away(BOB) as (server, ann, session_id):
        questions = [f"q{number}" for number in range(20)]
        await talk(ann, session_id, *questions)
        async with server.peer(BOB, pair=LOCKSTEP) as bob:
            first = await take(bob, read)
        async with server.peer(BOB) as bob:
            second = []
            with trio.move_on_after(10):
                while True:
                    second += await take(bob, 1)
        whole = turns(*questions)
        assert first == whole[:read]
        # What stood in the socket's buffers then counts as having left: here that is a frame or two.
        lost = len(whole) - len(second)
        assert second == whole[lost:]
        assert read - 1 <= lost <= read + 3


async def test_a_socket_that_is_read_slowly_loses_and_doubles_nothing(autojump_clock):
    async with away(BOB) as (server, ann, session_id):
        questions = [f"q{number}" for number in range(20)]
        await talk(ann, session_id, *questions)
        async with server.peer(BOB, pair=LOCKSTEP) as bob:
            got = []
            while len(got) < 44:
                if len(got) == 10:
                    await talk(ann, session_id, "late", "later")
                await trio.sleep(3)
                message = await bob.receive()
                if message["type"] == "CHAT_MESSAGE":
                    got.append(message["data"]["content"])
            await nothing_more(bob)
    assert got == turns(*questions, "late", "later")


async def test_what_is_older_comes_before_anything_new_of_its_session(autojump_clock):
    provider = Scripted(lambda prompt: [*echo(prompt), Pause(30), "!"])
    async with serving(provider=provider) as server, server.peer() as ann:
        session_id = (await create(ann, {BOB: "member"}))["sessionId"]
        questions = [f"q{number}" for number in range(10)]
        await talk(ann, session_id, *questions)
        async with server.peer(BOB, session_id, pair=LOCKSTEP) as bob:
            await ask(bob, "new", "b1", session_id=session_id)
            await ask(ann, "newer", "a1", session_id=session_id)
            seen = [await bob.receive()]
            while sum(each["type"] == END for each in seen) < 2:
                seen.append(await bob.receive())
        seen = [each for each in seen if each["type"] != "HEARTBEAT"]
        old = [f"{text}!" if text.startswith("re ") else text for text in turns(*questions)]
        # The question that came meanwhile was stored by then, and is the last of these.
        assert contents(seen[:21]) == [*old, "newer"]
        for request_id, text in (("b1", "re new!"), (None, "re newer!")):
            stream = [each for each in seen[21:] if each.get("requestId") == request_id]
            assert [each for each in kinds(stream) if each != "DATA"] == ["START", "END"]
            assert said(stream) == text


async def test_other_sessions_do_not_wait_for_what_is_older(autojump_clock):
    async with away(BOB) as (server, ann, session_id):
        questions = [f"q{number}" for number in range(20)]
        await talk(ann, session_id, *questions)
        async with server.peer(BOB, pair=LOCKSTEP) as bob:
            await ask(bob, "own", "b1")
            seen = await bob.until(END)
            assert 0 < len(contents(seen)) < 40
            assert said(seen) == "re own"


async def test_a_message_that_comes_while_one_catches_up_comes_once(autojump_clock, monkeypatch):
    monkeypatch.setattr(deliveries, "BATCH", 2)
    async with away(BOB) as (server, ann, session_id):
        await talk(ann, session_id, "one", "two", "three")
        async with server.peer(BOB, pair=LOCKSTEP) as bob, server.peer(BOB, session_id, pair=LOCKSTEP) as watching:
            got = await take(bob, 1)
            await talk(ann, session_id, "four")
            await trio.sleep(1)
            await talk(ann, session_id, "five")
            while len(got) < 10:
                got += contents([await bob.receive()])
            await nothing_more(bob)
            seen = [await watching.receive() for _ in range(8)]
            await nothing_more(watching)
    assert got == turns("one", "two", "three", "four", "five")
    # The other connection has had nothing of the old, and sees all of the new, which was asked while it was there.
    assert sorted(kinds(seen)) == sorted(["CHAT_MESSAGE", "START", "DATA", "END"] * 2)
    assert contents(seen) == ["four", "five"]


async def read_slowly(peer, got, *, task_status):
    """A device on a slow line: just fast enough not to be given up."""
    task_status.started()
    with suppress(ConnectionClosed):
        while True:
            got.append(await peer.receive())
            await trio.sleep(8)


async def test_a_slow_device_holds_up_another_one_for_a_moment_only(autojump_clock, nursery):
    async with away(BOB) as (server, ann, session_id):
        questions = [f"q{number}" for number in range(30)]
        await talk(ann, session_id, *questions)
        slow = []
        async with server.peer(BOB, session_id, pair=LOCKSTEP) as phone:
            await nursery.start(read_slowly, phone, slow)
            await trio.sleep(10)
            async with server.peer(BOB, session_id) as desk:
                began = trio.current_time()
                await ask(desk, "own", "b1", session_id=session_id)
                await ask(ann, "new", "a1", session_id=session_id)
                seen = [await desk.receive()]
                while sum(each["type"] == END for each in seen) < 2:
                    seen.append(await desk.receive())
                assert trio.current_time() - began == pytest.approx(1, abs=0.2)
                assert said([each for each in seen if each.get("requestId") == "b1"]) == "re own"
                assert said([each for each in seen if "requestId" not in each]) == "re new"
                assert contents(seen) == ["new"]
                await nothing_more(desk)
            await trio.sleep(1000)
        # The slow one has had all that was older in its order, and then what came while it was there.
        assert contents(slow)[:60] == turns(*questions)
        assert sorted(contents(slow)[60:]) == ["new", "own"]
        assert {each["data"].get("offline") for each in slow[:30] if each["type"] == "CHAT_MESSAGE"} == {True}
        async with server.peer(BOB) as bob:
            await nothing_more(bob)


async def test_what_a_slow_device_leaves_behind_comes_on_the_other_one_once_and_in_order(autojump_clock):
    async with away(BOB) as (server, ann, session_id):
        questions = [f"q{number}" for number in range(20)]
        await talk(ann, session_id, *questions)
        whole, slow, seen = turns(*questions), [], []
        async with trio.open_nursery() as nursery, server.peer(BOB, pair=LOCKSTEP) as phone:
            await nursery.start(read_slowly, phone, slow)
            await trio.sleep(20)
            async with server.peer(BOB, session_id) as desk, server.peer(BOB) as third:
                await trio.sleep(5)
                await talk(ann, session_id, "new")
                assert said([await desk.receive() for _ in range(4)]) == "re new"
                assert contents([await third.receive() for _ in range(2)]) == turns("new")
                await trio.aclose_forcefully(phone.stream)
                with trio.move_on_after(20):
                    while True:
                        seen.append(await desk.receive())
                await nothing_more(third)
            nursery.cancel_scope.cancel()
        rest = contents([each for each in seen if each["type"] == "CHAT_MESSAGE"])
        assert rest == whole[len(whole) - len(rest) :]
        assert len(whole) - len(rest) <= len(contents(slow)) + 3
        assert all(each["data"]["offline"] for each in seen if each["type"] == "CHAT_MESSAGE")
        async with server.peer(BOB) as bob:
            await nothing_more(bob)


async def test_who_loses_a_session_is_not_given_what_another_device_left_of_it(autojump_clock):
    async with away(BOB) as (server, ann, session_id):
        await talk(ann, session_id, *[f"q{number}" for number in range(20)])
        async with trio.open_nursery() as nursery, server.peer(BOB, pair=LOCKSTEP) as phone:
            await nursery.start(read_slowly, phone, [])
            async with server.peer(BOB, session_id) as desk:
                await trio.sleep(5)
                await set_members(ann, session_id, user001="owner")
                assert [each["type"] for each in await desk.until("SESSION_DELETE")] == ["SESSION_DELETE"]
                await trio.aclose_forcefully(phone.stream)
                await trio.sleep(5)
                await nothing_more(desk)
            nursery.cancel_scope.cancel()


async def test_who_is_removed_is_not_given_what_came_before(autojump_clock):
    async with away(BOB) as (server, ann, session_id):
        questions = [f"q{number}" for number in range(20)]
        await talk(ann, session_id, *questions)
        async with server.peer(BOB, pair=LOCKSTEP) as bob:
            assert await take(bob, 3) == turns(*questions)[:3]
            await set_members(ann, session_id, user001="owner")
            seen = (await bob.until("SESSION_DELETE"))[:-1]
            assert len(seen) <= 3
            await nothing_more(bob)
        async with server.peer(BOB) as bob:
            await nothing_more(bob)
            assert bob.connect["data"]["unread"] == []


async def test_a_deleted_session_has_nothing_left_to_come(autojump_clock):
    async with away(BOB) as (server, ann, session_id):
        await talk(ann, session_id, *[f"q{number}" for number in range(20)])
        async with server.peer(BOB, pair=LOCKSTEP) as bob:
            await take(bob, 3)
            await request(ann, "SESSION_DELETE", {"sessionId": session_id})
            assert len(await bob.until("SESSION_DELETE")) <= 4
            await nothing_more(bob)


async def test_a_store_that_fails_in_between_lets_what_is_new_pass(autojump_clock, monkeypatch):
    async def fail(*_):
        raise StoreError("down")

    async with away(BOB) as (server, ann, session_id):
        await talk(ann, session_id, "one")
        with monkeypatch.context() as patch:
            patch.setattr(server.house.gate.deliveries, "waiting", fail)
            async with server.peer(BOB) as bob:
                await talk(ann, session_id, "two")
                new = [await bob.receive() for _ in range(2)]
                assert contents(new) == turns("two")
                assert not any("offline" in each["data"] for each in new)
        # What was skipped comes the next time, and what followed it does not come twice.
        async with server.peer(BOB) as bob:
            assert await take(bob, 2) == turns("one")
            await nothing_more(bob)
        async with server.peer(BOB) as bob:
            await nothing_more(bob)


# ---- what is noted becomes durable


async def test_what_was_given_survives_the_server(autojump_clock, tmp_path):
    config = attrs.evolve(quiet_config(), store=Store(f"sqlite:///{tmp_path / 'store.db'}"))
    async with open_server({"openai": Scripted(echo)}, config) as server, server.peer() as ann:
        session_id = (await create(ann, {BOB: "viewer"}))["sessionId"]
        async with server.peer(BOB) as bob:
            await talk(ann, session_id, "one")
            assert contents([await bob.receive() for _ in range(2)]) == turns("one")
        await talk(ann, session_id, "two")
    async with open_server({"openai": Scripted(echo)}, config) as server:
        async with server.peer(BOB) as bob:
            assert await take(bob, 2) == turns("two")
        async with server.peer() as ann:
            await nothing_more(ann)


async def test_what_was_noted_is_written_within_a_second(autojump_clock):
    async with away(BOB) as (server, ann, session_id), server.peer(BOB) as bob:
        await talk(ann, session_id, "one")
        await bob.receive()
        await bob.receive()
        await trio.sleep(1.1)
        delivered = await server.house.database.read(
            lambda conn: conn.exec_driver_sql("SELECT count(*) FROM members WHERE delivered_to > 0").scalar()
        )
    assert delivered == 2
