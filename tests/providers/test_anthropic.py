from __future__ import annotations

import orjson
import pytest
import trio

from scm_trio import config, errors
from scm_trio.config_loader import load_config
from scm_trio.model import Delta, Finish, FinishReason, Prompt, ProviderEvent, Turn, Usage
from scm_trio.providers.anthropic import DEFAULT_MAX_TOKENS, LONGEST_WHOLE_TOKENS, Messages, anthropic_provider
from scm_trio.providers.catalogue import build_providers
from scm_trio.providers.connections import Dialer
from scm_trio.providers.http1_transport import Http1Transport
from scm_trio.providers.http_provider import HttpProvider
from scm_trio.providers.upstream import Upstream
from scm_trio.testing import open_server

from . import official
from .expected import SAMPLES, check, cut, expected_of

ASKED = (Turn("system", "Be brief."), Turn("user", "春"))
PROMPT = Prompt("claude-x", ASKED)
WHOLE = Prompt("claude-x", ASKED, stream=False)
COMPLETED = Finish(FinishReason.COMPLETED, "end_turn")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
STREAMS = expected_of("anthropic")


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def say(text: str) -> bytes:
    return chunked(official.text_delta(text))


PING = chunked(official.PING)
REASON = chunked(official.message_delta())
STOP = chunked(official.event("message_stop"))
SPENT = Usage(0, 2)


def sized(body: bytes, content_type: str = "application/json", status: str = "200 OK", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def provider_on(dialer: Dialer, **messages: object) -> HttpProvider:
    upstream = Upstream("claude", "http://claude.example", connect_timeout_s=3, transport=Http1Transport(dialer))
    return HttpProvider(upstream, Messages(**messages), lambda: {"x-api-key": "s3cret"})


@pytest.fixture
def provider_of(memory_net):
    """Makes a provider whose server answers each request with the next of ``answers``, and then closes."""

    def make(*answers: bytes | tuple[bytes, ...], seen: list[bytes] | None = None) -> HttpProvider:
        waiting = list(answers)

        async def handler(peer):
            while waiting and (request := await peer.request()):
                if seen is not None:
                    seen.append(request)
                answer = waiting.pop(0)
                await peer.send(*([answer] if isinstance(answer, bytes) else answer))

        return provider_on(memory_net.dialer(handler))

    return make


async def answer(provider: HttpProvider, prompt: Prompt = PROMPT) -> list[ProviderEvent]:
    async with provider.stream(prompt) as events:
        return [event async for batch in events for event in batch]


async def answer_or_failure(provider: HttpProvider, prompt: Prompt = PROMPT):
    """All events, and the failure that came after them."""
    events: list[ProviderEvent] = []
    try:
        async with provider.stream(prompt) as batches:
            async for batch in batches:
                events += batch
    except errors.RequestFailed as exc:
        return events, exc
    return events, None


# Requests


def asked(prompt: Prompt, **messages: object) -> dict:
    return orjson.loads(Messages(**messages).body(prompt))


def test_a_request_has_its_system_prompt_apart_and_always_a_limit():
    assert asked(PROMPT) == {
        "model": "claude-x",
        "max_tokens": DEFAULT_MAX_TOKENS,
        "system": "Be brief.",
        "messages": [{"role": "user", "content": "春"}],
        "stream": True,
    }


@pytest.mark.parametrize(
    ("turns", "system", "messages"),
    [
        ([("user", "a")], None, [("user", "a")]),
        ([("system", " "), ("user", "a")], None, [("user", "a")]),
        ([("system", "x"), ("user", "a"), ("system", "y")], "x\n\ny", [("user", "a")]),
        ([("user", "a"), ("user", "b")], None, [("user", "a\n\nb")]),
        ([("user", "a"), ("assistant", "\n"), ("user", "b")], None, [("user", "a\n\nb")]),
        ([("user", "a"), ("system", "x"), ("user", "b")], "x", [("user", "a\n\nb")]),
        ([("assistant", "hello"), ("user", "a")], None, [("user", "a")]),
        ([("user", ""), ("assistant", "b"), ("assistant", "c"), ("user", "d")], None, [("user", "d")]),
        (
            [("user", "a"), ("assistant", "b"), ("assistant", "c"), ("user", "d")],
            None,
            [("user", "a"), ("assistant", "b\n\nc"), ("user", "d")],
        ),
    ],
)
def test_roles_take_turns_the_user_begins_and_no_text_is_empty(turns, system, messages):
    body = asked(Prompt("m", tuple(Turn(role, content) for role, content in turns)))
    assert body.get("system") == system
    assert [(message["role"], message["content"]) for message in body["messages"]] == messages


@pytest.mark.parametrize(
    ("api_version", "sent"), [("2023-06-01", 0.0), ("2026-10-20", 0.0), ("2026-10-21", None), ("2027-01-01", None)]
)
def test_temperature_is_sent_only_to_a_version_that_knows_it(api_version, sent):
    dialect = Messages(api_version)
    assert dialect.headers == {"anthropic-version": api_version}
    assert orjson.loads(dialect.body(Prompt("m", ASKED, temperature=0.0))).get("temperature") == sent
    assert "temperature" not in orjson.loads(dialect.body(PROMPT))


@pytest.mark.parametrize(
    ("limit", "context_tokens", "sent"),
    [
        (None, None, DEFAULT_MAX_TOKENS),
        (None, 200_000, DEFAULT_MAX_TOKENS),
        (None, 4096, 1024),
        (50, 4096, 50),
        (64_000, 4096, 64_000),
    ],
)
def test_the_limit_is_the_prompts_or_fits_the_context(limit, context_tokens, sent):
    assert asked(Prompt("m", ASKED, max_tokens=limit), context_tokens=context_tokens)["max_tokens"] == sent


@pytest.mark.parametrize(("limit", "streamed"), [(None, False), (LONGEST_WHOLE_TOKENS, False), (21_334, True)])
def test_one_body_is_asked_for_only_where_it_cannot_take_too_long(limit, streamed):
    assert asked(Prompt("m", ASKED, stream=False, max_tokens=limit))["stream"] is streamed


# Over HTTP


@pytest.mark.parametrize("size", [1_000_000, 7, 1])
@pytest.mark.parametrize("name", [name for name in STREAMS if name.endswith(".sse")])
async def test_every_sample_stream_comes_through_wherever_it_is_cut(provider_of, name, size):
    reads = [chunked(piece) for piece in cut((SAMPLES / name).read_bytes(), size)]
    events, failure = await answer_or_failure(provider_of((HEAD, *reads, END)))
    check(events, failure, STREAMS[name])


@pytest.mark.parametrize("prompt", [PROMPT, WHOLE])
async def test_one_body_is_one_batch_even_where_a_stream_was_asked_for(provider_of, prompt):
    name = "anthropic_nonstream.json"
    provider = provider_of(sized((SAMPLES / name).read_bytes()))
    async with provider.stream(prompt) as events:
        batches = [list(batch) async for batch in events]
    assert len(batches) == 1
    check(batches[0], None, STREAMS[name])


async def test_a_long_answer_is_streamed_though_one_body_was_asked_for(provider_of):
    seen = []
    provider = provider_of(HEAD + say("a") + REASON + STOP + END, seen=seen)
    prompt = Prompt("m", ASKED, stream=False, max_tokens=50_000)
    assert await answer(provider, prompt) == [Delta("a"), SPENT, COMPLETED]
    assert b'"stream":true' in seen[0]


async def test_a_request_identifies_itself_in_one_way_only(provider_of):
    seen = []
    await answer(provider_of(HEAD + say("a") + STOP + END, seen=seen))
    head = seen[0].partition(b"\r\n\r\n")[0].lower().split(b"\r\n")
    assert head[0] == b"post /v1/messages http/1.1"
    assert {b"x-api-key: s3cret", b"anthropic-version: 2023-06-01", b"content-type: application/json"} <= set(head)
    assert not [line for line in head if line.startswith(b"authorization")]


async def test_the_events_of_one_read_are_one_batch_and_pings_are_none(provider_of, memory_net):
    provider = provider_of((HEAD + say("a") + say("b"), PING, say("c"), REASON + STOP, END), HEAD + say("d") + STOP)
    async with provider.stream(PROMPT) as events:
        assert [list(batch) async for batch in events] == [
            [Delta("a"), Delta("b")],
            [Delta("c")],
            [SPENT, COMPLETED],
        ]
    assert (await answer(provider))[0] == Delta("d")
    assert len(memory_net.opened) == 1


async def test_the_finish_does_not_wait_for_the_end_of_the_connection(memory_net, autojump_clock):
    async def handler(peer):
        await peer.request()
        await peer.send(HEAD + say("a") + STOP)
        await trio.sleep_forever()

    async with provider_on(memory_net.dialer(handler)).stream(PROMPT) as events:
        assert (await anext(events))[-1].reason is FinishReason.COMPLETED
        assert trio.current_time() == 0


@pytest.mark.parametrize("rest", [b"", END, REASON, REASON + END], ids=["cut", "ended", "cut late", "ended late"])
async def test_a_stream_without_its_end_mark_is_a_failure_after_what_was_said(provider_of, rest):
    events, failure = await answer_or_failure(provider_of(HEAD + say("a") + rest))
    assert events[0] == Delta("a")
    assert not [event for event in events if isinstance(event, Finish)]
    assert type(failure) is errors.ProviderUnavailable


async def test_a_connection_that_breaks_tells_how(provider_of):
    _, failure = await answer_or_failure(provider_of(HEAD + say("a")))
    assert "RemoteProtocolError" in failure.detail


async def test_a_stream_that_says_nothing_at_all_is_a_failure(provider_of):
    events, failure = await answer_or_failure(provider_of(HEAD + END))
    assert events == []
    assert "truncated" in failure.detail


async def test_a_cancel_closes_the_connection_at_once(memory_net, autojump_clock):
    closed_at = []

    async def handler(peer):
        await peer.request()
        await peer.send(HEAD + say("a"))
        assert await peer.stream.receive_some() == b""
        closed_at.append(trio.current_time())

    provider = provider_on(memory_net.dialer(handler))
    with trio.move_on_after(5) as scope:
        async with provider.stream(PROMPT) as events:
            assert list(await anext(events)) == [Delta("a")]
            await anext(events)
    assert scope.cancelled_caught
    await trio.testing.wait_all_tasks_blocked()
    assert closed_at == [5]


async def test_a_cancelled_answer_costs_the_prompt_that_was_counted_and_an_estimate_of_the_rest(
    memory_net, autojump_clock
):
    async def handler(peer):
        await peer.request()
        await peer.send(HEAD + chunked(official.message_start(prompt=500)), say("four and twenty"))
        await trio.sleep_forever()

    settings = config.Provider("anthropic", base_url="http://claude.example", api_key="k", models=("claude-x",))
    provider = anthropic_provider("claude", settings, connect_timeout_s=3, dialer=memory_net.dialer(handler))
    async with open_server({"claude": provider}) as server, server.peer() as peer:
        await peer.send("CHAT_REQUEST", {"message": "hello"}, request_id="r1")
        await peer.until("CHAT_STREAM_DATA")
        await peer.send("CHAT_CANCEL", {"requestId": "r1"})
        end = (await peer.until("CHAT_STREAM_END"))[-1]["data"]
    assert end["finishReason"] == "cancelled"
    assert end["usage"] == {"promptTokens": 500, "completionTokens": 4, "reasoningTokens": 0, "source": "estimated"}


async def test_a_cancel_before_the_first_byte_closes_the_connection_too(memory_net, autojump_clock):
    closed = trio.Event()

    async def handler(peer):
        await peer.request()
        assert await peer.stream.receive_some() == b""
        closed.set()

    with trio.move_on_after(5):
        await answer(provider_on(memory_net.dialer(handler)))
    await closed.wait()
    assert trio.current_time() == 5


async def test_no_connection_in_time_is_a_timeout(autojump_clock):
    async def open_stream(host, port):
        await trio.sleep_forever()

    with pytest.raises(errors.TimedOut) as failure:
        await answer(provider_on(Dialer(open_stream=open_stream)))
    assert failure.value.field == "connect"
    assert trio.current_time() == 3


async def test_a_refusal_is_raised_on_entering_and_costs_no_connection(provider_of, memory_net):
    body = orjson.dumps(official.anthropic_error("rate_limit_error", "key s3cret is too fast"))
    refusal = sized(body, status="429 Too Many Requests", more="Retry-After: 13\r\n")
    provider = provider_of(refusal, HEAD + say("a") + REASON + STOP + END)
    with pytest.raises(errors.ProviderRateLimited) as failure:
        async with provider.stream(PROMPT):
            pytest.fail("there is nothing to read")
    assert failure.value.retry_after_s == 13
    assert "s3cret" not in failure.value.detail
    assert await answer(provider) == [Delta("a"), SPENT, COMPLETED]
    assert len(memory_net.opened) == 1


@pytest.mark.parametrize("prompt", [PROMPT, WHOLE])
async def test_an_error_that_calls_itself_a_success_is_a_failure(provider_of, prompt):
    body = orjson.dumps(official.anthropic_error("overloaded_error", "Overloaded"))
    assert type((await answer_or_failure(provider_of(sized(body)), prompt))[1]) is errors.ProviderUnavailable


async def test_a_web_page_is_no_answer(provider_of):
    page = sized(b"<html>captive portal</html>", "text/html")
    with pytest.raises(errors.ProviderRejected, match="web page"):
        await answer(provider_of(page))


# From a configuration


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_a_configured_provider_asks_its_server(listen, suffix):
    seen = []

    async def handler(peer):
        seen.append(await peer.request())
        await peer.respond((SAMPLES / "anthropic_messages.sse").read_bytes())

    settings = config.Provider(
        kind="anthropic",
        base_url=f"http://127.0.0.1:{await listen(handler)}{suffix}",
        api_keys=(" k1\n", "k2"),
        models=("one", "two"),
        context_tokens=4096,
        api_version="2026-10-21",
    )
    provider = anthropic_provider("claude", settings, connect_timeout_s=5)
    assert (provider.name, provider.models, provider.context_tokens) == ("claude", ("one", "two"), 4096)
    events = await answer(provider, Prompt("one", ASKED, temperature=1.0))
    await provider.aclose()
    assert events[-1] == COMPLETED
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/messages HTTP/1.1\r\n")
    assert b"x-api-key: k1\r\n" in head
    assert b"anthropic-version: 2026-10-21" in head
    assert orjson.loads(body)["max_tokens"] == 1024
    assert b"temperature" not in body


async def test_no_key_is_sent_where_there_is_none(listen):
    seen = []

    async def handler(peer):
        seen.append(await peer.request())
        await peer.respond((SAMPLES / "anthropic_nonstream.json").read_bytes(), "application/json")

    settings = config.Provider(kind="anthropic", base_url=f"http://127.0.0.1:{await listen(handler)}")
    provider = anthropic_provider("claude", settings, connect_timeout_s=5)
    assert (await answer(provider, WHOLE))[-1] == COMPLETED
    await provider.aclose()
    assert b"x-api-key" not in seen[0].lower()
    assert b"anthropic-version: 2023-06-01" in seen[0]


def test_a_configuration_that_cannot_be_used_is_refused():
    with pytest.raises(errors.ConfigError, match=r"claude.*base-url"):
        anthropic_provider("claude", config.Provider(kind="anthropic", base_url="nowhere"), connect_timeout_s=5)


def test_a_key_in_the_environment_is_enough():
    ai = load_config(None, {"ANTHROPIC_API_KEY": "k"}).ai
    provider = build_providers(ai, connect_timeout_s=5)["anthropic"]
    assert (provider.name, provider.models, provider.context_tokens) == ("anthropic", (), None)
