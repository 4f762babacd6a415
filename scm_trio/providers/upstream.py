"""Asking a vendor over HTTP: the one place, with the transport beside it, that knows httpx."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import lru_cache
from typing import cast

import httpx
import trio

from scm_trio import __version__, config
from scm_trio.errors import ConfigError, ProviderUnavailable, RequestFailed, ResponseTooLarge, TimedOut
from scm_trio.providers.connections import Dialer
from scm_trio.providers.http1_transport import Http1Transport

MAX_BODY_BYTES = 1_048_576
"""Of an answer that comes as one body."""
MAX_ERROR_BODY_BYTES = 65_536
ERROR_BODY_TIMEOUT_S = 5.0
DRAIN_TIMEOUT_S = 0.2
LEAST_SECRET_CHARS = 6
_DRAIN_BYTES = 65_536
_HEADERS = {
    "User-Agent": f"scm-trio/{__version__}",
    "Accept": "text/event-stream, application/json",
    # A compressed stream would be held back until a block is full.
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
}
_GET_HEADERS = {**_HEADERS, "Accept": "application/json"}
del _GET_HEADERS["Content-Type"]


class Upstream:
    """One vendor's HTTP server: connections, limits and failures in this house's words.

    Requests go straight to the transport: a client of httpx costs 0.2 ms each, and would keep the vendor's cookies.

    Attributes:
        secrets: values of its headers that must not be seen in a failure.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        connect_timeout_s: float = 10.0,
        headers: Mapping[str, str] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Prepare without connecting.

        Args:
            name: the provider's name, for failures.
            base_url: ``http`` or ``https``; paths are appended to it.
            connect_timeout_s: for TCP and TLS together.
            headers: sent with every request.
            transport: something else than HTTP/1.1 with the system's certificate authorities, as in tests.

        Raises:
            ConfigError: ``base_url`` is no such URL.
        """
        self.name = name
        self._base_url = _checked_url(name, base_url)
        self._extensions = {"timeout": {"connect": connect_timeout_s}}
        self._headers = headers or {}
        # A short one would take harmless words with it.
        self.secrets = tuple(value for value in self._headers.values() if len(value) >= LEAST_SECRET_CHARS)
        self._transport = transport or Http1Transport()

    def post_stream(
        self, path: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[UpstreamResponse]:
        """Post JSON to the base URL plus ``path``; enter as soon as the head of the response is there.

        On leaving, the connection is closed, or idle if the body was read to its end.

        Raises (on entering):
            TimedOut: no connection in time (``field`` = ``connect``).
            ProviderUnavailable: no connection, or one that broke or spoke no HTTP.
        """
        sent = {**_HEADERS, **self._headers, **(headers or {})}
        url = _url(self._base_url + path)
        return self._exchange(httpx.Request("POST", url, headers=sent, content=body, extensions=self._extensions))

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> AbstractAsyncContextManager[UpstreamResponse]:
        """Get what is at the base URL plus ``path``; all else as in ``post_stream``."""
        sent = {**_GET_HEADERS, **self._headers, **(headers or {})}
        url = httpx.URL(self._base_url + path)
        return self._exchange(httpx.Request("GET", url, headers=sent, extensions=self._extensions))

    @asynccontextmanager
    async def _exchange(self, request: httpx.Request) -> AsyncIterator[UpstreamResponse]:
        response = await self._send(request)
        try:
            yield response
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Close the idle connections."""
        await self._transport.aclose()

    async def _send(self, request: httpx.Request) -> UpstreamResponse:
        try:
            response = await self._transport.handle_async_request(request)
        except httpx.TransportError as exc:
            raise _failure(self.name, exc) from exc
        return UpstreamResponse(self.name, response)


class UpstreamResponse:
    """A response whose head is there and whose body is an iterator over pieces of bytes."""

    def __init__(self, name: str, response: httpx.Response) -> None:
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = response.headers
        """Names in any case."""
        self._name = name
        self._stream = cast(httpx.AsyncByteStream, response.stream)
        self._chunks = aiter(self._stream)

    @property
    def media_type(self) -> str:
        """The content type in lower case, without parameters; empty if there is none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def __aiter__(self) -> UpstreamResponse:
        return self

    async def __anext__(self) -> bytes:
        """Return what one network read brought.

        Raises:
            ProviderUnavailable: the connection broke, or was closed before the end of the body.
        """
        try:
            return await anext(self._chunks)
        except httpx.TransportError as exc:
            raise _failure(self._name, exc) from exc

    async def read(self, limit_bytes: int = MAX_BODY_BYTES) -> bytes:
        """Return the whole body.

        Raises:
            ResponseTooLarge: it is longer than ``limit_bytes``.
            ProviderUnavailable: as in iterating.
        """
        body = bytearray()
        async for chunk in self:
            body += chunk
            if len(body) > limit_bytes:
                raise ResponseTooLarge(f"{self._name}: a body of more than {limit_bytes} bytes")
        return bytes(body)

    async def read_error(self) -> bytes:
        """Return the beginning of the body, as much as came: what a refusal says must not hide that it was one."""
        body = bytearray()
        with trio.move_on_after(ERROR_BODY_TIMEOUT_S), suppress(ProviderUnavailable):
            async for chunk in self:
                body += chunk
                if len(body) >= MAX_ERROR_BODY_BYTES:
                    break
        return bytes(body[:MAX_ERROR_BODY_BYTES])

    async def drain(self) -> None:
        """Read what follows an answer's own end mark, so that the connection can be used again; not for long."""
        drained_bytes = 0
        with trio.move_on_after(DRAIN_TIMEOUT_S), suppress(ProviderUnavailable):
            async for chunk in self:
                drained_bytes += len(chunk)
                if drained_bytes > _DRAIN_BYTES:
                    break

    async def aclose(self) -> None:
        """Close the connection, or leave it idle if the body was read to its end."""
        await self._stream.aclose()


def configured_upstream(
    name: str, base_url: str, settings: config.Provider, *, connect_timeout_s: float, dialer: Dialer | None
) -> Upstream:
    """An upstream with what every kind of provider over HTTP can be told.

    Raises:
        ConfigError: ``base_url`` cannot be used.
    """
    return Upstream(
        name,
        base_url,
        connect_timeout_s=connect_timeout_s,
        headers=settings.more_headers,
        transport=Http1Transport(dialer),
    )


@lru_cache(maxsize=64)
def _url(url: str) -> httpx.URL:
    """Parse once what every request needs anew: that would be a fifth of its cost."""
    return httpx.URL(url)


def _checked_url(name: str, base_url: str) -> str:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        # Not its text, which quotes pieces that may be a password's.
        raise ConfigError(f"provider {name}: base-url is no URL") from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise ConfigError(f"provider {name}: base-url must be an http:// or https:// URL")
    return base_url.rstrip("/")


def _failure(name: str, exc: httpx.TransportError) -> RequestFailed:
    detail = f"{name}: {type(exc).__name__}: {exc}"
    if isinstance(exc, httpx.ConnectTimeout):
        return TimedOut(detail, field="connect")
    return ProviderUnavailable(detail)
