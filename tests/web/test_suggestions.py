"""The suggestions route, asked of a whole server."""

import pytest
import trio
from sqlalchemy import update

from scm_trio.chat import aside_run, suggestions
from scm_trio.chat.sessions import Caller
from scm_trio.config import Ai, Quota, UserQuota
from scm_trio.config import Provider as ProviderSettings
from scm_trio.errors import ProviderAuth, ProviderUnavailable, StoreError
from scm_trio.model import Message
from scm_trio.protocol import messages
from scm_trio.providers.scripted import Fail, Pause, Scripted, Stall
from scm_trio.store import ledger, schema
from scm_trio.store.database import Database
from scm_trio.store.markers import sequence_in
from scm_trio.store.members import Member
from scm_trio.store.messages import add_message
from scm_trio.store.removal import remove_messages
from scm_trio.store.sessions import NewSession, create_session
from scm_trio.testing import EPOCH_S, open_server, quiet_config

from .asking import ask, request

pytestmark = pytest.mark.usefixtures("both_databases")

SHARED, EMPTY = f"s-{1:024x}", f"s-{2:024x}"
PATH = f"/scm/ai/sessions/{SHARED}/suggestions"
ABC = ["What is A?", "What is B?", "What is C?"]
LINES = "1. What is A?\n2. What is B?\n3. What is C?\n"


def fill(conn):
    people = (Member("bob", "viewer"),)
    create_session(conn, "ann", SHARED, NewSession(members=people), 1.0)
    create_session(conn, "ann", EMPTY, NewSession(), 1.0)
    say(conn, "q1", None, "user", "Tell me of letters")
    say(conn, "a1", "q1", "assistant", "There are A, B and C.")


def say(conn, message_id, parent_id, role, text, at=2.0):
    asked = {"provider": "scripted", "model": "scripted-1"} if role == "assistant" else {}
    add_message(conn, Message(message_id, SHARED, "c1", parent_id, role, "ann", text, created_at=at, **asked))


class Opened:
    """A server with the shared session in it."""

    def __init__(self, provider, config=None):
        self.provider = provider
        self.opening = open_server({"openai": provider}, config)

    async def __aenter__(self):
        self.server = await self.opening.__aenter__()
        await self.server.house.database.write(fill)
        return self.server

    async def __aexit__(self, *failure):
        result = await self.opening.__aexit__(*failure)
        assert getattr(self.provider, "open_streams", 0) == 0
        return result


def providing(*steps):
    return Scripted(list(steps))


async def rows(server, user="ann"):
    return await server.house.database.read(ledger.attempts, user, 0.0, 2 * EPOCH_S)


async def test_three_questions_follow_the_newest_answer(autojump_clock):
    provider = providing(LINES, Stall())
    async with Opened(provider) as server:
        answer = await ask(server, PATH, "ann")
        assert (answer.status, answer.json) == (200, {"items": ABC, "next": None, "messageId": "a1"})
        (prompt,) = provider.prompts
        assert "Tell me of letters" in prompt.turns[0].content
        assert "There are A, B and C." in prompt.turns[0].content
        (row,) = await rows(server)
        assert (row.run_id, row.message_id, row.outcome) == ("a1", "a1", "completed")
        assert row.attempt_id.startswith("suggestions-")


async def test_they_are_made_once_until_there_is_a_newer_answer(autojump_clock):
    provider = providing(LINES)
    async with Opened(provider) as server:
        for user in ("ann", "bob", "ann"):
            assert (await ask(server, PATH, user)).json["items"] == ABC
        assert len(provider.prompts) == 1
        await server.house.database.write(say, "q2", "a1", "user", "And more?")
        await ask(server, PATH, "ann")
        assert len(provider.prompts) == 1, "a question alone is no reason"
        await server.house.database.write(say, "a2", "q2", "assistant", "D, too.")
        assert (await ask(server, PATH, "ann")).json["messageId"] == "a2"
        assert len(provider.prompts) == 2
        assert "And more?" in provider.prompts[1].turns[0].content


async def test_they_are_made_anew_when_something_that_they_are_made_of_is_deleted(autojump_clock):
    provider = providing(LINES)
    async with Opened(provider) as server:
        write = server.house.database.write
        await write(say, "q2", "a1", "user", "And more?")
        await write(say, "a2", "q2", "assistant", "D, too.")
        await ask(server, PATH, "ann")
        assert "letters" in provider.prompts[0].turns[0].content
        await write(lambda conn: remove_messages(conn, [sequence_in(conn, SHARED, "q1")], with_answers=False))
        assert (await ask(server, PATH, "ann")).json["messageId"] == "a2"
        assert "letters" not in provider.prompts[1].turns[0].content


async def test_it_is_the_newest_answer_s_own_branch_that_counts(autojump_clock):
    provider = providing(LINES)
    async with Opened(provider) as server:
        await server.house.database.write(say, "q1b", None, "user", "Tell me of numbers")
        await server.house.database.write(say, "a1b", "q1b", "assistant", "There are 1 and 2.")
        await ask(server, PATH, "ann")
        (prompt,) = provider.prompts
        assert "numbers" in prompt.turns[0].content
        assert "letters" not in prompt.turns[0].content


async def test_what_is_remembered_is_bounded(autojump_clock, monkeypatch):
    monkeypatch.setattr(suggestions, "MAX_REMEMBERED", 1)
    provider = providing(LINES)
    async with Opened(provider) as server:
        await ask(server, PATH, "ann")
        await server.house.database.write(say, "a2", "a1", "assistant", "D, too.")
        await ask(server, PATH, "ann")
        assert list(server.house.sidework.suggestions._known) == [(SHARED, ("q1", "a1", "a2"))]


async def test_there_is_nothing_to_go_on_without_an_answer(autojump_clock):
    provider = providing(LINES)
    async with Opened(provider) as server:
        answer = await ask(server, f"/scm/ai/sessions/{EMPTY}/suggestions", "ann")
        assert (answer.status, answer.json) == (200, {"items": [], "next": None, "messageId": None})
        assert provider.prompts == []


async def test_a_text_without_questions_is_an_empty_list_and_no_reason_to_ask_again(autojump_clock):
    provider = providing("I am here to help. How are you?")
    async with Opened(provider) as server:
        for _ in range(2):
            assert (await ask(server, PATH, "ann")).json == {"items": [], "next": None, "messageId": "a1"}
        assert len(provider.prompts) == 1


@pytest.mark.parametrize("reference", [SHARED, EMPTY, f"s-{9:024x}", "session001", "%00", "x" * 129])
async def test_a_stranger_finds_nothing(autojump_clock, reference):
    provider = providing(LINES)
    async with Opened(provider) as server:
        answer = await ask(server, f"/scm/ai/sessions/{reference}/suggestions", "eve")
        assert (answer.status, answer.json["code"]) == (404, "NOT_FOUND")
        assert provider.prompts == []
        assert (await ask(server, PATH, None)).status == 401


@pytest.mark.parametrize(
    ("steps", "status", "code"),
    [
        ([Fail(ProviderUnavailable("down"))], 503, "PROVIDER_UNAVAILABLE"),
        ([Fail(ProviderAuth("key"))], 502, "PROVIDER_AUTH"),
        (["What is A?\n", Stall()], 504, "TIMEOUT"),
        ([Fail(ZeroDivisionError())], 500, "INTERNAL"),
    ],
)
async def test_a_failed_model_is_an_error_and_is_asked_again(autojump_clock, steps, status, code):
    provider = providing(*steps)
    async with Opened(provider) as server:
        for _ in range(2):
            answer = await ask(server, PATH, "ann")
            assert (answer.status, answer.json["code"]) == (status, code)
        assert len(provider.prompts) == 2


async def test_those_who_ask_at_the_same_time_are_answered_together(autojump_clock):
    provider = providing(Pause(2), LINES)
    async with Opened(provider) as server:
        answers = []

        async def get(user):
            answers.append((await ask(server, PATH, user)).json["items"])

        async with trio.open_nursery() as nursery:
            for user in ("ann", "bob", "ann"):
                nursery.start_soon(get, user)
                await trio.sleep(0.5)
        assert answers == [ABC] * 3
        assert len(provider.prompts) == 1
        assert [len(await rows(server, user)) for user in ("ann", "bob")] == [1, 0]


async def test_a_failure_is_told_to_all_who_wait(autojump_clock):
    provider = providing(Pause(2), Fail(ProviderUnavailable("cut")))
    async with Opened(provider) as server:
        codes = []

        async def get(user):
            codes.append((await ask(server, PATH, user)).json["code"])

        async with trio.open_nursery() as nursery:
            for user in ("ann", "bob"):
                nursery.start_soon(get, user)
        assert codes == ["PROVIDER_UNAVAILABLE"] * 2
        assert len(provider.prompts) == 1


async def leave(server, user="ann"):
    """A client that asks and goes away before it is answered."""
    stream = server.dial()
    await stream.send_all(request(server, PATH, user))
    await trio.sleep(1)
    await stream.aclose()


async def test_a_client_that_leaves_ends_the_question(autojump_clock):
    provider = providing(Pause(5), LINES)
    async with Opened(provider) as server:
        await leave(server)
        await trio.sleep(0.1)
        assert provider.open_streams == 0
        assert [row.outcome for row in await rows(server)] == ["cancelled"]
        assert (await ask(server, PATH, "ann")).json["items"] == ABC


async def test_a_question_goes_on_as_long_as_somebody_waits(autojump_clock):
    provider = providing(Pause(5), LINES)
    async with Opened(provider) as server, trio.open_nursery() as nursery:
        nursery.start_soon(leave, server)
        await trio.sleep(0.5)
        assert (await ask(server, PATH, "bob")).json["items"] == ABC
        assert len(provider.prompts) == 1


async def test_a_newer_answer_waits_for_the_question_about_the_older_one(autojump_clock):
    provider = providing(Pause(3), LINES)
    async with Opened(provider) as server, trio.open_nursery() as nursery:
        nursery.start_soon(ask, server, PATH, "ann")
        await trio.sleep(1)
        await server.house.database.write(say, "a2", "a1", "assistant", "D, too.")
        answer = await ask(server, PATH, "bob")
        assert answer.json["messageId"] == "a2"
        assert trio.current_time() == pytest.approx(6, abs=0.1)
        assert len(provider.prompts) == 2


@pytest.mark.parametrize("end", [LINES, Fail(ProviderUnavailable("cut"))], ids=["answered", "failed"])
async def test_who_is_taken_off_meanwhile_is_told_nothing(autojump_clock, end):
    async with Opened(providing(Pause(3), end)) as server, trio.open_nursery() as nursery:
        codes = []

        async def get():
            codes.append((await ask(server, PATH, "bob")).json.get("code"))

        nursery.start_soon(get)
        await trio.sleep(1)
        alone = (messages.Member("ann", "owner"),)
        await server.house.gate.sessions.update(Caller("ann"), messages.SessionUpdate(SHARED, members=alone))
    assert codes == ["NOT_FOUND"]


async def test_the_end_of_the_session_ends_the_question(autojump_clock):
    provider = providing(Pause(5), LINES)
    async with Opened(provider) as server, trio.open_nursery() as nursery:
        codes = []

        async def get():
            codes.append((await ask(server, PATH, "ann")).json["code"])

        nursery.start_soon(get)
        await trio.sleep(1)
        await server.house.gate.sessions.delete(Caller("ann"), SHARED)
        await trio.sleep(0.1)
        assert codes == ["NOT_FOUND"]
        assert provider.open_streams == 0


async def test_nothing_is_remembered_of_a_session_that_is_gone(autojump_clock):
    async with Opened(providing(LINES)) as server:
        await ask(server, PATH, "ann")
        assert server.house.sidework.suggestions._known
        await server.house.gate.sessions.delete(Caller("ann"), SHARED)
        assert not server.house.sidework.suggestions._known


async def test_the_session_s_own_provider_is_asked_else_the_answer_s_else_the_default(autojump_clock):
    first, second = Scripted([LINES], name="first", models=("m1",)), Scripted([LINES], name="second", models=("m2",))

    def prefer(conn, provider, model):
        session, answer = schema.sessions.c.global_id == SHARED, schema.messages.c.message_id == "a1"
        conn.execute(update(schema.sessions).where(session).values(provider=provider, model=model))
        conn.execute(update(schema.messages).where(answer).values(provider="gone", model="gone"))

    async with open_server({"first": first, "second": second}) as server:
        await server.house.database.write(fill)
        for provider, model, asked in (
            ("second", "m2", second),
            (None, None, first),
            ("second", None, second),
            ("second", "no-such", second),
            ("no-such", "m2", first),
        ):
            await server.house.database.write(prefer, provider, model)
            server.house.sidework.suggestions.forget_session(SHARED)
            before = len(asked.prompts)
            assert (await ask(server, PATH, "ann")).json["items"] == ABC
            assert len(asked.prompts) == before + 1, (provider, model)


async def test_who_has_no_quota_left_is_told_so(autojump_clock):
    provider = providing(LINES)
    config = quiet_config(ai=Ai(titles=False, quota=Quota(users={"ann": UserQuota(tokens_per_day=1)})))
    async with Opened(provider, config) as server:
        answer = await ask(server, PATH, "ann")
        assert (answer.status, answer.json["code"]) == (429, "QUOTA_EXCEEDED")
        assert (await rows(server), provider.prompts) == ([], [])
        assert (await ask(server, PATH, "bob")).json["items"] == ABC
        assert (await ask(server, PATH, "ann")).json["items"] == ABC, "it costs nothing now"


async def test_whose_quota_is_used_up_keeps_nobody_else_from_asking(autojump_clock, monkeypatch):
    provider = providing(LINES)
    config = quiet_config(ai=Ai(titles=False, quota=Quota(users={"ann": UserQuota(tokens_per_day=1)})))
    async with Opened(provider, config) as server:
        answers, real = {}, server.house.sidework.asides.ask

        async def slow(aside):
            await trio.sleep(2)
            return await real(aside)

        monkeypatch.setattr(server.house.sidework.asides, "ask", slow)

        async def get(user):
            answers[user] = await ask(server, PATH, user)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(get, "ann")
            await trio.sleep(1)
            nursery.start_soon(get, "bob")
        assert answers["ann"].json["code"] == "QUOTA_EXCEEDED"
        assert answers["bob"].json["items"] == ABC


@pytest.mark.parametrize(
    "ai",
    [
        Ai(titles=False, suggestions=False),
        Ai(titles=False, providers={"scripted": ProviderSettings(kind="scripted")}),
    ],
)
async def test_where_nobody_is_asked_there_are_none(autojump_clock, ai):
    provider = providing(LINES)
    async with Opened(provider, quiet_config(ai=ai)) as server:
        assert (await ask(server, PATH, "ann")).json == {"items": [], "next": None, "messageId": "a1"}
        assert (await ask(server, PATH, "eve")).status == 404
        assert provider.prompts == []


async def test_without_any_provider_there_are_none(autojump_clock):
    async with open_server({}) as server:
        await server.house.database.write(fill)
        assert (await ask(server, PATH, "ann")).json["items"] == []


async def test_a_draining_server_says_so(autojump_clock):
    provider = providing(Stall())
    async with Opened(provider) as server, trio.open_nursery() as nursery:
        answers = []

        async def get():
            answers.append(await ask(server, PATH, "ann"))

        nursery.start_soon(get)
        await trio.sleep(1)
        await server.house.drain(0, trio.Event())
        await trio.sleep(1)
        (answer,) = answers
        assert (answer.status, answer.json["code"]) == (503, "SHUTTING_DOWN")
        answer = await ask(server, PATH, "ann")
        assert (answer.status, answer.json["code"]) == (503, "SHUTTING_DOWN")


async def test_a_store_that_fails_is_a_busy_server(autojump_clock, monkeypatch):
    async def broken(*_args, **_more):
        raise StoreError("down")

    async with Opened(providing(LINES)) as server:
        monkeypatch.setattr(Database, "read", broken)
        answer = await ask(server, PATH, "ann")
        assert (answer.status, answer.json["code"]) == (503, "SERVER_BUSY")


async def test_a_bug_is_told_and_costs_nothing_else(autojump_clock, monkeypatch):
    monkeypatch.setattr(suggestions, "questions_in", lambda *_: 1 / 0)
    async with Opened(providing(LINES)) as server:
        assert (await ask(server, PATH, "ann")).json["code"] == "INTERNAL"
        monkeypatch.undo()
        assert (await ask(server, PATH, "ann")).json["items"] == ABC


async def test_a_house_that_closes_leaves_nobody_waiting(autojump_clock):
    provider = providing(Stall())
    async with Opened(provider) as server:
        stream = server.dial()
        await stream.send_all(request(server, PATH, "ann"))
        await trio.sleep(1)
        assert provider.open_streams == 1
    assert trio.current_time() < aside_run.FIRST_TOKEN_S


async def test_a_request_that_is_sent_ahead_is_answered_after_it(autojump_clock):
    async with Opened(providing(Pause(2), LINES)) as server:
        stream = server.dial()
        token = f"Authorization: Bearer {server.token('ann')}"
        ahead = f"GET {PATH} HTTP/1.1\r\nHost: x\r\n{token}\r\n\r\n".encode()
        await stream.send_all(ahead + request(server, "/healthz", None))
        data = b""
        while more := await stream.receive_some():
            data += more
        first, second = data.split(b"HTTP/1.1 200")[1:]
        assert b"What is A?" in first
        assert b'"ok"' in second
