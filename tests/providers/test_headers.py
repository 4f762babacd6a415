"""Headers that the configuration adds to what a vendor is asked with."""

import pytest

from scm_trio import config
from scm_trio.errors import RequestFailed
from scm_trio.model import Prompt, Turn
from scm_trio.providers.catalogue import build_providers

VENDORS = {
    "openai": {"base_url": "http://v.example/v1"},
    "azure": {"base_url": "http://v.example", "deployment": "m"},
    "anthropic": {"base_url": "http://v.example"},
    "spark": {"base_url": "http://v.example/v1"},
}


async def ask(provider):
    async with provider.stream(Prompt("m", (Turn("user", "?"),))) as events:
        return [event async for event in events]


@pytest.mark.parametrize("kind", VENDORS)
async def test_every_vendor_over_http_is_told_what_is_configured(memory_net, kind):
    asked = []

    async def handler(peer):
        asked.append(await peer.request())
        await peer.respond(b"{}", "application/json", "403 Forbidden")

    more = ("OpenAI-Project: proj_1", "anthropic-beta:a,b")
    settings = config.Provider(kind=kind, api_key="k", headers=more, models=("m",), **VENDORS[kind])
    providers = build_providers(
        config.Ai(providers={"v": settings}), connect_timeout_s=1, dialer=memory_net.dialer(handler)
    )
    with pytest.raises(RequestFailed):
        await ask(providers["v"])
    (head,) = (request.partition(b"\r\n\r\n")[0].lower() for request in asked)
    lines = head.split(b"\r\n")
    assert {b"openai-project: proj_1", b"anthropic-beta: a,b"} <= set(lines)
    names = [line.partition(b":")[0] for line in lines[1:]]
    assert len(names) == len(set(names))


async def test_what_a_vendor_says_of_them_is_not_repeated(memory_net):
    async def handler(peer):
        await peer.request()
        await peer.respond(
            b'{"error": {"message": "no project proj_4711, nor 1"}}', "application/json", "403 Forbidden"
        )

    settings = config.Provider(kind="openai", api_key="k", headers=("A: proj_4711", "B: 1"), **VENDORS["openai"])
    providers = build_providers(
        config.Ai(providers={"v": settings}), connect_timeout_s=1, dialer=memory_net.dialer(handler)
    )
    with pytest.raises(RequestFailed) as refused:
        await ask(providers["v"])
    assert "no project" in refused.value.detail
    assert ", nor 1" in refused.value.detail
    assert "proj_4711" not in refused.value.detail
