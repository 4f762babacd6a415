"""Work that nobody needs any more once its client has left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from outcome import Error, Outcome, Value
from starlette.requests import Request
from starlette.responses import Response

from scm_trio.errors import RequestFailed, StoreError

CLIENT_LEFT = 499
"""For a client that will not read it; nginx's number for that."""


async def while_wanted(request: Request, work: Callable[[], Awaitable[Response]]) -> Response:
    """Return the response that ``work`` makes; when the client leaves meanwhile, ``work`` is cancelled.

    Raises:
        RequestFailed, StoreError: ``work`` did.
    """
    made: Outcome[Response] = Value(Response(status_code=CLIENT_LEFT))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_when_gone, request, nursery.cancel_scope)
        # Caught in here: what leaves a nursery leaves it in a group.
        try:
            made = Value(await work())
        except (RequestFailed, StoreError) as exc:
            made = Error(exc)
        nursery.cancel_scope.cancel()
    return made.unwrap()


async def _cancel_when_gone(request: Request, scope: trio.CancelScope) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
