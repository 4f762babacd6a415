"""Sessions as their members see them: one, all of a user's in pages, and one for each of its members."""

from __future__ import annotations

from attrs import frozen
from sqlalchemy import Connection, select, tuple_

from scm_trio.errors import InvalidMessage
from scm_trio.model import MemberRole, Session
from scm_trio.store.access import Access
from scm_trio.store.members import Member, members_of
from scm_trio.store.messages import SESSION_COLUMNS, find_session_by_global_id, session_from
from scm_trio.store.paging import Page, decode_cursor, encode_cursor, fitting, page_size
from scm_trio.store.schema import members, sessions
from scm_trio.store.unread import unread_by_member, unread_counts

MAX_QUERY_CHARS = 200


@frozen
class SessionView:
    """A session as one of its members sees it; ``session_id`` is what he calls it, ``unread`` counts his messages."""

    session_id: str
    global_id: str
    title: str | None
    archived: bool
    model: str | None
    provider: str | None
    system_prompt: str | None
    role: MemberRole
    members: tuple[Member, ...]
    unread: int
    created_at: float
    updated_at: float


@frozen
class SessionFilter:
    """Which of a user's sessions are asked for.

    Attributes:
        query: only those with this text in their title; upper and lower case of ASCII letters are alike.
        archived: only archived ones or only others; None: all.
        before: the cursor of the page before.
        limit: how many at most.
    """

    query: str | None = None
    archived: bool | None = None
    before: str | None = None
    limit: int = 50


def view(conn: Connection, access: Access) -> SessionView:
    """The session as the user sees it."""
    people = members_of(conn, [access.global_id])[access.global_id]
    unread = unread_counts(conn, access.user_id, [access.global_id])
    return _view(access, people, unread.get(access.global_id, 0))


def views_of_members(conn: Connection, global_id: str) -> dict[str, SessionView]:
    """The session as each of its members sees it, by user; to be pushed to them after a change."""
    people = members_of(conn, [global_id])[global_id]
    unread = unread_by_member(conn, global_id)
    session = find_session_by_global_id(conn, global_id)
    if session is None:
        return {}
    ways = [Access(session, each.user_id, each.role) for each in people]
    return {way.user_id: _view(way, people, unread.get(way.user_id, 0)) for way in ways}


def list_sessions(conn: Connection, user_id: str, wanted: SessionFilter) -> Page[SessionView]:
    """The sessions that the user is a member of, the one updated last first.

    A session that is updated while somebody pages moves to the front, before the pages that he has; no other one is
    left out or comes twice.

    Raises:
        InvalidMessage: the cursor is none of this list, or the query is too long.
    """
    query = select(*SESSION_COLUMNS, members.c.role).join(members, members.c.session_id == sessions.c.global_id)
    query = query.where(members.c.user_id == user_id)
    if wanted.query:
        if len(wanted.query) > MAX_QUERY_CHARS or "\0" in wanted.query:
            raise InvalidMessage(field="query", expected="text" if "\0" in wanted.query else "too_long")
        query = query.where(sessions.c.title.icontains(wanted.query, autoescape=True))
    if wanted.archived is not None:
        query = query.where(sessions.c.archived == wanted.archived)
    order = tuple_(sessions.c.updated_at, sessions.c.global_id)
    if wanted.before is not None:
        query = query.where(order < tuple_(*decode_cursor(wanted.before, float, str)))
    size = page_size(wanted.limit)
    rows = conn.execute(query.order_by(sessions.c.updated_at.desc(), sessions.c.global_id.desc()).limit(size + 1)).all()
    ways = [Access(session_from(row[:-1]), user_id, row[-1]) for row in rows[:size]]
    people = members_of(conn, [way.global_id for way in ways])
    unread = unread_counts(conn, user_id, list(people))
    views = [_view(way, people[way.global_id], unread.get(way.global_id, 0)) for way in ways]
    shown = views[: fitting(map(_size, views))]
    return Page(tuple(shown), _cursor(ways[len(shown) - 1].session) if len(rows) > len(shown) else None)


def _size(seen: SessionView) -> int:
    """About how many characters a session has as JSON."""
    return 600 + len(seen.system_prompt or "") + sum(len(each.user_id) + 32 for each in seen.members)


def _cursor(session: Session) -> str:
    return encode_cursor(session.updated_at, session.global_id)


def _view(access: Access, people: tuple[Member, ...], unread: int) -> SessionView:
    session = access.session
    return SessionView(
        session_id=access.name,
        global_id=session.global_id,
        title=session.title,
        archived=session.archived,
        model=session.model,
        provider=session.provider,
        system_prompt=session.system_prompt,
        role=access.role,
        members=people,
        unread=unread,
        created_at=session.created_at,
        updated_at=session.updated_at,
    )
