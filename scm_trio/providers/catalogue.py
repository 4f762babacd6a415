"""The configured providers, built."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from scm_trio import config
from scm_trio.errors import ConfigError
from scm_trio.model import Finish, FinishReason, Prompt
from scm_trio.providers.anthropic import anthropic_provider
from scm_trio.providers.azure import azure_provider
from scm_trio.providers.base import Provider
from scm_trio.providers.fallback import Chain, Link, Terms
from scm_trio.providers.http_provider import HttpProvider
from scm_trio.providers.local import local_available, local_provider
from scm_trio.providers.openai import openai_provider
from scm_trio.providers.scripted import Scripted, Step
from scm_trio.providers.spark import spark_provider


def build_providers(ai: config.Ai, *, connect_timeout_s: float) -> dict[str, Provider]:
    """By their names, the default one first. A local model that is not installed is left out.

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
        built[name] = make(name, settings, connect_timeout_s)
    return built


def chain_providers(providers: Mapping[str, Provider], ai: config.Ai, terms: Terms) -> dict[str, Provider]:
    """Put a chain in the place of each provider: its own retries, then those of ``ai.fallback`` in order."""
    links = {
        name: Link(
            provider,
            retries=ai.providers[name].retries,
            keys=provider.keys if isinstance(provider, HttpProvider) else None,
        )
        for name, provider in providers.items()
    }
    others = [name for name in ai.fallback if name in links]
    return {
        name: Chain([link, *(links[other] for other in others if other != name)], terms) for name, link in links.items()
    }


def _echo(name: str, settings: config.Provider, _: float) -> Scripted:
    """For demonstrations and load tests without a model: the question comes back, word by word."""

    def script(prompt: Prompt) -> list[Step]:
        words = prompt.turns[-1].content.split(" ")
        return [*(word if last else f"{word} " for last, word in _marked(words)), Finish(FinishReason.COMPLETED)]

    return Scripted(script, name=name, models=settings.models or ("echo",))


def _marked(words: list[str]) -> list[tuple[bool, str]]:
    return [(index == len(words) - 1, word) for index, word in enumerate(words)]


_KINDS: Mapping[str, Callable[[str, config.Provider, float], Provider]] = {
    "openai": lambda name, settings, connect_s: openai_provider(name, settings, connect_timeout_s=connect_s),
    "azure": lambda name, settings, connect_s: azure_provider(name, settings, connect_timeout_s=connect_s),
    "anthropic": lambda name, settings, connect_s: anthropic_provider(name, settings, connect_timeout_s=connect_s),
    "spark": lambda name, settings, connect_s: spark_provider(name, settings, connect_timeout_s=connect_s),
    "local": lambda name, settings, connect_s: local_provider(name, settings, connect_timeout_s=connect_s),
    "scripted": _echo,
}
