"""What no key can tell alone: values that contradict each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from attrs import frozen

from scm_trio.config import Ai, Config, Provider, Quota, UserQuota
from scm_trio.config_loader.keys import Path, capitals, keys_of

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


@frozen
class Contradiction:
    """``paths`` are the keys it is about, the one to blame first."""

    text: str
    paths: tuple[Path, ...]


def contradictions(config: Config) -> Iterator[Contradiction]:
    """Everything that does not go together, in the order of the file."""
    yield from _tls(config)
    heartbeat = config.websocket.heartbeat
    if heartbeat.timeout_s <= heartbeat.interval_s:
        section = ("scm", "websocket", "heartbeat")
        text = "expected more than scm.websocket.heartbeat.interval"
        yield Contradiction(text, ((*section, "timeout"), (*section, "interval")))
    if config.auth.jwks_url is not None and not _is_url(config.auth.jwks_url, "http", "https"):
        yield Contradiction("expected a URL with http:// or https://", (("scm", "auth", "jwks-url"),))
    yield from _names(config)
    yield from _quota(config.ai)
    for name, provider in config.ai.providers.items():
        yield from _provider(("scm", "ai", "providers", name), provider)


def _tls(config: Config) -> Iterator[Contradiction]:
    tls = config.server.tls
    certificate, key = ("scm", "server", "tls", "certificate"), ("scm", "server", "tls", "key")
    if tls.certificate and not tls.key:
        yield Contradiction("needs scm.server.tls.key as well", (certificate, key))
    if tls.key and not tls.certificate:
        yield Contradiction("needs scm.server.tls.certificate as well", (key, certificate))


def _names(config: Config) -> Iterator[Contradiction]:
    """The names that point at providers, and those that environment variables cannot tell apart."""
    providers = ("scm", "ai", "providers")
    ai = config.ai
    asked = [("default-provider", ai.default_provider)] if ai.default_provider else []
    asked += [("fallback", name) for name in ai.fallback]
    for key, name in asked:
        if name not in ai.providers:
            text = f'no provider is called "{name}"; there are {", ".join(ai.providers)}'
            yield Contradiction(text, (("scm", "ai", key), providers))
    yield from _aliases(ai)
    spelled: dict[str, str] = {}
    for name in ai.providers:
        other = spelled.setdefault(capitals(name), name)
        if other != name:
            text = f'expected a name that differs from "{other}" by more than case and punctuation'
            yield Contradiction(text, ((*providers, name), providers))


def _aliases(ai: Ai) -> Iterator[Contradiction]:
    for name, alias in ai.aliases.items():
        path = ("scm", "ai", "aliases", name)
        provider = ai.providers.get(alias.provider)
        if provider is None:
            text = f'no provider is called "{alias.provider}"; there are {", ".join(ai.providers)}'
            yield Contradiction(text, ((*path, "provider"), path, ("scm", "ai", "providers")))
        elif provider.offered and alias.model not in provider.offered:
            text = f'{alias.provider} does not offer "{alias.model}"; its models are {", ".join(provider.offered)}'
            yield Contradiction(text, ((*path, "model"), path, ("scm", "ai", "providers", alias.provider)))


def _quota(ai: Ai) -> Iterator[Contradiction]:
    """Limits that no request fits into, and those that nothing would ever count towards."""
    path = ("scm", "ai", "quota")
    is_priced = any(provider.prices for provider in ai.providers.values())
    sections: list[tuple[Path, Quota | UserQuota]] = [(path, ai.quota)]
    sections += [((*path, "users", user_id), own) for user_id, own in ai.quota.users.items()]
    for here, section in sections:
        if section.tokens_per_day and section.tokens_per_day <= ai.quota.answer_tokens:
            text = (
                f"expected 0 or more than scm.ai.quota.answer-tokens ({ai.quota.answer_tokens}): no request would fit"
            )
            yield Contradiction(text, ((*here, "tokens-per-day"), (*path, "answer-tokens")))
        if section.cost_per_day and not is_priced:
            text = "needs the prices of some model; no provider has any"
            yield Contradiction(text, ((*here, "cost-per-day"), ("scm", "ai", "providers")))


def _provider(path: Path, provider: Provider) -> Iterator[Contradiction]:
    for key in keys_of(Provider):
        kinds = key.metadata.get("kinds", ())
        if kinds and provider.kind not in kinds and getattr(provider, key.attribute) != key.default:
            text = f"unknown to the kind {provider.kind}; it belongs to {', '.join(kinds)}"
            yield Contradiction(text, ((*path, key.name), (*path, "kind")))
    if provider.api_key and provider.api_keys:
        yield Contradiction("give either api-key or api-keys", ((*path, "api-keys"), (*path, "api-key")))
    signed = provider.kind == "spark" and provider.transport == "websocket"
    schemes = ("ws", "wss") if signed else ("http", "https")
    if provider.base_url is None and provider.kind == "azure":
        yield Contradiction("missing; expected the address of the Azure resource", ((*path, "base-url"), path))
    elif provider.base_url is not None and not _is_url(provider.base_url, *schemes):
        text = f"expected a URL with {' or '.join(f'{scheme}://' for scheme in schemes)}"
        yield Contradiction(text, ((*path, "base-url"), (*path, "kind"), (*path, "transport")))
    yield from _headers(path, provider, on_websocket=signed)
    if signed:
        for name, value in (("app-id", provider.app_id), ("api-secret", provider.api_secret)):
            if not value:
                yield Contradiction(
                    "missing; spark over websocket signs with it", ((*path, name), (*path, "transport"))
                )


def _headers(path: Path, provider: Provider, *, on_websocket: bool) -> Iterator[Contradiction]:
    for line in provider.headers:
        if problem := _wrong_header(line):
            yield Contradiction(problem, ((*path, "headers"),))
    if on_websocket and provider.headers:
        yield Contradiction("a WebSocket's request has none", ((*path, "headers"), (*path, "transport")))


def _wrong_header(line: str) -> str | None:
    """What is wrong with a header, without its value, which may be a secret."""
    found = _HEADER.fullmatch(line)
    if found is None:
        return "expected texts like OpenAI-Project: proj_1"
    name: str = found["name"]
    return f"{name} is the provider's own to send" if name.lower() in _OWN_HEADERS else None


def _is_url(text: str, *schemes: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
