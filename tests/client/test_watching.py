"""Answers that somebody else asked for."""

import gc

import attrs
import pytest
import trio

from scm_trio.client import AnswerGone, ChatError
from scm_trio.client.watching import MAX_RUNNING, MAX_UNSEEN
from scm_trio.protocol import messages
from scm_trio.providers.scripted import Pause, Scripted, Stall
from scm_trio.testing import open_server
from tests.client.dialing import nothing, returning
from tests.client.fake_server import CONNECT, USAGE, FakeServer, chat_with
from tests.client.network import Network

WORDS = ["a", Pause(1), "b", Pause(1), "c"]


async def watch_into(answers, chat):
    async for answer in chat.watching():
        answers.append(answer)  # those that came before the end count


async def nobody(watching):
    with trio.move_on_after(1) as limit:
        await anext(watching)
    return limit.cancelled_caught


# ---- on the real server


@pytest.mark.parametrize("late_s", [0, 1.5])
async def test_an_answer_is_seen_by_another_device_from_its_beginning(autojump_clock, late_s):
    async with open_server({"scripted": Scripted(WORDS)}) as server:
        network = Network(server)
        async with network.chat() as asker, network.chat() as other, asker.ask("?") as asked:
            await trio.sleep(late_s)
            answer = await anext(other.watching())
            assert [delta async for delta in answer] in (["a", "b", "c"], ["ab", "c"])
            assert (answer.text, answer.end.finish_reason) == ("abc", "completed")
            assert (answer.message_id, answer.request_id) == (asked.message_id, asked.request_id)
            assert other.divergences == 0


async def test_a_page_that_comes_back_finds_what_it_had_asked(autojump_clock):
    async with open_server({"scripted": Scripted(WORDS)}) as server:
        network = Network(server)
        async with network.chat() as page:
            asked = page.ask("?", on_orphan="continue")
            await anext(aiter(asked))
        async with network.chat() as page:
            async for answer in page.watching():
                assert (await answer.finish()).length == 3
                break


async def test_a_watcher_can_stop_the_answer_and_leaving_does_not(autojump_clock):
    provider = Scripted(["a", Stall()])
    async with open_server({"scripted": provider}) as server:
        network = Network(server)
        async with network.chat() as asker, asker.ask("?") as asked:
            await trio.sleep(1)
            async with network.chat() as other, await anext(other.watching()) as answer:
                pass
            assert provider.open_streams == 1
            async with network.chat() as other:
                answer = await anext(other.watching())
                assert (await answer.cancel()).finish_reason == "cancelled"
            assert (await asked.finish()).finish_reason == "cancelled"


async def test_a_watched_answer_goes_on_after_a_break_and_ones_own_are_not_watched(autojump_clock):
    answers = []
    async with open_server({"scripted": Scripted(WORDS)}) as server:
        asking, watching = Network(server), Network(server)
        async with asking.chat() as asker, watching.chat() as other, trio.open_nursery() as nursery:
            nursery.start_soon(watch_into, answers, other)
            async with asker.ask("?") as asked:
                await trio.sleep(1.5)
                await watching.cut()
                mine = other.ask("mine")
                await mine.finish()
                await asked.finish()
            nursery.cancel_scope.cancel()
            [answer] = answers
            assert [delta async for delta in answer] == ["a", "b", "c"]
            assert (other.reconnects, other.divergences) == (1, 0)


async def test_other_peoples_sessions_are_not_watched(autojump_clock):
    async with open_server({"scripted": Scripted(["a", Stall()])}) as server:
        network = Network(server)
        stranger, elsewhere = network.chat("user002"), network.chat(session_id="another")
        async with stranger as one, elsewhere as two, one.ask("?"), two.ask("?"), network.chat() as chat:
            assert await nobody(chat.watching())


async def test_asking_again_for_what_is_shown_is_reading_it(autojump_clock):
    provider = Scripted(WORDS)
    async with open_server({"scripted": provider}) as server:
        network = Network(server)
        async with network.chat() as page:
            asked = page.ask("?", on_orphan="continue")
            await anext(aiter(asked))
        async with network.chat() as page:
            shown = await anext(page.watching())
            again = page.ask("?", request_id=asked.request_id)
            assert [delta async for delta in again] == [delta async for delta in shown]
            assert again.text == "abc"
    assert len(provider.prompts) == 1


# ---- on a scripted server


async def test_what_was_shown_before_is_asked_for_from_its_beginning(autojump_clock):
    async def script(server):
        await server.start(None, resumed=True)
        await server.data(None, "a", 0)
        resume = await server.next("CHAT_RESUME")
        assert resume.data == messages.ChatResume("m-1", 0, 0)
        await server.start(resume.request_id, resumed=True)
        await server.data(resume.request_id, "a", 0)
        await server.data(resume.request_id, "b", 1)
        await server.end(resume.request_id, "ab")

    async with chat_with(script) as chat:
        await trio.sleep(1)
        answer = await anext(chat.watching())
        assert (answer.message_id, answer.request_id) == ("m-1", "")
        assert [delta async for delta in answer] == ["a", "b"]


async def test_a_watched_answer_that_is_gone_fails_for_its_reader_only(autojump_clock):
    async def script(server):
        await server.start(None)
        await server.refuse((await server.next("CHAT_RESUME")).request_id, "NOT_FOUND")

    async with chat_with(script) as chat:
        await trio.sleep(1)
        answer = await anext(chat.watching())
        with pytest.raises(AnswerGone):
            await answer.finish()
        assert await chat.ping() == 0


async def test_an_answer_shown_on_a_connection_that_is_gone_is_forgotten(autojump_clock):
    async def first(server):
        await server.start(None)
        await server.stream.aclose()

    async with returning(first, nothing) as (chat, dialer):
        await trio.sleep(1)
        assert await nobody(chat.watching())
        assert dialer.servers[1].kinds == []


async def test_a_late_word_on_a_whole_answer_interests_nobody(autojump_clock):
    response = messages.ChatResponse("m-1", "all", "tiny", "fake", USAGE, "completed", 5)

    async def script(server):
        await server.say("CHAT_RESPONSE", response, (await server.next("CHAT_REQUEST")).request_id)
        await server.say("CHAT_RESPONSE", response, "again")
        await server.say("CHAT_RESPONSE", attrs.evolve(response, message_id="m-2"), "another")

    async with chat_with(script) as chat:
        assert await chat.ask_once("?") == response
        await trio.sleep(1)
        assert chat.pushes.receive_nowait().data.message_id == "m-2"
        with pytest.raises(trio.WouldBlock):
            chat.pushes.receive_nowait()


async def test_a_failure_of_an_answer_that_nobody_watches_is_not_told(autojump_clock):
    async def script(server):
        await server.start(None)
        await server.refuse(None, "PROVIDER_UNAVAILABLE", started=True, message_id="m-1")
        await server.end(None, "", "error")

    async with chat_with(script) as chat:
        await trio.sleep(1)
        with pytest.raises(trio.WouldBlock):
            chat.pushes.receive_nowait()


async def test_a_watched_answer_that_fails_fails_for_its_reader(autojump_clock):
    async def script(server):
        await trio.sleep(1)
        await server.start(None)
        await server.refuse(None, "PROVIDER_UNAVAILABLE", started=True, message_id="m-1")
        await server.end(None, "", "error")

    async with chat_with(script) as chat:
        answer = await anext(chat.watching())
        with pytest.raises(ChatError, match="PROVIDER_UNAVAILABLE"):
            await answer.finish()


# ---- memory


async def test_while_nobody_watches_nothing_is_kept_but_ids(autojump_clock):
    async def script(server):
        for number in range(MAX_RUNNING + 5):
            await server.start(None, message_id=f"m-{number}")
            await server.data(None, "text", 0, message_id=f"m-{number}")
        for number in range(MAX_RUNNING - 1):
            await server.end(None, "text", message_id=f"m-{number}")
        message = await server.next("CHAT_RESUME")
        assert message.data.message_id == f"m-{MAX_RUNNING - 1}"

    async with chat_with(script) as chat:
        await trio.sleep(1)
        await anext(chat.watching())
        with pytest.raises(trio.WouldBlock):
            chat.pushes.receive_nowait()


async def test_a_watcher_that_does_not_look_loses_the_oldest(autojump_clock):
    async def script(server):
        for number in range(MAX_UNSEEN + 5):
            await server.start(None, message_id=f"m-{number}")

    async with chat_with(script) as chat:
        watching = chat.watching()
        await trio.sleep(1)
        assert (await anext(watching)).message_id == "m-5"


async def test_a_watcher_that_is_gone_watches_no_more(autojump_clock):
    server = FakeServer()

    async def script(server):
        await trio.sleep(1)
        await server.start(None)

    async with chat_with(script, server) as chat:
        watching = chat.watching()
        del watching
        gc.collect()
        await trio.sleep(2)
        assert await nobody(chat.watching()) is False


async def test_watching_ends_with_the_chat(autojump_clock):
    answers = []

    async def script(server):
        await server.start(None)
        await trio.sleep(1)
        await server.socket.aclose(1000)

    async with returning(script, nothing) as (chat, _):
        await watch_into(answers, chat)
        assert [answer.message_id for answer in answers] == ["m-1"]
        assert chat.lost.close_code == 1000
        assert chat.connection == CONNECT
