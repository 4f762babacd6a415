"""The history over HTTP."""

from contextlib import asynccontextmanager
from urllib.parse import urlencode

import pytest

from scm_trio.providers.scripted import Scripted
from scm_trio.testing import open_server

pytestmark = pytest.mark.usefixtures("both_databases")

ANN, BOB = "user001", "user002"


@asynccontextmanager
async def talking(calling):
    """A server, Ann's socket, and what asks for messages as one user or another."""
    provider = Scripted(lambda prompt: [f"re {prompt.turns[-1].content}"])
    async with open_server({"openai": provider}) as server, server.peer() as socket:

        async def ask(text, **data):
            await socket.send("CHAT_REQUEST", {"message": text, **data}, request_id=text)
            return (await socket.until("CHAT_STREAM_END"))[-1]["data"]["messageId"]

        async def read(user=ANN, session="session001", **query):
            target = f"/scm/ai/sessions/{session}/messages" + (f"?{urlencode(query)}" if query else "")
            return await calling(server).ask("GET", target, None, {"Authorization": f"Bearer {server.token(user)}"})

        yield socket, ask, read


def contents(page):
    return [each["content"] for each in page["items"]]


async def test_a_history_has_everything_that_was_said_oldest_first(calling, autojump_clock):
    async with talking(calling) as (_, ask, read):
        await ask("one")
        await ask("two")
        answer = await read()
    question, reply = answer.json["items"][:2]
    assert contents(answer.json) == ["one", "re one", "two", "re two"]
    assert answer.json["next"] is None
    assert (question["role"], question["parentMessageId"], question["status"]) == ("user", None, "read")
    assert (reply["role"], reply["parentMessageId"], reply["status"]) == (
        "assistant",
        question["messageId"],
        "delivered",
    )
    assert (reply["model"], reply["provider"], reply["finishReason"]) == ("scripted-1", "scripted", "completed")
    assert {each["conversationId"] for each in answer.json["items"]} == {"session001"}
    assert not any("siblings" in each for each in answer.json["items"])


async def test_pages_go_back_from_the_newest_and_leave_nothing_out(calling, autojump_clock):
    async with talking(calling) as (_, ask, read):
        for number in range(5):
            await ask(f"q{number}")
        pages, before = [], {}
        while True:
            page = (await read(limit=3, **before)).json
            pages.insert(0, contents(page))
            if page["next"] is None:
                break
            before = {"before": page["next"]}
    assert [len(page) for page in pages] == [1, 3, 3, 3]
    assert [text for page in pages for text in page] == [text for n in range(5) for text in (f"q{n}", f"re q{n}")]


async def test_a_branch_is_told_with_the_alternatives_at_its_forks(calling, autojump_clock):
    async with talking(calling) as (_, ask, read):
        await ask("one")
        first = await ask("two")
        again = await ask("-", regenerateOf=first)
        await ask("on the second", parentMessageId=again)
        everything = (await read()).json["items"]
        branch = (await read(leaf=first)).json["items"]
        through_first = (await read(through=first)).json
        through_again = (await read(through=again)).json
    ids = {each["content"]: each["messageId"] for each in everything}
    assert contents({"items": branch}) == ["one", "re one", "two", "re two"]
    # "1 of 2", and "2 of 2" on the other branch.
    assert branch[-1]["siblings"] == [first, again]
    assert [each.get("siblings") for each in branch[:-1]] == [None] * 3
    assert contents(through_first) == ["one", "re one", "two", "re two"]
    assert contents(through_again) == ["one", "re one", "two", "re two", "on the second", "re on the second"]
    assert through_again["items"][3]["messageId"] == again
    assert len(everything) == 7
    assert ids["on the second"] == through_again["items"][4]["messageId"]


async def test_a_branch_has_pages_too(calling, autojump_clock):
    async with talking(calling) as (_, ask, read):
        for number in range(3):
            newest = await ask(f"q{number}")
        last = (await read(through=newest, limit=4)).json
        first = (await read(through=newest, limit=4, before=last["next"])).json
    assert contents(first) + contents(last) == [text for n in range(3) for text in (f"q{n}", f"re q{n}")]
    assert first["next"] is None


async def test_the_status_is_how_far_a_message_has_come_for_who_looks(calling, autojump_clock):
    async with talking(calling) as (socket, ask, read):
        await ask("one")
        people = [{"userId": ANN, "role": "owner"}, {"userId": BOB, "role": "viewer"}]
        await socket.send("SESSION_UPDATE", {"sessionId": "session001", "members": people})
        global_id = (await socket.receive())["data"]["globalId"]
        answer_id = await ask("two")

        def statuses(page):
            return [each["status"] for each in page.json["items"]]

        assert statuses(await read()) == ["read", "delivered", "sent", "delivered"]
        assert statuses(await read(BOB, global_id)) == ["read", "read", "sent", "sent"]
        await socket.send("MESSAGE_READ", {"sessionId": "session001", "messageId": answer_id})
        await socket.receive()
        assert statuses(await read()) == ["read", "read", "sent", "read"]


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({"leaf": "msg-none"}, 404, "NOT_FOUND"),
        ({"through": "msg-none"}, 404, "NOT_FOUND"),
        ({"leaf": ""}, 404, "NOT_FOUND"),
        ({"before": "x"}, 400, "INVALID_MESSAGE"),
        ({"limit": "1000"}, 400, "INVALID_MESSAGE"),
        ({"leaf": "a", "through": "b"}, 400, "INVALID_MESSAGE"),
    ],
)
async def test_what_cannot_be_is_refused(calling, autojump_clock, query, status, code):
    async with talking(calling) as (_, ask, read):
        await ask("one")
        answer = await read(**query)
    assert (answer.status, answer.json["code"]) == (status, code)


async def test_a_message_of_another_session_has_no_branch_here(calling, autojump_clock):
    async with talking(calling) as (socket, ask, read):
        await ask("one")
        await socket.send("CHAT_REQUEST", {"message": "Hi"}, sessionId="s2", request_id="x")
        other = (await socket.until("CHAT_STREAM_END"))[-1]["data"]["messageId"]
        for name in ("leaf", "through"):
            assert (await read(**{name: other})).status == 404
