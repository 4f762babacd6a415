"""Where a chat's tokens come from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable

from scm_trio.client.failures import NoToken
from scm_trio.client.transport import credentials

TokenFunction = Callable[[], Awaitable[str | None] | str | None]
"""Gets a token; one that is not asynchronous must not block."""
TokenSource = TokenFunction | str | None


class Tokens:
    """The token of the next handshake, and another one when it is refused.

    A function is asked for the first token, and again only when the server wants a new one.
    """

    def __init__(self, source: TokenSource) -> None:
        self._ask = source if callable(source) else None
        self._token = None if callable(source) else source
        self._known = self._ask is None

    @property
    def can_renew(self) -> bool:
        return self._ask is not None

    async def current(self) -> str | None:
        """The token to show.

        Raises:
            NoToken: the function failed.
        """
        if not self._known:
            await self.renew()
        return self._token

    async def renew(self) -> str | None:
        """Ask the function for a new token; None where there is no function, or it has no new one.

        Raises:
            NoToken: the function failed.
        """
        if self._ask is None:
            return None
        token = await self._answer(self._ask)
        if self._known and token == self._token:
            return None
        self.take(token)
        return token

    def take(self, token: str | None) -> str | None:
        """From now on this token counts; returns the one before it."""
        before, self._token, self._known = self._token, token, True
        return before

    @staticmethod
    async def _answer(ask: TokenFunction) -> str | None:
        try:
            answer = ask()
            token = await answer if isawaitable(answer) else answer
            credentials(token)
        except Exception as exc:
            # The barrier of the user's function: what fails there is like a server that cannot be reached.
            raise NoToken(f"the token function failed: {type(exc).__name__}") from exc
        return token
