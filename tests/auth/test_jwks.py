import orjson
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from signing import NOW, jwk, key_set, private, signed, token

from scm_trio.auth import authenticator
from scm_trio.config import Auth
from scm_trio.errors import Unauthorized
from scm_trio.jwks import FETCH_LIMIT_S, MAX_AGE_S, MAX_STALE_S, REFETCH_AFTER_S, FetchFailed, keys_from_set

URL = "https://idp.example/keys"


class KeyServer:
    """Stands for the issuer: what it serves can be changed, it can be slow, and it can fail."""

    def __init__(self, *members):
        self.body = key_set(*members)
        self.fetches = 0
        self.delay_s = 0.0

    async def fetch(self, url):
        assert url == URL
        self.fetches += 1
        await trio.sleep(self.delay_s)
        if self.body is None:
            raise FetchFailed("down")
        return self.body

    def authenticator(self, algorithm="RS256"):
        return authenticator(Auth(algorithm=algorithm, jwks_url=URL), fetch=self.fetch, now=lambda: NOW)


async def refused(auth, given):
    with pytest.raises(Unauthorized):
        await auth.verify(given)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_the_key_that_the_token_names_verifies_it(algorithm):
    server = KeyServer(jwk(algorithm, "one"), jwk(algorithm, "two", which=1))
    auth = server.authenticator(algorithm)
    assert (await auth.verify(signed(algorithm, "two", which=1))).user_id == "alice"
    assert (await auth.verify(signed(algorithm, "one"))).user_id == "alice"
    await refused(auth, signed(algorithm, "one", which=1))
    assert server.fetches == 1


async def test_a_token_without_a_key_id_gets_the_only_key():
    server = KeyServer(jwk("ES256", "one"))
    assert (await server.authenticator("ES256").verify(signed("ES256"))).user_id == "alice"


async def test_a_token_without_a_key_id_is_refused_where_there_are_several_keys():
    await refused(KeyServer(jwk("ES256", "a"), jwk("ES256", "b", 1)).authenticator("ES256"), signed("ES256"))


async def test_a_token_of_another_algorithm_causes_no_fetch():
    server = KeyServer(jwk("RS256", "one"))
    await refused(server.authenticator(), token(headers={"kid": "one"}))
    assert server.fetches == 0


async def test_fifty_tokens_at_once_share_one_fetch(autojump_clock):
    server = KeyServer(jwk("ES256", "one"))
    server.delay_s = 1
    auth = server.authenticator("ES256")
    users = []

    async def verify(name):
        users.append((await auth.verify(signed("ES256", "one", sub=name))).user_id)

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(verify, f"user{number}")
    assert sorted(users) == sorted(f"user{number}" for number in range(50))
    assert server.fetches == 1
    assert trio.current_time() == pytest.approx(1)


async def test_unknown_key_ids_cause_one_fetch_in_thirty_seconds(autojump_clock):
    server = KeyServer(jwk("ES256", "one"))
    auth = server.authenticator("ES256")
    await auth.verify(signed("ES256", "one"))
    await trio.sleep(REFETCH_AFTER_S)

    async def try_one(number):
        await refused(auth, signed("ES256", f"made up {number}", which=1))

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(try_one, number)
    assert server.fetches == 2
    await trio.sleep(REFETCH_AFTER_S - 1)
    await try_one(50)
    assert server.fetches == 2
    await trio.sleep(1)
    await try_one(51)
    assert server.fetches == 3


async def test_a_rotated_key_is_found_and_the_old_one_forgotten(autojump_clock):
    server = KeyServer(jwk("ES256", "old"))
    auth = server.authenticator("ES256")
    await auth.verify(signed("ES256", "old"))
    server.body = key_set(jwk("ES256", "new", which=1))
    await trio.sleep(REFETCH_AFTER_S)
    assert (await auth.verify(signed("ES256", "new", which=1))).user_id == "alice"
    await refused(auth, signed("ES256", "old"))
    assert server.fetches == 2


async def test_a_key_that_was_withdrawn_is_forgotten_when_the_set_is_old(autojump_clock):
    server = KeyServer(jwk("ES256", "one"), jwk("ES256", "leaked", which=1))
    auth = server.authenticator("ES256")
    await auth.verify(signed("ES256", "leaked", which=1))
    server.body = key_set(jwk("ES256", "one"))
    await trio.sleep(MAX_AGE_S - 1)
    await auth.verify(signed("ES256", "leaked", which=1))
    await trio.sleep(1)
    await refused(auth, signed("ES256", "leaked", which=1))
    assert server.fetches == 2


async def test_old_keys_are_used_while_the_issuer_is_down_but_not_for_ever(autojump_clock):
    server = KeyServer(jwk("ES256", "one"))
    auth = server.authenticator("ES256")
    await auth.verify(signed("ES256", "one"))
    server.body = None
    await trio.sleep(MAX_STALE_S - 1)
    assert (await auth.verify(signed("ES256", "one"))).user_id == "alice"
    await trio.sleep(1)
    await refused(auth, signed("ES256", "one"))
    server.body = key_set(jwk("ES256", "one"))
    await trio.sleep(REFETCH_AFTER_S)
    assert (await auth.verify(signed("ES256", "one"))).user_id == "alice"


async def test_while_one_waits_for_a_slow_issuer_the_others_use_old_keys(autojump_clock):
    server = KeyServer(jwk("ES256", "one"))
    auth = server.authenticator("ES256")
    await auth.verify(signed("ES256", "one"))
    await trio.sleep(MAX_AGE_S)
    server.delay_s = 5
    async with trio.open_nursery() as nursery:
        nursery.start_soon(auth.verify, signed("ES256", "one"))
        await trio.testing.wait_all_tasks_blocked()
        before = trio.current_time()
        await auth.verify(signed("ES256", "one"))
        assert trio.current_time() == before
    assert server.fetches == 2


async def test_an_issuer_that_is_down_from_the_start_is_asked_again_later(autojump_clock):
    server = KeyServer()
    server.body = None
    auth = server.authenticator("ES256")
    await refused(auth, signed("ES256", "one"))
    server.body = key_set(jwk("ES256", "one"))
    await refused(auth, signed("ES256", "one"))
    assert server.fetches == 1
    await trio.sleep(REFETCH_AFTER_S)
    assert (await auth.verify(signed("ES256", "one"))).user_id == "alice"


async def test_an_issuer_that_never_answers_costs_a_limited_time(autojump_clock):
    server = KeyServer(jwk("ES256", "one"))
    server.delay_s = 3600
    await refused(server.authenticator("ES256"), signed("ES256", "one"))
    assert trio.current_time() == pytest.approx(FETCH_LIMIT_S)


async def test_a_caller_that_leaves_during_the_fetch_does_not_take_it_away_from_the_others(autojump_clock):
    server = KeyServer(jwk("ES256", "one"))
    server.delay_s = 2
    auth = server.authenticator("ES256")
    with trio.move_on_after(1):
        await auth.verify(signed("ES256", "one"))
    assert (await auth.verify(signed("ES256", "one"))).user_id == "alice"
    assert server.fetches == 1


# ---- which keys of a set are taken


@pytest.mark.parametrize(
    "change",
    [{"use": "sig"}, {"use": None}, {"alg": "EdDSA"}, {"alg": "Ed25519"}, {"key_ops": ["verify"]}, {"d": "private"}],
)
def test_a_key_for_signatures_of_the_algorithm_is_taken(change):
    assert list(keys_from_set(key_set(jwk("EdDSA", "one", **change)), "EdDSA")) == ["one"]


@pytest.mark.parametrize(
    "change",
    [
        {"use": "enc"},
        {"alg": "RS512"},
        {"alg": ["RS256"]},
        {"key_ops": ["encrypt"]},
        {"key_ops": "verify"},
        {"kty": "oct", "k": "c2VjcmV0"},
        {"kty": "EC"},
        {"kid": 7},
        {"n": None},
        {"n": 7},
        {"n": "AQAB"},
        {"n": "日本"},
        {"e": "AA"},
    ],
)
def test_a_key_for_anything_else_is_left_out(change):
    one = {**jwk("RS256", "one"), **change}
    both = key_set({name: value for name, value in one.items() if value is not None}, jwk("RS256", "two", which=1))
    assert list(keys_from_set(both, "RS256")) == ["two"]


def test_keys_of_other_types_are_left_out():
    both = key_set(jwk("EdDSA", "a"), jwk("ES256", "b"), jwk("RS256", "c"), "no key", None)
    assert list(keys_from_set(both, "ES256")) == ["b"]
    assert list(keys_from_set(both, "EdDSA")) == ["a"]


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"keys": {}}', b'{"keys": []}', b"[" * 100_000])
def test_what_is_no_key_set_is_a_failed_fetch(body):
    with pytest.raises(FetchFailed):
        keys_from_set(body, "RS256")


anything = (
    st.none() | st.integers() | st.text(max_size=8) | st.sampled_from(["RSA", "EC", "OKP", "P-256", "Ed25519", "sig"])
)


@given(
    st.sampled_from(["RS256", "ES256", "EdDSA"]),
    st.dictionaries(st.sampled_from(["kty", "crv", "n", "e", "x", "y", "d", "use", "alg", "kid", "key_ops"]), anything),
)
def test_a_random_key_never_breaks_the_reading_of_the_others(algorithm, change):
    good = jwk(algorithm, "good", which=1)
    found = keys_from_set(orjson.dumps({"keys": [{**jwk(algorithm, "odd"), **_exact(change)}, good]}), algorithm)
    assert found["good"] == private(algorithm, 1).public_key()


def _exact(change):
    return {
        name: str(value) if isinstance(value, int) and abs(value) >= 2**53 else value for name, value in change.items()
    }
