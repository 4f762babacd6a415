"""What a good file and a good environment become."""

import pytest
from attrs import evolve

from scm_trio.config import Ai, Config, Price, Provider
from scm_trio.config_loader import load, load_config

LOCAL = Config(ai=Ai(default_provider="local", providers={"local": Provider("local")}))

WHOLE_FILE = """
    scm:
      server:    {host: 127.0.0.1, port: 8088, shutdown-grace: 30000, workers: 1, tls: {certificate: , key: }, trusted-proxies: []}
      websocket:
        allowed-origins: []
        heartbeat: {interval: 30000, timeout: 300000}
        session:   {cleanup-interval: 30000, max-connections: 1000, max-connections-per-user: 10, handshake-timeout: 10000}
        message:   {max-size: 1048576, rate-limit: 100, write-timeout: 10000}
        stream:    {connect-timeout: 10000, first-token-timeout: 60000, idle-timeout: 60000, total-timeout: 600000,
                    orphan-grace: 60000, resume-window: 300000, max-per-connection: 8, max-per-user: 16, max-response-size: 1048576}
      auth:      {secret: , algorithm: HS256, public-key: , jwks-url: , issuer: , audience: , leeway: 10, user-claim: sub, query-token: true, refresh: false}
      ai:        {default-provider: , default-model: , system-prompt: , fallback: [], providers: {}}
      store:     {url: "sqlite:///scm-trio.db"}
      broker:    {url: "memory://"}
      log:       {format: console, level: info}
"""


def test_without_anything_there_are_the_defaults_and_the_local_model(read):
    assert read() == LOCAL


@pytest.mark.parametrize("text", ["", "# nothing", "scm:", "scm: {}", "scm:\n  websocket:\n  ai:\n"])
def test_an_empty_file_is_the_defaults(read, text):
    assert read(text) == LOCAL


def test_the_documented_file_is_the_defaults(read):
    assert read(WHOLE_FILE) == LOCAL


def test_milliseconds_become_seconds_and_everything_else_stays_as_it_is(read):
    config = read("""
        scm:
          server: {port: 0, tls: {certificate: c.pem, key: k.pem}, trusted-proxies: [10.0.0.1, "::1"]}
          websocket:
            heartbeat: {interval: 1500}
            message: {max-size: 2048}
          auth: {leeway: 2.5, query-token: no}
    """)
    assert config.websocket.heartbeat.interval_s == 1.5
    assert config.websocket.message.max_size_bytes == 2048
    assert config.auth.leeway_s == 2.5
    assert config.auth.query_token is False
    assert config.server.port == 0
    assert config.server.trusted_proxies == ("10.0.0.1", "::1")


def test_providers_are_read_with_their_prices(read):
    ai = read("""
        scm:
          ai:
            fallback: [azure]
            providers:
              main: {kind: openai, api-keys: [a, b], models: [gpt-4.1], prices: {gpt-4.1: {prompt: 2, completion: 8.5}}}
              azure: {base-url: "https://x.openai.azure.com", api-version: 2024-10-21, bearer-token: t}
              star:
                {kind: spark, transport: websocket, app-id: a, api-key: k, api-secret: s, base-url: "wss://spark.example/v4"}
              local:
    """).ai
    assert ai.default_provider == "main"
    assert ai.providers["main"].keys == ("a", "b")
    assert ai.providers["main"].prices == {"gpt-4.1": Price(2.0, 8.5)}
    # a date to YAML, a version to us
    assert ai.providers["azure"].api_version == "2024-10-21"
    assert ai.providers["azure"].kind == "azure"
    assert ai.providers["star"].transport == "websocket"
    assert ai.providers["local"] == Provider("local")


def test_anchors_and_merges_work(read):
    providers = read(
        """
        scm:
          ai:
            providers:
              a: &base {kind: openai, retries: 5, api-key: x}
              b: *base
              c: {<<: *base, retries: 1}
    """,
        SCM_AI_PROVIDERS_B_RETRIES="7",
    ).ai.providers
    assert [provider.retries for provider in providers.values()] == [5, 7, 1]
    assert {provider.api_key for provider in providers.values()} == {"x"}


def test_the_origin_of_every_given_value_is_known(tmp_path):
    path = tmp_path / "scm.yaml"
    path.write_text("scm:\n  server:\n    port: 1\n    host: h\n")
    loaded = load(path, {"SCM_SERVER_PORT": "2", "OPENAI_API_KEY": "k"})
    assert loaded.origins == {
        "scm.server.port": "SCM_SERVER_PORT",
        "scm.server.host": f"{path}:4",
        "scm.ai.providers.openai.kind": "OPENAI_API_KEY",
        "scm.ai.providers.openai.api-key": "OPENAI_API_KEY",
    }
    assert load_config(path, {}).server.port == 1


# ---- placeholders


@pytest.mark.parametrize(
    ("value", "secret"),
    [
        ("${KEY}", "from the environment"),
        ("'${KEY}'", "from the environment"),
        ("a ${KEY}!", "a from the environment!"),
        ("${KEY}${KEY:x}", "from the environmentfrom the environment"),
        ("${NOPE:the default}", "the default"),
        ("${NOPE:http://x:1/}", "http://x:1/"),
        ("'${NOPE:}'", None),
        ("${EMPTY:default}", None),
        ("$${KEY}", "${KEY}"),
        ("$$${KEY}", "$${KEY}"),
        ("$KEY", "$KEY"),
    ],
)
def test_placeholders_are_filled_in(read, value, secret):
    config = read(f"scm: \n  auth:\n    secret: {value}", KEY="from the environment", EMPTY="")
    assert config.auth.secret == secret


def test_a_filled_in_text_is_read_as_what_its_key_expects(read):
    config = read(
        """
        scm:
          server:
            port: ${PORT:8088}
            trusted-proxies: ${PROXIES}
          websocket:
            heartbeat: {interval: "${BEAT}"}
            allowed-origins: ["${ORIGIN}", "https://b,c"]
          auth: {query-token: "${QUERY:false}", leeway: "${LEEWAY}"}
        """,
        PROXIES="10.0.0.1, 10.0.0.2,",
        BEAT=" 500 ",
        ORIGIN="https://a,b",
        LEEWAY="1.5",
    )
    assert config.server.port == 8088
    assert config.server.trusted_proxies == ("10.0.0.1", "10.0.0.2")
    assert config.websocket.heartbeat.interval_s == 0.5
    assert config.websocket.allowed_origins == ("https://a,b", "https://b,c")
    assert (config.auth.query_token, config.auth.leeway_s) == (False, 1.5)


def test_a_value_from_the_environment_is_taken_as_it_is(read):
    assert read(SCM_AUTH_SECRET="${HOME} $${x}").auth.secret == "${HOME} $${x}"


def test_the_placeholder_of_an_overridden_value_need_not_be_set(read):
    assert read("scm: {auth: {secret: '${NOPE}'}}", SCM_AUTH_SECRET="s").auth.secret == "s"


# ---- vendors


@pytest.mark.parametrize(
    ("environ", "providers"),
    [
        ({"OPENAI_API_KEY": "k"}, {"openai": Provider("openai", api_key="k")}),
        (
            {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://x/v1", "OPENAI_MODEL": "a, b"},
            {"openai": Provider("openai", api_key="k", base_url="http://x/v1", models=("a", "b"))},
        ),
        ({"OPENAI_API_KEY": "", "OPENAI_MODEL": "a"}, {"local": Provider("local")}),
        ({"ANTHROPIC_API_KEY": "k"}, {"anthropic": Provider("anthropic", api_key="k")}),
        ({"SPARK_API_KEY": "k"}, {"spark": Provider("spark", api_key="k")}),
        ({"AZURE_OPENAI_API_KEY": "k"}, {"local": Provider("local")}),
        (
            {"AZURE_OPENAI_API_KEY": "k", "AZURE_OPENAI_ENDPOINT": "https://r"},
            {"azure": Provider("azure", api_key="k", base_url="https://r")},
        ),
        (
            {"SPARK_API_KEY": "s", "ANTHROPIC_API_KEY": "a"},
            {"anthropic": Provider("anthropic", api_key="a"), "spark": Provider("spark", api_key="s")},
        ),
    ],
)
@pytest.mark.parametrize("text", [None, "scm: {ai: {providers: }}", "scm: {ai: {providers: {}}}"])
def test_without_providers_the_vendors_variables_make_them(read, environ, providers, text):
    assert read(text, **environ).ai == Ai(default_provider=next(iter(providers)), providers=providers)


def test_the_files_providers_keep_the_vendors_variables_away(read):
    ai = read("scm: {ai: {providers: {mine: {kind: scripted}}}}", OPENAI_API_KEY="k").ai
    assert ai == Ai(default_provider="mine", providers={"mine": Provider("scripted")})


def test_a_vendors_provider_can_be_changed_by_its_own_keys(read):
    ai = read(
        "scm: {ai: {default-provider: spark}}",
        OPENAI_API_KEY="k",
        SPARK_API_KEY="k",
        SCM_AI_PROVIDERS_OPENAI_RETRIES="0",
    ).ai
    assert ai.default_provider == "spark"
    assert ai.providers["openai"] == Provider("openai", api_key="k", retries=0)


# ---- providers from the environment


def test_a_variable_finds_the_provider_that_the_file_names(read):
    text = "scm: {ai: {providers: {My.Vendor_1: {kind: openai}, my: {kind: openai}}}}"
    providers = read(text, SCM_AI_PROVIDERS_MY_VENDOR_1_BASE_URL="https://x").ai.providers
    assert providers == {"My.Vendor_1": Provider("openai", base_url="https://x"), "my": Provider("openai")}


def test_a_variable_can_bring_a_new_provider(read):
    environ = {
        "SCM_AI_PROVIDERS_BIG_BLUE_KIND": "azure",
        "SCM_AI_PROVIDERS_BIG_BLUE_BASE_URL": "https://x",
        "SCM_AI_PROVIDERS_BIG_BLUE_API_KEYS": "a,b",
    }
    ai = read(**environ).ai
    assert ai.providers == {"big-blue": Provider("azure", base_url="https://x", api_keys=("a", "b"))}
    assert ai.default_provider == "big-blue"


def test_a_new_provider_that_is_called_like_a_kind_is_of_it(read):
    assert read(SCM_AI_PROVIDERS_ANTHROPIC_API_KEY="k").ai.providers == {
        "anthropic": Provider("anthropic", api_key="k")
    }


def test_a_price_of_the_file_can_be_overridden(read):
    text = "scm: {ai: {providers: {openai: {prices: {gpt-4.1: {prompt: 1, completion: 2}}}}}}"
    config = read(text, SCM_AI_PROVIDERS_OPENAI_PRICES_GPT_4_1_PROMPT="0.5")
    assert config.ai.providers["openai"].prices == {"gpt-4.1": Price(0.5, 2.0)}


def test_other_variables_do_not_matter(read):
    assert read(SCMX="1", HOME="/", scm_auth_secret="x", SC="1", SCM_TOKEN="a.b.c") == LOCAL


def test_an_empty_variable_unsets_what_may_be_unset(read):
    text = "scm: {auth: {issuer: me}, websocket: {allowed-origins: ['https://a']}}"
    config = read(text, SCM_AUTH_ISSUER="", SCM_WEBSOCKET_ALLOWED_ORIGINS="")
    assert config == evolve(LOCAL)
