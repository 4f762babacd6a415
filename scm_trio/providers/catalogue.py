"""The configured providers, built."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

from scm_trio import config
from scm_trio.errors import ConfigError
from scm_trio.model import Finish, FinishReason, Prompt
from scm_trio.providers.anthropic import anthropic_provider
from scm_trio.providers.azure import azure_provider
from scm_trio.providers.base import Provider
from scm_trio.providers.connections import Dialer
from scm_trio.providers.fallback import Chain, Link, Terms
from scm_trio.providers.http_provider import HttpProvider
from scm_trio.providers.local import local_available, local_provider
from scm_trio.providers.openai import openai_provider
from scm_trio.providers.places import Places
from scm_trio.providers.scripted import Scripted, Step
from scm_trio.providers.spark import spark_provider

_OWN = frozenset({"local", "scripted"})
"""What runs here has no vendor that minds how many ask at a time."""


class Make(Protocol):
    """Builds the provider of one section."""

    def __call__(
        self, name: str, settings: config.Provider, *, connect_timeout_s: float, dialer: Dialer | None
    ) -> Provider: ...


def build_providers(ai: config.Ai, *, connect_timeout_s: float, dialer: Dialer | None = None) -> dict[str, Provider]:
    """By their names, the default one first. A local model that is not installed is left out.

    Args:
        ai: the section of the configuration.
        connect_timeout_s: for TCP and TLS together.
        dialer: opens connections; None: to the network, with the system's certificate authorities.

    Raises:
        ConfigError: a kind that this version does not speak.
    """
    built: dict[str, Provider] = {}
    first = [name for name in (ai.default_provider,) if name is not None]
    for name in (*first, *(name for name in ai.providers if name not in first)):
        settings = ai.providers.get(name)
        if settings is None or (settings.kind == "local" and not settings.model_path and not local_available()):
            continue
        make = _KINDS.get(settings.kind)
        if make is None:
            known = ", ".join(sorted(_KINDS))
            raise ConfigError(f"scm.ai.providers.{name}.kind: {settings.kind} is not served by this version ({known})")
        built[name] = make(name, settings, connect_timeout_s=connect_timeout_s, dialer=dialer)
    return built


def chain_providers(providers: Mapping[str, Provider], ai: config.Ai, terms: Terms) -> dict[str, Provider]:
    """Put a chain in the place of each provider: its own retries, then those of ``ai.fallback`` in order."""
    links = {name: _link(provider, ai.providers[name]) for name, provider in providers.items()}
    others = [name for name in ai.fallback if name in links]
    return {
        name: Chain([link, *(links[other] for other in others if other != name)], terms) for name, link in links.items()
    }


def _link(provider: Provider, settings: config.Provider) -> Link:
    return Link(
        provider,
        retries=settings.retries,
        first_token_s=settings.first_token_timeout_s,
        idle_s=math.inf if settings.idle_timeout_s is None else settings.idle_timeout_s,
        keys=provider.keys if isinstance(provider, HttpProvider) else None,
        places=None if settings.kind in _OWN else Places(provider.name, settings.max_concurrency),
    )


def _echo(name: str, settings: config.Provider, **_: object) -> Scripted:
    """For demonstrations and load tests without a model: the question comes back, word by word."""

    def script(prompt: Prompt) -> list[Step]:
        words = prompt.turns[-1].content.split(" ")
        return [*(word if last else f"{word} " for last, word in _marked(words)), Finish(FinishReason.COMPLETED)]

    return Scripted(script, name=name, models=settings.offered, takes_images=bool(settings.images))


def _marked(words: list[str]) -> list[tuple[bool, str]]:
    return [(index == len(words) - 1, word) for index, word in enumerate(words)]


_KINDS: Mapping[str, Make] = {
    "openai": openai_provider,
    "azure": azure_provider,
    "anthropic": anthropic_provider,
    "spark": spark_provider,
    "local": local_provider,
    "scripted": _echo,
}
