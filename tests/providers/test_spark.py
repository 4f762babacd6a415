from __future__ import annotations

import attrs
import orjson
import pytest
import trio
import trio.testing

from scm_trio import config, errors
from scm_trio.config_loader import load_config
from scm_trio.model import Delta, Finish, FinishReason, Prompt, ProviderEvent, Turn
from scm_trio.providers.catalogue import build_providers
from scm_trio.providers.connections import Dialer
from scm_trio.providers.http1_transport import Http1Transport
from scm_trio.providers.http_provider import HttpProvider, Offer
from scm_trio.providers.spark import spark_provider
from scm_trio.providers.spark_models import HTTP_URL
from scm_trio.providers.spark_signing import Credentials, Endpoint
from scm_trio.providers.spark_websocket import SparkWebSocket
from scm_trio.providers.upstream import Upstream

from .conftest import answering
from .expected import SAMPLES, check, check_refusal, cut, http_errors
from .spark_server import HTTP_SAMPLES

PROMPT = Prompt("4.0Ultra", (Turn("system", "Be brief."), Turn("user", "春")), temperature=0.5, max_tokens=9)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
SIGNED = {"transport": "websocket", "app_id": "app12345", "api_key": " k3y ", "api_secret": "s3cret"}


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunk(**members: object) -> bytes:
    return chunked(b"data:%b\n\n" % orjson.dumps({"code": 0, "message": "Success", "sid": "cha01", **members}))


def say(text: str) -> bytes:
    return chunk(choices=[{"delta": {"role": "assistant", "content": text}, "index": 0}])


DONE = chunked(b"data:[DONE]\n\n")
COMPLETED = Finish(FinishReason.COMPLETED, None)


def sized(body: bytes, status: int = 200, content_type: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status} Whatever\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def configured(*, dialer: Dialer | None = None, **settings: object) -> HttpProvider | SparkWebSocket:
    return spark_provider("spark", config.Provider(kind="spark", **settings), connect_timeout_s=3, dialer=dialer)


def over(dialer: Dialer, **settings: object) -> HttpProvider:
    """The configured provider, its server behind ``dialer``."""
    built = configured(**{"api_key": "s3cret", **settings})
    base_url = built._upstream._base_url.replace("https:", "http:")
    upstream = Upstream("spark", base_url, connect_timeout_s=3, transport=Http1Transport(dialer))
    return HttpProvider(upstream, built._dialect, built._authorize, Offer(built.models))


@pytest.fixture
def provider_of(memory_net):
    """Makes a provider with an ``answering`` server."""

    def make(*answers: bytes | tuple[bytes, ...], seen: list[bytes] | None = None, **settings) -> HttpProvider:
        return over(memory_net.dialer(answering(*answers, seen=seen)), **settings)

    return make


async def answer(provider: HttpProvider, prompt: Prompt = PROMPT) -> list[ProviderEvent]:
    async with provider.stream(prompt) as events:
        return [event async for batch in events for event in batch]


async def asked(provider_of, prompt: Prompt = PROMPT, **settings) -> tuple[str, dict[str, str], dict]:
    """URL, headers (names in lower case) and body of the request that the provider sends."""
    seen = []
    await answer(provider_of(HEAD + say("a") + DONE + END, seen=seen, **settings), prompt)
    head, _, body = seen[0].partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return headers["host"] + first.split(" ")[1], headers, orjson.loads(body)


# Over HTTP: requests


@pytest.mark.parametrize(
    ("settings", "model", "url", "sent"),
    [
        ({}, "4.0Ultra", "spark-api-open.xf-yun.com/v1/chat/completions", "4.0Ultra"),
        ({}, "lite", "spark-api-open.xf-yun.com/v1/chat/completions", "lite"),
        ({}, "x1", "spark-api-open.xf-yun.com/v2/chat/completions", "x1"),
        ({"domain": "spark-x"}, "any", "spark-api-open.xf-yun.com/v2/chat/completions", "spark-x"),
        ({"base_url": "https://spark.example/x2/"}, "spark-x", "spark.example/x2/chat/completions", "spark-x"),
    ],
)
async def test_every_model_is_asked_where_it_is(provider_of, settings, model, url, sent):
    asked_at, _, body = await asked(provider_of, attrs.evolve(PROMPT, model=model), **settings)
    assert (asked_at, body["model"]) == (url, sent)


async def test_a_request_says_what_it_must_and_nothing_else(provider_of):
    _, headers, body = await asked(provider_of, attrs.evolve(PROMPT, model="lite"))
    assert headers["authorization"] == "Bearer s3cret"
    assert body == {
        "model": "lite",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "春"}],
        "stream": True,
        "temperature": 0.5,
        "max_tokens": 9,
    }


async def test_what_a_prompt_leaves_open_is_left_out(provider_of):
    _, _, body = await asked(provider_of, Prompt("lite", (Turn("user", "hi"),), stream=False))
    assert set(body) == {"model", "messages", "stream"}
    assert body["stream"] is False


async def test_a_model_that_would_search_the_web_is_told_not_to(provider_of):
    _, _, body = await asked(provider_of)
    assert body["tools"] == [{"type": "web_search", "web_search": {"enable": False}}]


async def test_the_newest_models_have_a_fixed_temperature_and_another_limit(provider_of):
    _, _, body = await asked(provider_of, attrs.evolve(PROMPT, model="spark-x2.5-4b"))
    assert body["max_completion_tokens"] == 9
    assert not {"temperature", "max_tokens"} & set(body)


@pytest.mark.parametrize(
    ("settings", "authorization"),
    [
        ({"api_key": " pass\n"}, "Bearer pass"),
        ({"api_key": None, "api_keys": ("a", "b")}, "Bearer a"),
        ({"api_key": None, "api_keys": ("a ", "b"), "api_secret": "s"}, "Bearer a:s"),
        ({"api_key": "key", "api_secret": "secret "}, "Bearer key:secret"),
        ({"api_key": None}, None),
        ({"api_key": None, "api_secret": "secret"}, None),
    ],
)
async def test_the_password_identifies_or_key_and_secret(provider_of, settings, authorization):
    _, headers, _ = await asked(provider_of, **settings)
    assert headers.get("authorization") == authorization


# Over HTTP: answers


@pytest.mark.parametrize("size", [1_000_000, 7, 1])
async def test_the_sample_stream_comes_through_wherever_it_is_cut(provider_of, size):
    name = "spark_http.sse"
    reads = [chunked(piece) for piece in cut((SAMPLES / name).read_bytes(), size)]
    check(await answer(provider_of((HEAD, *reads, END))), None, HTTP_SAMPLES[name])


@pytest.mark.parametrize("stream", [True, False])
async def test_the_sample_body_comes_through(provider_of, stream):
    name = "spark_http_nonstream.json"
    provider = provider_of(sized((SAMPLES / name).read_bytes()))
    check(await answer(provider, attrs.evolve(PROMPT, stream=stream)), None, HTTP_SAMPLES[name])


@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_may_come_with_status_200(provider_of, stream):
    name = "spark_http_nonstream_error.json"
    provider = provider_of(sized((SAMPLES / name).read_bytes()))
    with pytest.raises(errors.RequestFailed) as failure:
        await answer(provider, attrs.evolve(PROMPT, stream=stream))
    check([], failure.value, HTTP_SAMPLES[name])


@pytest.mark.parametrize("choices", [{}, {"choices": []}], ids=["bare", "no choices"])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (10014, errors.ContentFiltered),
        (10907, errors.ContextTooLong),
        (11201, errors.ProviderAuth),
        (19999, errors.ProviderRejected),
    ],
)
async def test_an_error_may_come_in_the_stream(provider_of, code, kind, choices):
    provider = provider_of(HEAD + say("a") + chunk(code=code, message="?", **choices) + DONE + END)
    async with provider.stream(PROMPT) as events:
        with pytest.raises(kind) as failure:
            assert [list(await anext(events)) for _ in range(2)] == []
    assert type(failure.value) is kind


async def test_a_call_is_an_object_where_others_have_a_list(provider_of):
    call = {"type": "function", "id": "c1", "function": {"name": "f", "arguments": "{}"}}
    provider = provider_of(HEAD + chunk(choices=[{"delta": {"tool_calls": call}, "index": 0}]) + DONE + END)
    assert (await answer(provider))[-1] == Finish(FinishReason.TOOL_CALLS, None)


async def test_an_answer_that_has_reached_its_limit_was_cut_there(provider_of):
    usage = chunk(choices=[], usage={"prompt_tokens": 1, "completion_tokens": 9})
    assert (await answer(provider_of(HEAD + say("a") + usage + DONE + END)))[-1] == Finish(FinishReason.LENGTH, None)


@pytest.mark.parametrize("rest", [b"", END], ids=["cut", "ended"])
async def test_a_stream_that_breaks_off_is_a_failure_after_what_was_said(provider_of, rest):
    async with provider_of(HEAD + say("a") + rest).stream(PROMPT) as events:
        assert list(await anext(events)) == [Delta("a")]
        with pytest.raises(errors.ProviderUnavailable):
            await anext(events)


@pytest.mark.parametrize("case", http_errors("spark_http"), ids=lambda case: case["name"])
async def test_a_refusal_becomes_the_right_failure(provider_of, case):
    body = case["body_text"].encode()
    content_type = case["headers"].get("content-type", "application/json")
    more = b"".join(
        f"{name}: {value}\r\n".encode() for name, value in case["headers"].items() if name != "content-type"
    )
    head, _, rest = sized(body, case["status"], content_type).partition(b"\r\n")
    with pytest.raises(errors.RequestFailed) as failure:
        await answer(provider_of(head + b"\r\n" + more + rest))
    check_refusal(failure.value, case["expected"])


async def test_no_credentials_show_in_a_failure(provider_of):
    body = b'{"error":{"message":"bad k3y and t0psecret"}}'
    provider = provider_of(sized(body, 401), api_key="k3y", api_secret="t0psecret")
    with pytest.raises(errors.ProviderAuth) as failure:
        await answer(provider)
    assert failure.value.detail == "spark: status 401 bad *** and ***"


async def test_a_cancel_closes_the_connection_at_once(memory_net, autojump_clock):
    closed_at = []

    async def handler(peer):
        await peer.request()
        await peer.send(HEAD + say("a"))
        assert await peer.stream.receive_some() == b""
        closed_at.append(trio.current_time())

    with trio.move_on_after(5):
        await answer(over(memory_net.dialer(handler)))
    await trio.testing.wait_all_tasks_blocked()
    assert closed_at == [5]


# Configuration


def test_a_key_in_the_environment_is_enough():
    ai = load_config(None, {"SPARK_API_KEY": "k"}).ai
    provider = build_providers(ai, connect_timeout_s=5)["spark"]
    assert isinstance(provider, HttpProvider)
    assert (provider.name, provider.models, provider.context_tokens) == ("spark", (), None)
    assert provider._upstream._base_url == HTTP_URL


def test_an_address_and_the_context_count_over_websocket_too():
    built = configured(**SIGNED, base_url="wss://maas.example/v1.1/chat", domain="tuned", context_tokens=8192)
    assert built._application.endpoint == Endpoint.parse("wss://maas.example/v1.1/chat")
    assert (built.models, built.context_tokens) == (("tuned",), 8192)


@pytest.mark.parametrize(
    ("settings", "models"),
    [
        ({"domain": "x1"}, ("x1",)),
        ({"models": ("spark",), "domain": "x1"}, ("spark",)),
        ({"models": ("lite", "x1")}, ("lite", "x1")),
        ({}, ()),
    ],
)
@pytest.mark.parametrize("form", [{"api_key": "k"}, SIGNED], ids=["http", "websocket"])
def test_the_domain_is_the_model_on_offer_unless_there_are_others(form, settings, models):
    assert configured(**form, **settings).models == models


def test_credentials_are_taken_without_the_blanks_around_them():
    built = configured(**SIGNED)
    assert built._application.credentials == Credentials("app12345", "k3y", "s3cret")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"app_id": None, "api_key": None, "api_secret": ""}, "app-id, api-key, api-secret"),
        ({"api_key": " "}, "needs api-key"),
        ({"api_key": None, "api_keys": ("a", "b")}, "one api-key"),
        ({"base_url": "https://spark.example"}, "ws:// or wss://"),
        ({"domain": "a-tuned-one"}, "'a-tuned-one'; give it a base-url"),
        ({"models": ("x1", "a-tuned-one")}, "'a-tuned-one'; give it a base-url"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(settings, problem):
    with pytest.raises(errors.ConfigError, match="provider spark: ") as refused:
        configured(**{**SIGNED, **settings})
    assert problem in str(refused.value)


def test_over_http_an_address_must_be_one():
    with pytest.raises(errors.ConfigError, match="provider spark"):
        configured(base_url="wss://spark.example")
