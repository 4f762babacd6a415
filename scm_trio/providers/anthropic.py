"""Anthropic's Messages API, and servers that speak like it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping
from typing import Any

import orjson
import trio
from attrs import frozen

from scm_trio import config
from scm_trio.model import Prompt, Turn
from scm_trio.providers.anthropic_errors import AnthropicClassifier
from scm_trio.providers.anthropic_reader import AnthropicReader
from scm_trio.providers.connections import Dialer
from scm_trio.providers.http_provider import HttpProvider, Offer
from scm_trio.providers.keys import KeyRing
from scm_trio.providers.upstream import configured_upstream

BASE_URL = "https://api.anthropic.com"
DEFAULT_API_VERSION = "2023-06-01"
"""The one that proxies and similar servers know too."""
DEFAULT_MAX_TOKENS = 8192
"""For prompts without a limit of their own, since the API demands one; every current model allows it."""
LONGEST_WHOLE_TOKENS = 21_333
"""An answer that may be longer is streamed in any case: as one body it could take more than ten minutes."""

_WITHOUT_SAMPLING = "2026-10-21"
"""From this api-version on ``temperature`` is no field any more."""
_ANSWER_SHARE = 4
"""One part in this many of a known context is what history is trimmed for."""
_GAP = "\n\n"


@frozen
class Messages:
    """What a request looks like.

    Attributes:
        api_version: a date, ``2023-06-01`` or ``2026-10-21``.
        context_tokens: the model's, if known: keeps the default limit of an answer below it.
        models_path: see ``http_provider.Dialect``.
    """

    api_version: str = DEFAULT_API_VERSION
    context_tokens: int | None = None
    models_path: str | None = "/v1/models?limit=1000"

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of every request besides the key."""
        return {"anthropic-version": self.api_version}

    def path_for(self, _: Prompt) -> str:
        """Return what is appended to the base URL."""
        return "/v1/messages"

    def body(self, prompt: Prompt) -> bytes:
        """Return the request's JSON."""
        max_tokens = prompt.max_tokens or self._default_max_tokens()
        body: dict[str, Any] = {
            "model": prompt.model,
            "max_tokens": max_tokens,
            "messages": _messages(prompt.turns),
            "stream": prompt.stream or max_tokens > LONGEST_WHOLE_TOKENS,
        }
        if system := _GAP.join(turn.content for turn in prompt.turns if turn.role == "system" and turn.content.strip()):
            body["system"] = system
        if prompt.temperature is not None and self.api_version < _WITHOUT_SAMPLING:
            body["temperature"] = prompt.temperature
        return orjson.dumps(body)

    def reader(self, provider: str, prompt: Prompt, secrets: tuple[str, ...]) -> AnthropicReader:
        """Return what reads the answer to ``prompt``."""
        return AnthropicReader(AnthropicClassifier(provider, secrets=secrets, model=prompt.model))

    def _default_max_tokens(self) -> int:
        if self.context_tokens is None:
            return DEFAULT_MAX_TOKENS
        return min(DEFAULT_MAX_TOKENS, self.context_tokens // _ANSWER_SHARE)


def _messages(turns: Iterable[Turn]) -> list[dict[str, Any]]:
    """The conversation as the API takes it: no empty text, roles in turn, the user first."""
    said: list[Turn] = []
    for turn in turns:
        if turn.role == "system" or not (turn.content.strip() or turn.images):
            continue
        if said and said[-1].role == turn.role:
            said[-1] = _joined(said[-1], turn)
        elif said or turn.role == "user":
            said.append(turn)
    return [{"role": turn.role, "content": _content(turn)} for turn in said]


def _joined(turn: Turn, next_turn: Turn) -> Turn:
    texts = [each.content for each in (turn, next_turn) if each.content.strip()]
    return Turn(turn.role, _GAP.join(texts), turn.images + next_turn.images)


def _content(turn: Turn) -> str | list[dict[str, Any]]:
    """Images come before the text that is about them, as the vendor advises."""
    if not turn.images:
        return turn.content
    blocks: list[dict[str, Any]] = []
    for image in turn.images:
        source = {"type": "base64", "media_type": image.media_type, "data": b64encode(image.data).decode()}
        blocks.append({"type": "image", "source": source})
    if turn.content.strip():
        blocks.append({"type": "text", "text": turn.content})
    return blocks


def anthropic_provider(
    name: str, settings: config.Provider, *, connect_timeout_s: float, dialer: Dialer | None = None
) -> HttpProvider:
    """Build the provider of a ``kind: anthropic`` section.

    Args:
        name: its name in the configuration.
        settings: the section; ``base_url`` with or without ``/v1``.
        connect_timeout_s: for TCP and TLS together.
        dialer: opens connections; None: to the network, with the system's certificate authorities.

    Raises:
        ConfigError: ``base_url`` cannot be used.
    """
    version = settings.api_version or DEFAULT_API_VERSION
    base_url = (settings.base_url or BASE_URL).rstrip("/").removesuffix("/v1")
    upstream = configured_upstream(name, base_url, settings, connect_timeout_s=connect_timeout_s, dialer=dialer)
    keys = KeyRing(settings.keys, trio.current_time)
    return HttpProvider(
        upstream,
        Messages(version, settings.context_tokens),
        lambda: _identity(keys.pick()),
        Offer(settings.models, settings.context_tokens, takes_images=settings.images is not False),
        keys=keys,
    )


def _identity(keys: tuple[str, ...]) -> Mapping[str, str]:
    return {"x-api-key": keys[0].strip()} if keys else {}
