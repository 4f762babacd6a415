"""What the model is told of a conversation."""

import pytest

from scm_trio.config import Ai
from scm_trio.errors import ProviderUnavailable
from scm_trio.providers.scripted import Fail, Scripted
from scm_trio.testing import quiet_config

from .serving import answer, serving


def spoken(prompt):
    return [(turn.role, turn.content) for turn in prompt.turns]


async def test_the_second_question_is_asked_with_the_first_and_its_answer(autojump_clock):
    provider = Scripted(["供应链是…"])
    async with serving(provider=provider) as server:
        async with server.peer() as peer:
            await answer(peer, "什么是供应链？", "r1")
        async with server.peer() as later:
            await answer(later, "谢谢", "r2")
    assert spoken(provider.prompts[0]) == [("user", "什么是供应链？")]
    assert spoken(provider.prompts[1]) == [("user", "什么是供应链？"), ("assistant", "供应链是…"), ("user", "谢谢")]


async def test_sessions_conversations_and_users_know_nothing_of_each_other(autojump_clock):
    provider = Scripted(["a"])
    async with serving(provider=provider) as server, server.peer() as peer, server.peer("user002") as other:
        await answer(peer, "one", "r1")
        await answer(other, "two", "r2")
        await answer(peer, "three", "r3", conversationId="another")
        await peer.send("CHAT_REQUEST", {"message": "four"}, sessionId="s2")
        await peer.until("CHAT_STREAM_END")
        await answer(peer, "five", "r5", conversationId="another")
    assert [len(prompt.turns) for prompt in provider.prompts] == [1, 1, 1, 1, 3]


async def test_the_system_prompt_comes_first(autojump_clock):
    provider = Scripted(["a"])
    config = quiet_config(ai=Ai(system_prompt="Be brief.", titles=False))
    async with serving(provider=provider, config=config) as server, server.peer() as peer:
        await answer(peer, "one", "r1")
        await answer(peer, "two", "r2")
    for prompt in provider.prompts:
        assert spoken(prompt)[0] == ("system", "Be brief.")
        assert [role for role, _ in spoken(prompt)].count("system") == 1


async def test_a_parent_begins_a_branch(autojump_clock):
    provider = Scripted(lambda prompt: [f"re: {prompt.turns[-1].content}"])
    async with serving(provider=provider) as server, server.peer() as peer:
        first = await answer(peer, "one", "r1")
        await answer(peer, "two", "r2")
        branch = first[0]["data"]["messageId"]
        await answer(peer, "three", "r3", parentMessageId=branch)
        await answer(peer, "four", "r4")
        await answer(peer, "five", "r5", parentMessageId=None)
    asked = [[text for _, text in spoken(prompt)] for prompt in provider.prompts]
    assert asked[2] == ["one", "re: one", "three"]
    # Without a parent it goes on from the newest message, wherever that is.
    assert asked[3] == ["one", "re: one", "three", "re: three", "four"]
    assert asked[4] == [*asked[3], "re: four", "five"]


async def test_a_question_may_be_the_parent_too(autojump_clock):
    provider = Scripted(["a"])
    async with serving(provider=provider) as server, server.peer() as peer:
        first = await answer(peer, "one", "r1")
        await answer(peer, "one, really", "r2", parentMessageId=first[0]["data"]["userMessageId"])
    assert spoken(provider.prompts[1]) == [("user", "one"), ("user", "one, really")]


@pytest.mark.parametrize("whose", ["nobody's", "another user's", "another session's"])
async def test_a_foreign_parent_is_not_found_and_nothing_is_stored(autojump_clock, whose):
    provider = Scripted(["a"])
    async with serving(provider=provider) as server, server.peer() as peer, server.peer("user002") as other:
        parent = "msg-none"
        if whose == "another user's":
            parent = (await answer(other, "secret", "r1"))[0]["data"]["messageId"]
        if whose == "another session's":
            await peer.send("CHAT_REQUEST", {"message": "one"}, sessionId="s2")
            parent = (await peer.until("CHAT_STREAM_END"))[0]["data"]["messageId"]
        asked = len(provider.prompts)
        messages = await answer(peer, "two", "r2", parentMessageId=parent)
        assert [message["type"] for message in messages] == ["ERROR"]
        assert (messages[0]["error"]["code"], messages[0]["error"]["field"]) == ("NOT_FOUND", "data.parentMessageId")
        assert messages[0]["requestId"] == "r2"
        assert len(provider.prompts) == asked
        # The same request may be asked again, rightly.
        assert (await answer(peer, "two", "r2"))[-1]["type"] == "CHAT_STREAM_END"
    assert spoken(provider.prompts[-1]) == [("user", "two")]


async def test_a_long_conversation_is_trimmed_to_the_models_context(autojump_clock):
    provider = Scripted(["答" * 50])
    provider.context_tokens = 256
    async with serving(provider=provider) as server, server.peer() as peer:
        for number in range(6):
            await answer(peer, f"{number}" + "问" * 20, f"r{number}")
    last = spoken(provider.prompts[-1])
    assert last[0][0] == "user"
    assert last[-1] == ("user", "5" + "问" * 20)
    assert 3 <= len(last) < 11


async def test_a_question_that_fits_nowhere_is_refused(autojump_clock):
    provider = Scripted(["a"])
    provider.context_tokens = 256
    async with serving(provider=provider) as server, server.peer() as peer:
        (error,) = await answer(peer, "问" * 300)
    assert error["error"]["code"] == "CONTEXT_TOO_LONG"
    assert provider.prompts == []


async def test_a_failed_answer_leaves_the_question_in_the_conversation(autojump_clock):
    answers = iter([[Fail(ProviderUnavailable("x"))], ["half", Fail(ProviderUnavailable("x"))], ["whole"]])
    provider = Scripted(lambda prompt: next(answers))
    async with serving(provider=provider) as server, server.peer() as peer:
        for number in range(3):
            await peer.send("CHAT_REQUEST", {"message": f"q{number}"})
            await peer.until("CHAT_STREAM_END")
    assert spoken(provider.prompts[2]) == [("user", "q0"), ("user", "q1"), ("assistant", "half"), ("user", "q2")]
