"""What a provider's section has to have, and what its kind cannot take."""

from __future__ import annotations

import re
from collections.abc import Iterator

from scm_trio.config import PLACED_SPARK_MODELS, Provider
from scm_trio.config_loader.contradiction import Contradiction
from scm_trio.config_loader.keys import Path, keys_of
from scm_trio.config_loader.urls import is_url

_HEADER = re.compile(r"(?P<name>[A-Za-z0-9-]+):[ \t]*[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_OWN_HEADERS = frozenset(
    {"accept", "accept-encoding", "content-type", "content-length", "transfer-encoding", "te", "trailer", "expect"}
    | {
        "user-agent",
        "host",
        "connection",
        "upgrade",
        "cookie",
        "authorization",
        "api-key",
        "x-api-key",
        "anthropic-version",
    }
)
"""What a provider says about itself and its requests; said twice, vendors differ in what they believe."""
_SENDABLE = re.compile(r"\s*[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?\s*")
"""White space around a key comes from files, and is not sent."""
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def provider_contradictions(path: Path, provider: Provider) -> Iterator[Contradiction]:
    """Everything that does not go together below ``path``."""
    for key in keys_of(Provider):
        kinds = key.metadata.get("kinds", ())
        if kinds and provider.kind not in kinds and getattr(provider, key.attribute) != key.default:
            text = f"unknown to the kind {provider.kind}; it belongs to {', '.join(kinds)}"
            yield Contradiction(text, ((*path, key.name), (*path, "kind")))
    if provider.api_key and provider.api_keys:
        yield Contradiction("give either api-key or api-keys", ((*path, "api-keys"), (*path, "api-key")))
    is_signed = provider.kind == "spark" and provider.transport == "websocket"
    yield from _base_url(path, provider, *(("ws", "wss") if is_signed else ("http", "https")))
    yield from _headers(path, provider, on_websocket=is_signed)
    if provider.kind == "anthropic" and provider.api_version and not _DATE.fullmatch(provider.api_version):
        paths = ((*path, "api-version"), (*path, "kind"))
        yield Contradiction("expected a date like 2023-06-01", paths, provider.api_version)
    yield from _signature(path, provider) if is_signed else _sent_keys(path, provider)


def offering_paths(path: Path) -> tuple[Path, ...]:
    """The keys that decide which models the provider at ``path`` offers."""
    return (path, *((*path, name) for name in ("models", "kind", "deployment", "domain", "model-path")))


def _base_url(path: Path, provider: Provider, *schemes: str) -> Iterator[Contradiction]:
    url, is_azure = provider.base_url, provider.kind == "azure"
    paths = ((*path, "base-url"), (*path, "kind"), (*path, "transport"))
    if url is None:
        if is_azure:
            yield Contradiction("missing; expected the address of the Azure resource", ((*path, "base-url"), path))
    elif not is_url(url, *schemes):
        text = f"expected a URL with {' or '.join(f'{scheme}://' for scheme in schemes)}"
        yield Contradiction(text, paths, url)
    elif is_azure and ("?" in url or "/deployments/" in url):
        text = (
            "expected the address of the resource, like https://NAME.openai.azure.com; "
            "deployment and api-version are keys of their own"
        )
        yield Contradiction(text, paths, url)
    elif "?" in url or "#" in url:
        # Paths are appended to it.
        yield Contradiction("expected a URL without a query and a fragment", paths, url)


def _sent_keys(path: Path, provider: Provider) -> Iterator[Contradiction]:
    """Keys that no header can carry, such as one with a line break within."""
    text = "expected printable characters of ASCII"
    if provider.kind in {"local", "scripted"}:
        return
    for name, value in (("api-key", provider.api_key), ("bearer-token", provider.bearer_token)):
        if value and not _SENDABLE.fullmatch(value):
            yield Contradiction(text, ((*path, name),), value)
    for index, value in enumerate(provider.api_keys):
        if not _SENDABLE.fullmatch(value):
            yield Contradiction(text, ((*path, "api-keys"),), value, index)


def _signature(path: Path, provider: Provider) -> Iterator[Contradiction]:
    """What Spark's signed connections need: one application, and models whose places are known."""
    transport = (*path, "transport")
    keys = ((*path, "api-key"), (*path, "api-keys"))
    if len(provider.keys) > 1:
        text = "expected a single one: over websocket it is the key that belongs to api-secret"
        yield Contradiction(text, ((*path, "api-keys"), transport))
    given = {"app-id": provider.app_id, "api-secret": provider.api_secret, "api-key": "".join(provider.keys)}
    for name, value in given.items():
        if not (value or "").strip():
            others = keys if name == "api-key" else ()
            yield Contradiction("missing; spark over websocket signs with it", ((*path, name), *others, transport))
    if provider.base_url is not None:
        return
    text = f"expected one of {', '.join(PLACED_SPARK_MODELS)}, or a base-url beside it"
    others = ((*path, "base-url"), transport)
    if provider.domain:
        if provider.domain not in PLACED_SPARK_MODELS:
            yield Contradiction(text, ((*path, "domain"), *others), provider.domain)
        return
    for index, model in enumerate(provider.models):
        if model not in PLACED_SPARK_MODELS:
            yield Contradiction(text, ((*path, "models"), *others), model, index)


def _headers(path: Path, provider: Provider, *, on_websocket: bool) -> Iterator[Contradiction]:
    for index, line in enumerate(provider.headers):
        if problem := _wrong_header(line):
            yield Contradiction(problem, ((*path, "headers"),), item=index)
    if on_websocket and provider.headers:
        yield Contradiction("a WebSocket's request has none", ((*path, "headers"), (*path, "transport")))


def _wrong_header(line: str) -> str | None:
    """What is wrong with a header, without its value, which may be a secret."""
    found = _HEADER.fullmatch(line)
    if found is None:
        return "expected texts like OpenAI-Project: proj_1"
    name: str = found["name"]
    return f"{name} is the provider's own to send" if name.lower() in _OWN_HEADERS else None
