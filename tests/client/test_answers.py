"""Asking, reading and failing."""

import gc

import pytest
import trio

from scm_trio.client import ChatError, ConnectionLost, Diverged
from scm_trio.protocol import messages
from tests.client.fake_server import USAGE, FakeServer, chat_with


async def read_into(seen, iterator):
    async for each in iterator:
        seen.append(each)  # what came before a failure counts


async def read_in_a_block(seen, answer):
    async with answer:
        await read_into(seen, answer)


async def test_deltas_stream_and_the_ending_is_known_afterwards(autojump_clock):
    async def script(server):
        request = await server.next("CHAT_REQUEST")
        assert request.data == messages.ChatRequest("hi", model="tiny", timeout_ms=1500, temperature=0.5)
        await server.answer(request.request_id, "供应", "链")

    async with chat_with(script) as chat:
        answer = chat.ask("hi", model="tiny", timeout_s=1.5, temperature=0.5)
        assert (answer.start, answer.end, answer.usage, answer.message_id) == (None, None, None, None)
        assert [delta async for delta in answer] == ["供应", "链"]
        assert (answer.text, answer.reasoning, answer.usage, answer.message_id) == ("供应链", "", USAGE, "m-1")
        assert answer.start.model == "tiny"
        assert answer.end.finish_reason == "completed"
        # It can be read again, and cancelling something that has ended is no error.
        assert [type(event).__name__ async for event in answer.events()] == [
            "ChatStreamStart",
            "ChatStreamData",
            "ChatStreamData",
            "ChatStreamEnd",
        ]
        assert await answer.cancel() is answer.end
        async with answer:
            pass


async def test_reasoning_is_kept_apart_from_the_text(autojump_clock):
    async def script(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await server.start(rid)
        await server.data(rid, "", 0, reasoning="let me see")
        await server.data(rid, "yes", 1)
        await server.end(rid, "yes")

    async with chat_with(script) as chat:
        answer = chat.ask("?")
        assert [delta async for delta in answer] == ["yes"]
        assert answer.reasoning == "let me see"


async def test_two_answers_at_once_are_told_apart(autojump_clock):
    async def script(server):
        one = (await server.next("CHAT_REQUEST")).request_id
        two = (await server.next("CHAT_REQUEST")).request_id
        await server.start(one)
        await server.answer(two, "second")
        await server.data(one, "first", 0)
        await server.end(one, "first")

    texts = {}

    async def read(chat, name):
        answer = chat.ask(name, request_id=name)
        await answer.finish()
        texts[name] = answer.text

    async with chat_with(script) as chat, trio.open_nursery() as nursery:
        nursery.start_soon(read, chat, "a")
        nursery.start_soon(read, chat, "b")
    assert sorted(texts.values()) == ["first", "second"]


async def test_two_readers_of_one_answer_ask_once(autojump_clock):
    async def script(server):
        await server.answer_next("x")

    async with chat_with(script) as chat, trio.open_nursery() as nursery:
        answer = chat.ask("?")
        nursery.start_soon(answer.finish)
        nursery.start_soon(answer.finish)


async def test_the_same_request_id_cannot_run_twice_at_once(autojump_clock):
    async with chat_with(None) as chat, chat.ask("?", request_id="same", on_orphan="continue"):
        with pytest.raises(ValueError, match="same"):
            await chat.ask("?", request_id="same").finish()


async def test_a_reset_starts_the_text_anew(autojump_clock):
    async def script(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await server.start(rid)
        await server.data(rid, "half an ans", 0)
        await server.start(rid, rev=1, reset=True)
        await server.data(rid, "whole", 0, rev=1)
        await server.end(rid, "whole", rev=1)

    async with chat_with(script) as chat:
        answer = chat.ask("?")
        await answer.finish()
        assert answer.text == "whole"
        assert answer.start.rev == 1
        assert chat.divergences == 0


async def test_an_error_before_the_start_is_the_answers_failure(autojump_clock):
    async def script(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await server.refuse(rid, "RATE_LIMITED", retry_after_ms=1500, field="data.message")
        await server.answer_next("fine")

    async with chat_with(script) as chat:
        answer = chat.ask("?")
        with pytest.raises(ChatError) as caught:
            await answer.finish()
        assert (caught.value.code, caught.value.retryable, caught.value.retry_after_s) == ("RATE_LIMITED", True, 1.5)
        assert (caught.value.field, caught.value.generation_started) == ("data.message", False)
        with pytest.raises(ChatError):
            await answer.cancel()
        assert (await chat.ask("again").finish()).length == 4


async def test_an_error_before_the_end_is_raised_after_the_last_event(autojump_clock):
    async def script(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await server.start(rid)
        await server.data(rid, "par", 0)
        await server.refuse(rid, "TIMEOUT", started=True, field="idle", message_id="m-1")
        await server.end(rid, "par", "timeout")

    async with chat_with(script) as chat:
        answer = chat.ask("?")
        events = []
        with pytest.raises(ChatError) as caught:
            await read_into(events, answer.events())
        assert isinstance(events[-1], messages.ChatStreamEnd)
        assert (caught.value.code, caught.value.field, caught.value.generation_started) == ("TIMEOUT", "idle", True)
        assert caught.value.message_id == "m-1"
        assert (answer.text, answer.end.finish_reason) == ("par", "timeout")


async def test_a_gap_is_asked_for_again_and_nobody_notices(autojump_clock):
    async def script(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await server.start(rid)
        await server.data(rid, "a", 0)
        # Two are missing, and more comes before the server hears of it.
        await server.data(rid, "d", 3)
        await server.data(rid, "e", 4)
        await server.end(rid, "abcde")
        resume = await server.next("CHAT_RESUME")
        assert resume.data == messages.ChatResume("m-1", 0, 1)
        assert resume.request_id != rid
        await server.start(resume.request_id, resumed=True)
        await server.data(resume.request_id, "bc", 1, next_index=3)
        await server.data(resume.request_id, "de", 3, next_index=5)
        await server.end(resume.request_id, "abcde")

    async with chat_with(script) as chat:
        answer = chat.ask("?")
        assert [delta async for delta in answer] == ["a", "bc", "de"]
        assert (answer.text, chat.divergences) == ("abcde", 0)
        kinds = [type(event).__name__ async for event in answer.events()]
        assert kinds == ["ChatStreamStart", *["ChatStreamData"] * 3, "ChatStreamEnd"]


async def test_a_gap_that_stays_is_a_divergence_and_stops_the_model(autojump_clock):
    async def script(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await server.start(rid)
        await server.data(rid, "a", 0)
        await server.data(rid, "c", 2)
        # It is asked for twice, then the whole once, and that twice.
        for wanted in (1, 0, 0):
            assert (await server.next("CHAT_RESUME")).data.from_index == wanted
            await server.start(rid, resumed=True)
            await server.data(rid, "c", 2)
        assert (await server.next("CHAT_CANCEL")).data.request_id == rid
        await server.data(rid, "d", 3)
        await server.stopped(rid, "acd")

    async with chat_with(script) as chat:
        seen, answer = [], chat.ask("?")
        with pytest.raises(Diverged, match="index 2"):
            await read_in_a_block(seen, answer)
        assert (seen, chat.divergences) == (["a"], 1)
        # The run's END still came, and says so to whoever asks.
        assert (await answer.cancel()).finish_reason == "cancelled"


async def test_a_wrong_checksum_is_mended_by_reading_all_of_it_again(autojump_clock):
    async def script(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await server.start(rid)
        await server.data(rid, "ab", 0)
        await server.end(rid, "abc")
        assert (await server.next("CHAT_RESUME")).data == messages.ChatResume("m-1", 0, 0)
        await server.start(rid, resumed=True)
        await server.data(rid, "a", 0)
        await server.data(rid, "bc", 1)
        await server.end(rid, "abc")

    async with chat_with(script) as chat:
        answer = chat.ask("?")
        assert [delta async for delta in answer] == ["ab", "c"]
        assert (answer.text, answer.end.finish_reason, chat.divergences) == ("abc", "completed", 1)


async def test_text_that_was_wrong_is_taken_back_by_a_reset(autojump_clock):
    async def script(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await server.start(rid)
        await server.data(rid, "", 0, reasoning="hm")
        await server.data(rid, "ax", 1)
        await server.end(rid, "abc")
        await server.next("CHAT_RESUME")
        await server.start(rid, resumed=True)
        await server.data(rid, "", 0, reasoning="hm")
        await server.data(rid, "ab", 1)
        await server.data(rid, "c", 2)
        await server.end(rid, "abc")

    async with chat_with(script) as chat:
        answer = chat.ask("?")
        events = [event async for event in answer.events()]
        assert [getattr(event, "delta", type(event).__name__) for event in events] == [
            *("ChatStreamStart", "", "ax"),
            *("ChatStreamStart", "", "ab", "c", "ChatStreamEnd"),
        ]
        assert (events[3].reset, events[4].reasoning) == (True, "hm")
        assert (answer.text, answer.reasoning) == ("abc", "hm")


async def test_a_divergence_that_stays_is_told(autojump_clock):
    async def script(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        for resumed in (False, True):
            if resumed:
                rid = (await server.next("CHAT_RESUME")).request_id
            await server.start(rid, resumed=resumed)
            await server.data(rid, "a", 0)
            await server.end(rid, "b")

    async with chat_with(script) as chat:
        answer = chat.ask("?")
        with pytest.raises(Diverged, match="checksum"):
            await answer.finish()
        assert answer.end.finish_reason == "completed"
        assert chat.divergences == 1


async def test_a_connection_lost_mid_answer_fails_every_reader(autojump_clock):
    async def script(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await server.start(rid)
        await server.data(rid, "a", 0)
        await server.stream.aclose()

    async with chat_with(script) as chat:
        answer = chat.ask("?")
        with pytest.raises(ConnectionLost) as caught:
            await answer.finish()
        assert (caught.value.close_code, caught.value.reconnect) == (1006, True)
        assert answer.text == "a"
        assert chat.lost is caught.value
        for _ in range(2):
            with pytest.raises(ConnectionLost):
                await chat.ask("again").finish()
        with pytest.raises(ConnectionLost):
            await chat.ping()
        with pytest.raises(ConnectionLost):
            await answer.cancel()


async def test_the_servers_farewell_says_whether_to_come_back(autojump_clock):
    async def script(server):
        await server.next("CHAT_REQUEST")
        bye = messages.Disconnect("SHUTTING_DOWN", "restarting", reconnect=True, retry_after_ms=2500)
        await server.say("DISCONNECT", bye)
        await server.socket.aclose(1001)

    async with chat_with(script) as chat:
        with pytest.raises(ConnectionLost, match="restarting") as caught:
            await chat.ask("?").finish()
        assert (caught.value.close_code, caught.value.reconnect, caught.value.retry_after_s) == (1001, True, 2.5)


async def test_ask_once_gives_the_whole_answer(autojump_clock):
    response = messages.ChatResponse("m-1", "all of it", "tiny", "fake", USAGE, "completed", 5)

    async def script(server):
        request = await server.next("CHAT_REQUEST")
        assert request.data.streaming is False
        # A stream's frame is no reply to this question.
        await server.start(request.request_id)
        await server.say("CHAT_RESPONSE", response, request.request_id)
        await server.refuse((await server.next("CHAT_REQUEST")).request_id, "MODEL_UNKNOWN")

    async with chat_with(script) as chat:
        assert await chat.ask_once("?") == response
        with pytest.raises(ChatError, match="MODEL_UNKNOWN"):
            await chat.ask_once("?", model="nope")


async def test_an_answer_whose_question_could_not_be_sent_can_be_asked_again(autojump_clock):
    async def script(server):
        await server.answer_next("ok")

    server = FakeServer()
    async with chat_with(script, server) as chat:
        answer = chat.ask("?")
        with trio.CancelScope() as scope:
            scope.cancel()
            async with answer:
                raise AssertionError
        assert "CHAT_REQUEST" not in server.kinds
        assert (await answer.finish()).length == 2
        gc.collect()
