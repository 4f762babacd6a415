"""Who types, and who is there: what connections say about it and ask."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from scm_trio.cluster.hub import Connection
from scm_trio.errors import Internal, InvalidMessage, NotFound, StoreError
from scm_trio.gateway.link import Link
from scm_trio.protocol import messages
from scm_trio.protocol.codec import Received
from scm_trio.store.access import is_global_id

MAX_ASKED = 100
"""People whose status one message may ask for."""


async def start_typing(link: Link, received: Received) -> None:
    await _typing(link, received, link.gate.people.typists.start)


async def stop_typing(link: Link, received: Received) -> None:
    await _typing(link, received, link.gate.people.typists.stop)


async def _typing(link: Link, received: Received, say: Callable[[Connection, str], Awaitable[None]]) -> None:
    typing: messages.Typing = received.data
    if typing.user_id not in (None, link.user_id):
        raise InvalidMessage(field="data.userId", expected="own")
    named = typing.session_id or received.session_id
    try:
        await say(link, named or link.session_id)
    except NotFound:
        # Before its first question the session of a fresh page is not there yet; nobody else can be in it.
        if named is not None or is_global_id(link.session_id):
            raise
    except StoreError:
        raise Internal("store") from None


async def tell_statuses(link: Link, received: Received) -> None:
    """Set one's own status, tell those asked for, or both; where only the own is set, that is told."""
    wish: messages.OnlineStatus = received.data
    if wish.status is None and wish.user_ids is None:
        raise InvalidMessage(field="data.status", expected="status_or_users")
    if wish.user_ids is not None and len(wish.user_ids) > MAX_ASKED:
        raise InvalidMessage(field="data.userIds", expected="too_long")
    presence = link.gate.people.presence
    if wish.status is not None:
        presence.say(link, wish.status)
    try:
        users = await presence.ask(link.user_id, (link.user_id,) if wish.user_ids is None else wish.user_ids)
    except StoreError:
        raise Internal("store") from None
    await link.send("ONLINE_STATUS", messages.OnlineStatuses(users), received.request_id, received.session_id)
