"""The session verbs. ``chat/sessions.py`` does what is asked.

The answer to a change comes through the connection's outbox, in its place among all that happens in the session.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from scm_trio.chat.sessions import Caller
from scm_trio.errors import Internal, InvalidMessage, StoreError
from scm_trio.gateway.link import Link
from scm_trio.protocol import messages
from scm_trio.protocol.codec import Received
from scm_trio.store.session_list import SessionFilter

DEFAULT_PAGE = 50

Verb = Callable[[Link, Received], Awaitable[None]]


def _served(verb: Verb) -> Verb:
    """What the store does not take for a field's value is told with the field's path, and its failure as ours."""

    async def serve(link: Link, received: Received) -> None:
        try:
            await verb(link, received)
        except InvalidMessage as exc:
            exc.field = f"data.{exc.field}"
            raise
        except StoreError:
            raise Internal("store") from None

    return serve


def _caller(link: Link, received: Received) -> Caller:
    return Caller(link.user_id, link, received.request_id)


async def _create(link: Link, received: Received) -> None:
    wanted: messages.SessionCreate = received.data
    await link.gate.sessions.create(_caller(link, received), wanted)


async def _update(link: Link, received: Received) -> None:
    wanted: messages.SessionUpdate = received.data
    await link.gate.sessions.update(_caller(link, received), wanted)


async def _delete(link: Link, received: Received) -> None:
    wanted: messages.SessionDelete = received.data
    await link.gate.sessions.delete(_caller(link, received), wanted.session_id)


async def _list(link: Link, received: Received) -> None:
    asked: messages.SessionList = received.data
    limit = DEFAULT_PAGE if asked.limit is None else asked.limit
    wanted = SessionFilter(asked.query, asked.archived, asked.before, limit)
    page = await link.gate.sessions.list(link.user_id, wanted)
    await link.send("SESSION_LIST", page, received.request_id, received.session_id)


async def _mark_read(link: Link, received: Received) -> None:
    mark: messages.MessageRead = received.data
    if mark.user_id not in (None, link.user_id):
        raise InvalidMessage(field="userId", expected="own")
    await link.gate.sessions.mark_read(_caller(link, received), mark.session_id, mark.message_id)


create_session, update_session, delete_session = _served(_create), _served(_update), _served(_delete)
list_sessions, mark_read = _served(_list), _served(_mark_read)
