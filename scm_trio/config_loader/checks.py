"""What no key can tell alone: values that contradict each other."""

from __future__ import annotations

from collections.abc import Iterator

from scm_trio.config import Ai, Config, Quota, UserQuota
from scm_trio.config_loader.contradiction import Contradiction
from scm_trio.config_loader.keys import Path, capitals
from scm_trio.config_loader.provider_checks import offering_paths, provider_contradictions
from scm_trio.config_loader.urls import is_url, store_problem
from scm_trio.config_loader.values import PRIVATE_KEY

_BROKER = "memory://"


def contradictions(config: Config) -> Iterator[Contradiction]:
    """Everything that does not go together, in the order of the file."""
    if config.server.workers != 1:
        text = "expected 1, since this version runs one process"
        yield Contradiction(text, (("scm", "server", "workers"),), config.server.workers)
    yield from _tls(config)
    heartbeat = config.websocket.heartbeat
    if heartbeat.timeout_s <= heartbeat.interval_s:
        section = ("scm", "websocket", "heartbeat")
        text = f"expected more than scm.websocket.heartbeat.interval ({heartbeat.interval_s * 1000:.0f})"
        yield Contradiction(text, ((*section, "timeout"), (*section, "interval")), heartbeat.timeout_s)
    yield from _keys(config)
    yield from _names(config)
    yield from _quota(config.ai)
    for name, provider in config.ai.providers.items():
        yield from provider_contradictions(("scm", "ai", "providers", name), provider)
    if problem := store_problem(config.store.url):
        yield Contradiction(f"expected {problem}", (("scm", "store", "url"),), config.store.url)
    if config.broker.url != _BROKER:
        text = f"expected {_BROKER}, the only one that this version knows"
        yield Contradiction(text, (("scm", "broker", "url"),), config.broker.url)


def _tls(config: Config) -> Iterator[Contradiction]:
    tls = config.server.tls
    certificate, key = ("scm", "server", "tls", "certificate"), ("scm", "server", "tls", "key")
    if tls.certificate and not tls.key:
        yield Contradiction("needs scm.server.tls.key as well", (certificate, key))
    if tls.key and not tls.certificate:
        yield Contradiction("needs scm.server.tls.certificate as well", (key, certificate))


def _keys(config: Config) -> Iterator[Contradiction]:
    """What verifies tokens."""
    auth = config.auth
    if PRIVATE_KEY in (auth.public_key or ""):
        text = "expected a public key or a certificate in PEM, or the path of such a file, got a private key"
        yield Contradiction(text, (("scm", "auth", "public-key"),))
    if auth.jwks_url is not None and not is_url(auth.jwks_url, "http", "https"):
        yield Contradiction("expected a URL with http:// or https://", (("scm", "auth", "jwks-url"),), auth.jwks_url)


def _names(config: Config) -> Iterator[Contradiction]:
    """The names that point at providers, and those that environment variables cannot tell apart."""
    providers = ("scm", "ai", "providers")
    ai = config.ai
    asked: list[tuple[str, str, int | None]] = []
    if ai.default_provider:
        asked.append(("default-provider", ai.default_provider, None))
    asked += [("fallback", name, index) for index, name in enumerate(ai.fallback)]
    for key, name, item in asked:
        if name not in ai.providers:
            text = f"expected the name of a provider ({', '.join(ai.providers)})"
            yield Contradiction(text, (("scm", "ai", key), providers), name, item)
    yield from _default_model(ai)
    yield from _aliases(ai)
    spelled: dict[str, str] = {}
    for name in ai.providers:
        other = spelled.setdefault(capitals(name), name)
        if other != name:
            text = f'expected a name that differs from "{other}" by more than case and punctuation'
            yield Contradiction(text, ((*providers, name), providers))


def _default_model(ai: Ai) -> Iterator[Contradiction]:
    """One that nobody could be asked for; a local model may stand in for providers whose keys are not here."""
    model, providers = ai.default_model, ai.providers
    if model is None or model in ai.aliases:
        return
    if any(not each.offered or model in each.offered or each.kind == "local" for each in providers.values()):
        return
    offered = ", ".join(model for each in providers.values() for model in each.offered)
    section = ("scm", "ai")
    others = [path for name in providers for path in offering_paths((*section, "providers", name))]
    text = f"expected an alias, or a model on offer ({offered})"
    yield Contradiction(text, ((*section, "default-model"), (*section, "aliases"), *others), model)


def _aliases(ai: Ai) -> Iterator[Contradiction]:
    for name, alias in ai.aliases.items():
        path = ("scm", "ai", "aliases", name)
        provider = ai.providers.get(alias.provider)
        if provider is None:
            text = f"expected the name of a provider ({', '.join(ai.providers)})"
            yield Contradiction(text, ((*path, "provider"), path, ("scm", "ai", "providers")), alias.provider)
        elif provider.offered and alias.model not in provider.offered:
            text = f"expected a model that {alias.provider} offers ({', '.join(provider.offered)})"
            others = offering_paths(("scm", "ai", "providers", alias.provider))
            yield Contradiction(text, ((*path, "model"), path, *others), alias.model)


def _quota(ai: Ai) -> Iterator[Contradiction]:
    """Limits that no request fits into, and those that nothing would ever count towards."""
    path = ("scm", "ai", "quota")
    is_priced = any(provider.prices for provider in ai.providers.values())
    sections: list[tuple[Path, Quota | UserQuota]] = [(path, ai.quota)]
    sections += [((*path, "users", user_id), own) for user_id, own in ai.quota.users.items()]
    for here, section in sections:
        if section.tokens_per_day and section.tokens_per_day <= ai.quota.answer_tokens:
            least = ai.quota.answer_tokens
            text = f"expected 0 or more than scm.ai.quota.answer-tokens ({least}), or else no request would fit"
            others = ((*path, "answer-tokens"),)
            yield Contradiction(text, ((*here, "tokens-per-day"), *others), section.tokens_per_day)
        if section.cost_per_day and not is_priced:
            text = "needs the prices of some model; no provider has any"
            yield Contradiction(text, ((*here, "cost-per-day"), ("scm", "ai", "providers")))
