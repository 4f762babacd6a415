from __future__ import annotations

from pathlib import Path

import orjson
import pytest
import trio

from scm_trio import config, errors
from scm_trio.model import Delta, Finish, FinishReason, Prompt, ProviderEvent, Turn, Usage
from scm_trio.providers.connections import Dialer
from scm_trio.providers.http1_transport import Http1Transport
from scm_trio.providers.http_provider import TAIL_TIMEOUT_S
from scm_trio.providers.openai import Dialect, OpenAi, bearer, openai_provider
from scm_trio.providers.sse import MAX_EVENT_BYTES
from scm_trio.providers.upstream import Upstream

from . import official

PROMPT = Prompt("m", (Turn("system", "Be brief."), Turn("user", "春")))
WHOLE = Prompt("m", (Turn("user", "hello"),), stream=False)
COMPLETED = Finish(FinishReason.COMPLETED, "stop")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def say(text: str) -> bytes:
    return chunked(official.chunk({"content": text}))


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


STOP = chunked(official.chunk(finish_reason="stop"))
DONE = chunked(official.DONE)


async def answer(provider: OpenAi, prompt: Prompt = PROMPT) -> list[ProviderEvent]:
    async with provider.stream(prompt) as events:
        return [event async for batch in events for event in batch]


@pytest.fixture
def provider_of(memory_net):
    """Makes a provider whose server answers each request with the next of ``answers``, and then closes."""

    def make(*answers: bytes | tuple[bytes, ...], **dialect) -> OpenAi:
        waiting = list(answers)

        async def handler(peer):
            while waiting and await peer.request():
                answer = waiting.pop(0)
                await peer.send(*([answer] if isinstance(answer, bytes) else answer))

        upstream = Upstream("acme", "http://acme.example/v1", transport=Http1Transport(memory_net.dialer(handler)))
        return OpenAi(upstream, Dialect(**dialect), lambda: {"Authorization": "Bearer s3cret"})

    return make


def sized(body: bytes, content_type: str, status: str = "200 OK", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


# Requests


def test_a_request_says_only_what_is_known():
    assert orjson.loads(Dialect().body(PROMPT)) == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "春"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_dialect_names_the_limit_and_may_leave_usage_out():
    dialect = Dialect(token_limit_field="max_completion_tokens", include_usage=False, whole_body_extras={"x": 1})
    body = orjson.loads(dialect.body(Prompt("m", (), temperature=0.0, max_tokens=5)))
    assert body == {"model": "m", "messages": [], "stream": True, "temperature": 0.0, "max_completion_tokens": 5}


def test_a_request_for_one_body_has_its_own_extras():
    body = orjson.loads(Dialect(whole_body_extras={"enable_thinking": False}).body(WHOLE))
    assert body["stream"] is False
    assert body["enable_thinking"] is False
    assert "stream_options" not in body


@pytest.mark.parametrize(("keys", "headers"), [((), {}), ((" k1\n", "k2"), {"Authorization": "Bearer k1"})])
def test_the_first_key_is_used(keys, headers):
    assert bearer(keys) == headers


# Streams


async def test_the_events_of_one_read_are_one_batch(provider_of):
    provider = provider_of((HEAD + say("a") + say("b"), say("c"), STOP + DONE + END))
    async with provider.stream(PROMPT) as events:
        assert [list(batch) async for batch in events] == [[Delta("a"), Delta("b")], [Delta("c")], [COMPLETED]]


async def test_reads_without_events_are_no_batches(provider_of):
    provider = provider_of((HEAD, chunked(b": keep-alive\n\n"), say("a"), chunked(b": ping\n\n"), STOP, DONE + END))
    async with provider.stream(PROMPT) as events:
        assert [list(batch) async for batch in events] == [[Delta("a")], [COMPLETED]]


async def test_the_connection_is_used_again_after_a_stream(provider_of, memory_net):
    provider = provider_of((HEAD + say("a"), STOP + DONE, END), HEAD + say("b") + STOP + DONE + END)
    assert await answer(provider) == [Delta("a"), COMPLETED]
    assert await answer(provider) == [Delta("b"), COMPLETED]
    assert len(memory_net.opened) == 1


async def test_the_finish_does_not_wait_for_the_end_of_the_connection(memory_net, autojump_clock):
    async def handler(peer):
        await peer.request()
        await peer.send(HEAD + say("a") + STOP + DONE)
        await trio.sleep_forever()

    upstream = Upstream("acme", "http://acme.example", transport=Http1Transport(memory_net.dialer(handler)))
    provider = OpenAi(upstream, Dialect(), dict)
    async with provider.stream(PROMPT) as events:
        assert list(await anext(events)) == [Delta("a"), COMPLETED]
        assert trio.current_time() == 0
        with pytest.raises(StopAsyncIteration):
            await anext(events)
    assert trio.current_time() == pytest.approx(0.2)


@pytest.mark.parametrize("rest", [b"", chunked(b": keep-alive\n\n")], ids=["silent", "keep-alives"])
async def test_a_server_that_sends_no_end_mark_and_does_not_close_is_not_waited_for_long(
    memory_net, autojump_clock, rest
):
    async def handler(peer):
        await peer.request()
        await peer.send(HEAD + say("a") + STOP)
        while True:
            await trio.sleep(2)
            await peer.send(rest)

    upstream = Upstream("acme", "http://acme.example", transport=Http1Transport(memory_net.dialer(handler)))
    assert await answer(OpenAi(upstream, Dialect(), dict)) == [Delta("a"), COMPLETED]
    assert trio.current_time() == pytest.approx(TAIL_TIMEOUT_S, abs=0.3)


async def test_usage_that_comes_late_is_waited_for(memory_net, autojump_clock):
    async def handler(peer):
        await peer.request()
        await peer.send(HEAD + say("a") + STOP)
        await trio.sleep(TAIL_TIMEOUT_S - 1)
        await peer.send(chunked(official.usage_chunk(3, 2)) + DONE)

    upstream = Upstream("acme", "http://acme.example", transport=Http1Transport(memory_net.dialer(handler)))
    assert await answer(OpenAi(upstream, Dialect(), dict)) == [Delta("a"), Usage(3, 2), COMPLETED]


async def test_a_stream_that_is_cut_is_a_failure_after_what_was_said(provider_of):
    provider = provider_of(HEAD + say("a"))
    async with provider.stream(PROMPT) as events:
        assert list(await anext(events)) == [Delta("a")]
        with pytest.raises(errors.ProviderUnavailable, match="RemoteProtocolError"):
            await anext(events)


async def test_a_stream_that_ends_politely_without_its_end_is_a_failure(provider_of):
    provider = provider_of(HEAD + say("a") + END)
    async with provider.stream(PROMPT) as events:
        assert list(await anext(events)) == [Delta("a")]
        with pytest.raises(errors.ProviderUnavailable, match="truncated"):
            await anext(events)


async def test_an_answer_with_its_finish_reason_is_whole_even_if_the_connection_breaks(provider_of):
    assert await answer(provider_of(HEAD + say("a") + STOP)) == [Delta("a"), COMPLETED]


async def test_a_dangling_done_is_accepted(provider_of):
    provider = provider_of(HEAD + say("a") + chunked(b"data: [DONE]") + END)
    assert await answer(provider) == [Delta("a"), Finish(FinishReason.COMPLETED)]


async def test_an_error_in_the_stream_comes_after_what_was_said(provider_of):
    error = chunked(official.sse(official.openai_error("boom")))
    provider = provider_of(HEAD + say("a") + error + DONE + END)
    async with provider.stream(PROMPT) as events:
        assert list(await anext(events)) == [Delta("a")]
        with pytest.raises(errors.ProviderUnavailable, match="boom"):
            await anext(events)


async def test_an_event_that_is_too_large_is_a_failure(provider_of):
    flood = chunked(b"data: " + b"x" * (MAX_EVENT_BYTES + 1))
    with pytest.raises(errors.ResponseTooLarge):
        await answer(provider_of(HEAD + flood))


async def test_leaving_early_closes_the_connection(provider_of, memory_net):
    provider = provider_of(HEAD + say("a") + say("b"))
    async with provider.stream(PROMPT) as events:
        await anext(events)
    with pytest.raises(trio.ClosedResourceError):
        await memory_net.client_ends[0].send_all(b"x")


# Whole bodies

BODY = b"\n\n " + official.completion("hi", usage=official.openai_usage(2, 1))


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "text/plain"])
async def test_one_body_is_one_batch(provider_of, content_type):
    provider = provider_of(sized(BODY, content_type))
    async with provider.stream(WHOLE) as events:
        assert [list(batch) async for batch in events] == [[Delta("hi"), Usage(2, 1), COMPLETED]]


async def test_a_stream_may_be_answered_in_one_body(provider_of):
    assert await answer(provider_of(sized(BODY, "application/json"))) == [Delta("hi"), Usage(2, 1), COMPLETED]


async def test_one_body_may_be_answered_as_a_stream(provider_of):
    assert await answer(provider_of(HEAD + say("a") + STOP + DONE + END), WHOLE) == [Delta("a"), COMPLETED]


async def test_one_body_may_be_an_error(provider_of):
    body = orjson.dumps(official.openai_error("no", "invalid_request_error"))
    provider = provider_of(sized(body, "application/json"))
    with pytest.raises(errors.ProviderRejected):
        await answer(provider)


@pytest.mark.parametrize("prompt", [PROMPT, WHOLE])
async def test_a_web_page_is_no_answer(provider_of, prompt):
    provider = provider_of(sized(b"<html>captive portal</html>", "text/html; charset=utf-8"))
    with pytest.raises(errors.ProviderRejected, match="web page"):
        await answer(provider, prompt)


async def test_a_refusal_is_raised_on_entering(provider_of, memory_net):
    body = orjson.dumps(official.openai_error("key s3cret is too fast", "requests", "rate_limit_exceeded"))
    refusal = sized(body, "application/json", "429 Too Many Requests", "Retry-After-Ms: 1500\r\n")
    provider = provider_of(refusal, HEAD + say("a") + STOP + DONE + END)
    with pytest.raises(errors.ProviderRateLimited) as failure:
        async with provider.stream(PROMPT):
            pytest.fail("there is nothing to read")
    assert failure.value.retry_after_s == 1.5
    assert "s3cret" not in failure.value.detail
    assert await answer(provider) == [Delta("a"), COMPLETED]
    assert len(memory_net.opened) == 1


# From a configuration


async def test_a_configured_provider_asks_its_server(listen):
    seen = []

    async def handler(peer):
        seen.append(await peer.request())
        await peer.respond((Path(__file__).parent / "samples" / "deepseek.sse").read_bytes())

    settings = config.Provider(
        kind="openai",
        base_url=f"http://127.0.0.1:{await listen(handler)}/v1/",
        api_keys=("k1", "k2"),
        models=("one", "two"),
        preset="deepseek",
        context_tokens=4096,
    )
    provider = openai_provider("deep", settings, connect_timeout_s=5)
    assert (provider.name, provider.models, provider.context_tokens) == ("deep", ("one", "two"), 4096)
    events = await answer(provider, Prompt("one", (Turn("user", "hello"),), max_tokens=9))
    await provider.aclose()
    assert events[-1] == COMPLETED
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert b"Authorization: Bearer k1" in head
    assert orjson.loads(body)["max_tokens"] == 9


async def test_no_key_is_sent_where_there_is_none(listen):
    seen = []

    async def handler(peer):
        seen.append(await peer.request())
        await peer.respond(BODY, "application/json")

    settings = config.Provider(
        kind="openai",
        base_url=f"http://127.0.0.1:{await listen(handler)}",
        token_limit_field="max_output",
        include_usage=False,
    )
    provider = openai_provider("local", settings, connect_timeout_s=5)
    await answer(provider, Prompt("m", (), max_tokens=3))
    await provider.aclose()
    assert b"authorization" not in seen[0].lower()
    assert orjson.loads(seen[0].partition(b"\r\n\r\n")[2]) == {
        "model": "m",
        "messages": [],
        "stream": True,
        "max_output": 3,
    }


def test_a_configuration_that_cannot_be_used_is_refused():
    with pytest.raises(errors.ConfigError, match="acme"):
        openai_provider("acme", config.Provider(kind="openai", base_url="nowhere"), connect_timeout_s=5)


async def test_no_connection_in_time_is_a_timeout(autojump_clock):
    async def open_stream(host, port):
        await trio.sleep_forever()

    transport = Http1Transport(Dialer(open_stream=open_stream))
    upstream = Upstream("acme", "http://acme.example", connect_timeout_s=3, transport=transport)
    with pytest.raises(errors.TimedOut) as failure:
        await answer(OpenAi(upstream, Dialect(), dict))
    assert failure.value.field == "connect"
