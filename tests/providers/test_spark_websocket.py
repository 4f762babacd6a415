from __future__ import annotations

import json

import attrs
import pytest
import trio
import trio.testing

from scm_trio import errors
from scm_trio.model import Delta, Usage
from scm_trio.providers import places
from scm_trio.providers.fallback import Chain, Link
from scm_trio.providers.spark_signing import Credentials, Endpoint
from scm_trio.providers.spark_socket import CLOSE_TIMEOUT_S
from scm_trio.providers.spark_wire import MAX_FRAME_BYTES
from scm_trio.providers.upstream import MAX_BODY_BYTES

from .expected import SAMPLES, check
from .spark_memory import (
    COMPLETED,
    FAREWELL,
    LAST,
    PING,
    PROMPT,
    WHOLE,
    accepting,
    answer,
    failure_of,
    fragment,
    provider_over,
)
from .spark_server import KEY, SECRET, WEBSOCKET_SAMPLES, SparkServer, error_frame, frame


@pytest.fixture
def server(nursery) -> SparkServer:
    return SparkServer(nursery)


# Answers


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("read_bytes", [None, 7, 1])
@pytest.mark.parametrize("name", WEBSOCKET_SAMPLES)
async def test_every_sample_comes_through_wherever_it_is_cut(server, autojump_clock, name, read_bytes, stream):
    frames = (SAMPLES / name).read_text().splitlines()
    server.read_bytes = read_bytes
    events, failure = [], None
    try:
        async with provider_over(server.saying(*frames)).stream(attrs.evolve(PROMPT, stream=stream)) as batches:
            async for batch in batches:
                events += batch
    except errors.RequestFailed as exc:
        failure = exc
    check(events, failure, WEBSOCKET_SAMPLES[name])


async def test_a_frame_is_a_batch_and_a_whole_answer_is_one(server, autojump_clock):
    provider = provider_over(server.saying(frame("a"), frame(""), LAST))
    async with provider.stream(PROMPT) as events:
        assert [batch async for batch in events] == [[Delta("a")], [Delta("b"), Usage(3, 2), COMPLETED]]
    async with provider.stream(WHOLE) as events:
        assert [batch async for batch in events] == [[Delta("a"), Delta("b"), Usage(3, 2), COMPLETED]]


async def test_the_vendor_is_asked_once_as_documented(server, autojump_clock):
    await answer(provider_over(server.saying(LAST)), attrs.evolve(PROMPT, max_tokens=9, temperature=0.0))
    (question,) = server.questions
    chat = question["parameter"]["chat"]
    assert (chat["domain"], chat["max_tokens"], chat["temperature"]) == ("4.0Ultra", 9, 0.01)
    assert [text["role"] for text in question["payload"]["message"]["text"]] == ["system", "user"]
    assert server.opened == [("spark.example", 8080)]


async def test_a_connection_is_closed_politely_after_the_answer(server, autojump_clock):
    async def script(session):
        await session.say(LAST)
        await session.websocket.get_message()

    await answer(provider_over(server.dialer(script)))
    await trio.testing.wait_all_tasks_blocked()
    assert server.ends == [(0, 1000)]


async def test_nobody_waits_long_for_a_server_that_does_not_close(server, autojump_clock):
    async def script(session):
        await session.say(LAST)
        session.websocket._reader_running = False  # it hears nothing any more
        await trio.sleep(60)

    await answer(provider_over(server.dialer(script)))
    assert trio.current_time() == pytest.approx(CLOSE_TIMEOUT_S)


async def test_a_ping_that_crosses_the_farewell_costs_nothing(server, autojump_clock):
    async def script(session):
        await session.say(LAST)
        await trio.testing.wait_all_tasks_blocked()
        await session.stream.send_all(PING)

    async def linger(session):
        session.websocket._wsproto.connection.receive_data = lambda data: None  # it does not see the farewell
        await script(session)

    assert await answer(provider_over(server.dialer(linger))) == [Delta("b"), Usage(3, 2), COMPLETED]


async def test_pings_are_answered_meanwhile(server, autojump_clock):
    async def script(session):
        await session.say(frame("a"))
        await session.websocket.ping()
        await session.say(LAST)

    assert (await answer(provider_over(server.dialer(script))))[0] == Delta("a")


async def test_every_question_is_signed_anew(server, autojump_clock):
    provider = provider_over(server.saying(LAST))
    for _ in range(3):
        assert await answer(provider)
        await trio.sleep(299)


async def test_the_signature_is_made_when_a_place_is_free(server, autojump_clock, monkeypatch):
    # Longer than a signature is good for.
    monkeypatch.setattr(places, "WAIT_LIMIT_S", 2000.0)

    async def slowly(session):
        await trio.sleep(400)
        await session.say(LAST)

    provider = Chain([Link(provider_over(server.dialer(slowly)), places=places.Places("spark", 1))])
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(answer, provider)
    assert [at for at, _ in server.ends] == [400, 800, 1200]


async def test_models_have_addresses_of_their_own(server, autojump_clock):
    provider = provider_over(server.saying(LAST), endpoint=None, domain="x1")
    with pytest.raises(errors.ProviderUnavailable, match="no TLS"):
        await answer(provider)
    assert server.opened == [("spark-api.xf-yun.com", 443)]
    provider = provider_over(server.saying(LAST), endpoint=None)
    failure = await failure_of(provider, attrs.evolve(PROMPT, model="nobody"))
    assert (type(failure), failure.params) == (errors.ModelUnknown, {"model": "nobody"})


async def test_the_domain_answers_for_every_model(server, autojump_clock):
    provider = provider_over(server.saying(LAST), endpoint=Endpoint.parse("ws://spark.example/v1/x1"), domain="x1")
    assert await answer(provider, attrs.evolve(PROMPT, model="anything"))


async def test_closing_the_provider_has_nothing_to_do(server, autojump_clock):
    provider = provider_over(server.saying(LAST))
    await provider.aclose()
    assert await answer(provider)


# Failures in the answer


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (10006, errors.ProviderRateLimited),
        (10013, errors.ContentFiltered),
        (10110, errors.ProviderUnavailable),
        (10163, errors.ProviderRejected),
        (10907, errors.ContextTooLong),
        (11201, errors.ProviderAuth),
        (12345, errors.ProviderRejected),
    ],
)
@pytest.mark.parametrize("before", [(), (frame("a"),)], ids=["at once", "in the middle"])
async def test_an_error_comes_after_what_was_said(server, autojump_clock, code, kind, before):
    async with provider_over(server.saying(*before, error_frame(code))).stream(PROMPT) as events:
        with pytest.raises(kind) as failure:
            assert [await anext(events) for _ in range(2)] == []
    assert type(failure.value) is kind
    assert failure.value.retryable is kind.retryable


async def test_a_wrong_application_or_domain_is_told_by_the_server(server, autojump_clock):
    wrong = Credentials("other", KEY, SECRET)
    assert type(await failure_of(provider_over(server.saying(LAST), credentials=wrong))) is errors.ProviderAuth
    failure = await failure_of(provider_over(server.saying(LAST)), attrs.evolve(PROMPT, model="lite"))
    assert type(failure) is errors.ProviderRejected
    assert "10404" in failure.detail


async def say_and_cut(session):
    await session.say(frame("a"))
    await session.cut()


def closing_with(code: int):
    async def script(session):
        await session.say(frame("a"))
        await session.websocket.aclose(code)

    return script


async def say_no_websocket(session):
    await session.say(frame("a"))
    await session.stream.send_all(b"\xff\xff\xff\xff")


@pytest.mark.parametrize(
    ("script", "how"),
    [
        (say_and_cut, "1006"),
        (closing_with(1000), "1000"),
        (closing_with(1001), "1001"),
        (closing_with(1011), "1011"),
        (closing_with(4000), "4000"),
        (say_no_websocket, "1002"),
    ],
    ids=["cut", "1000", "1001", "1011", "4000", "nonsense"],
)
async def test_a_stream_that_ends_before_its_last_frame_is_truncated(server, autojump_clock, script, how):
    async with provider_over(server.dialer(script)).stream(PROMPT) as events:
        assert list(await anext(events)) == [Delta("a")]
        with pytest.raises(errors.ProviderUnavailable) as failure:
            await anext(events)
    assert failure.value.detail == f"spark: truncated: closed with {how}"


async def test_a_whole_answer_that_breaks_off_is_a_failure_after_what_was_said(server, autojump_clock):
    async with provider_over(server.dialer(say_and_cut)).stream(WHOLE) as events:
        assert list(await anext(events)) == [Delta("a")]
        with pytest.raises(errors.ProviderUnavailable, match="truncated"):
            await anext(events)


async def test_a_server_that_listens_no_more_may_have_said_why(memory_net, autojump_clock):
    """The error frame and the end are there before the question is sent."""

    async def handler(peer):
        head = (await peer.stream.receive_some()).decode()
        said = json.dumps(error_frame(11203)).encode()
        await peer.stream.send_all(accepting(head) + fragment(b"\x81", said) + FAREWELL)

    failure = await failure_of(provider_over(memory_net.dialer(handler)))
    assert type(failure) is errors.ProviderRateLimited


@pytest.mark.parametrize("fragment_bytes", [MAX_FRAME_BYTES, 100_000])
async def test_a_frame_that_is_too_large_is_not_kept(server, autojump_clock, fragment_bytes):
    async def script(session):
        await session.say(frame("a"))
        text = json.dumps(frame("春" * (MAX_FRAME_BYTES // 3 + 1)), ensure_ascii=False).encode()
        pieces = [text[start : start + fragment_bytes] for start in range(0, len(text), fragment_bytes)]
        first = b"\x01"
        for piece in pieces:
            await session.stream.send_all(fragment(first, piece))
            first = b"\x00"

    async with provider_over(server.dialer(script)).stream(PROMPT) as events:
        assert list(await anext(events)) == [Delta("a")]
        with pytest.raises(errors.ResponseTooLarge, match="spark: one frame of more than"):
            await anext(events)


async def test_many_frames_may_be_more_than_one_may_be(server, autojump_clock):
    text = "a" * (MAX_FRAME_BYTES // 3)
    said = await answer(provider_over(server.saying(*[frame(text)] * 5, LAST)))
    assert sum(len(event.text) for event in said if isinstance(event, Delta)) > MAX_FRAME_BYTES


async def test_pings_count_too(server, autojump_clock):
    async def script(session):
        await session.stream.send_all(fragment(b"\x89", b"x" * 125) * (MAX_FRAME_BYTES // 125))

    assert type(await failure_of(provider_over(server.dialer(script)))) is errors.ResponseTooLarge


async def test_a_whole_answer_is_limited(server, autojump_clock):
    text = "a" * (MAX_BODY_BYTES // 2)
    failure = await failure_of(provider_over(server.saying(*[frame(text)] * 3, LAST)), WHOLE)
    assert type(failure) is errors.ResponseTooLarge
