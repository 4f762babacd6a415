"""Who is asked, and for which model."""

import pytest
from sqlalchemy import text

from scm_trio.chat.choice import choose, choose_for
from scm_trio.config import Ai, Alias, Price
from scm_trio.config import Provider as ProviderSettings
from scm_trio.errors import ModelUnknown, ProviderUnknown
from scm_trio.model import Finish, FinishReason, Session, Usage
from scm_trio.protocol.messages import ChatRequest
from scm_trio.providers.fallback import Chain, Link, Terms
from scm_trio.providers.scripted import Batch, Scripted
from scm_trio.testing import open_server, quiet_config

PROVIDERS = {
    "first": Scripted(["x"], name="first", models=("f-1", "f-2")),
    "second": Scripted(["x"], name="second", models=("s-1", "listed")),
    "open": Scripted(["x"], name="open", models=()),
}
ALIASES = {
    "fast": Alias("second", "s-1"),
    "smart": Alias("open", "any/model"),
    "listed": Alias("first", "f-2"),
    "f-1": Alias("open", "f-1"),
}


def chosen(ai=None, provider=None, model=None):
    found, name = choose(PROVIDERS, ai or Ai(), provider, model)
    return found.name, name


@pytest.mark.parametrize(
    ("ai", "asked", "expected"),
    [
        (Ai(), {}, ("first", "f-1")),
        (Ai(), {"provider": "second"}, ("second", "s-1")),
        (Ai(), {"model": "f-2"}, ("first", "f-2")),
        (Ai(default_provider="second"), {}, ("second", "s-1")),
        (Ai(default_provider="second"), {"provider": "first"}, ("first", "f-1")),
        (Ai(default_model="f-2"), {}, ("first", "f-2")),
        (Ai(default_model="f-2"), {"provider": "second"}, ("second", "s-1")),
        (Ai(default_model="any"), {"provider": "open"}, ("open", "any")),
        (Ai(), {"provider": "open", "model": "whatever"}, ("open", "whatever")),
    ],
)
def test_provider_and_model_are_the_askers_or_the_defaults(ai, asked, expected):
    assert chosen(ai, **asked) == expected


@pytest.mark.parametrize(
    ("ai", "asked", "expected"),
    [
        (Ai(aliases=ALIASES), {"model": "fast"}, ("second", "s-1")),
        (Ai(aliases=ALIASES), {"model": "smart"}, ("open", "any/model")),
        (Ai(aliases=ALIASES, default_provider="first"), {"model": "fast"}, ("second", "s-1")),
        (Ai(aliases=ALIASES), {"model": "fast", "provider": "second"}, ("second", "s-1")),
        (Ai(aliases=ALIASES), {"model": "f-2"}, ("first", "f-2")),
        # An alias comes before a model of that name, unless the provider is named that has the model.
        (Ai(aliases=ALIASES), {"model": "f-1"}, ("open", "f-1")),
        (Ai(aliases=ALIASES), {"model": "f-1", "provider": "first"}, ("first", "f-1")),
        (Ai(aliases=ALIASES), {"model": "listed", "provider": "second"}, ("second", "listed")),
        (Ai(aliases={"f-1": Alias("first", "f-2")}), {"model": "f-1"}, ("first", "f-2")),
        (Ai(aliases={"f-1": Alias("first", "f-2")}), {"model": "f-1", "provider": "first"}, ("first", "f-1")),
        # An alias of an alias is none.
        (Ai(aliases={"a": Alias("open", "fast"), "fast": Alias("first", "f-2")}), {"model": "fast"}, ("first", "f-2")),
        # A default may be an alias, which then names the provider as well.
        (Ai(aliases=ALIASES, default_model="fast"), {}, ("second", "s-1")),
        (Ai(aliases=ALIASES, default_model="fast", default_provider="first"), {}, ("second", "s-1")),
        (Ai(aliases=ALIASES, default_model="fast"), {"provider": "first"}, ("first", "f-1")),
        (Ai(aliases=ALIASES, default_model="fast"), {"model": "f-2"}, ("first", "f-2")),
    ],
)
def test_an_alias_goes_where_the_configuration_says(ai, asked, expected):
    assert chosen(ai, **asked) == expected


@pytest.mark.parametrize("provider", ["first", "open"])
def test_an_alias_of_another_provider_is_no_model_here(provider):
    with pytest.raises(ModelUnknown) as caught:
        chosen(Ai(aliases=ALIASES), provider, "fast")
    assert (caught.value.field, caught.value.params) == ("data.model", {"model": "fast"})


def test_an_alias_gets_nobody_past_the_allow_list():
    with pytest.raises(ModelUnknown) as caught:
        chosen(Ai(aliases={"big": Alias("second", "s-2")}), None, "big")
    assert caught.value.params == {"model": "s-2"}


def test_an_alias_of_a_provider_that_is_not_running_is_told():
    with pytest.raises(ProviderUnknown) as caught:
        chosen(Ai(aliases={"home": Alias("local", "tiny")}), None, "home")
    assert caught.value.params == {"provider": "local"}


def test_an_unknown_provider_or_model_is_named():
    with pytest.raises(ProviderUnknown) as unknown:
        chosen(provider="b")
    assert unknown.value.params == {"provider": "b"}
    with pytest.raises(ModelUnknown) as missing:
        chosen(model="b")
    assert missing.value.params == {"model": "b"}
    with pytest.raises(ModelUnknown):
        chosen(provider="open")
    with pytest.raises(ModelUnknown):
        chosen(Ai(aliases=ALIASES, default_model="fast"), provider="open")


def test_without_a_provider_the_failure_says_what_to_do():
    with pytest.raises(ProviderUnknown) as caught:
        choose({}, Ai(), None, None)
    assert caught.value.params == {"notice": "NO_PROVIDER"}


# ---- in a whole server

SPENT = Batch([Usage(prompt_tokens=1000, completion_tokens=2000), Finish(FinishReason.COMPLETED)])
CONFIG = quiet_config(
    ai=Ai(
        aliases={"fast": Alias("mini", "m-1")},
        providers={"mini": ProviderSettings(kind="scripted", models=("m-1",), prices={"m-1": Price(1.0, 3.0)})},
    )
)


async def test_everybody_is_told_the_real_model_and_the_ledger_has_its_price(autojump_clock):
    big = Scripted(["never"], name="big", models=("b-1",))
    mini = Scripted(["a", SPENT], name="mini", models=("m-1",))
    providers = {each.name: Chain([Link(each)], Terms()) for each in (big, mini)}
    async with open_server(providers, CONFIG) as server, server.peer() as peer:
        await peer.send("CHAT_REQUEST", {"message": "Hi", "model": "fast"})
        start = (await peer.until("CHAT_STREAM_START"))[-1]["data"]
        await peer.until("CHAT_STREAM_END")
        rows = await server.house.database.read(
            lambda conn: (
                conn.execute(text("SELECT provider, model, cost FROM usage")).all(),
                conn.execute(text("SELECT provider, model FROM messages WHERE role = 'assistant'")).all(),
            )
        )
    assert (start["provider"], start["model"]) == ("mini", "m-1")
    assert [prompt.model for prompt in mini.prompts] == ["m-1"]
    assert rows == ([("mini", "m-1", pytest.approx(0.007))], [("mini", "m-1")])


async def test_a_request_that_gives_an_alias_to_another_provider_is_refused(autojump_clock):
    big = Scripted(["never"], name="big", models=())
    providers = {"big": big, "mini": Scripted(["a"], name="mini", models=("m-1",))}
    async with open_server(providers, CONFIG) as server, server.peer() as peer:
        await peer.send("CHAT_REQUEST", {"message": "Hi", "provider": "big", "model": "fast"}, request_id="r1")
        (error,) = await peer.until("ERROR")
    assert (error["error"]["code"], error["error"]["field"]) == ("MODEL_UNKNOWN", "data.model")
    assert "fast" in error["data"]
    assert big.prompts == []


# ---- sessions with defaults of their own


def chosen_in(session, ai=None, **asked):
    """Who answers in that session: by the request alone, and in the end."""
    (provider, model), chosen = choose_for(PROVIDERS, ai or Ai(), ChatRequest("Hi", **asked))
    there = chosen(Session("g1", "s1", "ann", **session))
    return (provider.name, model), None if there is None else (there[0].name, there[1])


@pytest.mark.parametrize(
    ("session", "asked", "expected"),
    [
        ({}, {}, None),
        ({}, {"model": "f-2"}, None),
        ({"provider": "second"}, {}, ("second", "s-1")),
        ({"provider": "second", "model": "listed"}, {}, ("second", "listed")),
        ({"model": "f-2"}, {}, ("first", "f-2")),
        ({"provider": "second", "model": "listed"}, {"model": "s-1"}, ("second", "s-1")),
        ({"provider": "second", "model": "listed"}, {"provider": "second"}, ("second", "listed")),
        ({"provider": "second", "model": "listed"}, {"provider": "first"}, ("first", "f-1")),
        ({"model": "f-2"}, {"provider": "first"}, ("first", "f-1")),
        ({"provider": "second"}, {"provider": "first", "model": "f-2"}, None),
        ({"provider": "gone"}, {}, None),
        ({"provider": "second", "model": "gone"}, {}, None),
    ],
)
def test_a_session_decides_what_a_request_leaves_open(session, asked, expected):
    assert chosen_in(session, **asked)[1] == expected


def test_a_model_that_only_the_sessions_provider_offers_is_taken_there_and_refused_elsewhere():
    assert chosen_in({"provider": "second"}, model="s-1") == (("first", "f-1"), ("second", "s-1"))
    for session in ({}, {"provider": "first"}, {"provider": "gone"}):
        with pytest.raises(ModelUnknown) as caught:
            chosen_in(session, model="s-1")
        assert caught.value.params["model"] == "s-1"
    with pytest.raises(ModelUnknown):
        chosen_in({"provider": "second"}, provider="first", model="s-1")


def test_an_alias_may_be_a_sessions_model():
    assert chosen_in({"model": "fast"}, Ai(aliases=ALIASES))[1] == ("second", "s-1")
