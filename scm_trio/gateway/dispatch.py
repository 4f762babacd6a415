"""Message type -> function. Handlers answer at once or start a task; none of them waits for a model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from scm_trio.chat.answer import Answer
from scm_trio.chat.service import Asker
from scm_trio.errors import (
    CloseCode,
    Disconnect,
    Forbidden,
    Internal,
    InvalidMessage,
    NotFound,
    RequestFailed,
    StoreError,
    TooManyStreams,
)
from scm_trio.gateway.link import Link, Viewer
from scm_trio.gateway.people import start_typing, stop_typing, tell_statuses
from scm_trio.gateway.sessions import create_session, delete_session, list_sessions, mark_read, update_session
from scm_trio.model import Principal
from scm_trio.protocol import messages
from scm_trio.protocol.codec import Received, timestamp
from scm_trio.store.access import is_global_id

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
        await HANDLERS[received.kind](link, received)
    except RequestFailed as exc:
        await link.send_error(exc, request_id_of(received), session_id=received.session_id)


def request_id_of(received: Received) -> str | None:
    """The envelope's, or the one inside a CHAT_REQUEST's data."""
    if received.request_id is None and isinstance(received.data, messages.ChatRequest):
        return received.data.request_id
    return received.request_id


def repeatable(received: Received) -> str | None:
    """The id under which a request may have been made before: repeating oneself is free."""
    return request_id_of(received) if received.kind == "CHAT_REQUEST" else None


async def answer_heartbeat(link: Link, received: Received) -> None:
    await link.send("HEARTBEAT", messages.Heartbeat(), received.request_id, received.session_id)


async def start_stream(link: Link, received: Received) -> None:
    request: messages.ChatRequest = received.data
    request_id = request_id_of(received)
    if request_id is not None and any(_answers(viewer, link, request_id) for viewer in link.viewers.values()):
        return  # the same request again, on the connection that is being answered already
    if request_id is not None and link.gate.service.has(link.user_id, request_id):
        # It may have been asked in a session that is not the user's any more.
        await _recall(link, link.gate.service.find(link.user_id, request_id=request_id).key)
    _check_room(link)
    asker = Asker(link.user_id, received.session_id or link.session_id)
    try:
        run = link.gate.service.begin(asker, request, request_id, link.gate.runs, lambda: _refund(link))
    except RequestFailed as refusal:
        # What is known is not refused, whatever would be in the way of a new question.
        if request_id is None or (answer := await _answered(link, request_id)) is None:
            raise refusal from None
        _refund(link)
        link.attach(answer, request_id)
        return
    link.attach(run, request_id)  # where it is shown already it is another connection's request, and answered here, too
    if not is_global_id(asker.session_id):
        link.open_session(asker.session_id)  # his own; another's is opened when it is known that he may ask there


def _answers(viewer: Viewer, link: Link, request_id: str) -> bool:
    """Whether that request is answered here. A CHAT_RESUME of another answer may have had the same id, and is none."""
    return viewer.request_id == request_id and _is(viewer.run, link, None, request_id)


def _refund(link: Link) -> None:
    link.gate.rates.give_back(link.user_id, trio.current_time())


def _check_room(link: Link) -> None:
    limit = link.gate.settings.stream.max_per_connection
    if link.asked >= limit:
        raise TooManyStreams("per connection", limit=limit)


def cancel_at_once(link: Link, received: Received) -> bool:
    """Stop an answer of the user's own, ahead of all that waits to be done: a model that nobody wants costs money.

    Where there is nothing to stop, or nothing yet, ``cancel_stream`` decides in its turn. A request that is still waiting
    before it begins as a cancelled one, because the cancel is foretold here.

    Returns:
        Whether that was all there is to do.
    """
    if received.kind != "CHAT_CANCEL" or received.user_id not in (None, link.user_id):
        return False
    message_id, request_id = _named(received)
    try:
        link.gate.service.cancel(link.user_id, message_id=message_id, request_id=request_id)
    except NotFound:
        return False
    return True


async def cancel_stream(link: Link, received: Received) -> None:
    message_id, request_id = _named(received)
    if message_id is None and request_id is None:
        raise InvalidMessage(field="data.requestId", expected="one_of")
    try:
        link.gate.service.cancel(link.user_id, message_id=message_id, request_id=request_id)
    except NotFound:
        if message_id is not None and link.gate.service.is_live(message_id):
            await _overrule(link, message_id)
        # One that has just ended, and whose END is still to be sent here, says so by that; so does one that was stopped
        # ahead of its turn by this very cancel.
        elif link.gate.service.was_foretold(link.user_id, request_id):
            return
        elif not any(_is(viewer.run, link, message_id, request_id) for viewer in link.viewers.values()):
            raise


def _named(received: Received) -> tuple[str | None, str | None]:
    """The ids of the answer and of the request that a CHAT_CANCEL is about."""
    cancel: messages.ChatCancel = received.data
    request_id: str | None = cancel.request_id
    return cancel.message_id, received.request_id if cancel.message_id is None and request_id is None else request_id


async def _overrule(link: Link, message_id: str) -> None:
    try:
        await link.gate.service.overrule(link.user_id, message_id)
    except StoreError:
        raise Internal("store") from None


def _is(run: Answer, link: Link, message_id: str | None, request_id: str | None) -> bool:
    if message_id is not None:
        return run.info.message_id == message_id
    return run.info.request_id == request_id and run.user_id == link.user_id


async def resume_stream(link: Link, received: Received) -> None:
    resume: messages.ChatResume = received.data
    run = await _recall(link, resume.message_id)
    viewer = link.viewer_of(run)
    known = run.has_position(resume.rev, resume.from_index) and not (viewer and viewer.would_skip(resume.from_index))
    cursor = resume.from_index if known else 0
    announce = {"resumed": True} if known else {"reset": True}
    own = run.info.request_id if run.user_id == link.user_id else None
    if viewer is not None and viewer.asked:
        own = viewer.request_id
    else:
        _check_room(link)
    link.attach(run, received.request_id or own, cursor, **announce)


async def _answered(link: Link, request_id: str) -> Answer | None:
    """What a request got whose run has left memory."""
    try:
        message_id = await link.gate.service.answered(link.user_id, request_id)
    except StoreError:
        return None
    return None if message_id is None else await _recall(link, message_id)


async def _recall(link: Link, message_id: str) -> Answer:
    """An answer that the user may see, and that he still may when this returns."""
    while True:
        losses = link.losses
        try:
            answer = await link.gate.service.recall(link.user_id, message_id)
        except StoreError:
            raise Internal("store") from None
        if losses == link.losses:
            return answer


async def refresh_token(link: Link, received: Received) -> None:
    # A task of its own: fetching the keys may take seconds, and nothing that was said after it should wait for that.
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


HANDLERS: dict[str, Handler] = {
    "HEARTBEAT": answer_heartbeat,
    "CHAT_REQUEST": start_stream,
    "CHAT_CANCEL": cancel_stream,
    "CHAT_RESUME": resume_stream,
    "AUTH_REFRESH": refresh_token,
    "SESSION_CREATE": create_session,
    "SESSION_UPDATE": update_session,
    "SESSION_DELETE": delete_session,
    "SESSION_LIST": list_sessions,
    "MESSAGE_READ": mark_read,
    "TYPING_START": start_typing,
    "TYPING_STOP": stop_typing,
    "ONLINE_STATUS": tell_statuses,
    "DISCONNECT": leave,
}
