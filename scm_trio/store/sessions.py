"""What members do with their sessions: create, change, delete. Each function checks the right in its own transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import asdict, frozen
from sqlalchemy import Connection, case, insert, select, update

from scm_trio.errors import InvalidMessage
from scm_trio.model import Session
from scm_trio.store.access import Access, check_room, lock, resolve_for_change
from scm_trio.store.members import Member, add_members, checked, member_ids, set_members
from scm_trio.store.messages import enter_owner, find_session_by_global_id
from scm_trio.store.removal import DeletedSession, remove_session
from scm_trio.store.schema import messages, sessions
from scm_trio.store.session_list import SessionView, view, views_of_members

MAX_TITLE_CHARS = 200
MAX_SYSTEM_PROMPT_CHARS = 20_000


@frozen
class NewSession:
    """A session to create. ``members`` may leave its creator out, who is an owner in any case."""

    title: str | None = None
    model: str | None = None
    provider: str | None = None
    system_prompt: str | None = None
    members: tuple[Member, ...] = ()


@frozen
class SessionChanges:
    """What changes; None: stays as it is. An empty title or system prompt takes it away. ``members`` is the whole list."""

    title: str | None = None
    archived: bool | None = None
    system_prompt: str | None = None
    members: Sequence[Member] | None = None


@frozen
class ChangedSession:
    """After a change.

    Attributes:
        before: the session as it was,
        after: and as it is; it may be called differently then.
        views: how each member sees it now, by user.
        added: who has become a member.
        removed: who is no member any more.
    """

    global_id: str
    before: Session
    after: Session
    views: Mapping[str, SessionView]
    added: tuple[str, ...]
    removed: tuple[str, ...]


def create_session(conn: Connection, user_id: str, global_id: str, new: NewSession, now: float) -> SessionView:
    """Create a session under its global id, which is unguessable and new.

    Raises:
        InvalidMessage: a text or the list of members is too long, or a member is named twice.
        Conflict: the user has as many sessions as one may have.
    """
    check_room(conn, user_id)
    members = checked([*(each for each in new.members if each.user_id != user_id), Member(user_id, "owner")])
    session = Session(
        global_id,
        global_id,
        user_id,
        _bounded("title", new.title, MAX_TITLE_CHARS),
        new.model,
        new.provider,
        _bounded("systemPrompt", new.system_prompt, MAX_SYSTEM_PROMPT_CHARS),
        created_at=now,
        updated_at=now,
    )
    conn.execute(insert(sessions), asdict(session))
    enter_owner(conn, session)
    del members[user_id]
    add_members(conn, global_id, members, now)
    return view(conn, Access(session, user_id, "owner"))


def update_session(
    conn: Connection, user_id: str, reference: str, changes: SessionChanges, now: float
) -> ChangedSession:
    """Change a session: members and owners its texts, owners its members; everybody may leave (see ``set_members``).

    Raises:
        NotFound: he is no member of such a session.
        Forbidden: his role does not allow it.
        InvalidMessage: a text or the list of members is not possible.
    """
    access = resolve_for_change(conn, user_id, reference)
    values = _values(changes)
    if values:
        access.demand("member")
    had = set(member_ids(conn, access.global_id))
    removed = () if changes.members is None else set_members(conn, access, changes.members, now)
    if values or changes.members is not None:
        later = case((sessions.c.updated_at < now, now), else_=sessions.c.updated_at)
        mine = sessions.c.global_id == access.global_id
        conn.execute(update(sessions).where(mine).values(updated_at=later, **values))
    views = views_of_members(conn, access.global_id)
    after = find_session_by_global_id(conn, access.global_id) or access.session
    added = tuple(user for user in views if user not in had)
    return ChangedSession(access.global_id, access.session, after, views, added, removed)


def delete_session(conn: Connection, user_id: str, reference: str) -> DeletedSession:
    """Delete a session with all that was said in it; the ledger stays.

    Raises:
        NotFound: he is no member of such a session.
        Forbidden: he is none of its owners.
    """
    access = resolve_for_change(conn, user_id, reference)
    access.demand("owner")
    return remove_session(conn, access.global_id)


def set_title_if_absent(conn: Connection, global_id: str, title: str, question_id: str) -> bool:
    """Give the session a title that was made from a question in it, and return whether it had none.

    Whose question it was is kept with it, for the title goes when that person is deleted. Where the question has gone
    meanwhile there is no title.
    """
    text = title.strip()[:MAX_TITLE_CHARS]
    lock(conn, global_id)  # first, so that the next statement sees what another process has just deleted
    asked = messages.c.message_id == question_id, messages.c.session_id == global_id
    asker = conn.execute(select(messages.c.user_id).where(*asked)).scalar_one_or_none()
    untitled = update(sessions).where(sessions.c.global_id == global_id, sessions.c.title.is_(None))
    if not text or asker is None:
        return False
    return conn.execute(untitled.values(title=text, title_source=asker)).rowcount > 0


def _values(changes: SessionChanges) -> dict[str, object]:
    values: dict[str, object] = {}
    if changes.title is not None:
        values |= {"title": _bounded("title", changes.title, MAX_TITLE_CHARS), "title_source": None}
    if changes.system_prompt is not None:
        values["system_prompt"] = _bounded("systemPrompt", changes.system_prompt, MAX_SYSTEM_PROMPT_CHARS)
    if changes.archived is not None:
        values["archived"] = changes.archived
    return values


def _bounded(field: str, text: str | None, limit: int) -> str | None:
    """The text without blank ends, None where nothing is left."""
    trimmed = (text or "").strip()
    if len(trimmed) > limit:
        raise InvalidMessage(field=field, expected="too_long")
    return trimmed or None
