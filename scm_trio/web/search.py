"""Full text search over what the caller may read."""

from __future__ import annotations

import orjson
from attrs import frozen
from starlette.requests import Request
from starlette.responses import Response

from scm_trio.chat.searching import Found
from scm_trio.errors import InvalidMessage
from scm_trio.protocol import messages, records
from scm_trio.protocol.codec import is_id, plain
from scm_trio.store.paging import MAX_PAGE
from scm_trio.store.search import SearchQuery
from scm_trio.store.words import MAX_QUERY_CHARS
from scm_trio.web.openapi import ERROR, ID, MOMENT, Answer, Operation, Parameter, model, object_of, page_of
from scm_trio.web.parameters import limit_of, period_of
from scm_trio.web.patience import while_wanted
from scm_trio.web.services import WebServices
from scm_trio.web.sessions import COUNTED, PAGING

DEFAULT_LIMIT = 20

_HIT = object_of(
    message=model(messages.StoredMessage),
    snippet={"type": "string", "description": "HTML: escaped, with the matches between `<mark>` tags"},
)
_PARAMETERS = (
    Parameter(
        "q",
        'words, all of which have to be there; in "quotation marks" they follow one another',
        schema={"type": "string", "minLength": 1, "maxLength": MAX_QUERY_CHARS},
    ),
    Parameter("sessionId", "only in this session, by the caller's name for it or its global id", schema=ID),
    Parameter("from", "UTC unless it says otherwise: only what was stored then or later", schema=MOMENT),
    Parameter("to", "only what was stored before; a date counts as a whole day", schema=MOMENT),
    *PAGING,
)


@frozen
class SearchRoutes:
    services: WebServices

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "GET",
                "/scm/ai/search",
                self.search,
                "Full text search over all that the caller may read, the newest first",
                {
                    200: Answer("A page of hits", page_of(_HIT)),
                    400: Answer("A parameter is not valid", ERROR),
                    404: Answer("The caller is no member of that session", ERROR),
                    **COUNTED,
                },
                access="user",
                parameters=_PARAMETERS,
            )
        ]

    async def search(self, request: Request) -> Response:
        principal = await self.services.counted_user(request)
        query = _query(request)

        async def find() -> Response:
            page = await self.services.search.find(principal.user_id, query)
            items = [_hit(found) for found in page.items]
            return Response(orjson.dumps({"items": items, "next": page.next}), media_type="application/json")

        return await while_wanted(request, find)


def _query(request: Request) -> SearchQuery:
    asked = request.query_params
    text, session = asked.get("q"), asked.get("sessionId")
    if text is None or not text.strip():
        raise InvalidMessage(field="q", expected="missing" if text is None else "empty")
    if session is not None and not is_id(session):
        raise InvalidMessage(field="sessionId", expected="id")
    since, until = period_of(asked.get("from"), asked.get("to"))
    limit = limit_of(asked.get("limit"), default=DEFAULT_LIMIT, most=MAX_PAGE)
    return SearchQuery(text, session, since, until, asked.get("before"), limit)


def _hit(found: Found) -> dict[str, object]:
    hit = found.hit
    return {"message": plain(records.message(hit.message, hit.session_id, found.status)), "snippet": found.snippet}
