"""Who is told what happens in a session: the connections of its members, each by the name that he has for it.

Everything here is called right after a commit and in the order of commits (``Database.change``), and never waits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from scm_trio.chat.plan import Opened, Said
from scm_trio.chat.registry import session_keys
from scm_trio.chat.run import Run
from scm_trio.cluster.hub import Connection, Hub, SessionEvent
from scm_trio.model import Message, MessageStatus, Session
from scm_trio.protocol import records


class Audience:
    """The connected members of all sessions."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def of(self, user_ids: Iterable[str]) -> Iterator[Connection]:
        """All connections of these users."""
        for user_id in user_ids:
            yield from self._hub.of_user(user_id)

    # ---- answers

    def begun(self, run: Run, opened: Opened) -> None:
        """A question has been asked: it is shown with its answer where the session is open, and told elsewhere."""
        session = opened.session
        watching = {each.connection_id for each in self._hub.watching(session_keys(session))}
        for connection in self.of(opened.members):
            if connection.shows(run.key):
                continue  # it has asked
            if connection.connection_id in watching:
                if connection.show(run):
                    continue
            elif opened.created:
                connection.tell(_created(session))
            if opened.asked is not None:
                connection.tell(message_event(opened.asked, session, connection.user_id, opened.members))

    def said(self, run: Run, said: Said) -> None:
        """An answer has been given: members who were not shown it are told all of it."""
        session = run.session
        for connection in self.of(said.members):
            if session is not None and not connection.has_seen(run.key, said.message):
                connection.tell(message_event(said.message, session, connection.user_id, said.members))


def _created(session: Session) -> SessionEvent:
    """A session that its owner has just begun by a question in it."""
    info = records.session(session)
    return SessionEvent("SESSION_CREATE", info, session.global_id, session.session_id, session.owner_id)


def message_event(message: Message, session: Session, user_id: str, members: Collection[str]) -> SessionEvent:
    """A stored message, as a member is told it."""
    name = session.name_for(user_id)
    is_news = message.is_news_to(user_id)
    # Of his own question, without others there is nobody to wait for.
    status: MessageStatus = "delivered" if is_news else "sent" if len(members) > 1 else "read"
    data = records.message(message, name, status)
    return SessionEvent("CHAT_MESSAGE", data, session.global_id, name, message.user_id, message if is_news else None)
