"""The caller's sessions, as over the socket. What changes one is told to everybody who is connected, too."""

from __future__ import annotations

from urllib.parse import quote

from attrs import frozen
from starlette.requests import Request
from starlette.responses import Response

from scm_trio.chat.sessions import Caller
from scm_trio.errors import InvalidMessage
from scm_trio.protocol import messages
from scm_trio.protocol.codec import decode_body
from scm_trio.store.paging import MAX_PAGE
from scm_trio.store.session_list import SessionFilter
from scm_trio.web.body import told
from scm_trio.web.openapi import (
    BOOLEAN,
    ERROR,
    ID,
    Answer,
    Operation,
    Parameter,
    accepted,
    model,
)
from scm_trio.web.parameters import limit_of
from scm_trio.web.services import WebServices, path_id

SESSIONS_PATH = "/scm/ai/sessions"
DEFAULT_PAGE = 50
COUNTED = {
    429: Answer("The user asks too often; `Retry-After` says when to come back", ERROR),
    503: Answer("The database does not answer", ERROR),
}
SESSION_ID = Parameter("id", "The session, as the caller calls it, or its globalId", "path", ID)
PAGING = (
    Parameter("before", "`next` of the page before"),
    Parameter("limit", "items of a page", schema={"type": "integer", "minimum": 1, "maximum": MAX_PAGE}),
)

_INVALID = Answer("A parameter or the body is not valid", ERROR)
_UNKNOWN = Answer("No such session, for the caller", ERROR)
_FORBIDDEN = Answer("The caller's role in the session does not allow it", ERROR)
_SESSION = model(messages.SessionInfo)
_GONE = model(messages.SessionDeleted)
_LISTED = (
    Parameter("query", "only sessions with this text in their title"),
    Parameter("archived", "only archived ones, or only others", schema=BOOLEAN),
    *PAGING,
)


@frozen
class SessionRoutes:
    services: WebServices

    def operations(self) -> list[Operation]:
        one = f"{SESSIONS_PATH}/{{id}}"
        changed = {**_SESSION, "description": "how the caller sees it now"}
        return [
            Operation(
                "GET",
                SESSIONS_PATH,
                self.list_sessions,
                "The caller's sessions, the one updated last first",
                {200: Answer("A page", model(messages.SessionPage)), 400: _INVALID, **COUNTED},
                access="user",
                parameters=_LISTED,
            ),
            Operation(
                "POST",
                SESSIONS_PATH,
                self.create_session,
                "Create a session",
                {
                    201: Answer("The session", _SESSION, headers={"Location": "where it is"}),
                    400: _INVALID,
                    409: Answer("The caller has too many sessions", ERROR),
                    **COUNTED,
                },
                access="user",
                body=accepted(messages.SessionCreate),
            ),
            Operation(
                "GET",
                one,
                self.find_session,
                "A session as the caller sees it",
                {200: Answer("The session", _SESSION), 404: _UNKNOWN, **COUNTED},
                access="user",
                parameters=(SESSION_ID,),
            ),
            Operation(
                "PATCH",
                one,
                self.change_session,
                "Change a session, or leave it",
                {
                    200: Answer("The session; its ids alone where the caller has left it", {"oneOf": [changed, _GONE]}),
                    400: _INVALID,
                    403: _FORBIDDEN,
                    404: _UNKNOWN,
                    **COUNTED,
                },
                access="user",
                parameters=(SESSION_ID,),
                body=accepted(messages.SessionPatch),
            ),
            Operation(
                "DELETE",
                one,
                self.delete_session,
                "Delete a session with all that was said in it",
                {200: Answer("What is gone", _GONE), 403: _FORBIDDEN, 404: _UNKNOWN, **COUNTED},
                access="user",
                parameters=(SESSION_ID,),
            ),
        ]

    async def list_sessions(self, request: Request) -> Response:
        principal = await self.services.counted_user(request)
        asked = request.query_params
        wanted = SessionFilter(asked.get("query"), _archived(request), asked.get("before"), page_limit(request))
        return told(await self.services.sessions.list(principal.user_id, wanted))

    async def create_session(self, request: Request) -> Response:
        principal = await self.services.counted_user(request)
        wanted: messages.SessionCreate = decode_body(await request.body() or b"{}", messages.SessionCreate)
        session = await self.services.sessions.create(Caller(principal.user_id), wanted)
        location = f"{SESSIONS_PATH}/{quote(session.session_id, safe='')}"
        return told(session, 201, {"Location": location})

    async def find_session(self, request: Request) -> Response:
        principal, session_id = await self.services.counted_user(request), path_id(request)
        return told(await self.services.sessions.find(principal.user_id, session_id))

    async def change_session(self, request: Request) -> Response:
        principal, session_id = await self.services.counted_user(request), path_id(request)
        patch: messages.SessionPatch = decode_body(await request.body(), messages.SessionPatch)
        wanted = messages.SessionUpdate(
            messages.Id(session_id), patch.title, patch.archived, patch.system_prompt, patch.members
        )
        return told(await self.services.sessions.update(Caller(principal.user_id), wanted))

    async def delete_session(self, request: Request) -> Response:
        principal, session_id = await self.services.counted_user(request), path_id(request)
        return told(await self.services.sessions.delete(Caller(principal.user_id), session_id))


def page_limit(request: Request) -> int:
    """How many items a page is asked to have.

    Raises:
        InvalidMessage: ``limit`` is no number of items.
    """
    return limit_of(request.query_params.get("limit"), default=DEFAULT_PAGE, most=MAX_PAGE)


def _archived(request: Request) -> bool | None:
    text = request.query_params.get("archived")
    if text not in {None, "true", "false"}:
        raise InvalidMessage(field="archived", expected="boolean")
    return None if text is None else text == "true"
