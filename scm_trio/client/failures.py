"""What can go wrong for a user of the client, as exceptions."""

from __future__ import annotations

from scm_trio.errors import RECONNECTABLE, CloseCode, TokenExpired
from scm_trio.protocol import messages

ABNORMAL = 1006
"""What a WebSocket reports when the connection broke without a goodbye; it never travels on the wire."""
_BROKEN = frozenset({ABNORMAL, 1005, 1012})
"""Besides ``ABNORMAL``: closed without a code, and what proxies say while the server behind them restarts."""
_FINAL = frozenset(
    {CloseCode.INVALID_MESSAGES, CloseCode.UNAUTHORIZED, CloseCode.FORBIDDEN, CloseCode.REPLACED, CloseCode.FLOOD}
)


class ClientError(Exception):
    """The base of everything this client raises about servers and connections."""


class ChatError(ClientError):
    """The server answered a request with ``ERROR``; the connection lives on.

    Attributes:
        code: the error code of the wire, e.g. ``RATE_LIMITED``.
        text: a sentence for people, in the connection's language.
        retryable: whether the same request may succeed later.
        retry_after_s: seconds to wait before that, where the server said so.
        field: what it is about: a field's path, or which deadline of ``TIMEOUT`` passed.
        generation_started: a model had begun to answer, so that a retry may be billed twice.
        message_id: the answer it is about, if any.
    """

    def __init__(self, text: str, detail: messages.ErrorDetail) -> None:
        super().__init__(f"{detail.code}: {text}")
        self.text = text
        self.detail = detail
        self.code = detail.code
        self.retryable = detail.retryable
        self.retry_after_s = _seconds(detail.retry_after_ms)
        self.field = detail.field
        self.generation_started = detail.generation_started
        self.message_id = detail.message_id


class AnswerGone(ChatError):
    """There is no more of this answer for the user: he has lost its session, or the server has lost the answer."""


class Withdrawn(ClientError):
    """The question was taken back before it was sent; there is no answer and never will be one."""

    def __init__(self) -> None:
        super().__init__("the question was taken back before it was sent")


class AskedOtherwise(ClientError):
    """The same request was made before in the other form, streamed or in one piece, and is answered in that."""

    def __init__(self) -> None:
        super().__init__("the same request was made before in the other form: streamed, or in one piece")


class ConnectionLost(ClientError):
    """There is no connection any more; everything that was waiting for an answer gets this.

    Attributes:
        close_code: the WebSocket close code, 1006 for a broken connection, None where this side ended it.
        reason: the server's word for it, or what happened.
        reconnect: whether the protocol wants a client to come back by itself.
        retry_after_s: seconds to wait before that, where the server said so.
        code: the server's word for programs, from its ``DISCONNECT``.
    """

    def __init__(
        self,
        close_code: int | None,
        reason: str,
        *,
        reconnect: bool,
        retry_after_s: float | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(f"connection lost ({close_code}): {reason}" if close_code else reason)
        self.close_code = close_code
        self.reason = reason
        self.reconnect = reconnect
        self.retry_after_s = retry_after_s
        self.code = code

    @property
    def needs_token(self) -> bool:
        """Whether coming back makes sense with another token only."""
        return self.close_code == CloseCode.UNAUTHORIZED or self.code == TokenExpired.code


class CallLost(ConnectionLost):
    """The connection broke under a call that is not repeated, or there is none just now; the chat itself goes on."""

    def __init__(self) -> None:
        super().__init__(None, "the connection broke before this was answered", reconnect=True)


class GaveUp(ConnectionLost):
    """The chat could not come back, and does not try any more; ``__cause__`` is what went wrong the last time."""

    def __init__(self, last: ClientError) -> None:
        super().__init__(None, f"not connected again: {last}", reconnect=False)
        self.__cause__ = last


class Unreachable(ConnectionLost):
    """No connection came about: no such host, nobody listens, TLS failed, or the other side is no chat server."""

    def __init__(self, reason: str) -> None:
        super().__init__(None, reason, reconnect=True)


class NoToken(ClientError):
    """The function that gets the tokens failed; ``__cause__`` says how."""


class HandshakeRefused(ClientError):
    """The server answered the upgrade with an HTTP error.

    Attributes:
        status: the HTTP status.
        code: the error code of the body, e.g. ``TOKEN_EXPIRED``; empty where the body is none of ours.
        message: the body's sentence for people, or its beginning.
        retry_after_s: seconds from ``Retry-After``, if any.
    """

    def __init__(self, status: int, code: str, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(f"the server refused the connection: {status} {code} {message}".rstrip())
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


class Diverged(ClientError):
    """What this client holds is not what the server sent: a gap, a wrong length or a wrong checksum.

    Attributes:
        message_id: the answer that can no longer be trusted.
        detail: what does not fit; holds no chat text.
    """

    def __init__(self, message_id: str | None, detail: str) -> None:
        super().__init__(f"the answer {message_id} is not what the server sent: {detail}")
        self.message_id = message_id
        self.detail = detail


def lost_by_close(code: int, reason: str | None, farewell: messages.Disconnect | None) -> ConnectionLost:
    """What a WebSocket close means; ``farewell`` is the ``DISCONNECT`` that came before it."""
    if farewell is not None:
        return ConnectionLost(
            code,
            f"{farewell.code}: {farewell.reason}",
            reconnect=farewell.reconnect and code not in _FINAL,
            retry_after_s=_seconds(farewell.retry_after_ms),
            code=farewell.code,
        )
    return ConnectionLost(code, reason or "closed by the server", reconnect=code in _BROKEN or code in RECONNECTABLE)


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
