"""Whoever loses a session waits no further for what is said in it: the server sends nothing more, not even END."""

import pytest
import trio

from scm_trio.client import AnswerGone
from scm_trio.providers.scripted import Pause, Scripted
from scm_trio.testing import open_server
from tests.client.fake_server import chat_with
from tests.gateway.sharing import GLOBAL_ID, delete, set_members, share

WORDS = ["a", Pause(5), "b", Pause(600), "c"]
LOST_AT_S = 7.0


async def lose_session(server):
    await trio.sleep_until(LOST_AT_S)
    await set_members(server, user001="owner")


async def by_finish(answer):
    await answer.finish()


async def by_deltas(answer):
    async for _ in answer:
        pass


async def by_events(answer):
    async for _ in answer.events():
        pass


READERS = pytest.mark.parametrize("read", [by_finish, by_deltas, by_events])


async def fails_at_once(read, answer):
    with pytest.raises(AnswerGone) as caught, trio.fail_after(60):
        await read(answer)
    assert trio.current_time() == pytest.approx(LOST_AT_S, abs=0.1)
    assert (caught.value.code, caught.value.message_id) == ("NOT_FOUND", answer.message_id)
    assert (answer.text, answer.end) == ("ab", None)


@READERS
async def test_ones_own_answer_fails_at_once_and_keeps_what_came(autojump_clock, nursery, read):
    async with open_server({"scripted": Scripted(WORDS)}) as server:
        await share(server, "user002")
        async with server.chat("user002", GLOBAL_ID) as chat:
            nursery.start_soon(lose_session, server)
            answer = chat.ask("?")
            await fails_at_once(read, answer)
            with pytest.raises(AnswerGone):
                await answer.cancel()
            assert await chat.ping() == 0


@READERS
async def test_a_watched_answer_fails_at_once_and_the_watching_goes_on(autojump_clock, nursery, read):
    async with open_server({"scripted": Scripted(WORDS)}) as server:
        await share(server, "user002")
        async with server.chat("user001", GLOBAL_ID) as ann, server.chat("user002", GLOBAL_ID) as bob:
            nursery.start_soon(lose_session, server)
            async with ann.ask("?") as asked:
                await anext(aiter(asked))
                watching = bob.watching()
                await fails_at_once(read, await anext(watching))
                with trio.move_on_after(1):
                    await anext(watching)
                    raise AssertionError("nothing more is shown")
                assert asked.end is None  # to the others it goes on
        assert asked.end.finish_reason == "cancelled"


async def test_a_cancel_that_waits_for_its_end_fails_too(autojump_clock):
    async def script(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await server.start(rid)
        await server.data(rid, "a", 0)
        await server.next("CHAT_CANCEL")
        await server.refuse(rid, "NOT_FOUND", message_id="m-1")

    async with chat_with(script) as chat, chat.ask("?") as answer:
        await anext(aiter(answer))
        with pytest.raises(AnswerGone), trio.fail_after(60):
            await answer.cancel()


async def test_a_resumed_answer_fails_too(autojump_clock):
    async def script(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await server.start(rid)
        await server.data(rid, "a", 0)
        await server.data(rid, "c", 2)  # there is a gap, so that the client resumes
        resume = (await server.next("CHAT_RESUME")).request_id
        await server.start(resume, resumed=True)
        await server.refuse(resume, "NOT_FOUND", message_id="m-1")

    async with chat_with(script) as chat:
        answer = chat.ask("?")
        with pytest.raises(AnswerGone), trio.fail_after(60):
            await answer.finish()
        assert answer.text == "a"


async def test_an_answer_in_one_piece_fails_too(autojump_clock, nursery):
    async with open_server({"scripted": Scripted(WORDS)}) as server:
        await share(server, "user002")
        async with server.chat("user002", GLOBAL_ID) as chat:
            nursery.start_soon(lose_session, server)
            with pytest.raises(Exception, match="NOT_FOUND"), trio.fail_after(60):
                await chat.ask_once("?")
            assert trio.current_time() == pytest.approx(LOST_AT_S, abs=0.1)


async def test_an_answer_of_a_deleted_session_ends_by_its_end(autojump_clock, nursery):
    async def delete_session(server):
        await trio.sleep_until(LOST_AT_S)
        await delete(server)

    async with open_server({"scripted": Scripted(WORDS)}) as server:
        await share(server, "user002")
        async with server.chat("user002", GLOBAL_ID) as chat:
            nursery.start_soon(delete_session, server)
            with trio.fail_after(60):
                end = await chat.ask("?").finish()
    assert (end.finish_reason, end.length) == ("cancelled", 2)


@pytest.mark.parametrize(("code", "started"), [("NOT_FOUND", True), ("TIMEOUT", False)])
async def test_any_other_failure_still_has_its_end(autojump_clock, code, started):
    async def script(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await server.start(rid)
        await server.refuse(rid, code, started=started, message_id="m-1")
        await trio.sleep(1)
        await server.end(rid, "", "error")

    async with chat_with(script) as chat:
        answer = chat.ask("?")
        with pytest.raises(Exception, match=code):
            await answer.finish()
        assert answer.end.finish_reason == "error"
