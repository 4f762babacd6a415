"""Several keys for one vendor: turns and rests, and the provider over HTTP that uses them."""

import re

import pytest
import trio

from scm_trio import config
from scm_trio.errors import ProviderAuth, ProviderRateLimited
from scm_trio.model import Prompt, Turn
from scm_trio.providers.anthropic import anthropic_provider
from scm_trio.providers.azure import azure_provider
from scm_trio.providers.http1_transport import Http1Transport
from scm_trio.providers.keys import BUSY_REST_S, REFUSED_REST_S, KeyRing
from scm_trio.providers.openai import Dialect, OpenAi, bearer, openai_provider
from scm_trio.providers.upstream import Upstream

from .vendors import EVENT_STREAM, VENDORS, SparkSocket, response


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def picks(ring: KeyRing, times: int) -> str:
    return "".join(ring.pick()[0] for _ in range(times))


def test_keys_are_used_in_turn(clock):
    assert picks(KeyRing([" a", "b\n", "c"], clock), 7) == "abcabca"


def test_without_keys_there_is_none_and_nothing_to_fail(clock):
    ring = KeyRing([], clock)
    assert (len(ring), ring.pick(), ring.failure()) == (0, (), None)


def test_a_refused_key_rests_for_ten_minutes(clock):
    ring = KeyRing(["a", "b"], clock)
    ring.refuse({"a"}, ProviderAuth())
    assert picks(ring, 3) == "bbb"
    clock.now = REFUSED_REST_S
    assert picks(ring, 4) == "abab"


@pytest.mark.parametrize(("told_s", "rest_s"), [(None, BUSY_REST_S), (42.0, 42.0)])
def test_a_busy_key_rests_as_long_as_it_is_told(clock, told_s, rest_s):
    ring = KeyRing(["a", "b"], clock)
    ring.refuse({"a"}, ProviderRateLimited(retry_after_s=told_s))
    clock.now = rest_s - 0.5
    assert picks(ring, 2) == "bb"
    clock.now = rest_s
    assert "a" in picks(ring, 2)


def test_when_every_key_rests_the_failure_of_the_first_to_wake_is_told(clock):
    ring = KeyRing(["a", "b"], clock)
    ring.refuse({"a"}, ProviderAuth(field="quota"))
    assert ring.failure() is None
    ring.refuse({"b"}, ProviderRateLimited(retry_after_s=20))
    clock.now = 5.0
    with pytest.raises(ProviderRateLimited) as caught:
        ring.pick()
    assert caught.value.retry_after_s == 15.0


def test_a_key_that_may_not_have_what_was_asked_for_may_have_other_things(clock):
    ring = KeyRing(["a", "b"], clock)
    ring.refuse({"a", "b"}, ProviderAuth(field="permission"))
    assert (picks(ring, 4), ring.failure()) == ("abab", None)


def test_a_lone_key_never_rests(clock):
    ring = KeyRing(["a"], clock)
    ring.refuse({"a"}, ProviderAuth())
    assert picks(ring, 2) == "aa"


def test_a_secret_that_is_no_key_of_the_ring_changes_nothing(clock):
    ring = KeyRing(["a", "b"], clock)
    ring.refuse({"other"}, ProviderAuth())
    assert picks(ring, 2) == "ab"


@pytest.mark.parametrize(
    ("make", "header"),
    [
        (openai_provider, "Authorization"),
        (anthropic_provider, "x-api-key"),
        (azure_provider, "api-key"),
    ],
)
def test_every_vendor_uses_its_keys_in_turn(make, header):
    settings = config.Provider("openai", base_url="https://acme.example", api_keys=("k1", "k2"))
    provider = make("acme", settings, connect_timeout_s=5)
    # A ring needs Trio's clock only for keys that rest.
    provider.keys._now = lambda: 0.0
    assert [provider._authorize()[header].removeprefix("Bearer ") for _ in range(3)] == ["k1", "k2", "k1"]


def test_azures_bearer_token_comes_before_its_keys():
    settings = config.Provider("azure", base_url="https://a.example", api_keys=("k1", "k2"), bearer_token="t")
    provider = azure_provider("azure", settings, connect_timeout_s=5)
    provider.keys._now = lambda: 0.0
    assert len(provider.keys) == 0
    assert provider._authorize() == {"Authorization": "Bearer t"}


REFUSALS = {
    "429 Too Many Requests": (ProviderRateLimited, b"Retry-After: 7\r\n", 7.0),
    "401 Unauthorized": (ProviderAuth, b"", REFUSED_REST_S),
}


@pytest.mark.parametrize("status", REFUSALS)
async def test_a_refusal_lets_the_key_of_that_request_rest(memory_net, clock, status):
    failure, more, rest_s = REFUSALS[status]
    asked = []

    async def handler(peer):
        asked.append(await peer.request())
        await peer.send(b"HTTP/1.1 " + status.encode() + b"\r\n" + more + b"Content-Length: 2\r\n\r\n{}")

    ring = KeyRing(["k1", "k2"], clock)
    upstream = Upstream("acme", "http://acme.example", transport=Http1Transport(memory_net.dialer(handler)))
    provider = OpenAi(upstream, Dialect(), lambda: bearer(ring.pick()), keys=ring)
    with pytest.raises(failure):
        async with provider.stream(Prompt("m", (Turn("user", "hello"),))):
            pass
    assert b"Bearer k1" in asked[0]
    assert picks(ring, 2) == "k2k2"
    clock.now = rest_s
    assert "k1" in picks(ring, 2)


KEYED = [name for name, vendor in VENDORS.items() if not isinstance(vendor, SparkSocket)]  # which has one key only
REFUSED = {"denying": (ProviderAuth, REFUSED_REST_S), "limiting": (ProviderRateLimited, BUSY_REST_S)}


@pytest.mark.parametrize("when", ["at once", "in the middle", "in one body"])
@pytest.mark.parametrize("how", REFUSED)
@pytest.mark.parametrize("name", KEYED)
async def test_a_key_that_is_refused_within_an_answer_rests_like_any_other(memory_net, autojump_clock, name, how, when):
    vendor = VENDORS[name]
    kind, rest_s = REFUSED[how]
    used = []

    async def handler(peer):
        head, _, _ = (await peer.request()).partition(b"\r\n\r\n")
        used.append(re.search(rb"(?i)(?:x-api-key|api-key|authorization): (?:Bearer )?(\w+)", head)[1].decode())
        if when == "in one body":
            payload = getattr(vendor, how).partition(b"data:")[2].strip()
            await peer.send(response(200, payload))
            return
        await peer.stream.send_all(EVENT_STREAM)
        await vendor.send(peer, vendor.begin, *([vendor.say("a")] if when == "in the middle" else []))
        await vendor.send(peer, getattr(vendor, how))

    provider = vendor.provider(memory_net.dialer(handler), api_key=None, api_keys=("k1", "k2", "k3"))

    async def ask() -> None:
        async with provider.stream(Prompt("m", (Turn("user", "hello"),))) as events:
            async for _ in events:
                pass

    for _ in range(3):
        with pytest.raises(kind):
            await ask()
    assert used == ["k1", "k2", "k3"]
    with pytest.raises(kind, match="every key was refused"):
        await ask()
    await trio.sleep(rest_s)
    with pytest.raises(kind):
        await ask()
    assert used == ["k1", "k2", "k3", "k1"]
