"""Follow-up questions for a session."""

from __future__ import annotations

from attrs import frozen
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from scm_trio.chat.suggestion_rules import COUNT
from scm_trio.web.openapi import ERROR, STRING, Answer, Operation, page_of
from scm_trio.web.patience import while_wanted
from scm_trio.web.services import WebServices, path_id
from scm_trio.web.sessions import SESSION_ID

_FAILURES = {
    404: "The caller is no member of such a session",
    422: "The provider's filter blocked it",
    429: "The caller asks too often, or his quota is used up; `Retry-After` says when to come back",
    500: "A fault of the server",
    502: "The provider refuses it",
    503: "No provider answers, too much is being asked, or the server is about to stop",
    504: "The model took too long",
}


@frozen
class SuggestionRoutes:
    services: WebServices

    def operations(self) -> list[Operation]:
        found = page_of(STRING)
        found = {**found, "properties": {**found["properties"], "messageId": {"type": ["string", "null"]}}}
        return [
            Operation(
                "GET",
                "/scm/ai/sessions/{id}/suggestions",
                self.suggestions,
                f"Up to {COUNT} questions that could follow the newest answer, by the model",
                {
                    200: Answer("The questions, and the answer that they follow; none where there is nothing", found),
                    **{status: Answer(text, ERROR) for status, text in _FAILURES.items()},
                },
                access="user",
                parameters=(SESSION_ID,),
            )
        ]

    async def suggestions(self, request: Request) -> Response:
        principal = await self.services.counted_user(request)
        reference = path_id(request)

        async def find() -> Response:
            found = await self.services.suggestions.find(principal.user_id, reference)
            return JSONResponse({"items": list(found.questions), "next": None, "messageId": found.answer_id})

        return await while_wanted(request, find)
