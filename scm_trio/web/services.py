"""What the HTTP routes are given by the composition root."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from math import ceil
from typing import Protocol
from urllib.parse import unquote

from attrs import frozen
from starlette.requests import Request

from scm_trio.auth import pick_token
from scm_trio.chat.conversations import Conversations
from scm_trio.chat.files import Files
from scm_trio.chat.history import History
from scm_trio.chat.offer import OnOffer
from scm_trio.chat.quota import Standing
from scm_trio.chat.searching import Search
from scm_trio.chat.sessions import Sessions
from scm_trio.chat.suggestions import Suggestions
from scm_trio.errors import Forbidden, NotFound, RateLimited
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


_ID_PART = len(["", "scm", "ai", "things", "{id}"]) - 1


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
        conversations: what was said, to be exported.
        sessions: where it was said.
        history: what was said, in pages.
        charge: counts a request of a user; the seconds until he may ask again, where that was too much.
        offload: carries work that would hold up everybody else.
        now: wall clock, seconds since the epoch.
        search: full text search over what users may read.
        suggestions: what could be asked next.
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
    sessions: Sessions
    history: History
    charge: Callable[[str], float | None]
    offload: Offload
    now: Callable[[], float]
    search: Search
    suggestions: Suggestions
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

    async def counted_user(self, request: Request) -> Principal:
        """As ``user``, and the request counts for his rate, together with what he sends over WebSockets.

        Raises:
            RateLimited: he asks too often.
            Unauthorized, TokenExpired: as for ``user``.
        """
        principal = await self.user(request)
        wait_s = self.charge(principal.user_id)
        if wait_s is not None:
            raise RateLimited(retry_after_s=wait_s, seconds=max(1, ceil(wait_s)))
        return principal

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
    """The ``{id}`` of the request's path, which is the part after the third slash's; it may hold slashes, escaped.

    Raises:
        NotFound: nothing can have such an id.
    """
    raw_path: bytes = request.scope["raw_path"]
    found = unquote(raw_path.split(b"/")[_ID_PART].decode("ascii"))
    if not is_id(found):
        raise NotFound("no id")
    return found
