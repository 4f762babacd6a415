"""The same question again, another question in its place, and what the model knows of either."""

import pytest

from scm_trio.errors import ContentFiltered
from scm_trio.model import Finish, FinishReason
from scm_trio.providers.scripted import Fail, Scripted
from scm_trio.store import messages

from .serving import answer, ask, said, serving

pytestmark = pytest.mark.usefixtures("both_databases")


def echo(prompt):
    return [f"re: {prompt.turns[-1].content}"]


def told(provider):
    return [[turn.content for turn in prompt.turns] for prompt in provider.prompts]


async def test_an_answer_is_given_again_to_the_same_question(autojump_clock):
    provider = Scripted(echo)
    async with serving(provider=provider) as server, server.peer() as peer:
        await answer(peer, "one", "r1")
        first = (await answer(peer, "two", "r2"))[0]["data"]
        again = await answer(peer, "ignored", "r3", regenerateOf=first["messageId"])
        stored = await server.house.database.read(messages.find_message, again[0]["data"]["messageId"])
    assert again[0]["data"]["userMessageId"] == first["userMessageId"]
    assert said(again) == "re: two"
    assert told(provider)[2] == told(provider)[1] == ["one", "re: one", "two"]
    assert stored.parent_id == first["userMessageId"]


async def test_the_conversation_goes_on_from_the_newest_answer(autojump_clock):
    provider = Scripted(lambda prompt: [f"answer {len(provider.prompts)}"])
    async with serving(provider=provider) as server, server.peer() as peer:
        first = (await answer(peer, "one", "r1"))[0]["data"]
        await answer(peer, "-", "r2", regenerateOf=first["messageId"])
        await answer(peer, "two", "r3")
        await answer(peer, "three", "r4", parentMessageId=first["messageId"])
    assert told(provider)[2] == ["one", "answer 2", "two"]
    assert told(provider)[3] == ["one", "answer 1", "three"]


async def test_a_question_is_asked_differently_in_the_same_place(autojump_clock):
    provider = Scripted(echo)
    async with serving(provider=provider) as server, server.peer() as peer:
        await answer(peer, "one", "r1")
        second = (await answer(peer, "two", "r2"))[0]["data"]
        edited = (await answer(peer, "zwei", "r3", editOf=second["userMessageId"]))[0]["data"]
        tree = await server.house.database.read(
            lambda conn: [messages.find_message(conn, each["userMessageId"]) for each in (second, edited)]
        )
    assert told(provider)[2] == ["one", "re: one", "zwei"]
    assert edited["userMessageId"] != second["userMessageId"]
    assert tree[0].parent_id == tree[1].parent_id
    assert [each.content for each in tree] == ["two", "zwei"]


async def test_the_first_question_can_be_edited_and_answered_again(autojump_clock):
    provider = Scripted(echo)
    async with serving(provider=provider) as server, server.peer() as peer:
        first = (await answer(peer, "one", "r1"))[0]["data"]
        await answer(peer, "eins", "r2", editOf=first["userMessageId"])
        await answer(peer, "-", "r3", regenerateOf=first["messageId"])
    assert told(provider)[1:] == [["eins"], ["one"]]


async def test_a_message_brings_its_own_conversation(autojump_clock):
    provider = Scripted(echo)
    async with serving(provider=provider) as server, server.peer() as peer:
        side = (await answer(peer, "one", "r1", conversationId="side"))[0]["data"]
        for request_id, place in (
            ("r2", {"parentMessageId": side["messageId"]}),
            ("r3", {"regenerateOf": side["messageId"]}),
            ("r4", {"editOf": side["userMessageId"]}),
        ):
            await answer(peer, "two", request_id, **place)
        await answer(peer, "three", "r5", conversationId="side")
        await answer(peer, "four", "r6")
    assert told(provider)[4] == ["two", "re: two", "three"]
    assert told(provider)[5] == ["four"]


@pytest.mark.parametrize("place", ["parentMessageId", "regenerateOf", "editOf"])
@pytest.mark.parametrize("whose", ["nobody's", "another session's", "another user's"])
async def test_a_place_that_is_not_in_the_session_is_not_found(autojump_clock, place, whose):
    provider = Scripted(echo)
    async with serving(provider=provider) as server, server.peer() as peer, server.peer("user002") as other:
        await peer.send("CHAT_REQUEST", {"message": "Hi"}, sessionId="s2")
        mine = (await peer.until("CHAT_STREAM_END"))[0]["data"]
        theirs = (await answer(other))[0]["data"]
        start = {"nobody's": {}, "another session's": mine, "another user's": theirs}[whose]
        message_id = start.get("userMessageId" if place == "editOf" else "messageId", "msg-none")
        (error,) = await answer(peer, "two", "r2", **{place: message_id})
        assert (error["error"]["code"], error["error"]["field"]) == ("NOT_FOUND", f"data.{place}")
        assert error["requestId"] == "r2"
    assert len(provider.prompts) == 2


@pytest.mark.parametrize(("place", "of"), [("regenerateOf", "userMessageId"), ("editOf", "messageId")])
async def test_questions_are_edited_and_answers_are_given_again(autojump_clock, place, of):
    async with serving("a") as server, server.peer() as peer:
        start = (await answer(peer, "one", "r1"))[0]["data"]
        (error,) = await answer(peer, "two", "r2", **{place: start[of]})
    assert (error["error"]["code"], error["error"]["field"]) == ("NOT_FOUND", f"data.{place}")


async def test_an_answer_given_again_is_journalled_like_every_other(autojump_clock):
    async with serving("a") as server, server.peer() as peer:
        start = (await answer(peer, "one", "r1"))[0]["data"]
        first = await answer(peer, "-", "r2", regenerateOf=start["messageId"])
        await peer.send("CHAT_RESUME", {"messageId": first[0]["data"]["messageId"]})
        again = await peer.until("CHAT_STREAM_END")
        stored = await server.house.database.read(messages.history, await global_id(server), None, 10)
    assert again[-1]["data"]["sha256"] == first[-1]["data"]["sha256"]
    assert [each.role for each in stored] == ["user", "assistant", "assistant"]


async def global_id(server):
    return (await server.house.database.read(messages.find_session, "user001", "session001")).global_id


@pytest.mark.parametrize(
    "refusal",
    [[Fail(ContentFiltered("prompt"))], ["half a", Finish(FinishReason.CONTENT_FILTER)]],
    ids=["the question", "the answer"],
)
async def test_what_a_filter_refused_is_not_told_to_the_model_again(autojump_clock, refusal):
    provider = Scripted(lambda prompt: refusal if prompt.turns[-1].content == "bad" else echo(prompt))
    async with serving(provider=provider) as server, server.peer() as peer:
        await answer(peer, "one", "r1")
        await ask(peer, "bad", "r2")
        ended = (await peer.until("CHAT_STREAM_END"))[-1]
        await answer(peer, "two", "r3")
        stored = await server.house.database.read(messages.branch, ended["data"]["messageId"], 9)
    assert ended["data"]["finishReason"] == "content_filter"
    assert told(provider)[-1] == ["one", "re: one", "two"]
    # It stays in the history that people read.
    assert [each.content for each in stored][:3] == ["one", "re: one", "bad"]
