"""A secret that stands where one may stand is in no printed configuration, no error and no line of the log."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

import pytest
import structlog
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from scm_trio.config_loader import effective, load
from scm_trio.config_loader.keys import ANY, dotted, leaves, variable
from scm_trio.config_loader.urls import masked, store_problem
from scm_trio.errors import ConfigError
from scm_trio.providers.catalogue import build_providers
from scm_trio.store import engine

MARK = "hunter2Zq"
"""In the middle of each secret: whatever shows a piece of one shows this, or nothing that helps."""
NASTY = "@:/?#&=% \t\n\\\"'{}[]*!|>,`$;+-~é中\u2028ab0"

around = st.text(NASTY, max_size=6)
secrets = st.builds(lambda before, after: f"{before}{MARK}{after}", around, around)
quoted = secrets.map(lambda secret: quote(secret, safe="@"))
words = st.text("@:/?#&=abc", max_size=6)

SECRET_KEYS = [(path, key) for path, key in leaves() if key.is_secret]
URL_KEYS = [path for path, key in leaves() if key.metadata.get("url")]
URLS = (
    "{scheme}://{secret}@host/db",
    "{scheme}://{secret}:{secret}@host:1234/db",
    "{scheme}://app:{secret}@host",
    "{scheme}://app@srv:{secret}@host/db",
    "{scheme}://u{words}:{secret}@host/db?sslmode=require",
    "{scheme}://host/db?user=u&password={secret}",
    "{scheme}://host/db?sig={secret}&x=1",
    "{scheme}://host/db?code={secret}#part",
    "{scheme}://host/db?{secret}",
    "{scheme}://host/db?{secret}=",
    "{scheme}://host/db?a=b&{secret}",
    "{scheme}://host/db#{secret}",
    "app:{secret}@host/db",
    "jdbc:{scheme}://app:{secret}@host/db",
)
HOSTLESS = ("{scheme}://app:{secret}", "{secret}")
"""There an @ or a / within the secret would make it a host, or a port and a path."""
schemes = st.sampled_from(["postgresql", "postgres", "POSTGRESQL", "https", "rediss", "wss", "mysql+x", "sqlite"])


def filled(form, scheme, secret, words=""):
    return form.format(scheme=scheme, secret=secret, words=words)


urls = st.builds(filled, st.sampled_from(URLS), schemes, secrets | quoted, words) | st.builds(
    filled, st.sampled_from(HOSTLESS), schemes, secrets.filter(lambda secret: not set("@/") & set(secret))
)


def names_for(path):
    """The path with a provider of a kind that takes everything in it."""
    return tuple("azure" if step == ANY else step for step in path)


def told(text: str | None, environ: dict[str, str], folder: Path) -> str:
    """All that is ever said of a configuration: printed, refused, logged, by the store and by the providers."""
    file = folder / "scm.yaml"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with structlog.testing.capture_logs() as logged:
        said: list[object] = []
        try:
            loaded = load(file if text is not None else None, environ)
            said += [effective(loaded.config, origins=loaded.origins), loaded, loaded.config]
            build_providers(loaded.config.ai, connect_timeout_s=1)
            said.append(engine.place(engine.parse_url(loaded.config.store.url)))
        except ConfigError as exc:
            said += [exc, repr(exc.__cause__), repr(exc.__context__) if not exc.__suppress_context__ else ""]
    return "\n".join(map(str, [*said, *logged])).replace(str(folder), "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("secrecy")


def tree(path, value):
    whole = {"ai": {"providers": {"azure": {"base-url": "https://x.example"}}}}
    at = whole
    for step in path[1:-1]:
        at = at.setdefault(step, {})
    at[path[-1]] = value
    return {"scm": whole}


@pytest.mark.parametrize("path", [path for path, _ in SECRET_KEYS], ids=dotted)
@given(secrets, st.sampled_from(["text", "list", "mapping", "twice", "variable"]))
def test_a_secret_is_never_told(folder, path, secret, form):
    here = names_for(path)
    if form == "variable":
        assert MARK not in told(None, {variable(here): secret, "AZURE_OPENAI_API_KEY": "k"}, folder)
        return
    forms = {"text": secret, "list": [secret, 7], "mapping": {secret: {secret: secret}}}
    text = yaml.safe_dump(tree(here, forms.get(form, "x")))
    if form == "twice":
        text = text.replace(f"{here[-1]}: x", f"{here[-1]}: {{{MARK}: {{a: 1, a: 2}}, {MARK}: 2}}")
        assert MARK in text
    assert MARK not in told(text, {}, folder)


@pytest.mark.parametrize("path", URL_KEYS, ids=dotted)
@given(url=urls, form=st.sampled_from(["text", "list", "mapping", "variable"]))
def test_a_secret_in_a_url_is_never_told(folder, path, url, form):
    here = names_for(path)
    if form == "variable":
        assert MARK not in told(None, {variable(here): url}, folder)
        return
    value = {"text": url, "list": [url], "mapping": {url: url}}[form]
    assert MARK not in told(yaml.safe_dump(tree(here, value)), {}, folder)


FILES = (
    "scm:\n  auth:\n    secret: {}\n",
    "scm:\n  auth: {{secret: {}}}\n",
    "scm:\n  auth: {{secret:{}}}\n",
    "scm:\n  auth:\n    secret:{}\n    issuer: me\n",
    'scm:\n  auth:\n    secret: "{}"\n',
    "scm:\n  auth:\n    secret: '{}'\n",
    "scm:\n  auth:\n    secret: !{}\n",
    "scm:\n  auth:\n    secret: !!{} x\n",
    "scm:\n  auth:\n    secret: !!bool {}\n",
    "scm:\n  auth:\n    secret: !!int {}\n",
    "scm:\n  auth:\n    secret: !!binary {}\n",
    "scm:\n  auth:\n    secret: *{}\n",
    "scm:\n  auth:\n    secret: &{} &{} x\n",
    "scm:\n  auth:\n    secret: {} # {}\n  {}\n",
    "scm:\n  store: {{url: postgresql://app:{}@host/db}}\n",
    "scm:\n  store:\n    url: !!binary {}\n",
    "{{scm: {{ai: {{providers: {{azure: {{api-key:{}}}}}}}}}}}\n",
    "{{secret:{}}}\n",
    "%{}\n---\nscm:\n",
)


raw_secrets = secrets.filter(lambda secret: not re.search(r"[\n\u2028]|:([\s,\[\]{}]|$)", secret))
"""What holds a line break or a colon and a space is more than one value to YAML."""


@given(st.sampled_from(FILES), raw_secrets)
@example(FILES[0], f"${{{MARK}}}")
@example(FILES[0], f"a${{{MARK}")
@example(FILES[10], "aHVudGVyMlpx")
@example(FILES[15], "aHVudGVyMlpx")
@example(FILES[1], f"a,{MARK}")
@example(FILES[1], f"a,{MARK}:b")
@example(FILES[1], f"a}}, {MARK}, x: {{")
def test_a_secret_that_is_no_yaml_is_never_told(folder, form, secret):
    assert MARK not in told(form.format(*[secret] * form.count("{}")), {}, folder)


def refusal(file):
    try:
        load(file, {})
    except ConfigError as exc:
        return str(exc)
    return "taken"


@given(st.text() | st.text("scm: {}[]-?!&*|>%@`'\"#,\n\t<=0x_.:eE+autholg~\\Uf2\ufeff", max_size=60))
@example("scm: !!bool x")
@example("scm: !!int ''")
@example('scm: "\\UFFFFFFFF"')
@example("scm: =")
@example("scm: {auth: {<<: [x]}}")
@example("scm: {server: {port: 0x" + "f" * 5000 + "}}")
def test_whatever_a_file_holds_it_is_read_or_refused(folder, text):
    file = folder / "any.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert refusal(file).startswith((str(file), "taken"))


@given(st.binary(max_size=40))
def test_whatever_bytes_a_file_holds_it_is_read_or_refused(folder, raw):
    file = folder / "any.yaml"
    file.write_bytes(raw)
    assert refusal(file).startswith((str(file), "taken"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://app:pw@db.example:5432/scm?sslmode=require", "postgresql://***@db.example:5432/scm?***"),
        ("postgresql://app@srv:pw@db.example/scm", "postgresql://***@db.example/scm"),
        ("postgresql://a b:pw@db/scm", "postgresql://***@db/scm"),
        ("postgresql://a:\npw@db/scm", "postgresql://***@db/scm"),
        ("postgresql://u:p/w@db/scm", "postgresql://***"),
        ("postgresql://u:p?w@db/scm", "postgresql://***"),
        ("postgresql+psycopg://u:pw@/scm?host=a&host=b", "postgresql+psycopg://***@/scm?***"),
        ("https://TOKEN@host/v1", "https://***@host/v1"),
        ("https://host/v1?TOKEN", "https://host/v1?***"),
        ("https://host/v1?a=TOK&EN=1", "https://host/v1?***"),
        ("https://host/v1?a=TOK@EN", "https://***"),
        ("https://@host/v1?", "https://***@host/v1?***"),
        ("https://host/v1#TOKEN", "https://host/v1#***"),
        ("https://[::1]:8080/v1", "https://[::1]:8080/v1"),
        ("https://host:pw", "https://***"),
        ("sqlite:///a folder/a@b#c.db", "sqlite:///a folder/a@b#c.db"),
        ("sqlite:///a.db?key=pw", "sqlite:///a.db?***"),
        ("sqlite://", "sqlite://"),
        ("memory://", "memory://"),
        ("pw", "***"),
        ("u:pw@host", "***"),
    ],
)
def test_a_url_is_shown_without_what_may_be_secret(url, shown):
    assert masked(url) == shown


parts = st.text("@:/?#[]%&= abdefil.5", max_size=8)
stores = st.builds(
    lambda scheme, *rest: scheme + "".join(rest),
    st.sampled_from(["sqlite", "sqlite+pysqlite", "postgresql", "postgres", "postgresql+psycopg", "mysql", "x", ""]),
    st.sampled_from(["://", ":///", ":////", ":", "//"]),
    st.sampled_from(["", "u:p@", "u@s:p@", "[::1]", "file:", "%66ile:", "host", ":5432/"]),
    parts,
    st.sampled_from(["", "/db", ":5432/db", "?a=b", "?"]),
)


@given(stores)
def test_what_loading_takes_for_a_store_the_store_takes(url):
    if store_problem(url) is None:
        place = engine.place(engine.parse_url(url))
        assert place.startswith("sqlite") or not set("@#") & set(place)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///scm-trio.db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:////var/lib/a b@c#d.db",
        "sqlite+pysqlite:///scm.db",
        "postgresql://",
        "postgresql:///scm?host=/run/postgresql",
        "postgresql://app:p#a?s/s@db.example:5432/scm?sslmode=require",
        "postgres://app@srv:pass@[::1]/scm",
        "postgresql+psycopg://app:p%40ss@/scm?host=a&host=b",
    ],
)
def test_the_usual_urls_of_a_store_are_taken(url):
    assert store_problem(url) is None
    assert engine.parse_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://scm.db",
        "sqlite:///scm.db?mode=ro",
        "sqlite:///file:scm.db",
        "postgresql://app:pass@db:port/scm",
        "postgresql://app:p@ss@db/scm",
        "postgresql://a/b:pass@db/scm",
        "postgresql://db/scm#part",
        "postgresql+asyncpg://db/scm",
        "PostgreSQL://db/scm",
        "postgresql:db",
    ],
)
def test_what_would_not_be_read_as_it_is_meant_is_no_url_of_a_store(url):
    assert store_problem(url) is not None
