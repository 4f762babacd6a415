"""The printed configuration says all and betrays nothing, and makes the same values again."""

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from scm_trio.config import (
    Ai,
    Alias,
    Auth,
    Broker,
    Config,
    Heartbeat,
    Price,
    Provider,
    Quota,
    Server,
    Store,
    UserQuota,
    WebSocket,
)
from scm_trio.config_loader import effective, load

FULL = Config(
    server=Server(host="::", port=0, shutdown_grace_s=1.001, trusted_proxies=("10.0.0.1", "a, b")),
    websocket=WebSocket(allowed_origins=("https://a.example",), heartbeat=Heartbeat(0.001, 123.456)),
    auth=Auth(secret="the secret of all", algorithm="EdDSA", public_key="-----BEGIN x\nline\n", leeway_s=2.5),
    ai=Ai(
        default_provider="main",
        default_model="gpt-4.1",
        system_prompt="Say ${NAME}, $${x} and 'yes'.\n\t# no comment: 你好\u2028",
        fallback=("main",),
        aliases={"on": Alias("main", "gpt-4.1"), "a/b: c": Alias("true", "echo")},
        quota=Quota(10_000, 0, 2.5, 500, {"user.1": UserQuota(0, None, 0.25), "null": UserQuota()}),
        providers={
            "main": Provider(
                "openai", api_key="key-1", models=("on", "1", "gpt-4.1"), prices={"gpt-4.1": Price(2, 0.5)}
            ),
            "two": Provider(
                "azure", base_url="https://u:pw-2@x", api_keys=("key-2", "key-3"), api_version="2024-10-21"
            ),
            "spark 3": Provider("spark", transport="websocket", app_id="7", api_secret="key-4", api_key="key-5"),
            "four": Provider("openai", preset="qwen", token_limit_field="max_tokens"),
            "true": Provider("scripted", include_usage=True),
        },
    ),
    store=Store("postgresql://u:pw-1@h/db?sslpassword=pw-3&sslmode=require"),
)
SECRETS = {
    "SCM_AUTH_SECRET": "the secret of all",
    "SCM_STORE_URL": FULL.store.url,
    "SCM_AI_PROVIDERS_MAIN_API_KEY": "key-1",
    "SCM_AI_PROVIDERS_TWO_API_KEYS": "key-2,key-3",
    "SCM_AI_PROVIDERS_TWO_BASE_URL": "https://u:pw-2@x",
    "SCM_AI_PROVIDERS_SPARK_3_API_SECRET": "key-4",
    "SCM_AI_PROVIDERS_SPARK_3_API_KEY": "key-5",
}


def again(text, tmp_path, environ):
    path = tmp_path / "printed.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, environ).config


def test_what_is_printed_makes_the_same_configuration_again(tmp_path):
    assert again(effective(FULL), tmp_path, SECRETS) == FULL


def test_no_secret_is_printed():
    text = effective(evolve(FULL, broker=Broker("redis://:pw-4@h:6379/0")))
    for secret in ("the secret", "key-", "pw-"):
        assert secret not in text
    assert "secret: '***'" in text
    assert "postgresql://***@h/db?***" in text
    assert "redis://***@h:6379/0" in text
    assert "api-keys: ['***', '***']" in text


def test_a_secret_that_is_not_set_is_printed_as_such():
    assert "\n    secret:\n" in effective(Config())


def test_units_are_the_files():
    text = effective(FULL)
    assert "shutdown-grace: 1001" in text
    assert "interval: 1\n" in text
    assert "leeway: 2.5" in text


def test_keys_of_other_kinds_are_left_out():
    text = effective(Config(ai=Ai(providers={"a": Provider("local")})))
    assert "model-path:" in text
    assert "app-id:" not in text


def test_origins_stand_beside_the_values(tmp_path):
    path = tmp_path / "scm.yaml"
    path.write_text("scm:\n  server:\n    port: 1\n")
    loaded = load(path, {"SCM_AUTH_SECRET": "x"})
    text = effective(loaded.config, origins=loaded.origins)
    assert f"    port: 1  # {path}:3\n" in text
    assert "    secret: '***'  # SCM_AUTH_SECRET\n" in text
    assert "    host: 127.0.0.1\n" in text
    assert again(text, tmp_path, {"SCM_AUTH_SECRET": "x"}) == loaded.config


@pytest.mark.parametrize("name", ["repr", "str"])
def test_the_configuration_itself_does_not_show_its_secrets(name):
    text = {"repr": repr, "str": str}[name](FULL)
    for secret in ("the secret", "key-", "pw-"):
        assert secret not in text


words = st.text(min_size=1, max_size=30).filter(lambda text: "\0" not in text)
lists = st.lists(words, max_size=3).map(tuple)
milliseconds = st.integers(1, 10**9).map(lambda number: number / 1000)


@given(words, words, lists, milliseconds, st.floats(0, 1e9), st.integers(0, 65535))
def test_any_values_survive_printing(tmp_path_factory, prompt, claim, models, grace, leeway, port):
    config = Config(
        server=Server(port=port, shutdown_grace_s=grace, trusted_proxies=models),
        auth=Auth(user_claim=claim, leeway_s=leeway),
        ai=Ai("local", models[-1] if models else None, prompt, providers={"local": Provider("local", models=models)}),
    )
    folder = tmp_path_factory.mktemp("printed")
    assert again(effective(config), folder, {}) == config
    assert evolve(config) == config
