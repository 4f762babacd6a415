"""OpenAI's chat completions, and every server that speaks like it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import orjson
from attrs import field, frozen

from scm_trio import config
from scm_trio.errors import ProviderRejected, RequestFailed, ResponseTooLarge
from scm_trio.model import Prompt
from scm_trio.providers import base
from scm_trio.providers.openai_errors import Classifier, Codes
from scm_trio.providers.openai_reader import OpenAiReader
from scm_trio.providers.presets import find_preset
from scm_trio.providers.sse import MAX_EVENT_BYTES, EventTooLarge, SseDecoder
from scm_trio.providers.upstream import Upstream, UpstreamResponse

Authorize = Callable[[], Mapping[str, str]]
"""Returns the headers that the next request identifies itself with."""


@frozen
class Dialect:
    """What a request looks like at one server.

    Attributes:
        path: appended to the base URL.
        token_limit_field: what the limit of the answer's length is called there.
        include_usage: whether to ask for usage in a stream.
        whole_body_extras: fields of a request that is not streamed.
        codes: the vendor's own meanings of error codes.
    """

    path: str = "/chat/completions"
    token_limit_field: str = "max_tokens"  # noqa: S105 - tokens of text
    include_usage: bool = True
    whole_body_extras: Mapping[str, Any] = field(factory=dict)
    codes: Codes = field(factory=dict)

    def body(self, prompt: Prompt) -> bytes:
        """Return the request's JSON; what the prompt leaves open is left out."""
        body: dict[str, Any] = {
            "model": prompt.model,
            "messages": [{"role": turn.role, "content": turn.content} for turn in prompt.turns],
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


class OpenAi:
    """A provider over HTTP that speaks OpenAI's chat format."""

    def __init__(
        self,
        upstream: Upstream,
        dialect: Dialect,
        authorize: Authorize,
        *,
        models: tuple[str, ...] = (),
        context_tokens: int | None = None,
    ) -> None:
        self.name = upstream.name
        self.models = models
        self.context_tokens = context_tokens
        self._upstream = upstream
        self._dialect = dialect
        self._authorize = authorize

    @asynccontextmanager
    async def stream(self, prompt: Prompt) -> AsyncIterator[AsyncIterator[base.Batch]]:
        """Ask; see ``base.Provider``."""
        headers = self._authorize()
        secrets = tuple(value.removeprefix("Bearer ") for value in headers.values())
        classifier = Classifier(self.name, self._dialect.codes, secrets)
        async with self._upstream.post_stream(self._dialect.path, self._dialect.body(prompt), headers) as response:
            reader = OpenAiReader(classifier)
            if not 200 <= response.status < 300:
                raise classifier.refused(response.status, response.headers, await response.read_error())
            if response.media_type in {"text/html", "application/xhtml+xml"}:
                # A wrong address, or a portal in between: trying again would bring the same page.
                raise ProviderRejected(f"{self.name}: a web page instead of an answer")
            # A server may answer a request for a stream in one body; one that wants to stream says so.
            if response.media_type == "application/json" or not (prompt.stream or _is_event_stream(response)):
                yield _Whole(response, reader)
            else:
                yield _Streamed(response, reader)

    async def aclose(self) -> None:
        """Close idle connections."""
        await self._upstream.aclose()


class _Whole:
    """An answer in one JSON body: one batch."""

    def __init__(self, response: UpstreamResponse, reader: OpenAiReader) -> None:
        self._response = response
        self._reader = reader

    def __aiter__(self) -> _Whole:
        return self

    async def __anext__(self) -> base.Batch:
        if not self._reader.ended and (batch := self._reader.whole(await self._response.read())):
            return batch
        if self._reader.failure is not None:
            raise self._reader.failure
        raise StopAsyncIteration


class _Streamed:
    """An answer as a stream of events: a batch per network read that brought something."""

    def __init__(self, response: UpstreamResponse, reader: OpenAiReader) -> None:
        self._response = response
        self._reader = reader
        self._decoder = SseDecoder()

    def __aiter__(self) -> _Streamed:
        return self

    async def __anext__(self) -> base.Batch:
        while not self._reader.ended:
            if batch := await self._read():
                return batch
        if self._reader.failure is not None:
            raise self._reader.failure
        await self._response.drain()
        raise StopAsyncIteration

    async def _read(self) -> base.Batch:
        try:
            chunk = await anext(self._response, None)
        except RequestFailed as exc:
            # An answer that had its finish reason is whole, even if the connection broke before the end mark.
            batch = self._reader.close()
            if self._reader.failure is not None:
                self._reader.failure = exc
            return batch
        if chunk is None:
            return [*self._reader.feed(self._decoder.close()), *self._reader.close()]
        try:
            return self._reader.feed(self._decoder.feed(chunk))
        except EventTooLarge as exc:
            raise ResponseTooLarge(f"one event of more than {MAX_EVENT_BYTES} bytes") from exc


def _is_event_stream(response: UpstreamResponse) -> bool:
    return response.media_type == "text/event-stream"


def openai_provider(name: str, settings: config.Provider, *, connect_timeout_s: float) -> OpenAi:
    """Build the provider of a ``kind: openai`` section.

    Args:
        name: its name in the configuration.
        settings: the section; without keys no ``Authorization`` is sent, as servers on one's own machine like it.
        connect_timeout_s: for TCP and TLS together.

    Raises:
        ConfigError: ``base_url`` or ``preset`` cannot be used.
    """
    preset = find_preset(name, settings.preset, settings.base_url)
    upstream = Upstream(
        name,
        settings.base_url or preset.base_url,
        connect_timeout_s=connect_timeout_s,
        max_concurrency=settings.max_concurrency,
    )
    dialect = Dialect(
        token_limit_field=settings.token_limit_field or preset.token_limit_field,
        include_usage=settings.include_usage,
        whole_body_extras=preset.whole_body_extras,
        codes=preset.codes,
    )
    return OpenAi(
        upstream,
        dialect,
        lambda: bearer(settings.keys),
        models=settings.models,
        context_tokens=settings.context_tokens,
    )


def bearer(keys: tuple[str, ...]) -> Mapping[str, str]:
    """Return the headers for the first of ``keys``."""
    return {"Authorization": f"Bearer {keys[0].strip()}"} if keys else {}
