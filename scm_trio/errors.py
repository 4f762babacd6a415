"""Failures as values with a code.

``RequestFailed`` costs one request: it becomes an ``ERROR`` message or an HTTP error body and the connection lives on.
``Disconnect`` costs the connection: it becomes a ``DISCONNECT`` message and a close code.
Texts for people live in ``protocol/texts.py``; ``detail`` here is for logs and holds no chat text and no secret.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class RequestFailed(Exception):
    """One request failed.

    Attributes:
        code: the error code of the wire.
        retryable: whether the same request may succeed later.
        field: what the failure is about: a field's path (``data.message``), a deadline's name, a configuration key.
        retry_after_s: seconds to wait before trying again.
        again_here: of a provider's failure: False where it is of no use to ask the same one again, although ``retryable``.
        elsewhere: of a provider's failure: True where another one may do better, although not ``retryable``.
        params: values for the placeholders of the code's sentence.
    """

    code: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        detail: str = "",
        *,
        field: str | None = None,
        retry_after_s: float | None = None,
        **params: object,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.retry_after_s = retry_after_s
        self.again_here = self.retryable
        self.elsewhere = self.retryable
        self.params = params


class Internal(RequestFailed):
    code, retryable = "INTERNAL", True


class BadJson(RequestFailed):
    code = "BAD_JSON"


class InvalidMessage(RequestFailed):
    code = "INVALID_MESSAGE"


class UnknownType(RequestFailed):
    code = "UNKNOWN_TYPE"


class MessageTooLarge(RequestFailed):
    code = "MESSAGE_TOO_LARGE"


class RateLimited(RequestFailed):
    code, retryable = "RATE_LIMITED", True


class TooManyStreams(RequestFailed):
    code, retryable = "TOO_MANY_STREAMS", True


class Unauthorized(RequestFailed):
    code = "UNAUTHORIZED"


class TokenExpired(RequestFailed):
    code = "TOKEN_EXPIRED"


class Forbidden(RequestFailed):
    code = "FORBIDDEN"


class NotFound(RequestFailed):
    code = "NOT_FOUND"


class Conflict(RequestFailed):
    code = "CONFLICT"


class QuotaExceeded(RequestFailed):
    code, retryable = "QUOTA_EXCEEDED", True


class ProviderUnknown(RequestFailed):
    code = "PROVIDER_UNKNOWN"


class ModelUnknown(RequestFailed):
    code = "MODEL_UNKNOWN"


class ProviderUnavailable(RequestFailed):
    code, retryable = "PROVIDER_UNAVAILABLE", True


class ProviderAuth(RequestFailed):
    code = "PROVIDER_AUTH"


class ProviderRateLimited(RequestFailed):
    code, retryable = "PROVIDER_RATE_LIMITED", True


class ProviderRejected(RequestFailed):
    code = "PROVIDER_REJECTED"


class ContextTooLong(RequestFailed):
    code = "CONTEXT_TOO_LONG"


class ContentFiltered(RequestFailed):
    code = "CONTENT_FILTERED"


class TimedOut(RequestFailed):
    """A deadline passed; ``field`` says which: connect, first_token, idle or total."""

    code, retryable = "TIMEOUT", True


class ResponseTooLarge(RequestFailed):
    code = "RESPONSE_TOO_LARGE"


class ServerBusy(RequestFailed):
    code, retryable = "SERVER_BUSY", True


class ShuttingDown(RequestFailed):
    code, retryable = "SHUTTING_DOWN", True


def failure_of(code: str) -> RequestFailed:
    """A failure with this code, as one that was stored is told again; an unknown code becomes ``Internal``."""
    return next((kind() for kind in RequestFailed.__subclasses__() if kind.code == code), Internal())


class CloseCode(IntEnum):
    """WebSocket close codes; 44xx are this protocol's own."""

    NORMAL = 1000
    GOING_AWAY = 1001
    UNSUPPORTED = 1003
    NOT_UTF8 = 1007
    TOO_LARGE = 1009
    INTERNAL = 1011
    OVERLOADED = 1013
    INVALID_MESSAGES = 4400
    UNAUTHORIZED = 4401
    FORBIDDEN = 4403
    SILENT = 4408
    REPLACED = 4409
    SLOW = 4410
    FLOOD = 4429


RECONNECTABLE = frozenset(
    {CloseCode.GOING_AWAY, CloseCode.INTERNAL, CloseCode.OVERLOADED, CloseCode.SILENT, CloseCode.SLOW}
)
"""The codes after which a client comes back by itself; on UNAUTHORIZED it does so with a new token."""


class Disconnect(Exception):
    """The connection has to end.

    Attributes:
        code: the close code.
        error_code: the word for ``DISCONNECT.data.code``, e.g. ``TOKEN_EXPIRED``.
        request_id: of the client's own DISCONNECT, where it is that which is answered.
        retry_after_s: how long a client should wait before it reconnects.
    """

    def __init__(
        self, code: CloseCode, error_code: str, *, retry_after_s: float | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(f"{int(code)} {error_code}")
        self.code = code
        self.error_code = error_code
        self.request_id = request_id
        self.retry_after_s = retry_after_s

    @property
    def reconnect(self) -> bool:
        return self.code in RECONNECTABLE


class ConfigError(Exception):
    """The configuration cannot be used; the text names key, value, expected type and line."""


class StoreError(Exception):
    """The database failed; the text holds no row contents."""
