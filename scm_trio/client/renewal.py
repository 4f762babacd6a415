"""Keeping the token fresh while the connection lives."""

from __future__ import annotations

import logging

import trio

from scm_trio.client.calls import Call
from scm_trio.client.failures import ChatError, ConnectionLost, NoToken
from scm_trio.client.line import Line
from scm_trio.client.tokens import Tokens
from scm_trio.client.transport import credentials
from scm_trio.protocol import messages

EXPIRING = "TOKEN_EXPIRING"

log = logging.getLogger(__name__)


class Renewal:
    """Answers the server's warnings with a new token: the one that came with it, else the token function's."""

    def __init__(self, line: Line, tokens: Tokens) -> None:
        self._line = line
        self._tokens = tokens
        self._send, self._warnings = trio.open_memory_channel[messages.Warning](1)

    def warn(self, warning: messages.Warning) -> None:
        """Take a warning; does not wait."""
        if warning.code == EXPIRING:
            try:
                self._send.send_nowait(warning)
            except trio.WouldBlock:
                log.debug("a renewal is under way already")

    async def run(self) -> None:
        """Renew when there is a warning; never ends."""
        async for warning in self._warnings:
            try:
                if warning.token is None or not await self._is_taken(warning.token):
                    token = await self._tokens.renew()
                    if token is not None:
                        await self._is_taken(token)
            except NoToken as exc:
                # There will be another chance when the token has expired.
                log.warning("%s", exc)

    async def _is_taken(self, token: str) -> bool:
        try:
            await self.refresh(token)
        except (ChatError, ConnectionLost, ValueError) as exc:
            log.warning("a new token was not taken: %s", type(exc).__name__)
            return False
        return True

    async def refresh(self, token: str) -> messages.AuthRefreshed:
        """Go on with this token, on this connection and on later ones.

        Raises:
            ValueError: the token cannot stand in a header.
            ChatError: the token is no good; the one before it still counts.
            ConnectionLost: there is no connection now; the token is shown on the next one.
        """
        credentials(token)
        before = self._tokens.take(token)
        refresh = messages.AuthRefresh(messages.Text(token))
        try:
            return await self._line.request(Call("AUTH_REFRESH", refresh, messages.AuthRefreshed))
        except ChatError:
            self._tokens.take(before)
            raise
