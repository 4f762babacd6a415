"""A vendor that is asked by an HTTP request and answers by an event stream or one body."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

import trio
from attrs import frozen

from scm_trio.errors import ProviderAuth, ProviderRateLimited, ProviderRejected, RequestFailed, ResponseTooLarge
from scm_trio.model import Prompt
from scm_trio.providers import base
from scm_trio.providers.answer_reader import AnswerReader
from scm_trio.providers.keys import KeyRing
from scm_trio.providers.model_list import fetch_models
from scm_trio.providers.sse import MAX_EVENT_BYTES, EventTooLarge, SseDecoder
from scm_trio.providers.upstream import Upstream, UpstreamResponse

TAIL_TIMEOUT_S = 5.0
"""How long an answer whose reason to end is known may keep its usage and its end mark back."""

Authorize = Callable[[], Mapping[str, str]]
"""Returns the headers that the next request identifies itself with; their values are secrets."""


class Dialect(Protocol):
    """How a vendor wants to be asked, and answers."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of every request besides those that identify it."""

    @property
    def models_path(self) -> str | None:
        """Where the vendor lists its models, below the base URL; None: nowhere, or not those that can be asked for."""

    def path_for(self, prompt: Prompt) -> str:
        """Return what is appended to the base URL.

        Raises:
            ModelUnknown: no URL can name the prompt's model.
        """

    def body(self, prompt: Prompt) -> bytes:
        """Return the request's JSON."""

    def reader(self, provider: str, prompt: Prompt, secrets: tuple[str, ...]) -> AnswerReader:
        """Return what reads the answer; ``secrets`` must not be seen in its failures."""


@frozen
class Offer:
    """What can be had of a vendor; see ``base.Provider``."""

    models: tuple[str, ...] = ()
    context_tokens: int | None = None
    takes_images: bool = False


class HttpProvider:
    """A provider over HTTP; see ``base.Provider``."""

    def __init__(
        self,
        upstream: Upstream,
        dialect: Dialect,
        authorize: Authorize,
        offer: Offer | None = None,
        *,
        keys: KeyRing | None = None,
    ) -> None:
        offer = offer or Offer()
        self.name = upstream.name
        self.keys = keys
        self.models = offer.models
        self.context_tokens = offer.context_tokens
        self.takes_images = offer.takes_images
        self._upstream = upstream
        self._dialect = dialect
        self._authorize = authorize

    @asynccontextmanager
    async def stream(self, prompt: Prompt) -> AsyncIterator[AsyncIterator[base.Batch]]:
        """Ask; see ``base.Provider``."""
        identity = self._authorize()
        secrets = _secrets(identity)
        reader = self._dialect.reader(self.name, prompt, (*secrets, *self._upstream.secrets))
        path, body = self._dialect.path_for(prompt), self._dialect.body(prompt)
        async with self._upstream.post_stream(path, body, {**self._dialect.headers, **identity}) as response:
            if not 200 <= response.status < 300:
                failure = reader.classifier.refused(response.status, response.headers, await response.read_error())
                self._note(secrets, failure)
                raise failure
            if response.media_type in {"text/html", "application/xhtml+xml"}:
                # A wrong address, or a portal in between: trying again would bring the same page.
                failure = ProviderRejected(f"{self.name}: a web page instead of an answer")
                failure.elsewhere = True
                raise failure
            # A server may answer a request for a stream in one body; one that wants to stream says so.
            if response.media_type == "application/json" or not (prompt.stream or _is_event_stream(response)):
                yield _Whole(response, reader, partial(self._note, secrets))
            else:
                yield _Streamed(response, reader, partial(self._note, secrets))

    async def list_models(self) -> tuple[str, ...] | None:
        """Ask which models the vendor lists; see ``vendor_lists.Lister``."""
        path = self._dialect.models_path
        if path is None:
            return None
        identity = self._authorize()
        # A refusal here tells nothing about the key's right to chat: it does not have to rest for it.
        classifier = self._dialect.reader(
            self.name, Prompt("", ()), (*_secrets(identity), *self._upstream.secrets)
        ).classifier
        return await fetch_models(self._upstream, path, {**self._dialect.headers, **identity}, classifier)

    async def aclose(self) -> None:
        """Close idle connections."""
        await self._upstream.aclose()

    def _note(self, secrets: tuple[str, ...], failure: RequestFailed) -> None:
        """Let the key rest that was refused, whether by the status or within the answer."""
        if self.keys is not None and isinstance(failure, ProviderAuth | ProviderRateLimited):
            self.keys.refuse(secrets, failure)


class _Answer(ABC):
    """An answer being read; ``on_failure`` is told what the vendor ended it with, before that is raised."""

    def __init__(
        self, response: UpstreamResponse, reader: AnswerReader, on_failure: Callable[[RequestFailed], None]
    ) -> None:
        self._response = response
        self._reader = reader
        self._on_failure = on_failure

    def __aiter__(self) -> _Answer:
        return self

    async def __anext__(self) -> base.Batch:
        while not self._reader.ended:
            if batch := await self._read():
                return batch
        if self._reader.failure is not None:
            self._on_failure(self._reader.failure)
            raise self._reader.failure
        await self._response.drain()
        raise StopAsyncIteration

    @abstractmethod
    async def _read(self) -> base.Batch:
        """Read on; empty where that brought nothing."""


class _Whole(_Answer):
    """An answer in one JSON body: one batch."""

    async def _read(self) -> base.Batch:
        return self._reader.whole(await self._response.read())


class _Streamed(_Answer):
    """An answer as a stream of events: a batch per network read that brought something."""

    def __init__(
        self, response: UpstreamResponse, reader: AnswerReader, on_failure: Callable[[RequestFailed], None]
    ) -> None:
        super().__init__(response, reader, on_failure)
        self._decoder = SseDecoder()
        self._tail_ends_at: float | None = None

    async def _read(self) -> base.Batch:
        try:
            chunk = await (self._read_tail() if self._reader.has_reason else anext(self._response, None))
        except RequestFailed as exc:
            # The reader may know the answer to be whole, even if the connection broke before the end mark.
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

    async def _read_tail(self) -> bytes | None:
        """Read what may follow the reason for the end. Some servers send no end mark, and keep the connection open."""
        if self._tail_ends_at is None:
            self._tail_ends_at = trio.current_time() + TAIL_TIMEOUT_S
        with trio.move_on_at(self._tail_ends_at):
            return await anext(self._response, None)
        return None


def _secrets(identity: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(value.removeprefix("Bearer ") for value in identity.values())


def _is_event_stream(response: UpstreamResponse) -> bool:
    return response.media_type == "text/event-stream"
