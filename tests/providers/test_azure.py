from __future__ import annotations

import attrs
import httpx2
import openai
import orjson
import pytest
import trio

from scm_trio import config, errors
from scm_trio.config_loader import load_config
from scm_trio.model import Delta, Finish, FinishReason, Prompt, ProviderEvent, Turn
from scm_trio.providers.azure import azure_provider
from scm_trio.providers.catalogue import build_providers
from scm_trio.providers.connections import Dialer
from scm_trio.providers.openai import OpenAi

from . import official
from .conftest import answering
from .expected import SAMPLES, check, check_refusal, cut, expected_of, http_errors

PROMPT = Prompt("gpt-x", (Turn("system", "Be brief."), Turn("user", "春")), temperature=0.5, max_tokens=9)
GA = "2024-10-21"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
SAYS = {name: expected for name, expected in expected_of("openai_chat").items() if name.startswith("azure")}
STREAMS = [name for name in SAYS if name.endswith(".sse")]


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def say(text: str, **choice: object) -> bytes:
    return chunked(official.chunk({"content": text}, choice={"content_filter_results": {}, **choice}))


def annotation(reason: str | None) -> bytes:
    """What the asynchronous filter adds: a choice without a delta."""
    offsets = {"check_offset": 1, "start_offset": 1, "end_offset": 9}
    choice = {"index": 0, "finish_reason": reason, "content_filter_offsets": offsets, "content_filter_raw": []}
    choice["content_filter_results"] = {"hate": {"filtered": reason is not None}}
    return chunked(official.unofficial(choices=[choice], id="", object=""))


FILTERED = [{"prompt_index": 0, "content_filter_results": {}}]
PROMPT_FILTER = chunked(official.unofficial(id="", object="", model="", created=0, prompt_filter_results=FILTERED))
STOP = chunked(official.chunk(finish_reason="stop", choice={"content_filter_results": {}}))
DONE = chunked(official.DONE)
COMPLETED = Finish(FinishReason.COMPLETED, "stop")


def sized(body: bytes, content_type: str = "application/json", status: int = 200, more: str = "") -> bytes:
    head = f"HTTP/1.1 {status} Whatever\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def configured(*, dialer: Dialer | None = None, **settings: object) -> OpenAi:
    given = {"base_url": "https://acme.openai.azure.com", "api_key": "s3cret", "deployment": "chat", **settings}
    return azure_provider("azure", config.Provider(kind="azure", **given), connect_timeout_s=3, dialer=dialer)


def over(dialer: Dialer, **settings: object) -> OpenAi:
    """The configured provider, its server behind ``dialer``."""
    return configured(dialer=dialer, **{"base_url": "http://acme.example", **settings})


@pytest.fixture
def provider_of(memory_net):
    """Makes a provider with an ``answering`` server."""

    def make(*answers: bytes | tuple[bytes, ...], seen: list[bytes] | None = None, **settings) -> OpenAi:
        return over(memory_net.dialer(answering(*answers, seen=seen)), **settings)

    return make


async def answer(provider: OpenAi, prompt: Prompt = PROMPT) -> list[ProviderEvent]:
    async with provider.stream(prompt) as events:
        return [event async for batch in events for event in batch]


async def asked(provider_of, prompt: Prompt = PROMPT, **settings) -> tuple[str, dict[str, str], dict]:
    """Target, headers (names in lower case) and body of the request that the provider sends."""
    seen = []
    await answer(provider_of(HEAD + say("a") + STOP + DONE + END, seen=seen, **settings), prompt)
    head, _, body = seen[0].partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return first.split(" ")[1], headers, orjson.loads(body)


# Addresses


@pytest.mark.parametrize(
    ("settings", "target", "model"),
    [
        ({}, "/openai/v1/chat/completions", "chat"),
        ({"deployment": None}, "/openai/v1/chat/completions", "gpt-x"),
        ({"api_version": GA}, f"/openai/deployments/chat/chat/completions?api-version={GA}", "chat"),
        (
            {"api_version": GA, "deployment": None},
            f"/openai/deployments/gpt-x/chat/completions?api-version={GA}",
            "gpt-x",
        ),
        (
            {"api_version": "2025-04-01-preview", "deployment": "我的 gpt/4?x"},
            "/openai/deployments/%E6%88%91%E7%9A%84%20gpt%2F4%3Fx/chat/completions?api-version=2025-04-01-preview",
            "我的 gpt/4?x",
        ),
        (
            {"api_version": "v&1={model}"},
            "/openai/deployments/chat/chat/completions?api-version=v%261%3D%7Bmodel%7D",
            "chat",
        ),
    ],
)
async def test_the_api_version_decides_where_the_deployment_stands(provider_of, settings, target, model):
    path, _, body = await asked(provider_of, **settings)
    assert (path, body["model"]) == (target, model)


@pytest.mark.parametrize("deployment", ["chat", "my dep/1", "a.b-c_d"])
async def test_the_official_client_asks_at_the_same_address(provider_of, deployment):
    official = []

    def take(request: httpx2.Request) -> httpx2.Response:
        official.append(request)
        return httpx2.Response(200, json=orjson.loads((SAMPLES / "azure_nonstream.json").read_bytes()))

    with openai.AzureOpenAI(
        azure_endpoint="https://acme.openai.azure.com",
        api_key="s3cret",
        api_version=GA,
        http_client=openai.DefaultHttpxClient(transport=httpx2.MockTransport(take)),
    ) as client:
        client.chat.completions.create(model=deployment, messages=[{"role": "user", "content": "hi"}])
    target, headers, body = await asked(provider_of, deployment=deployment, api_version=GA)
    theirs = official[0]
    assert target == theirs.url.raw_path.decode()
    assert headers["api-key"] == theirs.headers["api-key"]
    assert body["model"] == orjson.loads(theirs.content)["model"]


@pytest.mark.parametrize("model", [".", ".."])
async def test_a_model_that_would_be_a_step_in_the_url_is_no_model(provider_of, memory_net, model):
    provider = provider_of(deployment=None, api_version=GA)
    with pytest.raises(errors.ModelUnknown) as failure:
        await answer(provider, attrs.evolve(PROMPT, model=model))
    assert failure.value.params == {"model": model}
    assert memory_net.opened == []


@pytest.mark.parametrize("path", ["", "/", "/openai", "/openai/", "/openai/v1", "/openai/v1/"])
async def test_the_address_of_the_resource_may_come_with_that_of_its_api(listen, path):
    seen = []

    async def handler(peer):
        seen.append(await peer.request())
        await peer.respond((SAMPLES / "azure_chat.sse").read_bytes())

    provider = configured(base_url=f"http://127.0.0.1:{await listen(handler)}/proxy{path}")
    assert (await answer(provider))[-1] == COMPLETED
    await provider.aclose()
    assert seen[0].startswith(b"POST /proxy/openai/v1/chat/completions HTTP/1.1\r\n")


@pytest.mark.parametrize("base_url", [None, "acme"])
def test_an_address_that_is_none_is_refused(base_url):
    with pytest.raises(errors.ConfigError, match=r"azure: base-url must be"):
        configured(base_url=base_url)


# Requests


@pytest.mark.parametrize(
    ("settings", "sent"),
    [
        ({"api_key": " k1\n"}, {"api-key": "k1"}),
        ({"api_key": None, "api_keys": ("k1", "k2")}, {"api-key": "k1"}),
        ({"bearer_token": "t0ken"}, {"authorization": "Bearer t0ken"}),
        ({"bearer_token": "t0ken", "api_key": None}, {"authorization": "Bearer t0ken"}),
        ({"api_key": None}, {}),
    ],
)
async def test_a_request_identifies_itself_in_one_way_only(provider_of, settings, sent):
    _, headers, _ = await asked(provider_of, **settings)
    assert {name: headers[name] for name in ("api-key", "authorization") if name in headers} == sent


@pytest.mark.parametrize(
    ("settings", "limit_field", "usage"),
    [
        ({}, "max_completion_tokens", True),
        ({"api_version": GA}, "max_completion_tokens", True),
        ({"api_version": "2024-09-01-preview"}, "max_completion_tokens", True),
        ({"api_version": "2024-08-01-preview"}, "max_tokens", False),
        ({"api_version": GA, "token_limit_field": "max_tokens", "include_usage": False}, "max_tokens", False),
        ({"api_version": "2024-02-01", "token_limit_field": "max_completion_tokens"}, "max_completion_tokens", False),
    ],
)
async def test_old_versions_are_not_told_what_they_do_not_know(provider_of, settings, limit_field, usage):
    _, _, body = await asked(provider_of, **settings)
    assert {name for name in body if name.startswith("max_")} == {limit_field}
    assert body[limit_field] == 9
    assert body.get("stream_options") == ({"include_usage": True} if usage else None)


@pytest.mark.parametrize(
    ("settings", "models"),
    [
        ({}, ("chat",)),
        ({"models": ("a", "b")}, ("a", "b")),
        ({"models": ("a", "b"), "deployment": None}, ("a", "b")),
        ({"deployment": None}, ()),
    ],
)
def test_the_deployment_is_the_model_on_offer_unless_there_are_others(settings, models):
    assert configured(**settings).models == models


def test_the_rest_of_the_configuration_counts_too():
    provider = configured(context_tokens=4096)
    assert (provider.name, provider.context_tokens) == ("azure", 4096)


def test_key_and_address_in_the_environment_are_enough():
    environ = {"AZURE_OPENAI_API_KEY": "k", "AZURE_OPENAI_ENDPOINT": "https://acme.openai.azure.com/"}
    ai = load_config(None, environ).ai
    provider = build_providers(ai, connect_timeout_s=5)["azure"]
    assert (provider.name, provider.models, provider.context_tokens) == ("azure", (), None)


# Answers


@pytest.mark.parametrize("size", [1_000_000, 7, 1])
@pytest.mark.parametrize("name", STREAMS)
async def test_every_sample_stream_comes_through_wherever_it_is_cut(provider_of, name, size):
    reads = [chunked(piece) for piece in cut((SAMPLES / name).read_bytes(), size)]
    check(await answer(provider_of((HEAD, *reads, END))), None, SAYS[name])


@pytest.mark.parametrize("stream", [True, False])
async def test_the_sample_body_comes_through(provider_of, stream):
    name = "azure_nonstream.json"
    provider = provider_of(sized((SAMPLES / name).read_bytes()))
    check(await answer(provider, attrs.evolve(PROMPT, stream=stream)), None, SAYS[name])


async def test_annotations_of_the_asynchronous_filter_are_no_text(provider_of):
    said = PROMPT_FILTER + say("a") + annotation(None) + say("b") + STOP + annotation(None) + DONE + END
    assert await answer(provider_of(HEAD + said)) == [Delta("a"), Delta("b"), COMPLETED]


@pytest.mark.parametrize("before", [b"", STOP], ids=["in the middle", "after the end"])
async def test_the_asynchronous_filter_may_block_what_was_said(provider_of, before):
    provider = provider_of(HEAD + PROMPT_FILTER + say("a") + before + annotation("content_filter") + DONE + END)
    assert await answer(provider) == [Delta("a"), Finish(FinishReason.CONTENT_FILTER, "content_filter")]


async def test_a_filter_that_was_not_available_is_no_error(provider_of):
    unfiltered = {"error": {"code": "content_filter_error", "message": "The contents are not filtered"}}
    said = say("a", content_filter_results=unfiltered)
    assert await answer(provider_of(HEAD + said + STOP + DONE + END)) == [Delta("a"), COMPLETED]


async def test_the_old_name_of_the_prompts_filter_is_no_harm(provider_of):
    old = chunked(official.unofficial(id="", object="", prompt_annotations=FILTERED))
    assert await answer(provider_of(HEAD + old + say("a") + STOP + DONE + END)) == [Delta("a"), COMPLETED]


async def test_a_prompts_filter_alone_is_no_answer(provider_of):
    with pytest.raises(errors.ProviderUnavailable, match="empty"):
        await answer(provider_of(HEAD + PROMPT_FILTER + DONE + END))


@pytest.mark.parametrize("rest", [b"", END], ids=["cut", "ended"])
async def test_a_stream_that_breaks_off_is_a_failure_after_what_was_said(provider_of, rest):
    async with provider_of(HEAD + PROMPT_FILTER + say("a") + rest).stream(PROMPT) as events:
        assert list(await anext(events)) == [Delta("a")]
        with pytest.raises(errors.ProviderUnavailable):
            await anext(events)


async def test_a_cancel_closes_the_connection_at_once(memory_net, autojump_clock):
    closed_at = []

    async def handler(peer):
        await peer.request()
        await peer.send(HEAD + PROMPT_FILTER)
        assert await peer.stream.receive_some() == b""
        closed_at.append(trio.current_time())

    with trio.move_on_after(5):
        await answer(over(memory_net.dialer(handler)))
    await trio.testing.wait_all_tasks_blocked()
    assert closed_at == [5]


async def test_no_connection_in_time_is_a_timeout(autojump_clock):
    async def open_stream(host, port):
        await trio.sleep_forever()

    with pytest.raises(errors.TimedOut) as failure:
        await answer(over(Dialer(open_stream=open_stream)))
    assert failure.value.field == "connect"


# Refusals


async def refusal(
    provider_of, status: int, body: bytes, headers: dict | None = None, **settings
) -> errors.RequestFailed:
    more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items() if name != "content-type")
    with pytest.raises(errors.RequestFailed) as failure:
        await answer(provider_of(sized(body, status=status, more=more), **settings))
    return failure.value


@pytest.mark.parametrize("case", http_errors("azure"), ids=lambda case: case["name"])
async def test_a_refusal_becomes_the_right_failure(provider_of, case):
    check_refusal(
        await refusal(provider_of, case["status"], case["body_text"].encode(), case["headers"]), case["expected"]
    )


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, '{"error":{"code":null,"innererror":{"code":"ResponsibleAIPolicyViolation"}}}', errors.ContentFiltered),
        (400, '{"error":{"code":"context_length_exceeded","message":"?"}}', errors.ContextTooLong),
        (400, '{"error":{"code":"BadRequest","innererror":null,"message":"?"}}', errors.ProviderRejected),
        (401, '{"error":{"code":"PermissionDenied","message":"lacks the required data action"}}', errors.ProviderAuth),
        (403, '{"error":{"code":"403","message":"Access denied due to Virtual Network rules."}}', errors.ProviderAuth),
        (404, '{"error":{"code":"404","message":"Resource not found"}}', errors.ProviderRejected),
        (404, '{"error":{"code":"DeploymentNotFound","message":"does not exist"}}', errors.ModelUnknown),
        (408, '{"error":{"code":"Timeout","message":"The operation was timeout."}}', errors.ProviderUnavailable),
        (429, '{"statusCode":429,"message":"Rate limit is exceeded."}', errors.ProviderRateLimited),
        (429, '{"error":{"code":"429","message":"?"}}', errors.ProviderRateLimited),
        (500, '{"error":{"code":"InternalServerError","message":"?"}}', errors.ProviderUnavailable),
        (503, '{"statusCode":503,"message":"?"}', errors.ProviderUnavailable),
        (302, "", errors.ProviderRejected),
    ],
)
async def test_every_shape_of_refusal_is_understood(provider_of, status, body, kind):
    assert type(await refusal(provider_of, status, body.encode())) is kind


async def test_the_wait_may_stand_in_the_message_alone(provider_of):
    body = b'{"error":{"code":"429","message":"Too many. Please retry after 7 seconds."}}'
    assert (await refusal(provider_of, 429, body)).retry_after_s == 7


async def test_a_deployment_that_is_not_there_is_named_as_the_user_knows_it(provider_of):
    body = b'{"error":{"code":"DeploymentNotFound","message":"?"}}'
    assert (await refusal(provider_of, 404, body)).params == {"model": "gpt-x"}


@pytest.mark.parametrize("settings", [{"api_key": "t0psecret"}, {"bearer_token": "t0psecret"}])
async def test_no_credentials_show_in_a_failure(provider_of, settings):
    failure = await refusal(provider_of, 401, b'{"error":{"code":"401","message":"bad t0psecret"}}', **settings)
    assert failure.detail == "azure: status 401 401 bad ***"
