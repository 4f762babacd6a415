"""A whole conversation, read page by page by somebody who may read it."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve, field, frozen
from sqlalchemy import Connection

from scm_trio.errors import NotFound
from scm_trio.model import Message, Session
from scm_trio.store import excerpts
from scm_trio.store.access import resolve
from scm_trio.store.database import Database

PAGE = 50


@frozen
class Excerpt:
    """Which messages of a session are meant, oldest first; they are read when they are needed."""

    session: Session
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

    async def page(self, excerpt: Excerpt, start: int) -> Sequence[Message]:
        """Return the messages from place ``start`` on, ``PAGE`` at most, less those deleted meanwhile.

        Raises:
            StoreError: the database failed.
        """
        return await self._database.read(excerpts.read, excerpt.message_ids[start : start + PAGE])


def _open(conn: Connection, user_id: str, session_id: str, leaf_id: str | None, whole: bool) -> Excerpt:
    access = resolve(conn, user_id, session_id)
    session = evolve(access.session, session_id=access.name)
    if whole:
        return Excerpt(session, tuple(excerpts.whole(conn, session.global_id)))
    ids = excerpts.branch(conn, session.global_id, leaf_id)
    if leaf_id is not None and not ids:
        raise NotFound("no such message in this session", field="branch")
    return Excerpt(session, tuple(ids))
