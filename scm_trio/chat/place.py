"""Where in the conversation's tree a question stands: at its newest end, at a branch, or where another one stood."""

from __future__ import annotations

from attrs import field, frozen
from sqlalchemy import Connection

from scm_trio.chat.plan import Plan
from scm_trio.errors import NotFound
from scm_trio.model import Message, Role
from scm_trio.store import messages
from scm_trio.store.access import Access


@frozen
class Place:
    """A question and what it follows.

    Attributes:
        parent_id: the message that it follows, None at a root.
        stored: whether the question is there already, because it is answered again.
    """

    parent_id: str | None
    conversation_id: str
    question_id: str
    text: str = field(repr=False)
    stored: bool = False


def place_question(conn: Connection, plan: Plan, access: Access) -> Place:
    """Find the place that a request names; a message that is named brings its own conversation.

    The session's own conversation is kept under its global id, since its members call the session differently.

    Raises:
        NotFound: the message that it names is none of this session's, or not of the kind that it has to be.
    """
    question, new_id = plan.question, plan.info.user_message_id
    session_global_id = access.global_id
    if question.regenerate_of is not None:
        answer = _named(conn, session_global_id, question.regenerate_of, "regenerateOf", "assistant")
        asked = _named(conn, session_global_id, answer.parent_id or "", "regenerateOf", "user")
        return Place(asked.parent_id, asked.conversation_id, asked.message_id, asked.content, stored=True)
    if question.edit_of is not None:
        edited = _named(conn, session_global_id, question.edit_of, "editOf", "user")
        return Place(edited.parent_id, edited.conversation_id, new_id, question.text)
    if question.parent_id is not None:
        parent = _named(conn, session_global_id, question.parent_id, "parentMessageId", None)
        return Place(parent.message_id, parent.conversation_id, new_id, question.text)
    named = plan.conversation_id
    conversation_id = session_global_id if named is None or named == access.name else named
    newest = messages.newest(conn, session_global_id, conversation_id)
    return Place(newest.message_id if newest else None, conversation_id, new_id, question.text)


def _named(conn: Connection, session_global_id: str, message_id: str, name: str, role: Role | None) -> Message:
    message = messages.find_message(conn, message_id)
    if message is None or message.session_id != session_global_id or role not in (None, message.role):
        raise NotFound("no such message in this session", field=f"data.{name}")
    return message
