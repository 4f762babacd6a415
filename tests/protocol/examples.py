"""One or two constructed messages of every server type, under the names that tests/vectors/server.json gives them."""

from hashlib import sha256
from typing import Any

from attrs import evolve

from scm_trio.protocol import codec, messages

AT = "2026-01-02T03:04:05.678Z"
NOTHING = sha256(b"").hexdigest()

_usage = messages.TokenUsage(prompt_tokens=12, completion_tokens=34, reasoning_tokens=5, source="provider")
_connect = messages.Connect(
    connection_id="c-1",
    user_id="u1",
    session_id="s1",
    heartbeat_interval_ms=30_000,
    heartbeat_timeout_ms=300_000,
    limits=messages.Limits(max_message_bytes=1_048_576, rate_per_minute=100, max_streams=8),
    active_runs=(messages.ActiveRun("m1", "s1", rev=0, next_index=42),),
    unread=(messages.Unread("s2", 3),),
    server_time=AT,
)
_session = messages.SessionInfo(
    session_id="s1",
    global_id="g-7f3a",
    title="采购计划",
    archived=False,
    model="gpt-4",
    provider="openai",
    system_prompt=None,
    role="owner",
    members=(messages.Member("u1", "owner"), messages.Member("u2", "viewer")),
    unread=2,
    created_at="2026-01-01T00:00:00.000Z",
    updated_at="2026-01-02T00:00:00.000Z",
)
_end = messages.ChatStreamEnd(
    message_id="m1",
    finished=True,
    total_tokens=46,
    duration=2500,
    finish_reason="completed",
    usage=_usage,
    length=5,
    sha256=NOTHING,
)
_text = '供应链 🚚\n"ok" \\ \u2028 </script>'
_expiring = messages.Warning("TOKEN_EXPIRING", "令牌即将过期", expires_at="2026-01-02T03:05:05.000Z")
_restarting = "The server is restarting; try again shortly"
_rate_limited = messages.ErrorDetail(
    "RATE_LIMITED", retryable=True, retry_after_ms=1500, message_id="m1", field="data.message"
)
_question = messages.StoredMessage(
    message_id="m0",
    session_id="s1",
    conversation_id="s1",
    parent_message_id=None,
    role="user",
    user_id="u2",
    content="你好",
    status="sent",
    created_at=AT,
)
_answer = messages.StoredMessage(
    message_id="m1",
    session_id="s1",
    conversation_id="s1",
    parent_message_id="m0",
    role="assistant",
    user_id="u1",
    content="好",
    status="read",
    created_at=AT,
    attachments=(messages.Attachment("f1", "a.png", "image/png", 10),),
    reasoning="…",
    model="gpt-4",
    provider="openai",
    finish_reason="completed",
    usage=_usage,
    offline=True,
    siblings=("m1", "m9"),
)

_mine = {"session_id": "s1", "user_id": "u1"}
_reply = {**_mine, "request_id": "r1"}
_theirs = {"session_id": "s1", "user_id": "u2"}
_asked = {"request_id": "r1"}

_parts: dict[str, tuple[str, Any, dict[str, str]]] = {
    "connect": ("CONNECT", _connect, _mine),
    "connect without a session": (
        "CONNECT",
        evolve(_connect, session_id=None, limits=messages.Limits(1_048_576, 0, 8), active_runs=(), unread=()),
        {"user_id": "u1"},
    ),
    "welcome": ("SYSTEM_MESSAGE", messages.SystemMessage("已连接，请提问"), _mine),
    "heartbeat": ("HEARTBEAT", messages.Heartbeat(), {}),
    "goodbye": ("DISCONNECT", messages.Disconnect("BYE", "再见", reconnect=False), {}),
    "disconnect with a wait": ("DISCONNECT", messages.Disconnect("SHUTTING_DOWN", _restarting, True, 1500), {}),
    "token taken": ("AUTH_REFRESH", messages.AuthRefreshed("2026-01-02T04:00:00.000Z"), _asked),
    "token taken that never expires": ("AUTH_REFRESH", messages.AuthRefreshed(None), {}),
    "token expiring": ("WARNING", _expiring, {}),
    "token expiring with a new one": ("WARNING", evolve(_expiring, token="aa.bb.cc"), {}),
    "info": ("INFO", messages.Info("FALLBACK", "已切换到 azure", "m1"), _reply),
    "error with every detail": ("ERROR", messages.Error("发送过于频繁，请在 2 秒后重试", _rate_limited), _reply),
    "error with the least detail": (
        "ERROR",
        messages.Error("Not found", messages.ErrorDetail("NOT_FOUND", retryable=False)),
        {},
    ),
    "start": ("CHAT_STREAM_START", messages.ChatStreamStart("m1", "gpt-4", "openai", "r1", "m0"), _reply),
    "start of a pushed answer": (
        "CHAT_STREAM_START",
        messages.ChatStreamStart("m1", "gpt-4", "openai", None, rev=1, resumed=True, reset=True),
        _mine,
    ),
    "data": ("CHAT_STREAM_DATA", messages.ChatStreamData("m1", _text, _text, 7, 11), _reply),
    "reasoning": ("CHAT_STREAM_DATA", messages.ChatStreamData("m1", "", "", 0, 7, reasoning="先想一想"), _reply),
    "end": ("CHAT_STREAM_END", _end, _reply),
    "end of a cancelled answer": (
        "CHAT_STREAM_END",
        evolve(
            _end,
            finish_reason="cancelled",
            usage=evolve(_usage, source="estimated"),
            length=0,
            upstream_closed=True,
            cancel_ms=3,
        ),
        _reply,
    ),
    "response": (
        "CHAT_RESPONSE",
        messages.ChatResponse("m1", "优化就是……", "gpt-4", "openai", _usage, "length", 2500),
        _reply,
    ),
    "a stored question": ("CHAT_MESSAGE", _question, _theirs),
    "a stored answer with everything": ("CHAT_MESSAGE", _answer, _mine),
    "session created": ("SESSION_CREATE", _session, _asked),
    "session updated": (
        "SESSION_UPDATE",
        evolve(_session, title=None, model=None, provider=None, system_prompt="简短", archived=True, members=()),
        {},
    ),
    "session deleted": ("SESSION_DELETE", messages.SessionDeleted("s1", "g-7f3a"), _asked),
    "sessions": ("SESSION_LIST", messages.SessionPage((_session,), "c2"), _asked),
    "no more sessions": ("SESSION_LIST", messages.SessionPage((), None), _asked),
    "somebody types": ("TYPING_START", messages.Typing("s1", "u2"), _theirs),
    "somebody stopped": ("TYPING_STOP", messages.Typing("s1", "u2"), _theirs),
    "statuses": (
        "ONLINE_STATUS",
        messages.OnlineStatuses((messages.UserStatus("u2", "online"), messages.UserStatus("u3", "offline"))),
        _asked,
    ),
    "somebody read": ("MESSAGE_READ", messages.MessageRead("s1", "m1", "u2"), _theirs),
}

EXAMPLES: dict[str, bytes] = {
    name: codec.encode(kind, data, at=AT, **envelope) for name, (kind, data, envelope) in _parts.items()
}
KINDS: set[str] = {kind for kind, _, _ in _parts.values()}
