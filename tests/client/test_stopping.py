"""Whatever way an answer is left, the model is stopped."""

import gc

import pytest
import trio

from scm_trio.client import ChatError, open_chat_over
from tests.client.fake_server import URL, FakeServer, chat_with


class Endless:
    """A server whose model never stops by itself; ``cancelled`` is when it was told to, in virtual seconds."""

    def __init__(self, stop_after_s=0.0):
        self.cancelled = []
        self.stop_after_s = stop_after_s

    async def __call__(self, server: FakeServer):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await server.start(rid)
        await server.data(rid, "a", 0)
        await server.data(rid, "b", 1)
        cancel = await server.next("CHAT_CANCEL")
        assert cancel.data.request_id == rid
        assert cancel.request_id != rid
        self.cancelled.append(trio.current_time())
        await trio.sleep(self.stop_after_s)
        await server.stopped(rid, "ab")


async def test_cancel_waits_for_the_end(autojump_clock):
    model = Endless(stop_after_s=0.3)
    async with chat_with(model) as chat:
        answer = chat.ask("?")
        deltas = answer.__aiter__()
        await deltas.__anext__()
        began = trio.current_time()
        end = await answer.cancel()
        assert trio.current_time() - began == pytest.approx(0.3)
        assert (end.finish_reason, end.upstream_closed, end.cancel_ms) == ("cancelled", True, 12)
        # To its reader a cancelled answer simply ends.
        assert [delta async for delta in answer] == ["a", "b"]


async def test_a_cancelled_reader_stops_the_model_before_it_lets_go(autojump_clock):
    model = Endless()
    async with chat_with(model) as chat:
        with trio.move_on_after(5):
            async for _ in chat.ask("?"):
                pass
        assert trio.current_time() == pytest.approx(5)
        await trio.testing.wait_all_tasks_blocked()
        assert model.cancelled == [pytest.approx(5)]


async def test_a_cancelled_ask_once_stops_the_model(autojump_clock):
    server = FakeServer()

    async def script(server):
        await server.next("CHAT_REQUEST")
        await server.next("CHAT_CANCEL")

    async with chat_with(script, server) as chat:
        with trio.move_on_after(1):
            await chat.ask_once("?")
        await trio.testing.wait_all_tasks_blocked()
        assert server.kinds == ["CHAT_REQUEST", "CHAT_CANCEL"]


async def test_leaving_the_block_stops_the_model_and_waits_for_it(autojump_clock):
    model = Endless(stop_after_s=0.2)
    async with chat_with(model) as chat:
        async with chat.ask("?") as answer:
            async for _ in answer:
                break
        assert answer.end.finish_reason == "cancelled"


async def test_leaving_the_block_waits_one_second_at_most(autojump_clock):
    model = Endless(stop_after_s=30)
    async with chat_with(model) as chat:
        with pytest.raises(KeyError):
            async with chat.ask("?"):
                raise KeyError
        assert trio.current_time() == pytest.approx(1)
        assert model.cancelled == [0]


async def test_a_reader_cancelled_inside_a_block_sends_one_cancel(autojump_clock):
    server = FakeServer()
    async with chat_with(Endless(), server) as chat:
        with trio.move_on_after(1):
            async with chat.ask("?") as answer:
                await answer.finish()
        assert server.kinds.count("CHAT_CANCEL") == 1


async def test_a_bare_break_stops_the_model_when_nobody_holds_the_answer(autojump_clock):
    model = Endless()
    async with chat_with(model) as chat:
        async for _ in chat.ask("?"):
            break
        gc.collect()
        await trio.sleep(0.01)
        assert model.cancelled == [pytest.approx(0, abs=0.001)]


async def test_an_answer_that_is_freed_after_its_end_sends_nothing(autojump_clock):
    server = FakeServer()

    async def script(server):
        await server.answer_next("ok")

    async with chat_with(script, server) as chat:
        assert [delta async for delta in chat.ask("?")] == ["ok"]
        gc.collect()
        await trio.sleep(1)
        assert server.kinds == ["CHAT_REQUEST"]


def test_an_answer_that_outlives_its_run_is_freed_in_silence():
    async def main():
        async with chat_with(Endless()) as chat:
            answer = chat.ask("?")
            await answer.__aiter__().__anext__()
            return answer

    answer = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert answer.text.startswith("a")
    del answer
    gc.collect()


async def test_leaving_the_chat_stops_what_still_runs(autojump_clock):
    server = FakeServer()
    model = Endless()
    async with chat_with(model, server) as chat:
        answer = chat.ask("?")
        async for _ in answer:
            break
    assert server.kinds == ["CHAT_REQUEST", "CHAT_CANCEL", "DISCONNECT"]


async def test_a_cancelled_chat_stops_its_answer_and_sees_the_end(autojump_clock):
    server = FakeServer()
    client_end, server_end = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, server_end, Endless(stop_after_s=0.3))
        with trio.move_on_after(1):
            async with open_chat_over(client_end, URL, "token") as chat, chat.ask("?") as answer:
                await trio.sleep_forever()
    assert answer.end.finish_reason == "cancelled"
    assert server.kinds == ["CHAT_REQUEST", "CHAT_CANCEL", "DISCONNECT"]
    assert trio.current_time() == pytest.approx(1.3)


async def test_an_answer_with_an_orphan_rule_is_left_to_the_server(autojump_clock):
    server = FakeServer()

    async def script(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await server.start(rid)

    async with chat_with(script, server) as chat:
        with trio.move_on_after(1):
            async with chat.ask("?", on_orphan="continue") as answer:
                await answer.finish()
        assert trio.current_time() == pytest.approx(1)
        del answer
        gc.collect()
        await trio.sleep(1)
    assert server.kinds == ["CHAT_REQUEST", "DISCONNECT"]


async def test_a_refused_cancel_is_an_error_while_the_answer_runs(autojump_clock):
    async def script(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await server.start(rid)
        await server.refuse((await server.next("CHAT_CANCEL")).request_id, "NOT_FOUND")

    async with chat_with(script) as chat, chat.ask("?", on_orphan="continue") as answer:
        with pytest.raises(ChatError, match="NOT_FOUND"):
            await answer.cancel()


async def test_a_cancel_that_crossed_the_end_gets_the_end(autojump_clock):
    async def script(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await server.start(rid)
        cancel = await server.next("CHAT_CANCEL")
        await server.end(rid, "")
        await server.refuse(cancel.request_id, "NOT_FOUND")

    async with chat_with(script) as chat:
        async with chat.ask("?") as answer:
            assert (await answer.cancel()).finish_reason == "completed"
        await trio.sleep(1)
        with pytest.raises(trio.WouldBlock):
            chat.pushes.receive_nowait()


async def test_a_question_that_was_not_asked_cannot_be_cancelled(autojump_clock):
    async with chat_with(None) as chat:
        with pytest.raises(RuntimeError, match="not asked"):
            await chat.ask("?").cancel()
