"""The wire's messages: one attrs class per message type and direction.

``CLIENT_TYPES`` and ``SERVER_TYPES`` map the wire's type names to the classes of their ``data``. Field names are
snake_case here; the codec alone turns them into camelCase. Fields that are None are left out on the wire.
"""

from __future__ import annotations

from typing import Literal, NewType

from attrs import field, frozen

Id = NewType("Id", str)
"""1 to 128 characters, none of them a control character."""
Text = NewType("Text", str)
"""Any text without NUL, which databases cannot hold."""
Count = NewType("Count", int)
"""A whole number, 0 or more."""

# ---- connection


@frozen
class Limits:
    max_message_bytes: int
    rate_per_minute: int
    max_streams: int


@frozen
class ActiveRun:
    message_id: str
    session_id: str
    rev: int
    next_index: int


@frozen
class Unread:
    session_id: str
    count: int


@frozen
class Connect:
    """First message of the server."""

    connection_id: str
    user_id: str
    session_id: str | None
    heartbeat_interval_ms: int
    heartbeat_timeout_ms: int
    limits: Limits
    active_runs: tuple[ActiveRun, ...]
    unread: tuple[Unread, ...]
    server_time: str


@frozen
class SystemMessage:
    message: str


@frozen
class Heartbeat:
    """Either side; it has no fields of its own."""


@frozen
class ClientDisconnect:
    reason: Text | None = None


@frozen
class Disconnect:
    code: str
    reason: str
    reconnect: bool
    retry_after_ms: int | None = None


@frozen
class AuthRefresh:
    token: Text = field(repr=False)


@frozen
class AuthRefreshed:
    expires_at: str | None


@frozen
class Warning:
    code: str
    message: str
    expires_at: str | None = None
    token: str | None = field(default=None, repr=False)


@frozen
class Info:
    code: str
    message: str
    message_id: str | None = None


@frozen
class ErrorDetail:
    code: str
    retryable: bool
    generation_started: bool = False
    retry_after_ms: int | None = None
    message_id: str | None = None
    field: str | None = None


@frozen
class Error:
    """``ERROR``: on the wire ``data`` is the sentence itself and ``error`` carries the detail."""

    text: str
    detail: ErrorDetail


# ---- chat


@frozen
class Grace:
    grace_ms: Count


OnOrphan = Literal["continue", "cancel"] | Grace


@frozen
class ChatRequest:
    message: Text = field(repr=False)
    streaming: bool = True
    model: Id | None = None
    provider: Id | None = None
    conversation_id: Id | None = None
    parent_message_id: Id | None = None
    request_id: Id | None = None
    temperature: float | None = None
    max_tokens: Count | None = None
    attachments: tuple[Id, ...] = ()
    regenerate_of: Id | None = None
    edit_of: Id | None = None
    on_orphan: OnOrphan | None = None
    timeout_ms: Count | None = None


@frozen
class ChatCancel:
    request_id: Id | None = None
    message_id: Id | None = None


@frozen
class ChatResume:
    message_id: Id
    rev: Count = Count(0)
    from_index: Count = Count(0)


@frozen
class TokenUsage:
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    source: Literal["provider", "estimated"]


@frozen
class ChatStreamStart:
    message_id: str
    model: str
    provider: str
    request_id: str | None
    user_message_id: str | None = None
    rev: int = 0
    resumed: bool = False
    reset: bool = False


@frozen
class ChatStreamData:
    """``content`` and ``delta`` are the same text: what is new since ``index``."""

    message_id: str
    content: str = field(repr=False)
    delta: str = field(repr=False)
    index: int
    next_index: int
    rev: int = 0
    reasoning: str | None = field(default=None, repr=False)


@frozen
class ChatStreamEnd:
    message_id: str
    finished: bool
    total_tokens: int
    duration: int
    finish_reason: str
    usage: TokenUsage
    length: int
    sha256: str
    rev: int = 0
    upstream_closed: bool | None = None
    cancel_ms: int | None = None


@frozen
class ChatResponse:
    """The whole answer of a CHAT_REQUEST with ``streaming: false``; ``duration`` is in milliseconds."""

    message_id: str
    content: str = field(repr=False)
    model: str
    provider: str
    usage: TokenUsage
    finish_reason: str
    duration: int


# ---- sessions, people, messages


Role = Literal["owner", "member", "viewer"]
Presence = Literal["online", "away", "offline"]


@frozen
class Member:
    user_id: Id
    role: Role = "member"


@frozen
class SessionInfo:
    session_id: str
    global_id: str
    title: str | None
    archived: bool
    model: str | None
    provider: str | None
    system_prompt: str | None
    role: Role
    members: tuple[Member, ...]
    unread: int
    created_at: str
    updated_at: str


@frozen
class SessionCreate:
    title: Text | None = None
    model: Id | None = None
    provider: Id | None = None
    system_prompt: Text | None = None
    members: tuple[Member, ...] = ()


@frozen
class SessionUpdate:
    session_id: Id
    title: Text | None = None
    archived: bool | None = None
    system_prompt: Text | None = None
    members: tuple[Member, ...] | None = None


@frozen
class SessionPatch:
    """``SessionUpdate`` over HTTP, where the path names the session."""

    title: Text | None = None
    archived: bool | None = None
    system_prompt: Text | None = None
    members: tuple[Member, ...] | None = None


@frozen
class SessionDelete:
    session_id: Id


@frozen
class SessionDeleted:
    session_id: str
    global_id: str


@frozen
class SessionList:
    query: Text | None = None
    archived: bool | None = None
    before: Text | None = None
    limit: Count | None = None


@frozen
class SessionPage:
    items: tuple[SessionInfo, ...]
    next: str | None


@frozen
class Typing:
    session_id: Id | None = None
    user_id: Id | None = None


@frozen
class OnlineStatus:
    """From a client: ``status`` sets one's own, ``user_ids`` asks."""

    status: Presence | None = None
    user_ids: tuple[Id, ...] | None = None


@frozen
class UserStatus:
    user_id: str
    status: Presence


@frozen
class OnlineStatuses:
    users: tuple[UserStatus, ...]


@frozen
class MessageRead:
    session_id: Id
    message_id: Id
    user_id: Id | None = None


@frozen
class Attachment:
    file_id: str
    name: str
    media_type: str
    size: int


@frozen
class StoredMessage:
    message_id: str
    session_id: str
    conversation_id: str
    parent_message_id: str | None
    role: Literal["user", "assistant"]
    user_id: str
    content: str = field(repr=False)
    status: Literal["sent", "delivered", "read"]
    created_at: str
    attachments: tuple[Attachment, ...] = ()
    reasoning: str | None = field(default=None, repr=False)
    model: str | None = None
    provider: str | None = None
    finish_reason: str | None = None
    usage: TokenUsage | None = None
    offline: bool | None = None
    siblings: tuple[str, ...] | None = None


@frozen
class MessagePage:
    """A piece of a session's history, as HTTP tells it; ``next`` is the cursor of what is older."""

    items: tuple[StoredMessage, ...]
    next: str | None


# ---- over HTTP only


@frozen
class FileInfo:
    """An uploaded file; ``size`` is in bytes."""

    file_id: str
    name: str
    media_type: str
    size: int
    created_at: str


@frozen
class Conversation:
    """An exported conversation: one branch, oldest message first, or all of them in the order of storing."""

    session: SessionInfo
    messages: tuple[StoredMessage, ...]
    exported_at: str


CLIENT_TYPES: dict[str, type] = {
    "HEARTBEAT": Heartbeat,
    "DISCONNECT": ClientDisconnect,
    "CHAT_REQUEST": ChatRequest,
    "CHAT_CANCEL": ChatCancel,
    "CHAT_RESUME": ChatResume,
    "AUTH_REFRESH": AuthRefresh,
    "SESSION_CREATE": SessionCreate,
    "SESSION_UPDATE": SessionUpdate,
    "SESSION_DELETE": SessionDelete,
    "SESSION_LIST": SessionList,
    "TYPING_START": Typing,
    "TYPING_STOP": Typing,
    "ONLINE_STATUS": OnlineStatus,
    "MESSAGE_READ": MessageRead,
}

SERVER_TYPES: dict[str, type] = {
    "CONNECT": Connect,
    "SYSTEM_MESSAGE": SystemMessage,
    "HEARTBEAT": Heartbeat,
    "DISCONNECT": Disconnect,
    "AUTH_REFRESH": AuthRefreshed,
    "WARNING": Warning,
    "INFO": Info,
    "ERROR": Error,
    "CHAT_STREAM_START": ChatStreamStart,
    "CHAT_STREAM_DATA": ChatStreamData,
    "CHAT_STREAM_END": ChatStreamEnd,
    "CHAT_RESPONSE": ChatResponse,
    "CHAT_MESSAGE": StoredMessage,
    "SESSION_CREATE": SessionInfo,
    "SESSION_UPDATE": SessionInfo,
    "SESSION_DELETE": SessionDeleted,
    "SESSION_LIST": SessionPage,
    "TYPING_START": Typing,
    "TYPING_STOP": Typing,
    "ONLINE_STATUS": OnlineStatuses,
    "MESSAGE_READ": MessageRead,
}
