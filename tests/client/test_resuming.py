"""What answers do when the connection breaks and another one comes."""

import gc

import pytest
import trio

from scm_trio.client import AnswerGone, AskedOtherwise, CallLost, ChatError, ConnectionLost, Withdrawn
from scm_trio.client.feed import MAX_REFUSED_RESUMES
from scm_trio.protocol import messages
from tests.client.dialing import nothing, returning
from tests.client.fake_server import USAGE

RESPONSE = messages.ChatResponse("m-1", "all of it", "tiny", "fake", USAGE, "completed", 5)


async def begin(server, *parts):
    """START and some text of whatever is asked, and then the connection breaks."""
    request = await server.next("CHAT_REQUEST")
    await server.start(request.request_id)
    for index, part in enumerate(parts):
        await server.data(request.request_id, part, index)
    await server.stream.aclose()


async def ask_and_break(server):
    await server.next("CHAT_REQUEST")
    await server.stream.aclose()


async def break_at_once(server):
    await server.stream.aclose()


async def resume(server, from_index, *parts, rev=0, **start):
    """Answer a CHAT_RESUME of revision 0 with the parts from its position on, to the END."""
    message = await server.next("CHAT_RESUME")
    assert message.data == messages.ChatResume("m-1", 0, from_index)
    await server.start(message.request_id, rev=rev, **({"resumed": True} | start))
    index = 0 if start.get("reset") else from_index
    for number, part in enumerate(parts[index:], index):
        await server.data(message.request_id, part, number, rev=rev)
    await server.end(message.request_id, "".join(parts), rev=rev)


def events_of(seen):
    """START as ``>``, END as ``.``, and the text of DATA."""
    names = {messages.ChatStreamStart: ">", messages.ChatStreamEnd: "."}
    return [names.get(type(event)) or event.delta for event in seen]


async def test_an_answer_goes_on_where_it_was(autojump_clock):
    async def first(server):
        await begin(server, "a", "b")

    async def second(server):
        await resume(server, 2, "a", "b", "c", "d")

    async with returning(first, second) as (chat, dialer):
        answer = chat.ask("?")
        assert [delta async for delta in answer] == ["a", "b", "c", "d"]
        assert events_of([event async for event in answer.events()]) == [">", "a", "b", "c", "d", "."]
        assert (answer.text, answer.end.finish_reason) == ("abcd", "completed")
        assert (chat.reconnects, chat.divergences) == (1, 0)
        assert trio.current_time() == pytest.approx(0.25)
        assert dialer.servers[1].kinds == ["CHAT_RESUME"]


async def test_a_question_without_an_answer_is_asked_again_as_the_same_request(autojump_clock):
    async def second(server):
        await server.answer_next("yes")

    async with returning(ask_and_break, second) as (chat, dialer):
        answer = chat.ask("really?", model="tiny", request_id="r-9")
        assert (await answer.finish()).length == 3
        first, again = (server.received[0] for server in dialer.servers)
        assert (first.data, first.request_id) == (again.data, again.request_id)
        assert again.request_id == "r-9"


async def test_a_whole_answer_is_asked_for_again_as_the_same_request(autojump_clock):
    async def second(server):
        await server.say("CHAT_RESPONSE", RESPONSE, (await server.next("CHAT_REQUEST")).request_id)

    async with returning(ask_and_break, second) as (chat, dialer):
        assert await chat.ask_once("?") == RESPONSE
        first, again = (server.received[0] for server in dialer.servers)
        assert (first.data, first.request_id) == (again.data, again.request_id)


async def test_a_cancel_that_is_waiting_is_said_again_after_the_resume(autojump_clock):
    async def first(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await server.start(rid)
        await server.next("CHAT_CANCEL")
        await server.stream.aclose()

    async def second(server):
        rid = (await server.next("CHAT_RESUME")).request_id
        cancel = await server.next("CHAT_CANCEL")
        await server.start(rid, resumed=True)
        # It had ended in between: that is no reason to fail.
        await server.refuse(cancel.request_id, "NOT_FOUND")
        await server.stopped(rid, "")

    async with returning(first, second) as (chat, _), chat.ask("?") as answer:
        assert (await answer.cancel()).finish_reason == "cancelled"


async def test_a_cancel_before_the_first_word_is_said_again_after_the_question(autojump_clock):
    async def first(server):
        await server.next("CHAT_REQUEST")
        await server.next("CHAT_CANCEL")
        await server.stream.aclose()

    async def second(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        assert (await server.next("CHAT_CANCEL")).data.request_id == rid
        await server.start(rid)
        await server.stopped(rid, "")

    async with returning(first, second) as (chat, _), chat.ask("?") as answer:
        assert (await answer.cancel()).finish_reason == "cancelled"


async def test_a_cancelled_whole_answer_is_stopped_on_the_next_connection(autojump_clock):
    async def second(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        assert (await server.next("CHAT_CANCEL")).data.request_id == rid
        await server.refuse(rid, "INTERNAL", started=True)

    async with returning(ask_and_break, second) as (chat, dialer):
        with trio.move_on_after(0.1):
            await chat.ask_once("?")
        assert trio.current_time() == pytest.approx(0.1)
        await trio.sleep(1)
        assert dialer.servers[1].kinds == ["CHAT_REQUEST", "CHAT_CANCEL"]


async def test_a_reader_that_is_cancelled_without_a_connection_lets_go_at_once(autojump_clock):
    async def first(server):
        await begin(server, "a")

    async def second(server):
        rid = (await server.next("CHAT_RESUME")).request_id
        assert (await server.next("CHAT_CANCEL")).data.request_id is not None
        await server.start(rid, resumed=True)
        await server.stopped(rid, "a")

    async with returning(first, second) as (chat, dialer):
        with trio.move_on_after(0.1):
            async with chat.ask("?") as answer:
                await answer.finish()
        assert trio.current_time() == pytest.approx(0.1)
        await trio.sleep(1)
        assert dialer.servers[1].kinds == ["CHAT_RESUME", "CHAT_CANCEL"]
        assert answer.end.finish_reason == "cancelled"


async def test_an_answer_that_nobody_holds_any_more_is_stopped_on_the_next_connection(autojump_clock):
    async def first(server):
        await begin(server, "a", "b")

    async def second(server):
        await server.next("CHAT_RESUME")
        await server.next("CHAT_CANCEL")

    async with returning(first, second) as (chat, dialer):
        async for _ in chat.ask("?"):
            break
        gc.collect()
        await trio.sleep(1)
        assert dialer.servers[1].kinds == ["CHAT_RESUME", "CHAT_CANCEL"]


async def test_questions_without_a_connection_are_sent_with_the_next_one_in_order(autojump_clock):
    async def second(server):
        for name in ("a", "b", "c"):
            request = await server.next("CHAT_REQUEST")
            assert request.data.message == name
            await server.answer(request.request_id, name)

    async with returning(break_at_once, second) as (chat, _):
        await trio.sleep(0.1)
        assert chat.state.name == "waiting"
        answers = [chat.ask(name) for name in ("a", "b", "c")]
        async with answers[0], answers[1], answers[2]:
            assert [(await answer.finish()).length for answer in answers] == [1, 1, 1]


async def test_a_question_that_was_not_sent_is_just_taken_back(autojump_clock):
    async with returning(break_at_once, nothing) as (chat, dialer):
        await trio.sleep(0.1)
        async with chat.ask("?") as answer:
            with pytest.raises(Withdrawn):
                await answer.cancel()
            with pytest.raises(Withdrawn):
                await answer.finish()
        with trio.move_on_after(0):
            await chat.ask("?").finish()
        with trio.move_on_after(0.01):
            await chat.ask_once("?")
        async with chat.ask("?"):
            pass
        await trio.sleep(1)
        assert dialer.servers[1].kinds == []


async def test_a_cancelled_asker_has_asked_nothing(autojump_clock):
    async with returning(break_at_once, nothing) as (chat, dialer):
        with trio.CancelScope() as scope:
            scope.cancel()
            await chat.ask_once("?")
        await trio.sleep(1)
        assert dialer.servers[1].kinds == []


async def test_calls_that_belong_to_a_connection_are_lost_with_it(autojump_clock):
    async def first(server):
        await server.next("AUTH_REFRESH")
        await server.stream.aclose()

    async with returning(first, nothing) as (chat, _):
        with pytest.raises(CallLost):
            await chat.refresh("new")
        with pytest.raises(CallLost):
            await chat.ping()
        await trio.sleep(1)
        assert await chat.ping() == 0


async def test_a_request_that_was_made_in_the_other_form_before_does_not_wait_for_ever(autojump_clock):
    async def script(server):
        await server.say("CHAT_RESPONSE", RESPONSE, (await server.next("CHAT_REQUEST")).request_id)
        await server.answer_next("yes")

    async with returning(script) as (chat, _):
        with pytest.raises(AskedOtherwise):
            await chat.ask("?").finish()
        with pytest.raises(AskedOtherwise):
            await chat.ask_once("?")


async def hold(lock, task_status):
    async with lock:
        task_status.started()
        await trio.sleep_forever()


async def test_an_asker_that_is_cancelled_before_its_turn_can_ask_again(autojump_clock):
    async def script(server):
        await server.answer_next("yes")

    async with returning(script) as (chat, dialer):
        answer = chat.ask("?", request_id="r-1")
        async with trio.open_nursery() as nursery:
            # Somebody is sending: the turn has to be waited for.
            await nursery.start(hold, chat._supervisor._wire._turn)
            with trio.move_on_after(1) as limit:
                await answer.finish()
            assert limit.cancelled_caught
            nursery.cancel_scope.cancel()
        assert dialer.servers[0].kinds == []
        assert (await answer.finish()).length == 3
        assert dialer.servers[0].received[0].request_id == "r-1"


async def test_a_reader_goes_on_when_the_one_who_asked_for_both_is_cancelled(autojump_clock):
    async def script(server):
        await server.answer_next("yes")

    async def read(answer, limit_s, lengths):
        with trio.move_on_after(limit_s):
            lengths.append((await answer.finish()).length)

    lengths = []
    async with returning(script) as (chat, _), trio.open_nursery() as nursery:
        answer = chat.ask("?")
        async with trio.open_nursery() as sending:
            await sending.start(hold, chat._supervisor._wire._turn)
            for limit_s in (1, 9):
                nursery.start_soon(read, answer, limit_s, lengths)
                await trio.testing.wait_all_tasks_blocked()
            await trio.sleep(2)
            sending.cancel_scope.cancel()
    assert lengths == [3]


async def test_a_question_that_was_sent_by_a_new_connection_while_its_asker_waited_is_stopped_with_him(autojump_clock):
    async def second(server):
        await server.next("CHAT_REQUEST")
        await server.next("CHAT_CANCEL")

    async with returning(nothing, second) as (chat, dialer), trio.open_nursery() as nursery:
        answer = chat.ask("?")
        # Its asker waits for his turn on a connection that breaks, and hears of that late.
        turn = chat._supervisor._wire._turn
        await nursery.start(hold, turn)
        with trio.move_on_after(1):
            nursery.start_soon(dialer.servers[0].stream.aclose)
            async with answer:
                raise AssertionError
        await trio.sleep(1)
        assert dialer.servers[1].kinds == ["CHAT_REQUEST", "CHAT_CANCEL"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("options", [{"message": "half \ud83d"}, {"message": "?", "request_id": "\udc00"}])
async def test_what_is_no_text_is_refused_at_once(autojump_clock, options):
    async with returning(nothing) as (chat, _):
        with pytest.raises(TypeError):
            chat.ask(**options)
        with pytest.raises(TypeError):
            await chat.ask_once(**options)


# ---- what the next server knows


async def test_an_answer_that_the_server_has_lost_ends_with_what_came(autojump_clock):
    async def first(server):
        await begin(server, "a")

    async def second(server):
        await server.refuse((await server.next("CHAT_RESUME")).request_id, "NOT_FOUND")

    async with returning(first, second) as (chat, _):
        answer = chat.ask("?")
        with pytest.raises(AnswerGone, match="sorry: NOT_FOUND"):
            await answer.finish()
        assert answer.text == "a"
        with pytest.raises(AnswerGone):
            await answer.cancel()


@pytest.mark.parametrize("more", [{}, {"retry_after_ms": 1000}])
async def test_a_resume_that_is_refused_for_now_is_asked_for_again(autojump_clock, more):
    async def first(server):
        await begin(server, "a")

    async def second(server):
        await server.refuse((await server.next("CHAT_RESUME")).request_id, "TOO_MANY_STREAMS", **more)
        await resume(server, 1, "a", "b")

    async with returning(first, second) as (chat, _):
        assert (await chat.ask("?").finish()).length == 2
        assert trio.current_time() == pytest.approx(1.25)


async def test_a_resume_that_is_refused_for_good_is_the_answers_failure(autojump_clock):
    async def first(server):
        await begin(server, "a")

    async def second(server):
        for _ in range(MAX_REFUSED_RESUMES + 1):
            await server.refuse((await server.next("CHAT_RESUME")).request_id, "INTERNAL")

    async with returning(first, second) as (chat, _):
        answer = chat.ask("?")
        with pytest.raises(ChatError, match="INTERNAL"):
            await answer.finish()
        assert trio.current_time() == pytest.approx(0.25 + 2**MAX_REFUSED_RESUMES - 1)


async def test_an_answer_that_failed_meanwhile_fails(autojump_clock):
    async def first(server):
        await begin(server, "a")

    async def second(server):
        rid = (await server.next("CHAT_RESUME")).request_id
        await server.start(rid, resumed=True)
        await server.refuse(rid, "PROVIDER_UNAVAILABLE", started=True, message_id="m-1")
        await server.end(rid, "a", "error")

    async with returning(first, second) as (chat, _):
        answer = chat.ask("?")
        with pytest.raises(ChatError, match="PROVIDER_UNAVAILABLE"):
            await answer.finish()
        assert answer.end.finish_reason == "error"


async def test_a_reset_with_the_same_text_is_not_noticed(autojump_clock):
    async def first(server):
        await begin(server, "a", "b", "c")

    async def second(server):
        await resume(server, 3, "ab", "cd", reset=True, resumed=False)

    async with returning(first, second) as (chat, _):
        answer = chat.ask("?")
        assert events_of([event async for event in answer.events()]) == [">", "a", "b", "c", "d", "."]
        assert answer.text == "abcd"


@pytest.mark.parametrize("parts", [["a"], [], ["axx", "y"]])
async def test_a_reset_with_other_text_is_told(autojump_clock, parts):
    async def first(server):
        await begin(server, "a", "b")

    async def second(server):
        await resume(server, 2, *parts, reset=True, resumed=False, rev=1)

    async with returning(first, second) as (chat, _):
        answer = chat.ask("?")
        assert events_of([event async for event in answer.events()]) == [">", "a", "b", ">", *parts, "."]
        assert answer.text == "".join(parts)


@pytest.mark.parametrize("between", ["a", "abc"])
async def test_a_reset_that_is_cut_and_comes_again_is_one(autojump_clock, between):
    async def first(server):
        await begin(server, "a", "b")

    async def second(server):
        rid = (await server.next("CHAT_RESUME")).request_id
        await server.start(rid, reset=True, rev=1)
        await server.data(rid, between, 0, rev=1)
        await server.stream.aclose()

    async def third(server):
        rid = (await server.next("CHAT_RESUME")).request_id
        await server.start(rid, reset=True, rev=2)
        await server.data(rid, "a", 0, rev=2)
        await server.data(rid, "bcd", 1, rev=2)
        await server.end(rid, "abcd", rev=2)

    async with returning(first, second, third) as (chat, _):
        answer = chat.ask("?")
        events = events_of([event async for event in answer.events()])
        assert events == [">", "a", "b", *(["cd"] if between == "a" else ["c", "d"]), "."]


async def test_a_server_that_is_leaving_is_asked_again_when_it_is_back(autojump_clock):
    async def first(server):
        for _ in range(2):
            await server.refuse((await server.next("CHAT_REQUEST")).request_id, "SHUTTING_DOWN")
        await server.stream.aclose()

    async def second(server):
        await server.answer_next("yes")
        await server.say("CHAT_RESPONSE", RESPONSE, (await server.next("CHAT_REQUEST")).request_id)

    async with returning(first, second) as (chat, _), chat.ask("?") as answer:
        assert await chat.ask_once("?") == RESPONSE
        assert (await answer.finish()).length == 3


async def test_a_question_that_waits_for_the_next_server_is_taken_back(autojump_clock):
    async def first(server):
        for _ in range(2):
            await server.refuse((await server.next("CHAT_REQUEST")).request_id, "SHUTTING_DOWN")

    async with returning(first, nothing) as (chat, dialer):
        async with chat.ask("?") as answer:
            await trio.sleep(1)
            with pytest.raises(Withdrawn):
                await answer.cancel()
        with trio.move_on_after(1):
            await chat.ask_once("?")
        await dialer.servers[0].stream.aclose()
        await trio.sleep(1)
        assert dialer.servers[1].kinds == []


async def test_without_coming_back_a_server_that_is_leaving_is_a_failure(autojump_clock):
    async def first(server):
        for _ in range(2):
            await server.refuse((await server.next("CHAT_REQUEST")).request_id, "SHUTTING_DOWN")

    async with returning(first, reconnect=False) as (chat, _):
        with pytest.raises(ChatError, match="SHUTTING_DOWN"):
            await chat.ask("?").finish()
        with pytest.raises(ChatError, match="SHUTTING_DOWN"):
            await chat.ask_once("?")


# ---- frames that nobody asked for


async def test_frames_that_come_unasked_join_their_answer_and_are_not_doubled(autojump_clock):
    async def first(server):
        await begin(server, "a", "b")

    async def second(server):
        # Shown because the session is open here: without a request id, from the beginning.
        await server.start(None, resumed=True)
        await server.data(None, "abc", 0, next_index=3)
        rid = (await server.next("CHAT_RESUME")).request_id
        await server.start(rid, resumed=True)
        await server.data(rid, "cd", 2, next_index=4)
        await server.data(rid, "e", 4)
        await server.end(rid, "abcde")
        # And once more, late.
        await server.start(None, resumed=True)
        await server.data(None, "abcde", 0, next_index=5)
        await server.end(None, "abcde")

    async with returning(first, second) as (chat, _):
        watching = chat.watching()
        answer = chat.ask("?")
        assert [delta async for delta in answer] == ["a", "b", "c", "d", "e"]
        assert chat.divergences == 0
        with trio.move_on_after(1) as nobody:
            await anext(watching)
        assert nobody.cancelled_caught


async def test_an_answer_that_is_shown_before_it_is_asked_for_again_is_that_answer(autojump_clock):
    async def second(server):
        request_id = dialer.servers[0].received[0].request_id
        await server.say("CHAT_STREAM_START", messages.ChatStreamStart("m-1", "tiny", "fake", request_id, resumed=True))
        await server.data(None, "a", 0)
        # The request joins it, and moves it to the beginning.
        rid = (await server.next("CHAT_REQUEST")).request_id
        assert rid == request_id
        await server.start(rid, resumed=True)
        await server.data(rid, "ab", 0, next_index=2)
        await server.end(rid, "ab")

    async with returning(ask_and_break, second) as (chat, dialer):
        assert [delta async for delta in chat.ask("?")] == ["a", "b"]


@pytest.mark.parametrize("what", ["data", "end"])
async def test_an_answer_without_a_start_is_asked_for_by_its_id(autojump_clock, what):
    async def script(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await (server.data(rid, "b", 1) if what == "data" else server.end(rid, "ab"))
        await resume(server, 0, "a", "b")

    async with returning(script) as (chat, _):
        assert [delta async for delta in chat.ask("?")] == ["a", "b"]
        assert chat.divergences == 0


async def test_a_frame_of_another_revision_is_asked_about(autojump_clock):
    async def script(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await server.start(rid)
        await server.data(rid, "old", 0)
        await server.start(rid, rev=1, resumed=True)
        await server.data(rid, "new", 1, rev=1)
        await resume(server, 1, "new", reset=True, resumed=False, rev=1)

    async with returning(script) as (chat, _):
        answer = chat.ask("?")
        assert events_of([event async for event in answer.events()]) == [">", "old", ">", "new", "."]


async def test_a_frame_that_says_something_else_than_before_does_no_harm(autojump_clock):
    async def script(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await server.start(rid)
        await server.data(rid, "a", 0)
        await server.data(rid, "b", 1)
        await server.data(rid, "xb", 0, next_index=2)
        await resume(server, 2, "a", "b", "c")

    async with returning(script) as (chat, _):
        assert [delta async for delta in chat.ask("?")] == ["a", "b", "c"]
        assert chat.divergences == 0


async def test_when_the_chat_is_over_every_reader_hears_of_it(autojump_clock):
    outcomes = []

    async def read(answer):
        with pytest.raises(ConnectionLost, match="this client has left"):
            await answer.finish()
        outcomes.append(answer.text)

    async def first(server):
        rid = (await server.next("CHAT_REQUEST")).request_id
        await server.start(rid)
        await server.data(rid, "a", 0)

    async with trio.open_nursery() as nursery, returning(first) as (chat, _):
        nursery.start_soon(read, chat.ask("?", on_orphan="continue"))
        await trio.sleep(1)
    assert outcomes == ["a"]
    assert chat.state.name == "closed"
    with pytest.raises(ConnectionLost):
        await chat.ask("?").finish()
