"""iFlytek's Spark (讯飞星火): over HTTP in OpenAI's format, or over WebSocket in its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import trio
from attrs import evolve, field, frozen

from scm_trio import config
from scm_trio.errors import ConfigError, ModelUnknown
from scm_trio.model import Prompt
from scm_trio.providers.base import Provider
from scm_trio.providers.connections import Dialer
from scm_trio.providers.http_provider import HttpProvider, Offer
from scm_trio.providers.keys import KeyRing
from scm_trio.providers.openai import bearer
from scm_trio.providers.spark_errors import SparkClassifier
from scm_trio.providers.spark_models import HTTP_URL, NO_SEARCH, spark_model
from scm_trio.providers.spark_reader import SparkHttpReader
from scm_trio.providers.spark_signing import Credentials, Endpoint
from scm_trio.providers.spark_socket import SocketUpstream
from scm_trio.providers.spark_websocket import Application, SparkWebSocket
from scm_trio.providers.upstream import configured_upstream

_FIXED_TEMPERATURE = "spark-x2.5"
"""What the names of models begin with that take no temperature, and call the limit of an answer differently."""


@frozen
class SparkDialect:
    """What a request over HTTP looks like.

    Attributes:
        model: what is asked for whatever the prompt says.
        own_paths: whether the base URL is the vendor's host alone, where each model has its path.
        headers: of every request besides those that identify it.
        models_path: see ``http_provider.Dialect``; this vendor has no list.
    """

    model: str | None = None
    own_paths: bool = True
    headers: Mapping[str, str] = field(factory=dict)
    models_path: str | None = None

    def path_for(self, prompt: Prompt) -> str:
        """Return what is appended to the base URL."""
        version = spark_model(self.model or prompt.model).http_version if self.own_paths else ""
        return f"{version}/chat/completions"

    def body(self, prompt: Prompt) -> bytes:
        """Return the request's JSON; what the prompt leaves open is left out. Usage comes unasked."""
        model = self.model or prompt.model
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": turn.role, "content": turn.content} for turn in prompt.turns],
            "stream": prompt.stream,
        }
        is_fixed = model.startswith(_FIXED_TEMPERATURE)
        if prompt.temperature is not None and not is_fixed:
            body["temperature"] = prompt.temperature
        if prompt.max_tokens is not None:
            body["max_completion_tokens" if is_fixed else "max_tokens"] = prompt.max_tokens
        if spark_model(model).can_search:
            body["tools"] = NO_SEARCH
        return orjson.dumps(body)

    def reader(self, provider: str, prompt: Prompt, secrets: tuple[str, ...]) -> SparkHttpReader:
        """Return what reads the answer to ``prompt``."""
        parts = tuple(part for secret in secrets for part in secret.split(":"))  # of a key and its secret
        return SparkHttpReader(SparkClassifier(provider, secrets=parts, model=prompt.model), prompt.max_tokens)


def spark_provider(
    name: str, settings: config.Provider, *, connect_timeout_s: float, dialer: Dialer | None = None
) -> Provider:
    """Build the provider of a ``kind: spark`` section.

    Args:
        name: its name in the configuration.
        settings: the section. ``domain`` answers for every model; without it the models are the domains.
        connect_timeout_s: for TCP and TLS together, over WebSocket for its handshake as well.
        dialer: opens connections; None: to the network, with the system's certificate authorities.

    Raises:
        ConfigError: a credential is missing, or ``base_url`` cannot be used, or is needed.
    """
    named = evolve(settings, models=settings.offered)
    if settings.transport == "websocket":
        return _over_websocket(name, named, connect_timeout_s, dialer)
    return _over_http(name, named, connect_timeout_s, dialer)


def _over_http(name: str, settings: config.Provider, connect_timeout_s: float, dialer: Dialer | None) -> HttpProvider:
    base_url = settings.base_url or HTTP_URL
    upstream = configured_upstream(name, base_url, settings, connect_timeout_s=connect_timeout_s, dialer=dialer)
    keys = KeyRing(_passwords(settings), trio.current_time)
    return HttpProvider(
        upstream,
        SparkDialect(settings.domain, own_paths=settings.base_url is None),
        lambda: bearer(keys.pick()),
        Offer(settings.models, settings.context_tokens),
        keys=keys,
    )


def _over_websocket(
    name: str, settings: config.Provider, connect_timeout_s: float, dialer: Dialer | None
) -> SparkWebSocket:
    try:
        endpoint = None if settings.base_url is None else Endpoint.parse(settings.base_url)
        application = Application(_credentials(settings), endpoint, settings.domain)
        for domain in (settings.domain,) if settings.domain else settings.models:
            application.endpoint_of(domain)
    except ConfigError as exc:
        raise ConfigError(f"provider {name}: {exc}") from exc
    except ModelUnknown as exc:
        model = exc.params["model"]
        raise ConfigError(f"provider {name}: no URL is known for {model!r}; give it a base-url") from exc
    upstream = SocketUpstream(name, connect_timeout_s=connect_timeout_s, dialer=dialer)
    return SparkWebSocket(upstream, application, models=settings.models, context_tokens=settings.context_tokens)


def _passwords(settings: config.Provider) -> tuple[str, ...]:
    """The passwords of models, or keys of applications with their secret."""
    secret = (settings.api_secret or "").strip()
    return tuple(f"{key.strip()}:{secret}" for key in settings.keys) if secret else settings.keys


def _credentials(settings: config.Provider) -> Credentials:
    if len(settings.keys) > 1:
        raise ConfigError("transport websocket signs with one api-key, that of its api-secret")
    key = settings.keys[0] if settings.keys else ""
    given = {"app-id": settings.app_id, "api-key": key, "api-secret": settings.api_secret}
    stripped = {name: (value or "").strip() for name, value in given.items()}
    if missing := [name for name, value in stripped.items() if not value]:
        raise ConfigError(f"transport websocket needs {', '.join(missing)}")
    return Credentials(*stripped.values())
