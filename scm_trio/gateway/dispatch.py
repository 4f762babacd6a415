"""Message type -> function. Handlers answer at once or start a task; none of them waits for a model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from scm_trio.chat.service import Asker
from scm_trio.errors import (
    CloseCode,
    Disconnect,
    Forbidden,
    Internal,
    InvalidMessage,
    RequestFailed,
    StoreError,
    TooManyStreams,
    UnknownType,
)
from scm_trio.gateway.link import Link, Viewer
from scm_trio.gateway.streaming import stream_answer
from scm_trio.model import Principal
from scm_trio.protocol import messages
from scm_trio.protocol.codec import Received, timestamp

Handler = Callable[[Link, Received], Awaitable[None]]

UNCOUNTED = frozenset({"HEARTBEAT", "CHAT_CANCEL", "CHAT_RESUME", "AUTH_REFRESH", "DISCONNECT"})
"""Types that the rate limit leaves alone: whoever is limited must still be able to stop and to leave."""


async def dispatch(link: Link, received: Received) -> None:
    """Do what a message asks; a failed request is told, and the connection lives.

    Raises:
        Disconnect: the connection has to end.
        trio.BrokenResourceError: it has ended.
    """
    try:
        if received.user_id not in (None, link.user_id):
            raise InvalidMessage(field="userId", expected="own")
        await HANDLERS.get(received.kind, refuse)(link, received)
    except RequestFailed as exc:
        await link.send_error(exc, request_id_of(received), session_id=received.session_id)


def request_id_of(received: Received) -> str | None:
    """The envelope's, or the one inside a CHAT_REQUEST's data."""
    if received.request_id is None and isinstance(received.data, messages.ChatRequest):
        return received.data.request_id
    return received.request_id


def is_repeat(link: Link, received: Received) -> bool:
    """Whether this is a request whose run exists already; repeating oneself is free."""
    request_id = request_id_of(received)
    return (
        received.kind == "CHAT_REQUEST" and request_id is not None and link.gate.service.knows(link.user_id, request_id)
    )


async def answer_heartbeat(link: Link, received: Received) -> None:
    await link.send("HEARTBEAT", messages.Heartbeat(), received.request_id, received.session_id)


async def start_stream(link: Link, received: Received) -> None:
    request: messages.ChatRequest = received.data
    request_id = request_id_of(received)
    if request_id is not None and any(viewer.request_id == request_id for viewer in link.viewers.values()):
        return  # the same request again, on the connection that is being answered already
    _check_room(link)
    asker = Asker(link.user_id, received.session_id or link.session_id)
    run = link.gate.service.begin(asker, request, request_id, link.gate.runs)
    _show(link, Viewer(run, request_id))


def _check_room(link: Link) -> None:
    limit = link.gate.settings.stream.max_per_connection
    if len(link.viewers) >= limit:
        raise TooManyStreams("per connection", limit=limit)


def _show(link: Link, viewer: Viewer) -> None:
    # Entered here and not by the task, so that the next message already finds it.
    link.viewers[viewer.run.key] = viewer
    link.nursery.start_soon(stream_answer, link, viewer)


async def cancel_stream(link: Link, received: Received) -> None:
    cancel: messages.ChatCancel = received.data
    request_id: str | None = cancel.request_id
    if cancel.message_id is None and request_id is None:
        request_id = received.request_id
    if cancel.message_id is None and request_id is None:
        raise InvalidMessage(field="data.requestId", expected="one_of")
    link.gate.service.cancel(link.user_id, message_id=cancel.message_id, request_id=request_id)


async def resume_stream(link: Link, received: Received) -> None:
    resume: messages.ChatResume = received.data
    try:
        run = await link.gate.service.recall(link.user_id, resume.message_id)
    except StoreError:
        raise Internal("store") from None
    known = resume.rev == run.rev and resume.from_index <= run.log.next_index
    cursor = resume.from_index if known else 0
    announce = {"resumed": True} if known else {"reset": True}
    viewer = link.viewers.get(run.key)
    if viewer is not None:
        viewer.move(cursor, **announce)
        return
    _check_room(link)
    _show(link, Viewer(run, received.request_id or run.info.request_id, cursor, **announce))


async def refresh_token(link: Link, received: Received) -> None:
    # A task of its own: fetching the keys may take seconds, and a cancel must be seen meanwhile.
    link.nursery.start_soon(_refresh, link, received)


async def _refresh(link: Link, received: Received) -> None:
    refresh: messages.AuthRefresh = received.data
    with suppress(trio.BrokenResourceError):
        try:
            principal = await link.gate.tokens.authenticator.verify(refresh.token)
        except RequestFailed as exc:
            await link.send_error(exc, received.request_id)
            return
        if principal.user_id != link.user_id:
            link.disconnect(Disconnect(CloseCode.FORBIDDEN, Forbidden.code))
            return
        await _take_token(link, principal, received.request_id)


async def _take_token(link: Link, principal: Principal, request_id: str | None) -> None:
    link.principal = principal
    link.refreshed.set()
    finite = principal.expires_at != float("inf")
    answer = messages.AuthRefreshed(timestamp(principal.expires_at) if finite else None)
    await link.send("AUTH_REFRESH", answer, request_id)


async def leave(_: Link, received: Received) -> None:
    raise Disconnect(CloseCode.NORMAL, "BYE", request_id=received.request_id)


async def refuse(_: Link, received: Received) -> None:
    raise UnknownType("not served", field="type", kind=received.kind, notice="NOT_YET")


HANDLERS: dict[str, Handler] = {
    "HEARTBEAT": answer_heartbeat,
    "CHAT_REQUEST": start_stream,
    "CHAT_CANCEL": cancel_stream,
    "CHAT_RESUME": resume_stream,
    "AUTH_REFRESH": refresh_token,
    "DISCONNECT": leave,
}
