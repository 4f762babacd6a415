"""Who belongs to a session, as what, and how the list changes. A session keeps at least one owner.

``sessions.owner_id`` says who began the session and whose name it has. When he leaves or is taken off, everybody calls it by
its global id, and his old name is free again. It still counts as begun by him (``access.check_room``): if it passed to
another one, anybody could use up the room that others have for sessions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from attrs import frozen
from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from scm_trio.errors import InvalidMessage
from scm_trio.model import MemberRole
from scm_trio.store.access import ROLES, Access
from scm_trio.store.prepared import Prepared
from scm_trio.store.schema import members, messages, sessions

MAX_MEMBERS = 100


@frozen
class Member:
    """A line of a session's list of members."""

    user_id: str
    role: MemberRole


@frozen
class Markers:
    """Sequence numbers up to which a member was given, and has read, the messages of a session."""

    delivered_to: int
    read_to: int


def members_of(conn: Connection, global_ids: Iterable[str]) -> dict[str, tuple[Member, ...]]:
    """The members of these sessions: owners first, then by name."""
    found: dict[str, list[Member]] = {global_id: [] for global_id in global_ids}
    columns = (members.c.session_id, members.c.user_id, members.c.role)
    for global_id, user_id, role in conn.execute(select(*columns).where(members.c.session_id.in_(found))):
        found[global_id].append(Member(user_id, role))
    return {global_id: tuple(sorted(people, key=_rank)) for global_id, people in found.items()}


def markers_of(conn: Connection, global_id: str) -> dict[str, Markers]:
    """How far each member of the session is, by user."""
    columns = (members.c.user_id, members.c.delivered_to, members.c.read_to)
    return {
        user: Markers(*rest) for user, *rest in conn.execute(select(*columns).where(members.c.session_id == global_id))
    }


def member_ids(conn: Connection, global_id: str) -> tuple[str, ...]:
    """Who belongs to the session, in no order; cheap, since every answer asks."""
    return tuple(row[0] for row in _IDS.run(conn, {"session": global_id}).fetchall())


def set_members(conn: Connection, access: Access, wanted: Sequence[Member], now: float) -> tuple[str, ...]:
    """Make this the whole list of the session's members; who stays keeps his markers.

    Owners change the list; everybody may hand in the list without himself, which is how one leaves. To a new member all
    that was said before he came counts as read: he finds it in the history, and is not flooded with it.

    Args:
        conn: where to write.
        access: of him who wants it, from ``resolve_for_change``.
        wanted: the new list.
        now: when.

    Returns:
        Those who are no members any more.

    Raises:
        InvalidMessage: the list is too long, names somebody twice or has no owner.
        Forbidden: not an owner wants more than to leave.
    """
    listed = checked(wanted)
    before = {each.user_id: each.role for each in members_of(conn, [access.global_id])[access.global_id]}
    if listed != {user: role for user, role in before.items() if user != access.user_id}:
        access.demand("owner")
    added = {user: role for user, role in listed.items() if user not in before}
    removed = tuple(user for user in before if user not in listed)
    if removed:
        conn.execute(delete(members).where(members.c.session_id == access.global_id, members.c.user_id.in_(removed)))
    add_members(conn, access.global_id, added, now)
    for user, role in listed.items():
        if before.get(user, role) != role:
            mine = members.c.session_id == access.global_id, members.c.user_id == user
            conn.execute(update(members).where(*mine).values(role=role))
    if access.session.owner_id in removed:
        forget_name(conn, access.global_id)
    return removed


def checked(wanted: Sequence[Member]) -> dict[str, MemberRole]:
    """The list as roles by user.

    Raises:
        InvalidMessage: as ``set_members``.
    """
    listed = {each.user_id: each.role for each in wanted}
    if len(wanted) > MAX_MEMBERS:
        raise InvalidMessage(field="members", expected="too_long")
    if len(listed) < len(wanted):
        raise InvalidMessage(field="members", expected="once")
    if "owner" not in listed.values():
        raise InvalidMessage(field="members", expected="owner")
    return listed


def add_members(conn: Connection, global_id: str, roles: Mapping[str, MemberRole], now: float) -> None:
    """Add people who are no members yet, with their markers at the newest message."""
    if not roles:
        return
    last = func.coalesce(func.max(messages.c.sequence), 0)
    newest = conn.execute(select(last).where(messages.c.session_id == global_id)).scalar_one()
    row = {"session_id": global_id, "joined_at": now, "delivered_to": newest, "read_to": newest}
    conn.execute(insert(members), [{**row, "user_id": user, "role": role} for user, role in roles.items()])


def forget_name(conn: Connection, global_id: str) -> None:
    """The session is called by its global id from now on, by everybody."""
    conn.execute(update(sessions).where(sessions.c.global_id == global_id).values(session_id=global_id))


def _rank(member: Member) -> tuple[int, str]:
    return -ROLES.index(member.role), member.user_id


_IDS = Prepared(lambda _: select(members.c.user_id).where(members.c.session_id == bindparam("session")))
