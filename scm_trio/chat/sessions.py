"""What users do with their sessions, over the socket or HTTP, and what it means for everybody who is connected.

A change takes effect with its commit, in the order of the commits, whether its author is still there or not: live
answers and open sessions follow the list of members at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from attrs import evolve, frozen
from sqlalchemy import Connection as Transaction

from scm_trio.chat.audience import Audience
from scm_trio.chat.service import ChatService
from scm_trio.cluster.hub import Connection, SessionEvent
from scm_trio.model import Message, Session
from scm_trio.protocol import messages, records
from scm_trio.store import sessions as store
from scm_trio.store.access import resolve
from scm_trio.store.database import Database
from scm_trio.store.markers import ReadMark, mark_read
from scm_trio.store.members import Member, member_ids
from scm_trio.store.messages import find_session_by_global_id
from scm_trio.store.removal import NOBODY, DeletedSession
from scm_trio.store.session_list import SessionFilter, SessionView, list_sessions, view, views_of_members


@frozen
class Caller:
    """Who wants something, and where he is to be told what became of it; without a connection he is told otherwise."""

    user_id: str
    connection: Connection | None = None
    request_id: str | None = None


class Sessions:
    """All sessions of this server.

    Args:
        database: its writer must be running.
        service: what is being answered in them.
        audience: who is connected.
        now: wall clock, seconds since the epoch.
        new_id: makes unguessable ids.

    Attributes:
        on_members: told of every change of a session, with what each member calls it now, and who is none any more.
    """

    def __init__(
        self,
        database: Database,
        service: ChatService,
        audience: Audience,
        now: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self._database = database
        self._service = service
        self._audience = audience
        self._now = now
        self._new_id = new_id
        self.on_members: Callable[[str, Mapping[str, str], Collection[str]], None] = _to_nobody

    # ---- changing; all of it may raise StoreError

    async def create(self, caller: Caller, wanted: messages.SessionCreate) -> messages.SessionInfo:
        """Create a session, under its global id. Everybody in it is told.

        Raises:
            ProviderUnknown, ModelUnknown: its defaults are not on offer.
            InvalidMessage: a text or the list of members is not possible.
            Conflict: the caller has too many sessions.
        """
        if wanted.provider is not None or wanted.model is not None:
            self._service.check_offer(wanted.provider, wanted.model)
        new = store.NewSession(
            wanted.title, wanted.model, wanted.provider, wanted.system_prompt, _members(wanted.members)
        )

        def effect(views: Mapping[str, SessionView]) -> messages.SessionInfo:
            mine = views[caller.user_id]
            self.on_members(mine.global_id, _names(views), ())
            self._tell(caller, views, new_to=views)
            return session_info(mine)

        return await self._database.change(effect, _create, caller.user_id, f"s-{self._new_id()}", new, self._now())

    async def update(
        self, caller: Caller, wanted: messages.SessionUpdate
    ) -> messages.SessionInfo | messages.SessionDeleted:
        """Change a session, or leave it. Everybody in it is told, and everybody who was.

        Returns:
            How the caller sees it now; to one who has left, it is gone.

        Raises:
            NotFound, Forbidden, InvalidMessage: see ``store.sessions.update_session``.
        """
        people = None if wanted.members is None else _members(wanted.members)
        changes = store.SessionChanges(wanted.title, wanted.archived, wanted.system_prompt, people)
        return await self._database.change(
            lambda changed: self._changed(caller, changed),
            store.update_session,
            caller.user_id,
            wanted.session_id,
            changes,
            self._now(),
        )

    async def give_title(self, question: Message, title: str) -> None:
        """Give a session a title that was made from a question in it, unless it has one. Everybody in it is told."""
        await self._database.change(self._titled, _give_title, question.session_id, title, question.message_id)

    async def delete(self, caller: Caller, reference: str) -> messages.SessionDeleted:
        """Delete a session with all that was said in it; what is being answered there is cancelled. Everybody is told.

        Raises:
            NotFound, Forbidden: see ``store.sessions.delete_session``.
        """
        return await self._database.change(
            lambda deleted: self._deleted(caller, deleted), store.delete_session, caller.user_id, reference
        )

    async def mark_read(self, caller: Caller, reference: str, message_id: str) -> None:
        """Move the caller's marker. His other connections and the other members are told, if it was not there before.

        Raises:
            NotFound: he is no member of such a session, or it has no such message.
        """
        await self._database.change(
            lambda marked: self._marked(caller, message_id, *marked), _mark, caller.user_id, reference, message_id
        )

    def expired(self, deleted: DeletedSession) -> None:
        """The store has removed a session because of its age: to be called as the effect of that. Everybody is told."""
        self._ended(Caller(NOBODY), deleted)

    # ---- looking; all of it may raise StoreError

    async def find(self, user_id: str, reference: str) -> messages.SessionInfo:
        """A session as the user sees it.

        Raises:
            NotFound: he is no member of such a session.
        """
        return session_info(await self._database.read(lambda conn: view(conn, resolve(conn, user_id, reference))))

    async def list(self, user_id: str, wanted: SessionFilter) -> messages.SessionPage:
        """A page of the user's sessions, the one updated last first.

        Raises:
            InvalidMessage: the cursor is none of this list, or the query is too long.
        """
        page = await self._database.read(list_sessions, user_id, wanted)
        return messages.SessionPage(tuple(map(session_info, page.items)), page.next)

    # ---- effects

    def _changed(self, caller: Caller, changed: store.ChangedSession) -> messages.SessionInfo | messages.SessionDeleted:
        for connection in self._audience.of(changed.removed):
            connection.lose(changed.global_id)
            connection.cut_off(changed.global_id)
        self._service.session_changed(changed.after, changed.views)
        self.on_members(changed.global_id, _names(changed.views), changed.removed)
        names = {user_id: changed.before.name_for(user_id) for user_id in changed.removed}
        self._tell_gone(caller, changed.global_id, names)
        self._tell(caller, changed.views, new_to=changed.added)
        for connection in self._audience.of(changed.added):
            connection.gain(changed.global_id)
        mine = changed.views.get(caller.user_id)
        return _gone(changed.global_id, names[caller.user_id]) if mine is None else session_info(mine)

    def _titled(self, titled: _Titled | None) -> None:
        if titled is not None:
            self._service.session_changed(titled.session, titled.views)
            self._tell(Caller(NOBODY), titled.views, new_to=())

    def _deleted(self, caller: Caller, deleted: DeletedSession) -> messages.SessionDeleted:
        self._ended(caller, deleted)
        return _gone(deleted.global_id, deleted.names[caller.user_id])

    def _ended(self, caller: Caller, deleted: DeletedSession) -> None:
        for connection in self._audience.of(deleted.names):
            connection.lose(deleted.global_id)
        self._service.session_deleted(deleted.global_id)
        self.on_members(deleted.global_id, {}, tuple(deleted.names))
        self._tell_gone(caller, deleted.global_id, deleted.names)

    def _marked(self, caller: Caller, message_id: str, mark: ReadMark, members: tuple[str, ...]) -> None:
        session = mark.access.session
        for connection in self._audience.of(members):
            if mark.moved or connection is caller.connection:
                name = session.name_for(connection.user_id)
                data = messages.MessageRead(messages.Id(name), messages.Id(message_id), messages.Id(caller.user_id))
                event = SessionEvent("MESSAGE_READ", data, session.global_id, name, caller.user_id)
                connection.tell(_answering(event, caller, connection))

    def _tell(self, caller: Caller, views: Mapping[str, SessionView], new_to: Collection[str]) -> None:
        """Tell each member how he sees the session now."""
        for connection in self._audience.of(views):
            seen, user_id = views[connection.user_id], connection.user_id
            kind = "SESSION_CREATE" if user_id in new_to else "SESSION_UPDATE"
            event = SessionEvent(kind, session_info(seen), seen.global_id, seen.session_id, user_id)
            connection.tell(_answering(event, caller, connection))

    def _tell_gone(self, caller: Caller, global_id: str, names: Mapping[str, str]) -> None:
        for connection in self._audience.of(names):
            name, user_id = names[connection.user_id], connection.user_id
            event = SessionEvent("SESSION_DELETE", _gone(global_id, name), global_id, name, user_id)
            connection.tell(_answering(event, caller, connection))


def _to_nobody(*_: object) -> None:
    """Before somebody listens."""


def _names(views: Mapping[str, SessionView]) -> dict[str, str]:
    return {user_id: seen.session_id for user_id, seen in views.items()}


def _create(
    conn: Transaction, user_id: str, global_id: str, new: store.NewSession, now: float
) -> Mapping[str, SessionView]:
    store.create_session(conn, user_id, global_id, new, now)
    return views_of_members(conn, global_id)


@frozen
class _Titled:
    session: Session
    views: Mapping[str, SessionView]


def _give_title(conn: Transaction, global_id: str, title: str, question_id: str) -> _Titled | None:
    given = store.set_title_if_absent(conn, global_id, title, question_id)
    session = find_session_by_global_id(conn, global_id) if given else None
    return None if session is None else _Titled(session, views_of_members(conn, global_id))


def _mark(conn: Transaction, user_id: str, reference: str, message_id: str) -> tuple[ReadMark, tuple[str, ...]]:
    mark = mark_read(conn, user_id, reference, message_id)
    return mark, member_ids(conn, mark.access.global_id)


def _answering(event: SessionEvent, caller: Caller, connection: Connection) -> SessionEvent:
    return evolve(event, request_id=caller.request_id) if connection is caller.connection else event


def _members(wanted: Iterable[messages.Member]) -> tuple[Member, ...]:
    return tuple(Member(each.user_id, each.role) for each in wanted)


def session_info(seen: SessionView) -> messages.SessionInfo:
    """A session as one of its members is told it."""
    named = Session(
        seen.global_id,
        seen.session_id,
        "",
        seen.title,
        seen.model,
        seen.provider,
        seen.system_prompt,
        seen.archived,
        seen.created_at,
        seen.updated_at,
    )
    people = [messages.Member(messages.Id(each.user_id), each.role) for each in seen.members]
    return records.session(named, role=seen.role, members=people, unread=seen.unread)


def _gone(global_id: str, name: str) -> messages.SessionDeleted:
    return messages.SessionDeleted(name, global_id)
