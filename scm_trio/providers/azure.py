"""Azure OpenAI: OpenAI's format under another address, with keys of its own and filters that speak up in the stream."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

import trio

from scm_trio import config
from scm_trio.errors import ContentFiltered
from scm_trio.providers.connections import Dialer
from scm_trio.providers.http_provider import Offer
from scm_trio.providers.keys import KeyRing
from scm_trio.providers.openai import Dialect, OpenAi, bearer
from scm_trio.providers.openai_errors import Codes
from scm_trio.providers.upstream import configured_upstream

_COMPLETION_LIMIT = "max_completion_tokens"
_OLD_LIMIT = "max_tokens"
_MODERN = "2024-09-01"
"""The first api-version that knows ``max_completion_tokens`` and usage in streams; older ones refuse unknown fields."""
_CODES: Codes = {"ResponsibleAIPolicyViolation": ContentFiltered}


def azure_provider(
    name: str, settings: config.Provider, *, connect_timeout_s: float, dialer: Dialer | None = None
) -> OpenAi:
    """Build the provider of a ``kind: azure`` section.

    Args:
        name: its name in the configuration.
        settings: the section. With ``api_version`` the deployment is part of the URL, without it is the ``model`` of the
            v1 API. Without ``deployment`` the models are the deployments. A ``bearer_token`` comes before keys.
        connect_timeout_s: for TCP and TLS together.
        dialer: opens connections; None: to the network, with the system's certificate authorities.

    Raises:
        ConfigError: ``base_url`` cannot be used.
    """
    base_url = _resource_url(settings.base_url or "")
    upstream = configured_upstream(name, base_url, settings, connect_timeout_s=connect_timeout_s, dialer=dialer)
    keys = KeyRing(() if settings.bearer_token else settings.keys, trio.current_time)
    return OpenAi(
        upstream,
        _dialect(settings),
        lambda: _identity(settings.bearer_token, keys.pick()),
        Offer(settings.offered, settings.context_tokens, takes_images=settings.images is not False),
        keys=keys,
    )


def _dialect(settings: config.Provider) -> Dialect:
    version = settings.api_version
    if version is None:
        path, is_modern = "/openai/v1/chat/completions", True
    else:
        path = f"/openai/deployments/{{model}}/chat/completions?api-version={quote(version, safe='')}"
        is_modern = version >= _MODERN
    return Dialect(
        path=path,
        model=settings.deployment,
        token_limit_field=settings.token_limit_field or (_COMPLETION_LIMIT if is_modern else _OLD_LIMIT),
        include_usage=settings.include_usage and is_modern,
        codes=_CODES,
        models_path=None,  # its list is of what could be deployed
    )


def _identity(bearer_token: str | None, keys: tuple[str, ...]) -> Mapping[str, str]:
    """One kind of credentials only: a token of Microsoft Entra, or else the first key."""
    if bearer_token:
        return bearer((bearer_token,))
    return {"api-key": keys[0].strip()} if keys else {}


def _resource_url(base_url: str) -> str:
    """Return the resource's own address, also where its API's was given."""
    return base_url.rstrip("/").removesuffix("/openai/v1").removesuffix("/openai")
