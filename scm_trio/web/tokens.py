"""A new token for a valid one."""

from __future__ import annotations

from attrs import frozen
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from scm_trio.errors import Forbidden
from scm_trio.protocol.codec import timestamp
from scm_trio.web.openapi import ERROR, STRING, TIME, Answer, Operation, object_of
from scm_trio.web.services import WebServices


@frozen
class TokenRoutes:
    services: WebServices

    def operations(self) -> list[Operation]:
        fresh = Answer("The new token", object_of(token=STRING, userId=STRING, expiresAt=TIME))
        return [
            Operation(
                "POST",
                "/scm/ai/token/refresh",
                self.refresh,
                "Exchange a valid token for a new one, if this server issues tokens",
                {200: fresh, 403: Answer("Tokens come from elsewhere", ERROR)},
                access="user",
            )
        ]

    async def refresh(self, request: Request) -> Response:
        principal = await self.services.user(request)
        authenticator = self.services.authenticator
        if not (self.services.allow_refresh and authenticator.can_issue):
            raise Forbidden("this server does not issue tokens")
        token = authenticator.issue(principal.user_id, ttl_s=self.services.token_ttl_s, roles=sorted(principal.roles))
        # Asked of the token itself, so that the answer cannot differ from what the handshake will find in it.
        renewed = await authenticator.verify(token)
        return JSONResponse({"token": token, "userId": renewed.user_id, "expiresAt": timestamp(renewed.expires_at)})
