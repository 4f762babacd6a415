"""What all connections share, and what is known of a visitor after the handshake."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import trio
from attrs import frozen

from scm_trio.chat.deliveries import Deliveries
from scm_trio.chat.limits import UserRates
from scm_trio.chat.people import People
from scm_trio.chat.service import ChatService
from scm_trio.chat.sessions import Sessions
from scm_trio.cluster.hub import Hub
from scm_trio.config import WebSocket
from scm_trio.metrics import Metrics
from scm_trio.model import Principal
from scm_trio.protocol.texts import Lang


class Authenticator(Protocol):
    """Knows whom a token belongs to."""

    async def verify(self, token: str) -> Principal:
        """Raises ``Unauthorized`` or ``TokenExpired``."""

    @property
    def can_issue(self) -> bool: ...

    def issue(self, user_id: str, *, ttl_s: float, roles: Iterable[str] = ()) -> str: ...


@frozen
class Clock:
    """Wall time in seconds since the epoch, unguessable ids and chance; all are replaced in tests."""

    now: Callable[[], float]
    new_id: Callable[[], str]
    jitter: Callable[[], float]
    """Uniform in [0, 1)."""


@frozen
class Tokens:
    """How tokens are taken and renewed."""

    authenticator: Authenticator
    query_allowed: bool
    refresh: bool
    """Whether the expiry warning carries a fresh token."""
    ttl_s: float
    leeway_s: float = 0.0
    """A token counts as expired so long after it says."""


@frozen
class Gate:
    """Built once by the composition root."""

    service: ChatService
    sessions: Sessions
    deliveries: Deliveries
    hub: Hub
    people: People
    rates: UserRates
    metrics: Metrics
    settings: WebSocket
    tokens: Tokens
    clock: Clock
    runs: trio.Nursery


@frozen
class Visit:
    """A visitor who may come in."""

    principal: Principal
    session_id: str
    subprotocol: str | None
    lang: Lang
    coalesce_s: float
