"""What a plain GET on the WebSocket's path is told."""

from __future__ import annotations

from attrs import frozen
from starlette.requests import Request
from starlette.responses import Response

from scm_trio.web.errors import error_response
from scm_trio.web.openapi import ERROR, Answer, Operation, Parameter
from scm_trio.web.services import WebServices

CHAT_PATH = "/scm/websocket/ai/chat"


@frozen
class ChatPathRoutes:
    """The upgrade itself never comes here: the listener hands it to the gateway."""

    services: WebServices

    def operations(self) -> list[Operation]:
        parameters = (
            Parameter("userId", "Must be the token's user where it is given"),
            Parameter("sessionId", "The chat session of messages that name none"),
            Parameter(
                "coalesceMs",
                "Smallest distance between two frames of an answer",
                schema={"type": "integer", "minimum": 0, "maximum": 500},
            ),
        )
        tokens = ("bearer", "subprotocol", *(("queryToken",) if self.services.query_token else ()))
        return [
            Operation(
                "GET",
                CHAT_PATH,
                self.chat,
                "The WebSocket of the chat: connect with an upgrade",
                {
                    101: Answer("The WebSocket is open", media_type=None),
                    401: Answer("The token is missing, invalid or expired", ERROR),
                    426: Answer("A plain GET", ERROR),
                },
                parameters=parameters,
                tokens=tokens,
            )
        ]

    async def chat(self, request: Request) -> Response:
        return error_response(request, 426, headers={"Upgrade": "websocket", "Connection": "Upgrade"}, notice="UPGRADE")
