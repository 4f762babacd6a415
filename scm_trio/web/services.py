"""What the HTTP routes are given by the composition root."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol

from attrs import frozen
from starlette.requests import Request

from scm_trio.auth import pick_token
from scm_trio.chat.conversations import Conversations
from scm_trio.chat.files import Files
from scm_trio.chat.offer import OnOffer
from scm_trio.chat.quota import Standing
from scm_trio.errors import Forbidden, NotFound
from scm_trio.metrics import Metrics
from scm_trio.model import Principal
from scm_trio.protocol.codec import is_id
from scm_trio.store.database import Offload
from scm_trio.store.ledger import AttemptRow, UsageDay


class Authenticator(Protocol):
    """The part of the token rules that HTTP needs."""

    @property
    def can_issue(self) -> bool:
        """Whether this server holds a key that signs."""

    async def verify(self, token: str) -> Principal:
        """Return whom a token names.

        Raises:
            Unauthorized: it is none of ours.
            TokenExpired: it was.
        """

    def issue(self, user_id: str, *, ttl_s: float, roles: Iterable[str] = ()) -> str:
        """Return a new token."""


async def _unlimited(_user_id: str) -> Standing | None:
    return None


@frozen
class WebServices:
    """Everything the routes use.

    Attributes:
        readiness: name of each check -> ``"ok"`` or what is wrong.
        draining: whether the server is about to stop.
        stats: numbers for the statistics route, in camelCase.
        models: what can be asked for; told whether the vendors are to be asked as well.
        quota: what a user is limited to today, None where that is nothing.
        usage: what a user spent between two times (None: by default) by day, or attempt by attempt up to a number.
        files: what users uploaded.
        conversations: what was said.
        offload: carries work that would hold up everybody else.
        now: wall clock, seconds since the epoch.
        token_ttl_s: how long a refreshed token lives.
        allow_refresh: whether the configuration lets valid tokens be exchanged for new ones.
        query_token: whether the WebSocket handshake takes ``?token=``; plain HTTP never does.
    """

    authenticator: Authenticator
    metrics: Metrics
    readiness: Callable[[], Awaitable[Mapping[str, str]]]
    draining: Callable[[], bool]
    stats: Callable[[], Mapping[str, object]]
    models: Callable[[bool], Awaitable[OnOffer]]
    usage: Callable[[str, float | None, float | None, int | None], Awaitable[Sequence[UsageDay] | Sequence[AttemptRow]]]
    files: Files
    conversations: Conversations
    offload: Offload
    now: Callable[[], float]
    quota: Callable[[str], Awaitable[Standing | None]] = _unlimited
    token_ttl_s: float = 3600.0
    allow_refresh: bool = False
    query_token: bool = True

    async def user(self, request: Request) -> Principal:
        """Return who asks, by the ``Authorization`` header alone.

        Raises:
            Unauthorized: there is no bearer token, or it is not valid.
            TokenExpired: it was valid once.
        """
        headers = {"authorization": request.headers.getlist("authorization")}
        return await self.authenticator.verify(pick_token(headers, (), {}, query_allowed=False).token)

    async def admin(self, request: Request) -> Principal:
        """Return who asks, if that is an administrator.

        Raises:
            Forbidden: it is somebody else.
            Unauthorized, TokenExpired: as for ``user``.
        """
        principal = await self.user(request)
        if not principal.is_admin:
            raise Forbidden("administrators only")
        return principal


def path_id(request: Request) -> str:
    """The ``{id}`` of the request's path.

    Raises:
        NotFound: nothing can have such an id.
    """
    found: str = request.path_params["id"]
    if not is_id(found):
        raise NotFound("no id")
    return found
