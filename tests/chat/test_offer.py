"""What is told of the offer, in parts and over HTTP by a whole server."""

import orjson
import pytest

from scm_trio.chat.offer import Offer
from scm_trio.config import Ai, Alias
from scm_trio.errors import ProviderUnavailable
from scm_trio.providers.fallback import Chain, Link
from scm_trio.providers.scripted import Scripted
from scm_trio.providers.vendor_lists import VendorList
from scm_trio.testing import open_server, quiet_config


class Listing(Scripted):
    def __init__(self, told, **more):
        super().__init__([], **more)
        self.told = told
        self.asked = 0

    async def list_models(self):
        self.asked += 1
        if isinstance(self.told, Exception):
            raise self.told
        return self.told


def providers():
    row = (
        Listing(("m-1", "m-2", "m-3"), name="main", models=("m-2", "m-1")),
        Listing(ProviderUnavailable(), name="broken", models=()),
        Scripted([], name="echo"),
    )
    return {each.name: Chain([Link(each)]) for each in row}


async def test_the_offer_without_the_vendors_asks_nobody(autojump_clock):
    row = providers()
    offer = await Offer(row, Ai(aliases={"fast": Alias("main", "m-1")})).read(ask_vendors=False)
    assert [(each.name, each.models, each.vendor) for each in offer.providers] == [
        ("main", ("m-2", "m-1"), None),
        ("broken", (), None),
        ("echo", ("scripted-1",), None),
    ]
    assert offer.aliases == {"fast": Alias("main", "m-1")}
    assert row["main"].primary.asked == 0


async def test_the_offer_with_the_vendors_has_their_lists_and_their_failures(autojump_clock):
    offer = await Offer(providers(), Ai()).read(ask_vendors=True)
    assert [each.vendor for each in offer.providers] == [
        VendorList(("m-1", "m-2")),
        VendorList((), "PROVIDER_UNAVAILABLE"),
        None,
    ]


@pytest.mark.parametrize(
    ("ai", "default"),
    [
        (Ai(), Alias("main", "m-2")),
        (Ai(default_model="m-1"), Alias("main", "m-1")),
        (Ai(default_provider="echo"), Alias("echo", "scripted-1")),
        (Ai(default_provider="broken"), None),
        (Ai(default_provider="broken", default_model="any"), Alias("broken", "any")),
        (Ai(default_model="fast", aliases={"fast": Alias("echo", "scripted-1")}), Alias("echo", "scripted-1")),
    ],
)
async def test_the_default_is_what_a_request_gets_that_names_nothing(autojump_clock, ai, default):
    assert (await Offer(providers(), ai).read(ask_vendors=False)).default == default


async def test_an_alias_of_a_provider_that_does_not_run_is_not_on_offer(autojump_clock):
    ai = Ai(aliases={"home": Alias("local", "tiny")})
    assert (await Offer(providers(), ai).read(ask_vendors=False)).aliases == {}


async def test_a_whole_server_tells_it(autojump_clock):
    config = quiet_config(ai=Ai(default_model="fast", aliases={"fast": Alias("main", "m-1")}))
    async with open_server(providers(), config) as server:
        told = await ask(server, "/scm/ai/models?vendor=true")
    assert told == {
        "items": [
            {"provider": "main", "models": ["m-2", "m-1"], "default": True}
            | {"vendor": {"models": ["m-1", "m-2"], "error": None}},
            {"provider": "broken", "models": [], "default": False}
            | {"vendor": {"models": [], "error": "PROVIDER_UNAVAILABLE"}},
            {"provider": "echo", "models": ["scripted-1"], "default": False, "vendor": None},
        ],
        "next": None,
        "aliases": [{"alias": "fast", "provider": "main", "model": "m-1"}],
        "default": {"provider": "main", "model": "m-1"},
    }


async def ask(server, path):
    stream = server.dial()
    lines = [f"GET {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {server.token()}", "Connection: close", "", ""]
    await stream.send_all("\r\n".join(lines).encode())
    data = b""
    while more := await stream.receive_some():
        data += bytes(more)
    return orjson.loads(data.partition(b"\r\n\r\n")[2])
