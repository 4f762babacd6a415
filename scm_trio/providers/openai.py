"""OpenAI's chat completions, and every server that speaks like it."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import orjson
import trio
from attrs import field, frozen

from scm_trio import config
from scm_trio.errors import ModelUnknown
from scm_trio.model import Prompt, Turn
from scm_trio.providers.connections import Dialer
from scm_trio.providers.http_provider import HttpProvider, Offer
from scm_trio.providers.keys import KeyRing
from scm_trio.providers.openai_errors import Classifier, Codes
from scm_trio.providers.openai_reader import OpenAiReader
from scm_trio.providers.presets import find_preset
from scm_trio.providers.think_tags import ThinkTags
from scm_trio.providers.upstream import configured_upstream


@frozen
class Dialect:
    """What a request looks like at one server.

    Attributes:
        path: appended to the base URL; ``{model}`` in it stands for the model, quoted.
        model: what is asked for whatever the prompt says.
        token_limit_field: what the limit of the answer's length is called there.
        include_usage: whether to ask for usage in a stream.
        whole_body_extras: fields of a request that is not streamed.
        codes: the vendor's own meanings of error codes.
        no_credit, think_tags: see ``Preset``.
        headers: of every request besides those that identify it.
        models_path: see ``http_provider.Dialect``.
    """

    path: str = "/chat/completions"
    model: str | None = None
    token_limit_field: str = "max_tokens"  # noqa: S105 - tokens of text
    include_usage: bool = True
    whole_body_extras: Mapping[str, Any] = field(factory=dict)
    codes: Codes = field(factory=dict)
    no_credit: re.Pattern[str] | None = None
    think_tags: bool = False
    headers: Mapping[str, str] = field(factory=dict)
    models_path: str | None = "/models"

    def path_for(self, prompt: Prompt) -> str:
        """Return what is appended to the base URL.

        Raises:
            ModelUnknown: the path has the model in it, and this one would be a step to another path.
        """
        if "{model}" not in self.path:
            return self.path
        model = self.model or prompt.model
        if model in {"", ".", ".."}:
            raise ModelUnknown("no name for a URL", field="data.model", model=model)
        return self.path.replace("{model}", quote(model, safe=""))

    def body(self, prompt: Prompt) -> bytes:
        """Return the request's JSON; what the prompt leaves open is left out."""
        body: dict[str, Any] = {
            "model": self.model or prompt.model,
            "messages": [{"role": turn.role, "content": _content(turn)} for turn in prompt.turns],
            "stream": prompt.stream,
        }
        if not prompt.stream:
            body |= self.whole_body_extras
        elif self.include_usage:
            body["stream_options"] = {"include_usage": True}
        if prompt.temperature is not None:
            body["temperature"] = prompt.temperature
        if prompt.max_tokens is not None:
            body[self.token_limit_field] = prompt.max_tokens
        return orjson.dumps(body)

    def reader(self, provider: str, prompt: Prompt, secrets: tuple[str, ...]) -> OpenAiReader:
        """Return what reads the answer to ``prompt``."""
        classifier = Classifier(provider, self.codes, secrets, prompt.model, self.no_credit)
        return OpenAiReader(classifier, ThinkTags() if self.think_tags else None)


def _content(turn: Turn) -> str | list[dict[str, Any]]:
    """Parts only where there are images: models without eyes refuse lists, even of texts."""
    if not turn.images:
        return turn.content
    parts: list[dict[str, Any]] = [{"type": "text", "text": turn.content}] if turn.content.strip() else []
    for image in turn.images:
        url = f"data:{image.media_type};base64,{b64encode(image.data).decode()}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return parts


class OpenAi(HttpProvider):
    """A provider over HTTP that speaks OpenAI's chat format."""


def openai_provider(
    name: str, settings: config.Provider, *, connect_timeout_s: float, dialer: Dialer | None = None
) -> OpenAi:
    """Build the provider of a ``kind: openai`` section.

    Args:
        name: its name in the configuration.
        settings: the section; without keys no ``Authorization`` is sent, as servers on one's own machine like it.
        connect_timeout_s: for TCP and TLS together.
        dialer: opens connections; None: to the network, with the system's certificate authorities.

    Raises:
        ConfigError: ``base_url`` cannot be used.
    """
    preset = find_preset(settings.preset, settings.base_url)
    base_url = settings.base_url or preset.base_url
    upstream = configured_upstream(name, base_url, settings, connect_timeout_s=connect_timeout_s, dialer=dialer)
    dialect = Dialect(
        token_limit_field=settings.token_limit_field or preset.token_limit_field,
        include_usage=settings.include_usage,
        whole_body_extras=preset.whole_body_extras,
        codes=preset.codes,
        no_credit=preset.no_credit,
        think_tags=preset.think_tags,
    )
    keys = KeyRing(settings.keys, trio.current_time)
    return OpenAi(
        upstream,
        dialect,
        lambda: bearer(keys.pick()),
        Offer(
            settings.models,
            settings.context_tokens,
            takes_images=preset.takes_images if settings.images is None else settings.images,
        ),
        keys=keys,
    )


def bearer(keys: tuple[str, ...]) -> Mapping[str, str]:
    """Return the headers for the first of ``keys``."""
    return {"Authorization": f"Bearer {keys[0].strip()}"} if keys else {}
