"""What people who are connected see of a removal that none of them asked for: by age, or of a person."""

import pytest
import trio

from scm_trio.config import Retention, Store
from scm_trio.errors import NotFound
from scm_trio.providers.scripted import Stall
from scm_trio.store.messages import find_message
from scm_trio.store.person import delete_user
from scm_trio.testing import quiet_config

from .serving import answer, ask, replies, said, serving, without_presence
from .sharing import GLOBAL_ID, heard, share
from .together import ANN, BOB, code, request

pytestmark = pytest.mark.usefixtures("both_databases")

START, END = "CHAT_STREAM_START", "CHAT_STREAM_END"
A_WEEK = quiet_config(store=Store("sqlite://", retention=Retention(max_age_days=7)))


def kinds(messages):
    return [each["type"] for each in messages]


# ---- by age


async def test_a_session_that_goes_by_its_age_is_gone_for_all_its_members(autojump_clock):
    async with serving(config=A_WEEK) as server:
        await share(server, BOB)  # long ago
        async with server.peer(ANN, GLOBAL_ID) as ann, server.peer(BOB, "elsewhere") as bob:
            await heard(ann, 1)
            await ann.send("TYPING_START")  # so that it is known who is in the session
            told = [without_presence(await heard(peer, 60)) for peer in (ann, bob)]
            for messages, user in zip(told, (ANN, BOB), strict=True):
                (gone,) = messages
                assert (gone["type"], gone["userId"], "requestId" in gone) == ("SESSION_DELETE", user, False)
                assert gone["data"] == {"sessionId": GLOBAL_ID, "globalId": GLOBAL_ID}
            for peer in (ann, bob):
                reply = await request(peer, "TYPING_START", sessionId=GLOBAL_ID)
                assert code(reply) == "NOT_FOUND"


async def test_who_types_in_a_session_that_goes_is_forgotten(autojump_clock):
    async with serving(config=A_WEEK) as server:
        await share(server, BOB)
        async with server.peer(ANN, GLOBAL_ID) as ann, server.peer(BOB, GLOBAL_ID) as bob:
            await trio.sleep(29)
            await bob.send("TYPING_START")
            messages = without_presence(await heard(ann, 30))
            assert server.house.gate.people.typists._typists == {}
    assert kinds(messages) == ["TYPING_START", "SESSION_DELETE"]


async def test_nothing_is_remembered_of_a_session_that_goes(autojump_clock):
    async with serving("a", config=A_WEEK) as server:
        await share(server, BOB)
        known = server.house.sidework.suggestions._known
        known[GLOBAL_ID, ("a1",)] = ("What else?",)
        await trio.sleep(60)
        assert known == {}


async def test_who_is_shown_an_answer_of_today_keeps_it_when_its_question_goes(autojump_clock):
    """Nothing is told of messages that go; what is left can be read, resumed and gone on from."""
    config = quiet_config(store=Store("sqlite://", retention=Retention(max_messages_per_session=1)))
    async with serving("so", config=config) as server, server.peer(ANN) as ann:
        seen = await answer(ann)
        question, answered = seen[0]["data"]["userMessageId"], seen[0]["data"]["messageId"]
        assert without_presence(await heard(ann, 60)) == []
        read = server.house.database.read
        assert await read(find_message, question) is None
        assert (await read(find_message, answered)).parent_id is None
        await ann.send("CHAT_RESUME", {"messageId": answered}, request_id="again")
        assert said(await replies(ann, "again", END)) == "so"
        await ask(ann, "Hi", "r2", regenerateOf=answered)
        (refused,) = await replies(ann, "r2", "ERROR")
        assert (code(refused), refused["error"]["field"]) == ("NOT_FOUND", "data.regenerateOf")
        await answer(ann, "And?", "r3")
        (*_, prompt) = server.house.providers["openai"].prompts
        assert [turn.role for turn in prompt.turns] == ["user"], "a model is told no answer without its question"


# ---- of a person, by another process


async def erase(server, user):
    """As the command does it, which tells this server nothing."""
    while await server.house.database.write(delete_user, user):
        pass


async def test_an_answer_of_a_deleted_person_is_shown_to_nobody_any_more(autojump_clock):
    async with serving("secret") as server:
        await share(server, BOB)
        async with server.peer(BOB, GLOBAL_ID) as bob, server.peer(ANN, GLOBAL_ID) as ann:
            theirs = (await answer(bob))[0]["data"]["messageId"]
            own = (await answer(ann, request_id="r2"))[0]["data"]["messageId"]
            await heard(ann)
            await erase(server, BOB)
            for _ in range(2):
                await ann.send("CHAT_RESUME", {"messageId": theirs}, request_id="x")
                assert code((await replies(ann, "x", "ERROR", END))[-1]) == "NOT_FOUND"
            with pytest.raises(NotFound):
                server.house.gate.service.find(BOB, message_id=theirs)
            await ann.send("CHAT_RESUME", {"messageId": own}, request_id="y")
            assert said(await replies(ann, "y", END)) == "secret"


async def test_an_answer_to_a_deleted_person_that_is_running_is_ended_by_who_wants_to_see_it(autojump_clock):
    async with serving("secret", Stall()) as server:
        await share(server, BOB)
        async with server.peer(BOB, GLOBAL_ID) as bob, server.peer(ANN, "elsewhere") as ann:
            await ask(bob)
            theirs = (await replies(bob, "r1", START))[-1]["data"]["messageId"]
            await trio.sleep(1)
            await erase(server, BOB)
            await ann.send("CHAT_RESUME", {"messageId": theirs}, request_id="x")
            assert code((await replies(ann, "x", "ERROR", END))[-1]) == "NOT_FOUND"
            end = (await replies(bob, "r1", END))[-1]
            assert end["data"]["finishReason"] == "cancelled"
            assert await server.house.database.read(find_message, theirs) is None


async def test_a_title_for_a_question_that_was_deleted_meanwhile_is_not_given(autojump_clock):
    async with serving("a") as server:
        await share(server, BOB)
        async with server.peer(BOB, GLOBAL_ID) as bob:
            asked = (await answer(bob, "My kidney stones hurt"))[0]["data"]["userMessageId"]
            question = await server.house.database.read(find_message, asked)
            await erase(server, BOB)
            await server.house.gate.sessions.give_title(question, "Kidney stones")
            seen = await server.house.gate.sessions.find(ANN, GLOBAL_ID)
            assert seen.title is None
