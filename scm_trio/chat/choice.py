"""Which provider and which of its models a request means."""

from __future__ import annotations

from collections.abc import Mapping

from scm_trio.config import Ai
from scm_trio.errors import ModelUnknown, ProviderUnknown
from scm_trio.providers.base import Provider


def choose(
    providers: Mapping[str, Provider], ai: Ai, provider_name: str | None, model: str | None
) -> tuple[Provider, str]:
    """Return who is to be asked, and for which model; aliases are gone then.

    Args:
        providers: by name, the default one first.
        ai: defaults and aliases.
        provider_name: as asked for; None: that of the alias, or the default one.
        model: as asked for, or an alias; None: the default one.

    Raises:
        ProviderUnknown: there is no such provider.
        ModelUnknown: the provider does not offer the model, or the alias is another provider's.
    """
    if not providers:
        raise ProviderUnknown("no provider is configured", field="scm.ai.providers", notice="NO_PROVIDER")
    alias = ai.aliases.get(model or ai.default_model or "")
    if alias is not None and provider_name in {None, alias.provider}:
        provider_name, model = alias.provider, alias.model
    name = provider_name or ai.default_provider or next(iter(providers))
    provider = providers.get(name)
    if provider is None:
        raise ProviderUnknown(field="data.provider", provider=name)
    if model is None:
        default = ai.default_model
        model = default if default is not None and _offers(provider, default, ai) else next(iter(provider.models), None)
    if model is None or not _offers(provider, model, ai):
        raise ModelUnknown(field="data.model", model=model or "-")
    return provider, model


def _offers(provider: Provider, model: str, ai: Ai) -> bool:
    # Where any name is passed on, one that is an alias of somebody else's means that.
    return model in provider.models if provider.models else not _is_alias_of_another(provider, model, ai)


def _is_alias_of_another(provider: Provider, model: str, ai: Ai) -> bool:
    alias = ai.aliases.get(model)
    return alias is not None and alias.provider != provider.name
