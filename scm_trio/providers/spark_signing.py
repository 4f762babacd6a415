"""Spark's signed WebSocket URLs. No clock, no network."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from email.utils import formatdate
from typing import Self
from urllib.parse import quote, urlencode, urlsplit

from attrs import field, frozen

from scm_trio.errors import ConfigError
from scm_trio.providers.connections import Origin

_DEFAULT_PORTS = {"ws": 80, "wss": 443}


@frozen
class Credentials:
    """What Spark's console shows for an application."""

    app_id: str
    api_key: str = field(repr=False)
    api_secret: str = field(repr=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be seen in a failure."""
        return (self.api_key, self.api_secret)


@frozen
class Endpoint:
    """Where a model is asked.

    Attributes:
        origin: where to connect.
        host: as the ``Host`` header says it, without a default port; it is part of what is signed.
        path: without a query, ready for the request line.
    """

    origin: Origin
    host: str
    path: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a ``ws://`` or ``wss://`` URL.

        Raises:
            ConfigError: this is none, or has a query, where the signature goes.
        """
        try:
            parts = urlsplit(url)
            default_port = _DEFAULT_PORTS[parts.scheme]
            name = (parts.hostname or "").encode("idna").decode("ascii")
            port = parts.port or default_port
        except (KeyError, ValueError) as exc:
            raise ConfigError("base-url must be a ws:// or wss:// URL") from exc
        if not name or parts.query:
            raise ConfigError("base-url must be a ws:// or wss:// URL without a query")
        host = f"[{name}]" if ":" in name else name
        return cls(
            Origin(name, port, tls=parts.scheme == "wss"),
            host if port == default_port else f"{host}:{port}",
            quote(parts.path or "/", safe="/%"),
        )

    def signed_target(self, credentials: Credentials, now_s: float) -> str:
        """Return path and query of a handshake at ``now_s``, seconds since the epoch.

        It is a secret for the five minutes by which the server lets clocks differ.
        """
        date = formatdate(now_s, usegmt=True)
        text = f"host: {self.host}\ndate: {date}\nGET {self.path} HTTP/1.1"
        digest = hmac.digest(credentials.api_secret.encode(), text.encode(), hashlib.sha256)
        origin = (
            f'api_key="{credentials.api_key}", algorithm="hmac-sha256", headers="host date request-line", '
            f'signature="{b64encode(digest).decode()}"'
        )
        authorization = b64encode(origin.encode()).decode()
        return f"{self.path}?{urlencode({'authorization': authorization, 'date': date, 'host': self.host})}"
