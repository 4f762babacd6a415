"""Every key, found by walking the classes of config.py: a new field is covered as soon as it is there."""

from typing import Literal, get_args, get_origin

import pytest
import yaml

from scm_trio.config import Config
from scm_trio.config_loader import effective, load, reference
from scm_trio.config_loader.keys import ANY, dotted, leaves, variable
from scm_trio.errors import ConfigError

PATHS = list(leaves())
NEIGHBOURS = {
    "scm.server.tls.certificate": {"SCM_SERVER_TLS_KEY": "k"},
    "scm.server.tls.key": {"SCM_SERVER_TLS_CERTIFICATE": "c"},
    "scm.ai.default-provider": {"SCM_AI_PROVIDERS_SOMETHING_KIND": "local"},
    "scm.ai.default-model": {"SCM_AI_PROVIDERS_SOMETHING_KIND": "openai"},
    "scm.ai.fallback": {"SCM_AI_PROVIDERS_SOMETHING_KIND": "local", "SCM_AI_PROVIDERS_OTHER_KIND": "local"},
    "scm.ai.providers.NAME.transport": {
        "SCM_AI_PROVIDERS_MINE_APP_ID": "a",
        "SCM_AI_PROVIDERS_MINE_API_KEY": "k",
        "SCM_AI_PROVIDERS_MINE_API_SECRET": "s",
        "SCM_AI_PROVIDERS_MINE_BASE_URL": "wss://example.com",
    },
}
"""What has to be set together with a key."""
ONLY_VALUES = {"scm.server.workers": "4", "scm.broker.url": "redis://host"}
"""Keys that have a single possible value so far, and another one."""
URLS = {"scm.store.url": "postgresql://host/x"}


def texts(path, key):
    """A text for the variable that is not the default, and what it becomes in the class."""
    name = dotted(path)
    if key.metadata.get("url"):
        return (URLS.get(name, "https://example.com/x"),) * 2
    if name == "scm.ai.fallback":
        return "something, other", ("something", "other")
    if name.endswith(".headers"):
        return "A: a, B: b", ("A: a", "B: b")
    if get_origin(key.kind) is Literal:
        other = [choice for choice in get_args(key.kind) if choice != key.default][-1]
        return other, other
    if key.kind is bool:
        return str(not key.default).lower(), not key.default
    if get_origin(key.kind) is tuple:
        return "a, b", ("a", "b")
    if key.is_milliseconds:
        wanted = 299_000 if name.endswith("heartbeat.interval") else 400_000
        return str(wanted), wanted / 1000
    return {int: ("4321", 4321), float: ("2.5", 2.5), str: ("something", "something")}[key.kind]


def kind_for(key):
    return key.metadata.get("kinds", ("openai",))[0]


def named(path, key):
    """What a file has to say of the names in a key; those of other keys need none."""
    if path[2] == "quota":
        prices = {"mine": {"kind": "openai", "prices": {"m": {"prompt": 1}}}}
        return {"quota": {"users": {"mine": {}}, "answer-tokens": 1}, "providers": prices}
    if ANY not in path:
        return {}
    if path[2] == "aliases":
        return {
            "aliases": {"mine": {"provider": "something", "model": "m"}},
            "providers": {"something": {"kind": "openai"}},
        }
    prices = {"prices": {"model": {}}} if "prices" in path else {}
    return {"providers": {"mine": {"kind": kind_for(key), "base-url": "https://example.com", **prices}}}


def at(config, path):
    value = config
    for step in path[1:]:
        if isinstance(value, dict):
            value = value[step]
        else:
            names = {_spelled(field): field.name for field in value.__attrs_attrs__}
            value = getattr(value, names[step])
    return value


def _spelled(field):
    return field.metadata.get("key", field.name.replace("_", "-"))


CHANGEABLE = [(path, key) for path, key in PATHS if dotted(path) not in ONLY_VALUES]


@pytest.mark.parametrize(("path", "key"), CHANGEABLE, ids=[dotted(path) for path, _ in CHANGEABLE])
def test_every_key_can_be_overridden_by_the_environment(path, key, tmp_path):
    names = iter(("mine", "model"))
    here = tuple(next(names) if step == ANY else step for step in path)
    text, value = texts(path, key)
    file = tmp_path / "scm.yaml"
    file.write_text(yaml.safe_dump({"scm": {"ai": named(path, key)}}))
    config = load(file, {variable(here): text, **NEIGHBOURS.get(dotted(path), {})}).config
    assert at(config, here) == value
    assert at(config, here) != key.default


@pytest.mark.parametrize(("name", "text"), ONLY_VALUES.items())
def test_a_key_with_a_single_value_takes_no_other(name, text):
    spelled = variable(tuple(name.split(".")))
    with pytest.raises(ConfigError, match=rf"^{spelled}: {name}: expected "):
        load(None, {spelled: text})


def test_no_two_keys_have_the_same_variable():
    assert len({variable(path) for path, _ in PATHS}) == len(PATHS)


def test_the_reference_has_every_key_with_its_default():
    rows = {row.key: row for row in reference()}
    assert list(rows) == [dotted(path) for path, _ in PATHS]
    assert rows["scm.websocket.heartbeat.interval"].default == "30000"
    assert rows["scm.websocket.heartbeat.interval"].variable == "SCM_WEBSOCKET_HEARTBEAT_INTERVAL"
    assert rows["scm.websocket.heartbeat.interval"].expected == "a whole number of milliseconds from 1"
    assert rows["scm.auth.secret"].default == ""
    assert rows["scm.ai.providers.NAME.kind"].default == ""
    assert rows["scm.websocket.allowed-origins"].default == "[]"
    assert rows["scm.auth.query-token"].default == "true"


def test_every_key_stands_in_the_effective_configuration():
    printed = yaml.safe_load(effective(Config()))
    for path, _ in PATHS:
        if ANY not in path:
            value = printed
            for step in path:
                assert step in value
                value = value[step]


def test_a_variable_that_the_file_names_itself_is_its_own(tmp_path):
    file = tmp_path / "scm.yml"
    file.write_text(
        "scm: {auth: {secret: '${SCM_JWT_SECRET}'}, ai: {providers: {a: {kind: openai, models: ['${SCM_M:x}']}}}}"
    )
    environ = {"SCM_JWT_SECRET": "s" * 40, "SCM_M": "gpt"}
    config = load(file, environ).config
    assert (config.auth.secret, config.ai.providers["a"].models) == ("s" * 40, ("gpt",))
    file.write_text("scm: {auth: {secret: '$${SCM_JWT_SECRET}'}}")
    with pytest.raises(ConfigError, match="SCM_JWT_SECRET: no key has this name"):
        load(file, environ)
