"""Several people in one session: what each is told, and what follows when the list of members changes."""

import pytest
import trio
import trio.testing

from scm_trio.config import Streams
from scm_trio.gateway import outbox
from scm_trio.providers.scripted import Pause, Scripted, Stall
from scm_trio.testing import open_server

from .serving import answer, ask, check_contiguous, kinds, replies, said, serving, websocket, without_presence
from .together import ANN, BOB, EVE, code, create, nothing_more, request, set_members

pytestmark = pytest.mark.usefixtures("both_databases")

WORDS = [step for word in "abcdefgh" for step in (word, Pause(1))]
START, DATA, END = "CHAT_STREAM_START", "CHAT_STREAM_DATA", "CHAT_STREAM_END"


async def share(ann, **others):
    """Ann's session001 becomes one of these people, too; returns its global id."""
    await answer(ann, "First", "first")
    reply = await set_members(ann, "session001", user001="owner", **others)
    return reply["data"]["globalId"]


def told(messages):
    return [each for each in messages if each["type"] == "CHAT_MESSAGE"]


# ---- questions and answers


async def test_who_has_the_session_open_sees_question_and_answer_as_they_come(autojump_clock):
    async with serving(*WORDS) as server, server.peer() as ann:
        global_id = await share(ann, user002="member")
        async with server.peer(BOB, global_id) as bob:
            await ask(bob, "What is it?", "b1", conversationId=global_id)
            seen = without_presence(await ann.until(END))
            own = await replies(bob, "b1", END)
    question, start = seen[0], seen[1]
    assert kinds(seen)[:2] == ["CHAT_MESSAGE", "START"]
    assert (question["data"]["content"], question["data"]["userId"], question["userId"]) == ("What is it?", BOB, BOB)
    assert question["data"]["messageId"] == start["data"]["userMessageId"]
    assert said(seen) == said(own) == "abcdefgh"
    check_contiguous(seen[2:])
    assert seen[-1]["data"] == own[-1]["data"]
    # Each by the name that he has for the session; and a request's name is its asker's.
    assert {each["sessionId"] for each in seen} == {"session001"}
    assert (question["data"]["sessionId"], question["data"]["conversationId"]) == ("session001", "session001")
    assert {each["sessionId"] for each in own} == {global_id}
    assert (start["data"]["requestId"], own[0]["data"]["requestId"]) == (None, "b1")
    assert not any("requestId" in each for each in seen)


async def test_who_has_it_not_open_is_told_the_question_and_the_finished_answer(autojump_clock):
    async with serving("whole") as server, server.peer() as ann, server.peer(BOB) as bob, server.peer(EVE) as eve:
        global_id = await share(ann, user002="member", user003="viewer")
        for peer in (bob, eve):
            assert (await peer.receive())["type"] == "SESSION_CREATE"
        await answer(bob, "And?", "b1", session_id=global_id)
        question, answered = await eve.receive(), await eve.receive()
        await nothing_more(eve)
        await nothing_more(bob)
    assert [each["type"] for each in (question, answered)] == ["CHAT_MESSAGE"] * 2
    assert (question["data"]["role"], question["data"]["content"], question["userId"]) == ("user", "And?", BOB)
    assert (answered["data"]["role"], answered["data"]["content"], answered["userId"]) == ("assistant", "whole", BOB)
    assert answered["data"]["parentMessageId"] == question["data"]["messageId"]
    assert {each["data"]["sessionId"] for each in (question, answered)} == {global_id}
    assert {each["data"]["conversationId"] for each in (question, answered)} == {global_id}
    assert [each["data"]["status"] for each in (question, answered)] == ["delivered"] * 2


async def test_an_answer_in_one_piece_is_told_to_all(autojump_clock):
    async with serving("whole") as server, server.peer() as ann, server.peer(BOB) as bob:
        global_id = await share(ann, user002="member")
        await bob.receive()
        async with server.peer(BOB, global_id) as watching:
            await ask(ann, "And?", "a1", streaming=False)
            for peer in (bob, watching):
                pushed = [await peer.receive() for _ in range(2)]
                assert [each["data"]["role"] for each in told(pushed)] == ["user", "assistant"]
                await nothing_more(peer)
            assert (await replies(ann, "a1", "CHAT_RESPONSE"))[-1]["data"]["content"] == "whole"


async def test_ones_own_question_reaches_ones_other_devices_and_is_sent_until_others_have_it(autojump_clock):
    async with serving("whole") as server, server.peer() as ann, server.peer(session_id="s2") as desk:
        await share(ann, user002="member")
        await desk.until("SESSION_UPDATE")
        await answer(ann, "And?", "a1")
        question, answered = await desk.receive(), await desk.receive()
    assert [(each["data"]["role"], each["data"]["status"]) for each in (question, answered)] == [
        ("user", "sent"),
        ("assistant", "delivered"),
    ]


async def test_members_go_on_from_each_other_and_branch_from_each_other(autojump_clock):
    provider = Scripted(lambda prompt: [f"answer to {prompt.turns[-1].content}"])
    async with open_server({"openai": provider}) as server, server.peer() as ann, server.peer(BOB) as bob:
        global_id = await share(ann, user002="member")
        second = (await answer(bob, "two", "b1", session_id=global_id))[0]["data"]
        await answer(ann, "three", "a2")
        await answer(ann, "zwei", "a3", editOf=second["userMessageId"])
        await answer(bob, "-", "b2", session_id=global_id, regenerateOf=second["messageId"])
    prompts = [[turn.content for turn in prompt.turns] for prompt in provider.prompts]
    assert prompts[2] == ["First", "answer to First", "two", "answer to two", "three"]
    assert prompts[3] == ["First", "answer to First", "zwei"]
    assert prompts[4] == ["First", "answer to First", "two"]


async def test_too_many_shown_answers_are_told_when_they_are_finished(autojump_clock, monkeypatch):
    monkeypatch.setattr("scm_trio.gateway.link.MAX_UNASKED", 1)
    async with serving(Pause(1), "x") as server, server.peer() as phone, server.peer() as desk:
        for number in range(2):
            await ask(phone, f"q{number}", f"r{number}")
            await trio.sleep(0.1)
        await trio.sleep(5)
        await desk.send("HEARTBEAT")
        seen = await desk.until("HEARTBEAT")
    assert kinds(seen).count("START") == 1
    assert [each["data"]["role"] for each in told(seen)] == ["user", "user", "assistant"]


async def test_limits_are_the_askers(autojump_clock):
    config = websocket(stream=Streams(max_per_user=1))
    async with serving("a", Stall(), config=config) as server, server.peer() as ann, server.peer(BOB) as bob:
        session_id = (await create(ann, {BOB: "member"}))["sessionId"]
        await ask(bob, "Hi", "b1", session_id=session_id)
        await replies(bob, "b1", DATA)
        assert code((await answer(bob, "Hi", "b2", session_id=session_id))[-1]) == "TOO_MANY_STREAMS"
        await ask(ann, "Hi", "a1", session_id=session_id)
        await replies(ann, "a1", DATA)
        owners = await server.house.database.read(
            lambda conn: (
                conn.exec_driver_sql("SELECT user_id FROM usage ORDER BY started_at, attempt_id").scalars().all()
            )
        )
    assert owners == [BOB, ANN]


# ---- members change


async def test_a_removed_members_stream_ends_with_an_error_and_nobody_else_notices(autojump_clock):
    async with serving(*WORDS) as server, server.peer() as ann, server.peer(session_id="s2") as desk:
        global_id = await share(ann, user002="member", user003="viewer")
        async with server.peer(BOB, global_id) as watching, server.peer(EVE, global_id) as eve:
            await ask(ann, "Go on", "a1")
            await trio.sleep(3.5)
            await set_members(desk, "session001", user001="owner", user003="viewer")
            await trio.sleep(10)
            await watching.send("HEARTBEAT")
            seen = without_presence(await watching.until("HEARTBEAT"))
            assert kinds(seen[:6]) == ["CHAT_MESSAGE", "START", *["DATA"] * 4]
            assert sorted(kinds(seen[6:])) == ["ERROR", "HEARTBEAT", "SESSION_DELETE"]
            error = next(each for each in seen if each["type"] == "ERROR")
            assert (error["error"]["code"], error["error"]["messageId"]) == ("NOT_FOUND", seen[1]["data"]["messageId"])
            assert (error["error"]["generationStarted"], error["sessionId"]) == (False, global_id)
            assert said(await eve.until(END)) == "abcdefgh"
            assert said(await replies(ann, "a1", END)) == "abcdefgh"
            # And nothing of what is asked from now on.
            await answer(ann, "Later", "a2")
            await nothing_more(watching)


async def test_what_waits_for_a_slow_socket_is_not_sent_after_the_removal(autojump_clock):
    pair = trio.testing.lockstep_stream_pair
    async with serving(*WORDS) as server, server.peer() as ann:
        session_id = (await create(ann, {BOB: "viewer"}))["sessionId"]
        async with server.peer(BOB, session_id, pair=pair) as bob:
            await ask(ann, "Hi", "a1", session_id=session_id)
            # Bob reads nothing: a frame or two stand in his socket, the next one waits for its turn.
            await trio.sleep(6.5)
            await set_members(ann, session_id, user001="owner")
            with trio.fail_after(60):
                seen = []
                while not seen or {each["type"] for each in seen[-2:]} != {"ERROR", "SESSION_DELETE"}:
                    seen.append(await bob.receive())
            assert said(seen) in ("", "a", "ab")
            await nothing_more(bob)


async def test_a_removed_member_finds_nothing_by_any_way(autojump_clock):
    async with serving("a", Stall()) as server, server.peer() as ann, server.peer(BOB) as bob:
        session_id = (await create(ann, {BOB: "member"}))["sessionId"]
        await ask(bob, "Hi", "b1", session_id=session_id)
        message_id = (await replies(bob, "b1", DATA))[0]["data"]["messageId"]
        await set_members(ann, session_id, user001="owner")
        await replies(bob, "b1", "ERROR")
        assert code((await answer(bob, "Hi", "b1", session_id=session_id))[-1]) == "NOT_FOUND"
        assert code(await request(bob, "CHAT_RESUME", {"messageId": message_id})) == "NOT_FOUND"
        async with server.peer(BOB, session_id) as again:
            assert again.connect["data"]["activeRuns"] == []
            await nothing_more(again)


async def test_an_answer_goes_on_without_its_asker_for_the_others_and_he_may_still_stop_it(autojump_clock):
    async with serving("a", Pause(5), "b", Stall()) as server, server.peer() as ann, server.peer(BOB) as bob:
        session_id = (await create(ann, {BOB: "member"}))["sessionId"]
        async with server.peer(session_id=session_id) as watching:
            await ask(bob, "Hi", "b1", session_id=session_id)
            await replies(bob, "b1", DATA)
            await set_members(ann, session_id, user001="owner")
            await replies(bob, "b1", "ERROR")
            await watching.until(DATA)
            assert (await watching.until(DATA))[-1]["data"]["content"] == "b"
            await bob.send("CHAT_CANCEL", {"requestId": "b1"})
            end = (await watching.until(END))[-1]["data"]
            assert end["finishReason"] == "cancelled"


async def test_an_answer_that_nobody_watches_after_its_asker_was_removed_is_an_orphan(autojump_clock):
    provider = Scripted(["a", Stall()])
    async with serving(provider=provider) as server, server.peer() as ann, server.peer(BOB) as bob:
        session_id = (await create(ann, {BOB: "member"}))["sessionId"]
        await ask(bob, "Hi", "b1", session_id=session_id, onOrphan={"graceMs": 3000})
        await replies(bob, "b1", DATA)
        await set_members(ann, session_id, user001="owner")
        await trio.sleep(2.9)
        assert provider.open_streams == 1
        await trio.sleep(0.2)
        assert provider.open_streams == 0
        # The others are told what it said.
        assert [each["data"]["content"] for each in told([await ann.receive()])] == ["a"]


async def test_roles_count_as_they_are_at_the_moment(autojump_clock):
    async with serving("a") as server, server.peer() as ann, server.peer(BOB) as bob:
        session_id = (await create(ann, {BOB: "viewer"}))["sessionId"]
        outcomes = []
        for number, role in enumerate(("viewer", "member", "viewer", "owner")):
            await set_members(ann, session_id, user001="owner", user002=role)
            reply = (await answer(bob, "Hi", f"b{number}", session_id=session_id))[-1]
            outcomes.append(reply["type"] if reply["type"] != "ERROR" else code(reply))
        deleted = await request(bob, "SESSION_DELETE", {"sessionId": session_id})
    assert outcomes == ["FORBIDDEN", END, "FORBIDDEN", END]
    assert deleted["type"] == "SESSION_DELETE"


async def test_a_demoted_member_goes_on_watching_his_answer(autojump_clock):
    async with serving(*WORDS) as server, server.peer() as ann, server.peer(BOB) as bob:
        session_id = (await create(ann, {BOB: "member"}))["sessionId"]
        await ask(bob, "Hi", "b1", session_id=session_id)
        await replies(bob, "b1", DATA)
        await set_members(ann, session_id, user001="owner", user002="viewer")
        assert (await replies(bob, "b1", END, "ERROR"))[-1]["data"]["finishReason"] == "completed"


async def test_a_new_member_sees_a_running_answer_when_he_opens_the_session(autojump_clock):
    async with serving(*WORDS) as server, server.peer() as ann, server.peer(BOB) as bob:
        session_id = (await create(ann))["sessionId"]
        await ask(ann, "Hi", "a1", session_id=session_id)
        await trio.sleep(3.5)
        await set_members(ann, session_id, user001="owner", user002="viewer")
        assert (await bob.receive())["type"] == "SESSION_CREATE"
        async with server.peer(BOB, session_id) as opened:
            (run,) = opened.connect["data"]["activeRuns"]
            assert (run["sessionId"], run["nextIndex"]) == (session_id, 4)
            seen = await opened.until(END)
        assert (kinds(seen)[0], seen[0]["data"]["resumed"], said(seen)) == ("START", True, "abcdefgh")
        # Where it is not open the finished answer is told, and the question from before he came is not.
        assert [each["data"]["role"] for each in told([await bob.receive()])] == ["assistant"]
        await nothing_more(bob)


async def test_a_connection_that_named_the_session_before_opens_it_when_its_user_comes_in(autojump_clock):
    async with serving(*WORDS) as server, server.peer() as ann:
        session_id = (await create(ann))["sessionId"]
        async with server.peer(BOB, session_id) as bob:
            await ask(ann, "Hi", "a1", session_id=session_id)
            await trio.sleep(3.5)
            await nothing_more(bob)
            await set_members(ann, session_id, user001="owner", user002="viewer")
            seen = await bob.until(END)
    assert [each for each in kinds(seen) if each != "DATA"] == ["SESSION_CREATE", "START", "END"]
    assert said(seen) == "abcdefgh"


async def test_after_a_session_passed_on_its_answer_is_found_under_the_new_name_only(autojump_clock):
    provider = Scripted(lambda prompt: ["one"] if len(prompt.turns) == 1 else WORDS)
    async with serving(provider=provider) as server, server.peer() as ann, server.peer(BOB) as bob:
        global_id = await share(ann, user002="owner")
        await ask(bob, "Hi", "b1", session_id=global_id)
        await trio.sleep(2.5)
        await set_members(ann, "session001", user002="owner")
        async with server.peer() as former, server.peer(BOB, global_id) as heir:
            assert former.connect["data"]["activeRuns"] == []
            await nothing_more(former)
            assert said(await heir.until(END)) == "abcdefgh"
        # Come back as a member, the former owner has the name that all have.
        await set_members(bob, global_id, user002="owner", user001="member")
        back = await ann.until("SESSION_CREATE")
        assert back[-1]["data"]["sessionId"] == global_id


@pytest.mark.parametrize("first", ["question", "removal"])
async def test_a_question_and_a_removal_in_one_transaction_have_their_effects_in_order(autojump_clock, first):
    async with serving(*WORDS) as server, server.peer() as ann, server.peer(BOB) as bob:
        session_id = (await create(ann, {BOB: "member"}))["sessionId"]
        await bob.receive()
        writer = server.house.database._writer
        go_on, offload = trio.Event(), writer._offload

        async def hold(*args):
            await go_on.wait()
            return await offload(*args)

        writer._offload = hold
        server.nursery.start_soon(server.house.database.write, lambda _: None)
        await trio.testing.wait_all_tasks_blocked()
        for what in (first, {"question": "removal", "removal": "question"}[first]):
            if what == "question":
                await ask(bob, "Hi", "b1", session_id=session_id)
            else:
                people = [{"userId": ANN, "role": "owner"}]
                await ann.send("SESSION_UPDATE", {"sessionId": session_id, "members": people})
            await trio.testing.wait_all_tasks_blocked()
        assert len(writer._queue) == 3
        writer._offload = offload
        go_on.set()
        await trio.sleep(20)
        await bob.send("HEARTBEAT")
        seen = await bob.until("HEARTBEAT")
        assert sorted(kinds(seen)) == ["ERROR", "HEARTBEAT", "SESSION_DELETE"]
        assert code(next(each for each in seen if each["type"] == "ERROR")) == "NOT_FOUND"
        assert server.house.gate.service.live_runs == 0
        assert not server.house.gate.service._runs._live_by_session


async def test_a_repeated_request_is_answered_in_the_session_of_the_first(autojump_clock):
    async with serving("a") as server:
        async with server.peer() as ann, server.peer(BOB) as bob:
            session_id = (await create(ann, {BOB: "member"}))["sessionId"]
            await answer(bob, "Hi", "b1", session_id=session_id)
        await trio.sleep(1000)
        # From the store by now, and asked from elsewhere.
        async with server.peer() as ann, server.peer(BOB) as bob:
            assert {each["sessionId"] for each in await answer(bob, "Hi", "b1")} == {session_id}
            await set_members(ann, session_id, user001="owner")
        await trio.sleep(1000)
        async with server.peer(BOB) as bob:
            assert code((await answer(bob, "Hi", "b1"))[-1]) == "NOT_FOUND"


# ---- slow


async def test_a_socket_that_stands_still_while_too_much_happens_is_given_up(autojump_clock, monkeypatch):
    monkeypatch.setattr(outbox, "MAX_WAITING", 20)
    pair = trio.testing.lockstep_stream_pair
    async with serving("x" * 1000) as server, server.peer() as ann:
        session_id = (await create(ann, {BOB: "viewer"}))["sessionId"]
        async with server.peer(BOB, pair=pair) as bob:
            for number in range(12):
                await answer(ann, "Hi", f"a{number}", session_id=session_id)
            assert await bob.close_reason() in (4410, 1006)
        # What had not left comes again.
        async with server.peer(BOB) as bob:
            missed = [await bob.receive() for _ in range(22)]
            assert all(each["data"]["offline"] for each in missed)
