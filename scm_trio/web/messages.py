"""What was said in a session."""

from __future__ import annotations

from attrs import frozen
from starlette.requests import Request
from starlette.responses import Response

from scm_trio.errors import InvalidMessage, NotFound
from scm_trio.protocol import messages
from scm_trio.protocol.codec import is_id
from scm_trio.store.history import HistoryFilter
from scm_trio.web.body import told
from scm_trio.web.openapi import ERROR, ID, Answer, Operation, Parameter, model
from scm_trio.web.services import WebServices, path_id
from scm_trio.web.sessions import COUNTED, PAGING, SESSION_ID, SESSIONS_PATH, page_limit

_BRANCHES = (
    Parameter("leaf", "A message: only the branch that ends there", schema=ID),
    Parameter("through", "A message: only the branch through it, down to where it was gone on last", schema=ID),
)


@frozen
class MessageRoutes:
    services: WebServices

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "GET",
                f"{SESSIONS_PATH}/{{id}}/messages",
                self.list_messages,
                "What was said in a session: the newest page first, the oldest message of a page first",
                {
                    200: Answer("A page", model(messages.MessagePage)),
                    400: Answer("A parameter is not valid", ERROR),
                    404: Answer("No such session or message, for the caller", ERROR),
                    **COUNTED,
                },
                access="user",
                parameters=(SESSION_ID, *_BRANCHES, *PAGING),
            )
        ]

    async def list_messages(self, request: Request) -> Response:
        principal, session_id = await self.services.counted_user(request), path_id(request)
        leaf, through = (_message(request, name) for name in ("leaf", "through"))
        if leaf is not None and through is not None:
            raise InvalidMessage(field="through", expected="one_branch")
        wanted = HistoryFilter(leaf, request.query_params.get("before"), page_limit(request))
        page = await self.services.history.page(principal.user_id, session_id, wanted, through)
        return told(page)


def _message(request: Request, name: str) -> str | None:
    message_id = request.query_params.get(name)
    if message_id is not None and not is_id(message_id):
        raise NotFound("no id", field=name)
    return message_id
