"""A whole conversation, read page by page by somebody who may read it."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import field, frozen
from sqlalchemy import Connection

from scm_trio.chat.sessions import session_info
from scm_trio.errors import NotFound
from scm_trio.model import Message
from scm_trio.protocol.messages import SessionInfo
from scm_trio.store import excerpts
from scm_trio.store.access import resolve
from scm_trio.store.database import Database
from scm_trio.store.session_list import view

PAGE = 50


@frozen
class Excerpt:
    """Which messages of a session are meant, oldest first; they are read when they are needed.

    Attributes:
        user_id: who reads.
        session: as he sees it.
    """

    user_id: str
    session: SessionInfo
    message_ids: tuple[str, ...] = field(repr=False)


class Conversations:
    """The conversations of this server."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(self, user_id: str, session_id: str, *, leaf_id: str | None, whole: bool) -> Excerpt:
        """Find a session and choose among its messages.

        Args:
            user_id: who asks.
            session_id: as this user calls the session, or its global id.
            leaf_id: the branch that ends with this message; None: with the newest one.
            whole: all branches instead.

        Raises:
            NotFound: no such session or message, for this user.
            StoreError: the database failed.
        """
        return await self._database.read(_open, user_id, session_id, leaf_id, whole)

    async def page(self, excerpt: Excerpt, start: int) -> tuple[Sequence[Message], int]:
        """Return the messages from place ``start`` on, less those deleted meanwhile, and where the next page starts.

        They are ``PAGE`` at most, or fewer long ones. When the user is no member of the session any more, it ends.

        Raises:
            StoreError: the database failed.
        """
        return await self._database.read(_page, excerpt, start)


def _open(conn: Connection, user_id: str, session_id: str, leaf_id: str | None, whole: bool) -> Excerpt:
    access = resolve(conn, user_id, session_id)
    session = session_info(view(conn, access))
    if whole:
        return Excerpt(user_id, session, tuple(excerpts.whole(conn, access.global_id)))
    ids = excerpts.branch(conn, access.global_id, leaf_id)
    if leaf_id is not None and not ids:
        raise NotFound("no such message in this session", field="branch")
    return Excerpt(user_id, session, tuple(ids))


def _page(conn: Connection, excerpt: Excerpt, start: int) -> tuple[Sequence[Message], int]:
    try:
        resolve(conn, excerpt.user_id, excerpt.session.global_id)
    except NotFound:
        return (), len(excerpt.message_ids)
    found, count = excerpts.read(conn, excerpt.message_ids[start : start + PAGE])
    return found, start + count
