"""Which provider and which of its models a request means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

from scm_trio.config import Ai
from scm_trio.errors import ModelUnknown, ProviderUnknown
from scm_trio.model import Session
from scm_trio.protocol.messages import ChatRequest
from scm_trio.providers.base import Provider

Choice = tuple[Provider, str]
"""Who is asked, and for which model."""


def choose(providers: Mapping[str, Provider], ai: Ai, provider_name: str | None, model: str | None) -> Choice:
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
    asked = model or ai.default_model or ""
    alias = ai.aliases.get(asked)
    if alias is not None and provider_name in {None, alias.provider} and not _lists(providers, provider_name, asked):
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


def choose_for(
    providers: Mapping[str, Provider], ai: Ai, request: ChatRequest
) -> tuple[Choice, Callable[[Session], Choice | None]]:
    """Return who answers a request by its own words, and what tells who does in a session with defaults of its own.

    The latter is None where the session changes nothing: it has none, the request names both itself, or what the session
    was made for is not on offer any more.

    Raises:
        ProviderUnknown, ModelUnknown: as ``choose``. A model that only the session's provider may offer is left to what
            is returned to refuse.
    """
    unknown: ModelUnknown | None = None
    try:
        first = choose(providers, ai, request.provider, request.model)
    except ModelUnknown as exc:
        offered = (_offers(provider, request.model or "", ai) for provider in providers.values())
        if request.provider is not None or not any(offered):
            raise
        unknown, first = exc, choose(providers, ai, None, None)

    def chosen(session: Session) -> Choice | None:
        found = None
        if (session.provider or session.model) and not (request.provider and request.model):
            with suppress(ProviderUnknown, ModelUnknown):
                found = choose(providers, ai, request.provider or session.provider, _model(request, session))
        if found is None and unknown is not None:
            raise unknown
        return found

    return first, chosen


def _model(request: ChatRequest, session: Session) -> str | None:
    """The session's model is its provider's: whoever names another one names his model, too, or takes the default."""
    return request.model or (session.model if request.provider in (None, session.provider) else None)


def _lists(providers: Mapping[str, Provider], name: str | None, model: str) -> bool:
    provider = providers.get(name or "")
    return provider is not None and model in provider.models


def _offers(provider: Provider, model: str, ai: Ai) -> bool:
    # Where any name is passed on, one that is an alias of somebody else's means that.
    return model in provider.models if provider.models else not _is_alias_of_another(provider, model, ai)


def _is_alias_of_another(provider: Provider, model: str, ai: Ai) -> bool:
    alias = ai.aliases.get(model)
    return alias is not None and alias.provider != provider.name
