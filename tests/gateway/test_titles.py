"""A session gets its title after its first answer: by the model, or else the first words of the question."""

import pytest
import trio

from scm_trio.chat.sessions import Caller
from scm_trio.config import Ai, Quota
from scm_trio.config import Provider as ProviderSettings
from scm_trio.errors import ProviderUnavailable, StoreError
from scm_trio.providers.scripted import Fail, Pause, Scripted, Stall
from scm_trio.store import ledger
from scm_trio.store.database import Database
from scm_trio.store.messages import find_session
from scm_trio.store.sessions import SessionChanges, update_session
from scm_trio.testing import EPOCH_S, quiet_config

from .serving import answer, ask, kinds, serving
from .sharing import GLOBAL_ID, heard, set_members, share

pytestmark = pytest.mark.usefixtures("both_databases")

QUESTION = "What is supply chain management, in short?"


def is_title(prompt):
    return "short title" in prompt.turns[-1].content or "简短的标题" in prompt.turns[-1].content


class Titling(Scripted):
    """Answers questions by one script, and is asked for titles with another."""

    def __init__(self, title, answer=("It ", "is.")):
        super().__init__(lambda prompt: title if is_title(prompt) else answer)

    @property
    def titles_asked(self):
        return [prompt for prompt in self.prompts if is_title(prompt)]


def titled(**more):
    return quiet_config(ai=Ai(**more))


async def title_of(server, name="session001", user="user001"):
    return (await server.house.database.read(find_session, user, name)).title


def updates(messages):
    return [each for each in messages if each["type"] == "SESSION_UPDATE"]


async def rows(server, user="user001"):
    return await server.house.database.read(ledger.attempts, user, 0.0, 2 * EPOCH_S)


async def test_the_model_gives_the_title_after_the_answer_and_everybody_is_told(autojump_clock):
    provider = Titling(["**Supply", " Chains**\n", Stall()])
    async with serving(provider=provider, config=titled()) as server, server.peer() as phone, server.peer() as desk:
        seen = await answer(phone, QUESTION)
        (update,) = updates(await heard(phone))
        assert (update["sessionId"], update["userId"]) == ("session001", "user001")
        assert update["data"]["title"] == "Supply Chains"
        assert (update["data"]["sessionId"], update["data"]["role"]) == ("session001", "owner")
        assert "requestId" not in update
        assert updates(await heard(desk))[0]["data"] == update["data"]
        assert await title_of(server) == "Supply Chains"
        (asked,) = provider.titles_asked
        assert QUESTION in asked.turns[0].content
        assert "It is." in asked.turns[0].content
        answer_id = seen[-1]["data"]["messageId"]
        found = {row.attempt_id.partition("-")[0]: row for row in await rows(server)}
        assert set(found) == {"msg", "title"}
        assert (found["title"].run_id, found["title"].outcome) == (answer_id, "completed")


async def test_members_are_told_by_their_own_name_of_the_session(autojump_clock):
    async with serving(provider=Titling(["Supply Chains"]), config=titled()) as server, server.peer() as owner:
        await answer(owner, QUESTION)
        await heard(owner)
        await server.house.database.write(_untitle)
        global_id = (await server.house.database.read(find_session, "user001", "session001")).global_id
        await set_members(server, global_id=global_id, user001="owner", user002="viewer")
        async with server.peer("user002", "elsewhere") as viewer:
            await answer(owner, "And now?", request_id="r2")
            (update,) = updates(await heard(viewer))
    assert (update["sessionId"], update["data"]["sessionId"], update["data"]["role"]) == (
        global_id,
        global_id,
        "viewer",
    )


def _untitle(conn):
    update_session(conn, "user001", "session001", SessionChanges(title=""), 2.0)


async def test_a_session_is_titled_once(autojump_clock):
    provider = Titling(["Supply Chains"])
    async with serving(provider=provider, config=titled()) as server, server.peer() as peer:
        for number in range(3):
            await answer(peer, QUESTION, request_id=f"r{number}")
            await trio.sleep(1)
        assert len(provider.titles_asked) == 1


async def test_a_title_that_somebody_chose_stays(autojump_clock):
    provider = Titling([Pause(3), "Supply Chains"])
    async with serving(provider=provider, config=titled()) as server, server.peer() as peer:
        await answer(peer, QUESTION)
        await server.house.database.write(update_session, "user001", "session001", SessionChanges(title="Mine"), 2.0)
        assert updates(await heard(peer, 10)) == []
        assert await title_of(server) == "Mine"
        await answer(peer, QUESTION, request_id="r2")
        await trio.sleep(5)
        assert len(provider.titles_asked) == 1


@pytest.mark.parametrize(
    "title",
    [
        [Fail(ProviderUnavailable("down"))],
        ["half", Fail(ProviderUnavailable("cut"))],
        [Stall()],
        ["I'm here to help you with anything."],
        ["…"],
        [Fail(ZeroDivisionError())],
    ],
)
async def test_where_the_model_is_of_no_use_the_first_words_of_the_question_are_the_title(autojump_clock, title):
    async with serving(provider=Titling(title), config=titled()) as server, server.peer() as peer:
        await answer(peer, QUESTION)
        (update,) = updates(await heard(peer, 30))
        assert update["data"]["title"] == "What is supply chain…"
        assert await title_of(server) == "What is supply chain…"


async def test_the_title_is_asked_for_in_the_conversation_s_language(autojump_clock):
    provider = Titling(["标题：供应链入门。"], answer=["供应链是……"])
    async with serving(provider=provider, config=titled()) as server, server.peer() as peer:
        await answer(peer, "请解释一下供应链")
        await trio.sleep(1)
        assert "起一个简短的标题" in provider.titles_asked[0].turns[0].content
        assert await title_of(server) == "供应链入门"


async def test_only_a_complete_answer_brings_a_title(autojump_clock):
    provider = Titling(["Supply Chains"], answer=["a", Pause(1), Fail(ProviderUnavailable("cut"))])
    async with serving(provider=provider, config=titled()) as server, server.peer() as peer:
        await answer(peer, QUESTION)
        await peer.until("CHAT_STREAM_END")
        await ask(peer, QUESTION, request_id="r2")
        await peer.until("CHAT_STREAM_DATA")
        await peer.send("CHAT_CANCEL", {"requestId": "r2"})
        await peer.until("CHAT_STREAM_END")
        await trio.sleep(5)
        assert provider.titles_asked == []
        assert await title_of(server) is None


async def test_titles_can_be_switched_off(autojump_clock):
    provider = Titling(["Supply Chains"])
    async with serving(provider=provider, config=titled(titles=False)) as server, server.peer() as peer:
        await answer(peer, QUESTION)
        assert updates(await heard(peer, 5)) == []
        assert provider.titles_asked == []
        assert await title_of(server) is None


async def test_a_provider_that_only_says_the_question_back_is_not_asked(autojump_clock):
    provider = Titling(["Supply Chains"])
    config = titled(providers={"scripted": ProviderSettings(kind="scripted")})
    async with serving(provider=provider, config=config) as server, server.peer() as peer:
        await answer(peer, QUESTION)
        await trio.sleep(1)
        assert provider.titles_asked == []
        assert await title_of(server) == "What is supply chain…"


async def test_the_user_s_next_answer_is_not_kept_waiting(autojump_clock):
    """While it is without a word, no title is asked for; the one that is being asked for at a narrow provider stops."""
    provider = Titling([Pause(5), "Supply Chains"], answer=[Pause(2), "It is.", Pause(2), "So."])
    config = titled(providers={"scripted": ProviderSettings(kind="openai", max_concurrency=1)})
    async with serving(provider=provider, config=config) as server, server.peer() as peer:
        await answer(peer, QUESTION)
        await trio.sleep(1)
        assert provider.open_streams == 1
        began = trio.current_time()
        seen = await answer(peer, "And?", request_id="r2")
        assert kinds(seen)[-1] == "END"
        assert trio.current_time() - began == pytest.approx(4, abs=0.01)
        await trio.sleep(6)
        assert [is_title(prompt) for prompt in provider.prompts] == [False, True, False, True]
        assert await title_of(server) == "Supply Chains"
        outcomes = [row.outcome for row in await rows(server) if row.attempt_id.startswith("title")]
        assert sorted(outcomes) == ["cancelled", "completed"]


async def test_a_deleted_session_ends_the_question_for_its_title(autojump_clock):
    provider = Titling([Stall()])
    async with serving(provider=provider, config=titled()) as server, server.peer() as peer:
        await answer(peer, QUESTION)
        await trio.sleep(1)
        assert provider.open_streams == 1
        await server.house.gate.sessions.delete(Caller("user001"), "session001")
        await trio.sleep(0.1)
        assert provider.open_streams == 0
        assert updates(await heard(peer, 30)) == []
        assert {row.outcome for row in await rows(server)} == {"completed", "cancelled"}


async def test_a_drain_ends_it_at_once(autojump_clock):
    provider = Titling([Stall()])
    async with serving(provider=provider, config=titled()) as server, server.peer() as peer:
        await answer(peer, QUESTION)
        await trio.sleep(1)
        assert provider.open_streams == 1
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.house.drain, 30.0, trio.Event())
            await peer.until("DISCONNECT")
        assert trio.current_time() - began < 5
        assert provider.open_streams == 0
        assert {row.outcome for row in await rows(server)} == {"completed", "cancelled"}


async def test_a_house_that_is_left_in_a_hurry_leaves_no_open_row(autojump_clock):
    provider = Titling([Stall()])
    async with serving(provider=provider, config=titled()) as server, server.peer() as peer:
        await answer(peer, QUESTION)
        await trio.sleep(1)
        database, settled = server.house.database, []
        real = database.write

        async def seen(fn, *args, **more):
            settled.append(fn.__name__)
            return await real(fn, *args, **more)

        database.write = seen
    assert provider.open_streams == 0
    assert settled.count("_close") == 1
    assert set(settled) <= {"_close", "mark_given"}


async def test_who_has_no_quota_left_gets_the_first_words(autojump_clock):
    provider = Titling(["Supply Chains"])
    config = titled(quota=Quota(tokens_per_day=220, answer_tokens=100))
    async with serving(provider=provider, config=config) as server, server.peer() as peer:
        await answer(peer, QUESTION)
        await trio.sleep(1)
        assert provider.titles_asked == []
        assert await title_of(server) == "What is supply chain…"
        assert [row.attempt_id.partition("-")[0] for row in await rows(server)] == ["msg"]


async def test_a_broken_store_costs_the_title_and_nothing_else(autojump_clock, monkeypatch):
    provider = Titling(["Supply Chains"])
    real = Database.read

    async def sometimes(self, fn, *args, **more):
        if fn.__name__ == "branch":
            raise StoreError("down")
        return await real(self, fn, *args, **more)

    monkeypatch.setattr(Database, "read", sometimes)
    async with serving(provider=provider, config=titled()) as server, server.peer() as peer:
        await answer(peer, QUESTION)
        assert updates(await heard(peer, 5)) == []
        monkeypatch.setattr(Database, "read", real)
        await answer(peer, QUESTION, request_id="r2")
        (update,) = updates(await heard(peer, 5))
        assert update["data"]["title"] == "Supply Chains"


async def test_a_bug_costs_the_title_and_nothing_else(autojump_clock, monkeypatch):
    monkeypatch.setattr("scm_trio.chat.titles.title_from", lambda *_: 1 / 0)
    async with serving(provider=Titling(["Supply Chains"]), config=titled()) as server, server.peer() as peer:
        await answer(peer, QUESTION)
        assert updates(await heard(peer, 5)) == []
        await answer(peer, QUESTION, request_id="r2")


async def test_a_question_without_a_word_has_no_title(autojump_clock):
    async with serving(provider=Titling(["…"]), config=titled()) as server, server.peer() as peer:
        await answer(peer, "?!")
        assert updates(await heard(peer, 5)) == []
        assert await title_of(server) is None


async def test_an_answer_to_somebody_else_s_question_titles_the_session_too(autojump_clock):
    async with serving(provider=Titling(["Supply Chains"]), config=titled()) as server:
        await share(server, "user002")
        async with server.peer("user001", GLOBAL_ID) as owner, server.peer("user002", "elsewhere") as member:
            await answer(owner, QUESTION)
            assert len(updates(await heard(member))) == 1


async def test_a_question_that_is_gone_by_then_is_missed_by_nobody(autojump_clock, monkeypatch):
    provider = Titling(["Supply Chains"])
    monkeypatch.setattr("scm_trio.chat.titles.branch", lambda *_: [])
    async with serving(provider=provider, config=titled()) as server, server.peer() as peer:
        await answer(peer, QUESTION)
        assert updates(await heard(peer, 5)) == []
        assert provider.titles_asked == []
