from math import inf

import pytest

from scm_trio.config import Ai, Provider
from scm_trio.errors import ConfigError
from scm_trio.model import Delta, Finish, Prompt, Turn
from scm_trio.providers import catalogue
from scm_trio.providers.catalogue import build_providers, chain_providers
from scm_trio.providers.fallback import Terms

SCRIPTED = Provider(kind="scripted")


def build(*, default=None, **providers):
    return build_providers(Ai(default_provider=default, providers=providers), connect_timeout_s=5.0)


def test_providers_keep_their_names_and_the_default_one_comes_first():
    built = build(default="b", a=SCRIPTED, b=SCRIPTED, c=SCRIPTED)
    assert list(built) == ["b", "a", "c"]
    assert [provider.name for provider in built.values()] == ["b", "a", "c"]


def test_a_default_that_is_not_configured_is_left_to_the_first_request():
    assert list(build(default="missing", a=SCRIPTED)) == ["a"]


def test_a_local_model_that_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(catalogue, "local_available", lambda: False)
    assert build(mine=Provider(kind="local")) == {}


def test_a_kind_that_is_not_served_is_named_with_those_that_are(monkeypatch):
    monkeypatch.delitem(catalogue._KINDS, "spark")
    with pytest.raises(ConfigError, match=r"scm\.ai\.providers\.x\.kind: spark .*openai, scripted"):
        build(x=Provider(kind="spark"))


async def test_the_scripted_kind_says_the_question_back_word_by_word(autojump_clock):
    echo = build(echo=SCRIPTED)["echo"]
    assert echo.models == ("echo",)
    async with echo.stream(Prompt(model="echo", turns=(Turn("user", "supply chain 管理"),))) as events:
        said = [event async for batch in events for event in batch]
    assert [event.text for event in said if isinstance(event, Delta)] == ["supply ", "chain ", "管理"]
    assert isinstance(said[-1], Finish)


def test_the_scripted_kind_takes_the_models_it_is_given():
    assert build(echo=Provider(kind="scripted", models=("m",)))["echo"].models == ("m",)


def test_a_provider_is_a_member_of_chains_on_its_own_terms():
    ai = Ai(
        fallback=("b",),
        providers={"a": Provider("scripted", retries=0, first_token_timeout_s=8, idle_timeout_s=15), "b": SCRIPTED},
    )
    chains = chain_providers(build_providers(ai, connect_timeout_s=5.0), ai, Terms())
    first, second = chains["a"].links
    assert (first.provider.name, first.retries, first.first_token_s, first.idle_s) == ("a", 0, 8, 15)
    assert (second.provider.name, second.retries, second.first_token_s, second.idle_s) == ("b", 2, None, inf)
    assert chains["b"].links == (second,)
