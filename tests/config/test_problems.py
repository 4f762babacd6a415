"""What stops the start, and in which words."""

import pytest

from scm_trio.config import PLACED_SPARK_MODELS, Auth
from scm_trio.config_loader import load
from scm_trio.errors import ConfigError

UNQUOTED = "a text that begins like this needs quotes"
MISTAGGED = "this is no YAML: the value is not what its tag says"
SIGNED = "transport: websocket, app-id: a, api-secret: s"
PLACED = f"expected one of {', '.join(PLACED_SPARK_MODELS)}, or a base-url beside it"


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


def test_an_unknown_key_that_may_be_a_piece_of_a_value_is_not_told(problems):
    known = "secret, algorithm, public-key, jwks-url, issuer, audience, leeway, user-claim, query-token, refresh"
    assert problems("scm: {auth: {secret: hunter2,hunter3}}") == [
        f"scm.yaml:1: scm.auth: a key without a value, which is unknown; known here: {known}"
    ]
    assert problems("scm: {auth: {secret:hunter2}, log: {lvel}}") == [
        "scm.yaml:1: scm.auth.secret…: unknown key; did you mean secret?",
        "scm.yaml:1: scm.log.lvel: unknown key; did you mean level?",
    ]
    assert problems("{scm: , hunter2}") == [
        "scm.yaml:1: a key without a value: unknown key; everything stands below scm"
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
        ("auth.leeway", "1:" * 400 + "1.0"),
        ("server.port", "0x" + "f" * 5000),
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
    assert problem.endswith('got "postgresql://***"')


def test_the_mask_of_a_printed_configuration_is_no_secret(problems):
    assert problems("scm:\n  auth: {secret: '***'}\n  store: {url: 'postgresql://u:***@h/db'}") == [
        "scm.yaml:2: scm.auth.secret: expected the value itself: *** only stands for it in print, got ***",
        (
            "scm.yaml:3: scm.store.url: expected the value itself: *** only stands for it in print, "
            'got "postgresql://***@h/db"'
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
        ("scm:\n  auth: {secret: hunter2", "scm.yaml:2:25: this is no YAML: a comma or the closing bracket is missing"),
        ("scm: 'hunter2", "scm.yaml:1:14: this is no YAML: the quotes are never closed"),
        ("scm: {}\n---\nscm: {}\n", "scm.yaml:2:1: this is no YAML: one document is expected"),
        ("scm: &a [*a]", "scm.yaml: values are nested too deeply, or contain themselves"),
        ("scm: " + "[" * 5000, "scm.yaml: values are nested too deeply, or contain themselves"),
        ("scm: {[a]: b}", "scm.yaml:1:7: this is no YAML: a key has to be a text"),
        ("scm:\n  <<: {[a]: b}", "scm.yaml:2:8: this is no YAML: a key has to be a text"),
        ("scm:\n  <<: text", "scm.yaml:2:7: this is no YAML: << takes a mapping or a list of such"),
        (
            "scm: {server: {port: !hunter 1}}",
            f"scm.yaml:1:22: this is no YAML: ! begins a tag, and this one is unknown; {UNQUOTED}",
        ),
        (
            "scm:\n  auth: {secret: *hunter2}",
            f"scm.yaml:2:18: this is no YAML: * refers to an anchor, and there is none; {UNQUOTED}",
        ),
        (
            "scm: {a: &hunter2 1, b: &hunter2 2}",
            f"scm.yaml:1:25: this is no YAML: & names an anchor, and this one is there already; {UNQUOTED}",
        ),
        (
            "scm: {a: !hunter2!x 1}",
            f"scm.yaml:1:10: this is no YAML: ! begins a tag, and this one is unknown; {UNQUOTED}",
        ),
        (
            "scm:\n  auth: {secret: @hunter2}",
            f"scm.yaml:2:18: this is no YAML: nothing can begin with this character; {UNQUOTED}",
        ),
        (
            'scm: {auth: {secret: "hunter\\2"}}',
            (
                "scm.yaml:1:30: this is no YAML: between double quotes a backslash begins an escape, and this is none; "
                "single ones take it"
            ),
        ),
        (
            "scm:\n  auth:\n    secret: hunter: 2",
            "scm.yaml:3:19: this is no YAML: a colon is not allowed here; a text that holds one needs quotes",
        ),
        (
            "scm:\n  auth:\n    issuer: me\n    secret:hunter2\n  log: {}",
            "scm.yaml:5:3: this is no YAML: a key needs a colon and a space behind it",
        ),
        (
            'scm:\n  auth:\n    secret: "hunt"er2"',
            "scm.yaml:3:19: this is no YAML: the indentation is wrong, or a text needs quotes",
        ),
        ("scm: >hunter2", "scm.yaml:1:7: this is no YAML: it cannot be read from here on"),
        ("%YAML hunter2\n---\nscm:", "scm.yaml:1:7: this is no YAML: it cannot be read from here on"),
        ("scm: {auth: {secret: !!bool hunter2}}", f"scm.yaml:1:22: {MISTAGGED}"),
        ("scm: {auth: {secret: !!int ''}}", f"scm.yaml:1:22: {MISTAGGED}"),
        ("scm: {auth: {secret: !!int hunter2}}", f"scm.yaml:1:22: {MISTAGGED}"),
        ("scm: {auth: {secret: !!float hunter2}}", f"scm.yaml:1:22: {MISTAGGED}"),
        ("scm: {auth: {secret: !!binary hunter2}}", f"scm.yaml:1:22: {MISTAGGED}"),
        (
            "scm: {auth: {secret: !!omap hunter2}}",
            f"scm.yaml:1:22: this is no YAML: ! begins a tag, and this one is unknown; {UNQUOTED}",
        ),
        ('scm: "\\UFFFFFFFF"', "scm.yaml:1:9: this is no YAML: a number that is far too large"),
        (
            f"%YAML 1.{'9' * 5000}\n---\nscm:",
            "scm.yaml:1:9: this is no YAML: a number that is far too large",
        ),
        (
            "scm:\n  # hm\n  log: \x07",
            "scm.yaml:3:8: this is no YAML: a character that is not allowed, or only escaped",
        ),
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
    assert problems("scm: {auth: {secret: {hunter2, hunter2}}, log: {x: 1, x: 1}}\na: 1\na: 1") == [
        "scm.yaml:3: a key is given before, in line 2",
        "scm.yaml:1: scm.auth.secret: a key in it is given before, in line 1",
        "scm.yaml:1: scm.log: a key in it is given before, in line 1",
        "scm.yaml:3: a: unknown key; everything stands below scm",
        "scm.yaml:1: scm.auth.secret: expected a text, got a mapping",
        "scm.yaml:1: scm.log.x: unknown key; known here: format, level",
    ]


def test_a_file_that_is_not_there_or_no_text_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"nope\.yaml: No such file or directory"):
        load(tmp_path / "nope.yaml", {})
    (tmp_path / "scm.yaml").write_bytes(b"scm: \xff\xfe")
    with pytest.raises(ConfigError, match=r"scm\.yaml:1:6: this is no text in UTF-8"):
        load(tmp_path / "scm.yaml", {})


def test_a_file_as_some_editors_write_it_can_be_read(tmp_path):
    text = "scm: {server: {port: 1}}"
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "scm.yaml").write_bytes(text.encode(encoding))
        assert load(tmp_path / "scm.yaml", {}).config.server.port == 1


def test_what_only_looks_like_more_than_a_text_is_a_text(read):
    assert read("scm: {auth: {secret: =, issuer: <<}}").auth == Auth(secret="=", issuer="<<")


# ---- contradictions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("server: {tls: {certificate: c}}", ["server.tls.certificate: needs scm.server.tls.key as well"]),
        ("server: {tls: {key: k}}", ["server.tls.key: needs scm.server.tls.certificate as well"]),
        (
            "websocket: {heartbeat: {interval: 5000, timeout: 5000}}",
            ["websocket.heartbeat.timeout: expected more than scm.websocket.heartbeat.interval (5000), got 5000"],
        ),
        (
            "websocket: {heartbeat: {interval: 400000}}",
            ["websocket.heartbeat.timeout: expected more than scm.websocket.heartbeat.interval (400000), got 300000"],
        ),
        (
            "auth: {jwks-url: 'ftp://x?code=hunter2'}",
            ['auth.jwks-url: expected a URL with http:// or https://, got "ftp://x?***"'],
        ),
        (
            'auth: {public-key: "-----BEGIN RSA PRIVATE KEY-----\\nhunter2"}',
            [
                (
                    "auth.public-key: expected a public key or a certificate in PEM, or the path of such a file, "
                    "got a private key"
                )
            ],
        ),
        ("server: {workers: 4}", ["server.workers: expected 1, since this version runs one process, got 4"]),
        (
            "broker: {url: 'rediss://u@t:hunter2@host/0'}",
            ['broker.url: expected memory://, the only one that this version knows, got "rediss://***@host/0"'],
        ),
        (
            "store: {url: 'mysql://x/y'}",
            [('store.url: expected sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME, got "mysql://x/y"')],
        ),
        (
            "store: {url: nonsense}",
            [("store.url: expected sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME, got a text without ://")],
        ),
        (
            "ai: {default-provider: a, fallback: [b, c], providers: {b: {kind: local}}}",
            [
                'ai.default-provider: expected the name of a provider (b), got "a"',
                'ai.fallback: expected the name of a provider (b), got "c" (item 2)',
            ],
        ),
        (
            "ai: {aliases: {fast: {provider: b, model: m}}, providers: {a: {kind: local}}}",
            ['ai.aliases.fast.provider: expected the name of a provider (a), got "b"'],
        ),
        (
            "ai: {aliases: {fast: {provider: a, model: m}}, providers: {a: {kind: openai, models: [x, y]}}}",
            ['ai.aliases.fast.model: expected a model that a offers (x, y), got "m"'],
        ),
        (
            "ai: {aliases: {fast: {provider: a, model: m}}, providers: {a: {kind: local, model-path: /models/x.gguf}}}",
            ['ai.aliases.fast.model: expected a model that a offers (x), got "m"'],
        ),
        (
            "ai: {quota: {tokens-per-day: 1024}, providers: {a: {kind: local}}}",
            [
                (
                    "ai.quota.tokens-per-day: expected 0 or more than scm.ai.quota.answer-tokens (1024), "
                    "or else no request would fit, got 1024"
                )
            ],
        ),
        (
            "ai: {quota: {users: {ann: {tokens-per-day: 5, requests-per-day: 1}}, answer-tokens: 5}}",
            [
                (
                    "ai.quota.users.ann.tokens-per-day: expected 0 or more than scm.ai.quota.answer-tokens (5), "
                    "or else no request would fit, got 5"
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
        (
            "ai: {default-provider: openai}",
            ['ai.default-provider: expected the name of a provider (local), got "openai"'],
        ),
        (
            "ai: {default-model: nope, providers: {a: {kind: openai, models: [x, y]}, b: {kind: spark, models: [z]}}}",
            ['ai.default-model: expected an alias, or a model on offer (x, y, z), got "nope"'],
        ),
        (
            "ai: {default-model: nope, providers: {a: {kind: azure, base-url: 'https://x', deployment: d}}}",
            ['ai.default-model: expected an alias, or a model on offer (d), got "nope"'],
        ),
        (
            "ai: {providers: {openai: {preset: deepsek, token-limit-field: max}}}",
            [
                (
                    "ai.providers.openai.preset: expected one of deepseek, qwen, moonshot, zhipu, ollama, vllm, "
                    'llamacpp, got "deepsek"'
                ),
                'ai.providers.openai.token-limit-field: expected one of max_tokens, max_completion_tokens, got "max"',
            ],
        ),
        (
            "ai: {providers: {anthropic: {api-version: latest}}}",
            ['ai.providers.anthropic.api-version: expected a date like 2023-06-01, got "latest"'],
        ),
        (
            "ai: {providers: {a_b: {kind: local}, A-b: {kind: local}}}",
            ['ai.providers.A-b: expected a name that differs from "a_b" by more than case and punctuation'],
        ),
        (
            "ai: {providers: {openai: {base-url: 'example.com'}}}",
            ["ai.providers.openai.base-url: expected a URL with http:// or https://, got a text without ://"],
        ),
        (
            "ai: {providers: {openai: {base-url: 'http://[::1'}}}",
            ['ai.providers.openai.base-url: expected a URL with http:// or https://, got "http://***"'],
        ),
        (
            "ai: {providers: {openai: {base-url: 'wss://x'}}}",
            ['ai.providers.openai.base-url: expected a URL with http:// or https://, got "wss://x"'],
        ),
        (
            "ai: {providers: {openai: {base-url: 'https://x/v1?sig=hunter2'}}}",
            [('ai.providers.openai.base-url: expected a URL without a query and a fragment, got "https://x/v1?***"')],
        ),
        (
            "ai: {providers: {azure: {base-url: 'https://x.example/openai/deployments/d'}}}",
            [
                (
                    "ai.providers.azure.base-url: expected the address of the resource, like "
                    "https://NAME.openai.azure.com; deployment and api-version are keys of their own, "
                    'got "https://x.example/openai/deployments/d"'
                )
            ],
        ),
        (
            'ai: {providers: {openai: {api-key: "hunter2\\nX: y"}, azure: {base-url: "https://x", api-keys: [k, é]}}}',
            [
                "ai.providers.openai.api-key: expected printable characters of ASCII, got ***",
                "ai.providers.azure.api-keys: expected printable characters of ASCII, got *** (item 2)",
            ],
        ),
        (
            "ai: {providers: {spark: {transport: websocket, base-url: 'https://x'}}}",
            [
                'ai.providers.spark.base-url: expected a URL with ws:// or wss://, got "https://x"',
                "ai.providers.spark.app-id: missing; spark over websocket signs with it",
                "ai.providers.spark.api-secret: missing; spark over websocket signs with it",
                "ai.providers.spark.api-key: missing; spark over websocket signs with it",
            ],
        ),
        (
            f"ai: {{providers: {{spark: {{{SIGNED}, api-keys: [hunter2, hunter3]}}}}}}",
            [
                (
                    "ai.providers.spark.api-keys: expected a single one: "
                    "over websocket it is the key that belongs to api-secret"
                )
            ],
        ),
        (
            f"ai: {{providers: {{spark: {{{SIGNED}, api-key: k, models: [x1, foo]}}}}}}",
            [f'ai.providers.spark.models: {PLACED}, got "foo" (item 2)'],
        ),
        (
            f"ai: {{providers: {{spark: {{{SIGNED}, api-key: k, models: [foo], domain: bar}}}}}}",
            [f'ai.providers.spark.domain: {PLACED}, got "bar"'],
        ),
        (
            "ai: {providers: {azure: {api-key: k}}}",
            ["ai.providers.azure.base-url: missing; expected the address of the Azure resource"],
        ),
        (
            "ai: {providers: {openai: {headers: ['no colon', 'Bad Name: x', 'Authorization: s3cret', 'X: ok']}}}",
            [
                "ai.providers.openai.headers: expected texts like OpenAI-Project: proj_1 (item 1)",
                "ai.providers.openai.headers: expected texts like OpenAI-Project: proj_1 (item 2)",
                "ai.providers.openai.headers: Authorization is the provider's own to send (item 3)",
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
        'scm.yaml:11: scm.ai.aliases.smart.provider: expected the name of a provider (one), got "two"',
    ]


def test_the_item_of_a_list_that_is_wrong_is_told_with_its_own_line(problems):
    assert problems(
        """
        scm:
          ai:
            fallback:
              - one
              - two
            providers:
              one:
                kind: openai
                models:
                  - gpt
                  - 4.0
                  - true
          server:
            trusted-proxies: [a, "${NOPE}"]
        """,
        SCM_WEBSOCKET_ALLOWED_ORIGINS="https://a, \udcff",
    ) == [
        (
            "scm.yaml:15: scm.server.trusted-proxies: expected the environment variable NOPE to be set, "
            'or a default: ${NOPE:default}, got "${NOPE}" (item 2)'
        ),
        (
            "SCM_WEBSOCKET_ALLOWED_ORIGINS: scm.websocket.allowed-origins: expected a list of texts, "
            'got "\\udcff" (item 2)'
        ),
        (
            "scm.yaml:12: scm.ai.providers.one.models: expected a list of texts, in quotes where they look like "
            "something else, got 4.0 (item 2)"
        ),
        'scm.yaml:6: scm.ai.fallback: expected the name of a provider (one), got "two" (item 2)',
    ]


def test_a_contradiction_is_told_with_the_variable_that_made_it(problems):
    assert problems("scm: {ai: {providers: {openai: {models: [a]}}}}", SCM_AI_DEFAULT_MODEL="nope") == [
        ('SCM_AI_DEFAULT_MODEL: scm.ai.default-model: expected an alias, or a model on offer (a), got "nope"')
    ]
    assert problems(SCM_STORE_URL="mysql://u:hunter2@x/y") == [
        (
            "SCM_STORE_URL: scm.store.url: expected sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME, "
            'got "mysql://***@x/y"'
        )
    ]


@pytest.mark.parametrize(
    "text",
    [
        "ai: {default-model: fast, aliases: {fast: {provider: b, model: x}}, providers: {a: {kind: local}, b: {kind: openai}}}",
        "ai: {default-model: anything, providers: {a: {kind: openai}}}",
        "ai: {default-model: d, providers: {a: {kind: openai}, b: {kind: openai, models: [e]}}}",
        "ai: {default-model: e, providers: {a: {kind: openai, models: [d]}, b: {kind: openai, models: [e]}}}",
        "ai: {default-model: gpt-x}",
        "ai: {default-model: gpt-x, providers: {mine: {kind: local}}}",
        "ai: {default-model: x1, providers: {s: {kind: spark, domain: x1}}}",
        f"ai: {{providers: {{spark: {{{SIGNED}, api-keys: [k], models: [x1, kjwx]}}}}}}",
        f"ai: {{providers: {{spark: {{{SIGNED}, api-key: k, models: [mine], base-url: 'wss://x/y'}}}}}}",
        "ai: {providers: {azure: {base-url: 'https://x.example/openai/v1', api-version: preview, api-key: k}}}",
        'ai: {providers: {openai: {api-key: "k\\n"}}}',
        *(
            f"ai: {{providers: {{openai: {{base-url: 'http://my-host{port}/v1'}}}}}}"
            for port in ("", ":", ":8080", ":08080")
        ),
    ],
)
def test_what_goes_together_is_taken(read, text):
    read(f"scm: {{{text}}}")


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
