"""Vendors' lists of models, read over HTTP."""

import pytest
import trio

from scm_trio import config
from scm_trio.errors import (
    NotFound,
    ProviderAuth,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnavailable,
    ResponseTooLarge,
    TimedOut,
)
from scm_trio.providers.anthropic import anthropic_provider
from scm_trio.providers.azure import azure_provider
from scm_trio.providers.connections import Dialer
from scm_trio.providers.http1_transport import Http1Transport
from scm_trio.providers.model_list import MAX_LIST_BYTES, MAX_MODELS, MAX_PAGES, Page, parse
from scm_trio.providers.openai import openai_provider
from scm_trio.providers.spark import spark_provider

SETTINGS = {
    "openai": config.Provider("openai", base_url="http://vendor.example/v1", api_key="the-key"),
    "anthropic": config.Provider("anthropic", base_url="http://vendor.example/v1", api_key="the-key"),
    "azure": config.Provider("azure", base_url="http://vendor.example", api_key="k", deployment="mine"),
    "spark": config.Provider("spark", api_key="k"),
}
MAKE = {"openai": openai_provider, "anthropic": anthropic_provider, "azure": azure_provider, "spark": spark_provider}


@pytest.fixture
def vendor(memory_net):
    """A provider of a kind, whose vendor gives these answers in turn, each a body or a whole response."""

    def make(kind, *answers, settings=None):
        seen = []

        async def handler(peer):
            while request := await peer.request():
                head, *_ = request.split(b"\r\n\r\n")
                seen.append(head.decode())
                answer = answers[min(len(seen), len(answers)) - 1]
                if isinstance(answer, tuple):
                    status, body = answer
                    await peer.respond(body, "application/json", status)
                else:
                    await peer.respond(answer, "application/json")

        provider = MAKE[kind](kind, settings or SETTINGS[kind], connect_timeout_s=5)
        provider._upstream._transport = Http1Transport(memory_net.dialer(handler))
        provider.seen = seen
        return provider

    return make


@pytest.mark.parametrize(
    ("sample", "page"),
    [
        ("models_openai.json", Page(("gpt-6-astra", "qwen3:8b"))),
        ("models_openai_empty_null.json", Page(())),
        ("models_anthropic.json", Page(("claude-sonnet-5-5",))),
    ],
)
def test_the_samples_are_read(samples, sample, page):
    assert parse((samples / sample).read_bytes()) == page


@pytest.mark.parametrize(
    ("body", "page"),
    [
        (b'{"data": [{"id": "a"}, {"id": "b"}], "has_more": true, "last_id": "b"}', Page(("a", "b"), "b")),
        (b'{"data": [{"id": "a"}], "has_more": true}', Page(("a",))),
        (b'{"data": [{"id": "a"}], "has_more": false, "last_id": "a"}', Page(("a",))),
        # What is no name is no model.
        (b'{"data": [{"id": 7}, {"id": ""}, {"id": "a\\nb"}, {"name": "x"}, "c", null, {"id": "d"}]}', Page(("d",))),
        (b'{"data": [{"id": "%b"}]}' % (b"x" * 129), Page(())),
        (b'{"data": []}', Page(())),
        (b'{"data": {"id": "a"}}', None),
        (b'{"models": []}', None),
        (b'["a"]', None),
        (b"<html>", None),
        (b"", None),
    ],
)
def test_a_page_is_read_tolerantly_or_not_at_all(body, page):
    assert parse(body) == page


async def test_a_request_identifies_itself_and_says_what_it_wants(vendor, samples):
    provider = vendor("openai", (samples / "models_openai.json").read_bytes())
    assert await provider.list_models() == ("gpt-6-astra", "qwen3:8b")
    (head,) = provider.seen
    first, *headers = head.split("\r\n")
    assert first == "GET /v1/models HTTP/1.1"
    assert "Authorization: Bearer the-key" in headers
    assert "Accept: application/json" in headers
    assert not [line for line in headers if line.lower().startswith(("content-type", "content-length"))]


async def test_a_vendor_that_turns_pages_is_followed(vendor):
    pages = (
        b'{"data": [{"id": "a"}, {"id": "b"}], "has_more": true, "last_id": "b/1"}',
        b'{"data": [{"id": "b"}, {"id": "c"}], "has_more": false, "last_id": "c"}',
    )
    provider = vendor("anthropic", *pages)
    assert await provider.list_models() == ("a", "b", "c")
    assert [head.split()[1] for head in provider.seen] == [
        "/v1/models?limit=1000",
        "/v1/models?limit=1000&after_id=b%2F1",
    ]
    assert "x-api-key: the-key" in provider.seen[0]
    assert "anthropic-version: 2023-06-01" in provider.seen[0]


async def test_a_vendor_that_turns_pages_for_ever_is_left(vendor):
    stuck = vendor("anthropic", b'{"data": [{"id": "a"}], "has_more": true, "last_id": "a"}')
    assert await stuck.list_models() == ("a",)
    assert len(stuck.seen) == 2
    endless = [b'{"data": [{"id": "m%d"}], "has_more": true, "last_id": "m%d"}' % (n, n) for n in range(99)]
    endless = vendor("anthropic", *endless)
    assert len(await endless.list_models()) == len(endless.seen) == MAX_PAGES


async def test_no_more_models_are_told_than_anybody_can_read(vendor):
    entries = b",".join(b'{"id": "m%d"}' % number for number in range(MAX_MODELS + 5))
    provider = vendor("openai", b'{"data": [%b]}' % entries)
    assert len(await provider.list_models()) == MAX_MODELS


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (("401 Unauthorized", b'{"error": {"message": "no", "code": "invalid_api_key"}}'), ProviderAuth),
        (("429 Too Many Requests", b"{}"), ProviderRateLimited),
        (("400 Bad Request", b"{}"), ProviderRejected),
        (("503 Service Unavailable", b""), ProviderUnavailable),
        (("404 Not Found", b'{"error": {"message": "no such model"}}'), NotFound),
        (("405 Method Not Allowed", b""), NotFound),
        (b"<html>a portal</html>", ProviderUnavailable),
        (b" " * (MAX_LIST_BYTES + 1), ResponseTooLarge),
    ],
    ids=["401", "429", "400", "503", "404", "405", "portal", "huge"],
)
async def test_a_vendor_that_tells_no_list_fails_by_a_code(vendor, answer, failure):
    provider = vendor("openai", answer)
    with pytest.raises(failure) as caught:
        await provider.list_models()
    assert "the-key" not in caught.value.detail


async def test_a_key_that_may_not_list_may_still_chat(vendor):
    settings = config.Provider("openai", base_url="http://vendor.example/v1", api_keys=("k1", "k2"))
    provider = vendor("openai", ("403 Forbidden", b"{}"), settings=settings)
    for _ in range(4):
        with pytest.raises(ProviderAuth):
            await provider.list_models()
    assert provider.keys.failure() is None


async def test_a_vendor_that_is_not_there_is_one_that_failed(vendor, autojump_clock):
    provider = vendor("openai", b"{}")

    async def refuse(host, port):
        raise OSError("nobody listens")

    provider._upstream._transport._dialer = Dialer(open_stream=refuse)
    with pytest.raises(ProviderUnavailable):
        await provider.list_models()

    async def hang(host, port):
        await trio.sleep_forever()

    provider._upstream._transport._dialer = Dialer(open_stream=hang)
    with pytest.raises(TimedOut) as caught:
        await provider.list_models()
    assert caught.value.field == "connect"


@pytest.mark.parametrize("kind", ["azure", "spark"])
async def test_vendors_without_a_list_are_not_asked(vendor, memory_net, kind):
    provider = vendor(kind, b"{}")
    assert await provider.list_models() is None
    assert memory_net.opened == []
