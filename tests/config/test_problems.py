"""What stops the start, and in which words."""

import pytest

from scm_trio.config_loader import load
from scm_trio.errors import ConfigError


def test_a_wrong_value_is_told_with_key_value_type_and_line(problems):
    assert problems("""
        scm:
          websocket:
            heartbeat:
              interval: fast
    """) == ['scm.yaml:5: scm.websocket.heartbeat.interval: expected a whole number of milliseconds from 1, got "fast"']


def test_a_wrong_variable_is_told_by_its_name(problems):
    assert problems(SCM_WEBSOCKET_HEARTBEAT_INTERVAL="fast") == [
        (
            "SCM_WEBSOCKET_HEARTBEAT_INTERVAL: scm.websocket.heartbeat.interval: "
            'expected a whole number of milliseconds from 1, got "fast"'
        )
    ]


def test_an_unknown_key_is_told_with_the_closest_one(problems):
    assert problems("""
        scm:
          websocket:
            hartbeat: {interval: 1}
          auth:
            xyz: hunter2
    """) == [
        "scm.yaml:4: scm.websocket.hartbeat: unknown key; did you mean heartbeat?",
        (
            "scm.yaml:6: scm.auth.xyz: unknown key; known here: secret, algorithm, public-key, jwks-url, issuer, audience, "
            "leeway, user-claim, query-token, refresh"
        ),
    ]


def test_an_unknown_variable_is_told_with_the_closest_one(problems):
    assert problems(SCM_WEBSOCKET_HARTBEAT_INTERVAL="1") == [
        (
            "SCM_WEBSOCKET_HARTBEAT_INTERVAL: no key has this name; "
            "the closest is SCM_WEBSOCKET_HEARTBEAT_INTERVAL (scm.websocket.heartbeat.interval)"
        )
    ]
    assert problems("scm: {ai: {providers: {mine: {kind: local}}}}", SCM_AI_PROVIDERS_MINE_BASEURL="x") == [
        (
            "SCM_AI_PROVIDERS_MINE_BASEURL: no key has this name; "
            "the closest is SCM_AI_PROVIDERS_MINE_BASE_URL (scm.ai.providers.mine.base-url)"
        )
    ]


@pytest.mark.parametrize(
    "name",
    [
        "SCM_",
        "SCM_AUTH",
        "SCM_AI_PROVIDERS",
        "SCM_AI_PROVIDERS_OPENAI",
        "SCM_AI_PROVIDERS__KIND",
        "SCM_AUTH_SECRET_X",
        "SCM_AI_PROVIDERS_OPENAI_PRICES_GPT_5_PROMPT",
        "SCM_SERVER_TLS",
    ],
)
def test_a_variable_that_names_no_value_is_a_problem(problems, name):
    (problem,) = problems(**{name: "x"})
    assert problem.startswith(f"{name}: no key has this name; the closest is SCM_")


def test_all_problems_are_told_together_one_a_line(problems):
    assert problems(
        """
        scm:
          server:
            port: 65536
            workers: true
          auth:
            leeway: .nan
            algorithm: none
          log: quiet
          ai:
            providers: {main: {kind: gpt}, other: {}}
        more: 1
        """,
        SCM_AUTH_SECRETS="1",
        SCM_AUTH_REFRESH="maybe",
    ) == [
        "scm.yaml:12: more: unknown key; everything stands below scm",
        "SCM_AUTH_SECRETS: no key has this name; the closest is SCM_AUTH_SECRET (scm.auth.secret)",
        "scm.yaml:4: scm.server.port: expected a whole number from 0 to 65535, got 65536",
        "scm.yaml:5: scm.server.workers: expected a whole number from 1, got true",
        'scm.yaml:8: scm.auth.algorithm: expected one of HS256, RS256, ES256, EdDSA, got "none"',
        "scm.yaml:7: scm.auth.leeway: expected a number from 0, got NaN",
        'SCM_AUTH_REFRESH: scm.auth.refresh: expected true or false, got "maybe"',
        (
            "scm.yaml:11: scm.ai.providers.main.kind: "
            'expected one of openai, azure, anthropic, spark, local, scripted, got "gpt"'
        ),
        (
            "scm.yaml:11: scm.ai.providers.other.kind: "
            "missing; expected one of openai, azure, anthropic, spark, local, scripted"
        ),
        "scm.yaml:9: scm.log: expected a mapping of keys, got a single value",
    ]


# ---- values


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("server.port", "-1"),
        ("server.port", "80.0"),
        ("server.port", '"80"'),
        ("server.port", "[80]"),
        ("server.port", "0b_"),
        ("server.port", "9" * 400),
        ("server.workers", "0"),
        ("server.host", '""'),
        ("server.host", "8"),
        ("server.host", "true"),
        ("server.host", '"a\\0b"'),
        ("server.host", "!!binary aGk="),
        ("server.trusted-proxies", "10.0.0.1"),
        ("server.trusted-proxies", "[1]"),
        ("server.trusted-proxies", '[""]'),
        ("server.trusted-proxies", "[[a]]"),
        ("server.trusted-proxies", "[{a: b}]"),
        ("server.tls", "[]"),
        ("websocket.heartbeat.interval", "30.5"),
        ("websocket.heartbeat.interval", "0"),
        ("websocket.heartbeat.interval", "1" + "0" * 30),
        ("auth.leeway", "-0.1"),
        ("auth.leeway", ".inf"),
        ("auth.leeway", "ten"),
        ("auth.refresh", "1"),
        ("auth.refresh", '"true"'),
        ("auth.algorithm", "hs256"),
        ("log.level", "{a: b}"),
        ("ai.providers", "[openai]"),
        ("ai.providers", "openai"),
        ("ai.providers.openai", "key"),
        ("ai.providers.openai.prices", "3"),
        ("ai.providers.openai.prices.gpt", "3"),
        ("ai.providers.openai.context-tokens", "255"),
    ],
)
def test_a_value_of_another_type_or_out_of_range_is_refused(problems, path, value):
    steps = path.split(".")
    text = "scm:\n" + "".join(f"{'  ' * (depth + 1)}{step}:\n" for depth, step in enumerate(steps))
    (problem,) = problems(text.rstrip("\n") + f" {value}\n")
    assert problem.startswith(f"scm.yaml:{len(steps) + 1}: scm.{path}: expected ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SCM_SERVER_PORT", "80 80"),
        ("SCM_SERVER_PORT", "8_0"),
        ("SCM_SERVER_PORT", "٨٠"),
        ("SCM_SERVER_PORT", "9" * 5000),
        ("SCM_SERVER_PORT", ""),
        ("SCM_SERVER_HOST", ""),
        ("SCM_SERVER_HOST", "\udcff"),
        ("SCM_AUTH_LEEWAY", "1e3"),
        ("SCM_AUTH_LEEWAY", "nan"),
        ("SCM_AUTH_REFRESH", "maybe"),
        ("SCM_LOG_LEVEL", ""),
    ],
)
def test_a_variables_text_that_is_no_such_value_is_refused(problems, name, value):
    (problem,) = problems(**{name: value})
    assert problem.startswith(f"{name}: scm.")
    problem.encode()


def test_a_long_value_is_cut(problems):
    (problem,) = problems(SCM_LOG_LEVEL="x" * 1000)
    assert len(problem) < 180


def test_what_is_below_a_wrong_section_cannot_be_overridden_but_is_told(problems):
    assert problems("scm: {auth: 5}", SCM_AUTH_SECRET="s") == [
        "scm.yaml:1: scm.auth: expected a mapping of keys, got a single value"
    ]


@pytest.mark.parametrize("name", ['""', "x" * 129, '"a\\nb"'])
def test_a_provider_needs_a_possible_name(problems, name):
    (problem,) = problems(f"scm:\n  ai:\n    providers:\n      ? {name}\n      : {{kind: local}}\n")
    assert "expected a name of 1 to 128 printable characters" in problem


# ---- secrets


def test_secrets_are_never_told(problems):
    text = problems(
        """
        scm:
          auth: {secret: [hunter2], issuer: {hunter2: 1}}
          store: {url: [hunter2]}
          ai:
            providers:
              openai: {api-key: 7777777, api-keys: hunter2, kind: hunter}
        """,
    )
    assert len(text) == 6
    assert "hunter2" not in "".join(text).replace("hunter2: unknown", "")
    assert "7777777" not in "".join(text)


def test_a_password_in_a_url_is_never_told(problems):
    (problem,) = problems(SCM_AI_PROVIDERS_OPENAI_BASE_URL="ftp://user:hunter2@example.com")
    assert "hunter2" not in problem
    (problem,) = problems(SCM_LOG_LEVEL="postgresql://user:hun/ter2@host?password=hunter2")
    assert problem.endswith('got "postgresql://user:***@host?password=***"')


def test_the_mask_of_a_printed_configuration_is_no_secret(problems):
    assert problems("scm:\n  auth: {secret: '***'}\n  store: {url: 'postgresql://u:***@h/db'}") == [
        "scm.yaml:2: scm.auth.secret: expected the value itself: *** only stands for it in print, got ***",
        (
            "scm.yaml:3: scm.store.url: expected the value itself: *** only stands for it in print, "
            'got "postgresql://u:***@h/db"'
        ),
    ]


# ---- placeholders


def test_a_variable_that_is_not_set_is_named(problems):
    assert problems("scm: {auth: {secret: '${NOPE}'}}") == [
        (
            "scm.yaml:1: scm.auth.secret: "
            "expected the environment variable NOPE to be set, or a default: ${NOPE:default}, got ***"
        )
    ]


@pytest.mark.parametrize("value", ["${}", "${A B}", "${1A:x}", "${A", "${A:${B:c}}", "${A:${B}"])
def test_a_malformed_placeholder_is_refused(problems, value):
    assert problems(f"scm: {{server: {{host: '{value}'}}}}", A="a", B="b") == [
        (
            "scm.yaml:1: scm.server.host: expected a placeholder ${NAME} or ${NAME:default}; "
            f'a literal ${{ is written $${{, got "{value}"'
        )
    ]


def test_a_filled_in_text_that_does_not_fit_is_told(problems):
    assert problems("scm: {server: {port: '${PORT}'}}", PORT="http") == [
        'scm.yaml:1: scm.server.port: expected a whole number from 0 to 65535, got "http"'
    ]


# ---- the file itself


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scm:\n  auth: {secret: hunter2", "scm.yaml:2: this is no YAML: expected ',' or '}', but got '<stream end>'"),
        ("scm: 'hunter2", "scm.yaml:1: this is no YAML: found unexpected end of stream"),
        ("scm: {}\n---\nscm: {}\n", "scm.yaml:2: this is no YAML: but found another document"),
        ("scm: &a [*a]", "scm.yaml: values are nested too deeply, or contain themselves"),
        ("scm: " + "[" * 5000, "scm.yaml: values are nested too deeply, or contain themselves"),
        ("scm: {[a]: b}", "scm.yaml:1: this is no YAML: a key has to be a text"),
        ("scm:\n  <<: {[a]: b}", "scm.yaml:2: this is no YAML: a key has to be a text"),
        (
            "scm:\n  <<: text",
            "scm.yaml:2: this is no YAML: expected a mapping or list of mappings for merging, but found scalar",
        ),
        (
            "scm: {server: {port: !hunter 1}}",
            "scm.yaml:1: this is no YAML: could not determine a constructor for the tag '!hunter'",
        ),
        ("scm: \x07", "scm.yaml: this is no text in UTF-8"),
        ("- scm", "scm.yaml:1: expected a mapping with the key scm"),
        ("scm", "scm.yaml:1: expected a mapping with the key scm"),
        ("scm: 7", "scm.yaml:1: scm: expected a mapping of keys, got a single value"),
        ("server: {port: 1}", "scm.yaml:1: server: unknown key; everything stands below scm"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(problems, text, message):
    assert problems(text) == [message]


def test_a_key_that_is_given_twice_is_refused(problems):
    assert problems("scm:\n  auth:\n    issuer: a\n    issuer: b\n  log: {}\nscm: {}\n") == [
        "scm.yaml:6: scm: given before, in line 1",
        "scm.yaml:4: scm.auth.issuer: given before, in line 3",
    ]


def test_a_file_that_is_not_there_or_no_text_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"nope\.yaml: No such file or directory"):
        load(tmp_path / "nope.yaml", {})
    (tmp_path / "scm.yaml").write_bytes(b"scm: \xff\xfe")
    with pytest.raises(ConfigError, match="this is no text in UTF-8"):
        load(tmp_path / "scm.yaml", {})


# ---- contradictions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("server: {tls: {certificate: c}}", ["server.tls.certificate: needs scm.server.tls.key as well"]),
        ("server: {tls: {key: k}}", ["server.tls.key: needs scm.server.tls.certificate as well"]),
        (
            "websocket: {heartbeat: {interval: 5000, timeout: 5000}}",
            ["websocket.heartbeat.timeout: expected more than scm.websocket.heartbeat.interval"],
        ),
        (
            "websocket: {heartbeat: {interval: 300000}}",
            ["websocket.heartbeat.timeout: expected more than scm.websocket.heartbeat.interval"],
        ),
        ("auth: {jwks-url: 'ftp://x'}", ["auth.jwks-url: expected a URL with http:// or https://"]),
        (
            "ai: {default-provider: a, fallback: [b, c], providers: {b: {kind: local}}}",
            [
                'ai.default-provider: no provider is called "a"; there are b',
                'ai.fallback: no provider is called "c"; there are b',
            ],
        ),
        (
            "ai: {aliases: {fast: {provider: b, model: m}}, providers: {a: {kind: local}}}",
            ['ai.aliases.fast.provider: no provider is called "b"; there are a'],
        ),
        (
            "ai: {aliases: {fast: {provider: a, model: m}}, providers: {a: {kind: openai, models: [x, y]}}}",
            ['ai.aliases.fast.model: a does not offer "m"; its models are x, y'],
        ),
        (
            "ai: {aliases: {fast: {provider: a, model: m}}, providers: {a: {kind: local, model-path: /models/x.gguf}}}",
            ['ai.aliases.fast.model: a does not offer "m"; its models are x'],
        ),
        (
            "ai: {quota: {tokens-per-day: 1024}, providers: {a: {kind: local}}}",
            [
                (
                    "ai.quota.tokens-per-day: expected 0 or more than scm.ai.quota.answer-tokens (1024): "
                    "no request would fit"
                )
            ],
        ),
        (
            "ai: {quota: {users: {ann: {tokens-per-day: 5, requests-per-day: 1}}, answer-tokens: 5}}",
            [
                (
                    "ai.quota.users.ann.tokens-per-day: expected 0 or more than scm.ai.quota.answer-tokens (5): "
                    "no request would fit"
                )
            ],
        ),
        (
            "ai: {quota: {cost-per-day: 1, users: {ann: {cost-per-day: 0.5}}}, providers: {a: {kind: local}}}",
            [
                "ai.quota.cost-per-day: needs the prices of some model; no provider has any",
                "ai.quota.users.ann.cost-per-day: needs the prices of some model; no provider has any",
            ],
        ),
        ("ai: {default-provider: openai}", ['ai.default-provider: no provider is called "openai"; there are local']),
        (
            "ai: {providers: {a_b: {kind: local}, A-b: {kind: local}}}",
            ['ai.providers.A-b: expected a name that differs from "a_b" by more than case and punctuation'],
        ),
        (
            "ai: {providers: {openai: {base-url: 'example.com'}}}",
            ["ai.providers.openai.base-url: expected a URL with http:// or https://"],
        ),
        (
            "ai: {providers: {openai: {base-url: 'http://[::1'}}}",
            ["ai.providers.openai.base-url: expected a URL with http:// or https://"],
        ),
        (
            "ai: {providers: {openai: {base-url: 'wss://x'}}}",
            ["ai.providers.openai.base-url: expected a URL with http:// or https://"],
        ),
        (
            "ai: {providers: {spark: {transport: websocket, base-url: 'https://x'}}}",
            [
                "ai.providers.spark.base-url: expected a URL with ws:// or wss://",
                "ai.providers.spark.app-id: missing; spark over websocket signs with it",
                "ai.providers.spark.api-secret: missing; spark over websocket signs with it",
            ],
        ),
        (
            "ai: {providers: {azure: {api-key: k}}}",
            ["ai.providers.azure.base-url: missing; expected the address of the Azure resource"],
        ),
        (
            "ai: {providers: {openai: {headers: ['no colon', 'Bad Name: x', 'Authorization: s3cret', 'X: ok']}}}",
            [
                *["ai.providers.openai.headers: expected texts like OpenAI-Project: proj_1"] * 2,
                "ai.providers.openai.headers: Authorization is the provider's own to send",
            ],
        ),
        (
            "ai: {providers: {spark: {transport: websocket, app-id: a, api-key: k, api-secret: s, headers: ['X: 1']}}}",
            ["ai.providers.spark.headers: a WebSocket's request has none"],
        ),
        (
            "ai: {providers: {openai: {app-id: x, api-key: k, api-keys: [k]}}}",
            [
                "ai.providers.openai.app-id: unknown to the kind openai; it belongs to spark",
                "ai.providers.openai.api-keys: give either api-key or api-keys",
            ],
        ),
    ],
)
def test_values_that_contradict_each_other_are_refused(problems, text, expected):
    assert problems(f"scm: {{{text}}}") == [f"scm.yaml:1: scm.{line}" for line in expected]


def test_an_alias_that_leads_nowhere_is_told_with_its_line(problems):
    assert problems("""
        scm:
          ai:
            aliases:
              good: {provider: one, model: anything}
              fast:
                provider: one
                model:
              smart:
                model: m
                provider: two
            providers:
              one: {kind: openai}
    """) == [
        "scm.yaml:6: scm.ai.aliases.fast.model: missing; expected a text",
        'scm.yaml:11: scm.ai.aliases.smart.provider: no provider is called "two"; there are one',
    ]


def test_a_contradiction_is_not_told_where_a_value_is_wrong_anyway(problems):
    text = "scm: {websocket: {heartbeat: {interval: 999999, timeout: x}}, ai: {fallback: [a], providers: 7}}"
    assert [line.split(":")[2].strip() for line in problems(text)] == [
        "scm.websocket.heartbeat.timeout",
        "scm.ai.providers",
    ]


def test_a_contradiction_is_told_beside_other_problems(problems):
    text = "scm: {server: {port: x, tls: {key: k}}, ai: {fallback: [a], providers: {openai: {retries: x}}}}"
    assert [line.split(":")[2].strip() for line in problems(text)] == [
        "scm.server.port",
        "scm.ai.providers.openai.retries",
        "scm.server.tls.key",
        "scm.ai.fallback",
    ]
