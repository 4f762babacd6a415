"""Spark over WebSocket: one signed connection for every question."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from attrs import frozen

from scm_trio.errors import ModelUnknown, ResponseTooLarge
from scm_trio.model import Delta, Prompt, ProviderEvent
from scm_trio.providers import base
from scm_trio.providers.spark_errors import SparkClassifier
from scm_trio.providers.spark_models import spark_model
from scm_trio.providers.spark_reader import SparkReader
from scm_trio.providers.spark_request import request_frame
from scm_trio.providers.spark_signing import Credentials, Endpoint
from scm_trio.providers.spark_socket import Call, Socket, SocketUpstream
from scm_trio.providers.upstream import MAX_BODY_BYTES


@frozen
class Application:
    """An application of Spark's console, and where its models are asked.

    Attributes:
        credentials: they sign every handshake.
        endpoint: for every model; None: each has its own.
        domain: the model that is asked whatever the prompt says.
        now: seconds since the epoch.
    """

    credentials: Credentials
    endpoint: Endpoint | None = None
    domain: str | None = None
    now: Callable[[], float] = time.time

    def endpoint_of(self, domain: str) -> Endpoint:
        """Return where the model called so is asked.

        Raises:
            ModelUnknown: nobody knows.
        """
        if self.endpoint is not None:
            return self.endpoint
        url = spark_model(domain).websocket_url
        if url is None:
            raise ModelUnknown("no URL is known for it", field="data.model", model=domain)
        return Endpoint.parse(url)

    def call(self, provider: str, prompt: Prompt) -> Call:
        """Return how to connect for ``prompt``, signed for now.

        Raises:
            ModelUnknown: as in ``endpoint_of``.
        """
        endpoint = self.endpoint_of(self.domain or prompt.model)
        target = endpoint.signed_target(self.credentials, self.now())
        secrets = (target, *self.credentials.secrets)
        return Call(endpoint, target, SparkClassifier(provider, secrets=secrets, model=prompt.model))

    def frame(self, prompt: Prompt) -> str:
        """Return the one message that asks."""
        return request_frame(self.credentials.app_id, self.domain or prompt.model, prompt)


class SparkWebSocket:
    """A provider over WebSocket; see ``base.Provider``."""

    takes_images = False

    def __init__(
        self,
        upstream: SocketUpstream,
        application: Application,
        *,
        models: tuple[str, ...] = (),
        context_tokens: int | None = None,
    ) -> None:
        self.name = upstream.name
        self.models = models
        self.context_tokens = context_tokens
        self._upstream = upstream
        self._application = application

    @asynccontextmanager
    async def stream(self, prompt: Prompt) -> AsyncIterator[AsyncIterator[base.Batch]]:
        """Ask; see ``base.Provider``."""
        frame = self._application.frame(prompt)
        call = self._application.call(self.name, prompt)
        reader = SparkReader(call.classifier, prompt.max_tokens)
        async with self._upstream.open(call) as socket:
            await socket.send(frame)
            yield _Answer(socket, reader, as_one=not prompt.stream)

    async def aclose(self) -> None:
        """Do nothing: no connection outlives its answer."""


class _Answer:
    """An answer as batches: one per frame, or a single one, since the vendor always streams."""

    def __init__(self, socket: Socket, reader: SparkReader, *, as_one: bool) -> None:
        self._socket = socket
        self._reader = reader
        self._as_one = as_one

    def __aiter__(self) -> _Answer:
        return self

    async def __anext__(self) -> base.Batch:
        batch = await (self._read_all() if self._as_one else self._read_some())
        if batch:
            return batch
        if self._reader.failure is not None:
            raise self._reader.failure
        raise StopAsyncIteration

    async def _read_some(self) -> list[ProviderEvent]:
        batch: list[ProviderEvent] = []
        while not (batch or self._reader.ended):
            batch = await self._read()
        return batch

    async def _read_all(self) -> list[ProviderEvent]:
        batch: list[ProviderEvent] = []
        size = 0
        while not self._reader.ended:
            events = await self._read()
            batch += events
            size += sum(len(event.text.encode()) for event in events if isinstance(event, Delta))
            if size > MAX_BODY_BYTES:
                raise ResponseTooLarge(f"an answer of more than {MAX_BODY_BYTES} bytes")
        return batch

    async def _read(self) -> list[ProviderEvent]:
        message = await self._socket.receive()
        if message is None:
            return self._reader.close(self._socket.how_closed)
        return self._reader.read(message)
