"""The sentences people read, in Chinese (default) and English.

No sentence carries a secret, a stack trace or anything a provider said.
"""

from __future__ import annotations

from typing import Literal

Lang = Literal["zh", "en"]

_ERRORS: dict[str, tuple[str, str]] = {
    "BAD_JSON": (
        "消息不是有效的 JSON 对象（位置 {position}）",
        "The message is not a valid JSON object (at {position})",
    ),
    "INVALID_MESSAGE": ("字段 {field} 无效：{expected}", "Field {field} is invalid: {expected}"),
    "UNKNOWN_TYPE": ("未知的消息类型：{kind}", "Unknown message type: {kind}"),
    "MESSAGE_TOO_LARGE": ("消息过大，最多 {limit} 字节", "The message is too large: at most {limit} bytes"),
    "RATE_LIMITED": ("发送过于频繁，请在 {seconds} 秒后重试", "Too many messages; try again in {seconds} s"),
    "TOO_MANY_STREAMS": ("同时进行的回答过多，最多 {limit} 个", "Too many answers at once: at most {limit}"),
    "UNAUTHORIZED": ("令牌缺失或无效", "The token is missing or invalid"),
    "TOKEN_EXPIRED": ("令牌已过期", "The token has expired"),
    "FORBIDDEN": ("没有权限", "You are not allowed to do this"),
    "NOT_FOUND": ("未找到", "Not found"),
    "CONFLICT": ("请求与当前状态冲突", "The request conflicts with the current state"),
    "QUOTA_EXCEEDED": (
        "今日剩余额度不足，将于 {resets}（UTC）重置",
        "What is left of today's quota is not enough; it resets at {resets} UTC",
    ),
    "PROVIDER_UNKNOWN": ("未配置的提供商：{provider}", "No such provider is configured: {provider}"),
    "MODEL_UNKNOWN": ("模型不可用：{model}", "This model is not on offer: {model}"),
    "PROVIDER_UNAVAILABLE": ("AI 服务暂时不可用，请稍后重试", "The AI service is not available; try again later"),
    "PROVIDER_AUTH": (
        "AI 服务拒绝了服务器的密钥，请联系管理员",
        "The AI service refuses this server's key; tell your administrator",
    ),
    "PROVIDER_RATE_LIMITED": ("AI 服务繁忙，请稍后重试", "The AI service is busy; try again later"),
    "PROVIDER_REJECTED": ("AI 服务拒绝了该请求", "The AI service rejected the request"),
    "CONTEXT_TOO_LONG": ("对话过长，超出模型的上下文", "The conversation is too long for the model"),
    "CONTENT_FILTERED": ("内容被 AI 服务的过滤器拦截", "The AI service's filter blocked the content"),
    "TIMEOUT": ("等待超时：{field}", "It took too long: {field}"),
    "RESPONSE_TOO_LARGE": ("回答过长，已截断", "The answer was too long and has been cut"),
    "SERVER_BUSY": ("服务器繁忙，请稍后重试", "The server is busy; try again later"),
    "SHUTTING_DOWN": ("服务器正在重启，请稍后重试", "The server is restarting; try again shortly"),
    "INTERNAL": ("服务器内部错误", "Something went wrong on the server"),
}

_NOTICES: dict[str, tuple[str, str]] = {
    "WELCOME": ("已连接，请提问", "Connected. Ask away."),
    "TOKEN_EXPIRING": ("令牌即将过期", "The token is about to expire"),
    "NO_PROVIDER": (
        "没有可用的 AI 服务：请设置 OPENAI_API_KEY，或安装 scm-trio[local]，或在配置中填写 scm.ai.providers",
        "No AI service: set OPENAI_API_KEY, install scm-trio[local], or fill in scm.ai.providers in the configuration",
    ),
    "RETRYING": ("{provider} 暂时没有回答，正在重试", "{provider} does not answer for the moment; trying again"),
    "FALLBACK": ("已切换到 {provider}", "{provider} answers instead"),
    "FILE_TOO_LARGE": ("文件过大，最多 {limit} 字节", "The file is too large: at most {limit} bytes"),
    "FILE_QUOTA": (
        "您的文件空间已满（最多 {limit} 字节），请先删除带附件的对话",
        "Your files take up all of your {limit} bytes; delete conversations with attachments first",
    ),
    "TOO_MANY_UPLOADS": (
        "同时上传的文件过多，最多 {limit} 个",
        "Too many files are being uploaded at once: at most {limit}",
    ),
    "IMAGES_UNSEEN": (
        "{provider} 无法查看图片，只收到了图片的文件名",
        "{provider} cannot see pictures; it was told their names only",
    ),
    "EMPTY_ANSWER": (
        "{provider} 没有给出任何内容；问题可能太长，请缩短后重试",
        "{provider} gave an empty answer; the question may be too long for it, try a shorter one",
    ),
    "TOO_MANY_SESSIONS": (
        "您的会话过多（最多 {limit} 个），请先删除一些",
        "You have too many sessions (at most {limit}); delete some first",
    ),
    "BINARY": ("只接受文本消息", "Only text messages are taken"),
    "NOT_UTF8": ("消息不是 UTF-8", "The message is not UTF-8"),
    "INVALID_MESSAGES": ("无效消息过多", "Too many invalid messages"),
    "SILENT": ("长时间没有消息", "Nothing was heard for too long"),
    "SLOW": ("接收过慢", "Messages are taken too slowly"),
    "FLOOD": ("消息过于频繁", "Too many messages"),
    "BYE": ("再见", "Goodbye"),
    "RECONNECTING": ("连接已断开，正在重新连接", "The connection is lost; reconnecting"),
    "RECONNECTED": ("已重新连接", "Connected again"),
    "STOPPED": ("已停止", "Stopped"),
    "STOPPED_OFFLINE": (
        "已停止；重新连接后会告知服务器",
        "Stopped; the server will be told when the connection is back",
    ),
    "ORIGIN": ("不允许该来源访问", "This origin is not allowed"),
    "USER_MISMATCH": ("userId 与令牌不符", "userId is not the token's"),
    "UPGRADE": ("此地址只接受 WebSocket 连接", "This address takes WebSocket connections only"),
    "TOO_MANY_CONNECTIONS": ("连接数过多", "Too many connections"),
    "METHOD_NOT_ALLOWED": ("此地址不支持该请求方法", "This address does not take the method"),
    "BAD_REQUEST": ("请求格式错误", "The request is malformed"),
}

EXPECTED: dict[str, tuple[str, str]] = {
    "missing": ("缺少该字段", "it is missing"),
    "text": ("应为不含 NUL 的文本", "a text without NUL is expected"),
    "id": (
        "应为 1 到 128 个字符的文本，不含控制字符",
        "a text of 1 to 128 characters is expected, without control characters",
    ),
    "boolean": ("应为 true 或 false", "true or false is expected"),
    "count": ("应为不小于 0 的整数", "a whole number, 0 or more, is expected"),
    "number": ("应为数字", "a number is expected"),
    "list": ("应为数组", "an array is expected"),
    "object": ("应为对象", "an object is expected"),
    "orphan": ('应为 "continue"、"cancel" 或 {"graceMs": n}', '"continue", "cancel" or {"graceMs": n} is expected'),
    "value": ("值无效", "the value is not valid"),
    "empty": ("不能为空", "it must not be empty"),
    "too_long": ("过长", "it is too long"),
    "own": ("必须是您自己的 userId", "it must be your own userId"),
    "temperature": ("应为 0 到 2 的数字", "a number from 0 to 2 is expected"),
    "date": ("应为 ISO 日期，例如 2026-01-31", "an ISO date such as 2026-01-31 is expected"),
    "period": ("不能早于 from", "it must not be before from"),
    "one_branch": ("leaf 与 through 只能填一个", "only one of leaf and through is expected"),
    "cursor": ("分页游标无效", "a cursor of this list is expected"),
    "owner": ("会话至少要有一名 owner", "a session needs at least one owner"),
    "once": ("每名成员只能出现一次", "each member may be named once"),
    "positive": ("应为大于 0 的整数", "a whole number above 0 is expected"),
    "one_of": ("requestId 与 messageId 至少填一个", "requestId or messageId is expected"),
    "one_place": (
        "parentMessageId、regenerateOf 与 editOf 只能填一个",
        "only one of parentMessageId, regenerateOf and editOf is expected",
    ),
    "media_type": (
        "只接受 PNG、JPEG、GIF、WebP、PDF 和 UTF-8 文本（不含 HTML 与 SVG）",
        "PNG, JPEG, GIF, WebP, PDF or UTF-8 text other than HTML and SVG is expected",
    ),
    "form": ("应为 multipart/form-data 表单", "a multipart/form-data form is expected"),
    "one_file": ("每个请求只能上传一个文件", "one file per request is expected"),
    "too_many": ("数量过多", "there are too many"),
    "repeated": ("不能重复", "it must not be repeated"),
    "status_or_users": ("status 与 userIds 至少填一个", "status or userIds is expected"),
    "session": ("URL 与消息中都没有 sessionId", "neither the URL nor the message has a sessionId"),
    "unsupported": ("尚不支持", "it is not supported yet"),
}

_CHOICES = ("应为以下之一：{}", "one of {} is expected")

_DEADLINES: dict[str | None, tuple[str, str]] = {
    "connect": ("连接 AI 服务", "connecting to the AI service"),
    "first_token": ("首个词元", "the first token"),
    "idle": ("下一个词元", "the next token"),
    "total": ("整个回答", "the whole answer"),
    None: ("请求", "the request"),
}


def language(asked: str | None) -> Lang:
    """``en`` or ``en-US`` -> ``en``; everything else -> ``zh``."""
    return "en" if asked is not None and asked.lower().startswith("en") else "zh"


class _Lenient(dict[str, object]):
    """A placeholder without a value becomes ``-``: a poor sentence is better than a second failure."""

    def __missing__(self, key: str) -> str:
        return "-"


def sentence(code: str, lang: Lang, /, **params: object) -> str:
    """The sentence of an error code or notice; an unknown code gets that of ``INTERNAL``.

    ``notice`` among the params names a more exact sentence than the code's own. ``expected`` is a key of ``EXPECTED``,
    or the values that a field may have.
    """
    column = 1 if lang == "en" else 0
    notice = params.pop("notice", None)
    texts = _NOTICES.get(str(notice)) or _ERRORS.get(code) or _NOTICES.get(code) or _ERRORS["INTERNAL"]
    expected = params.get("expected")
    if isinstance(expected, str):
        known = EXPECTED.get(expected)
        params["expected"] = known[column] if known else _CHOICES[column].format(expected)
    field = params.get("field")
    if code == "TIMEOUT" and (field is None or isinstance(field, str)) and field in _DEADLINES:
        params["field"] = _DEADLINES[field][column]
    return texts[column].format_map(_Lenient({key: value for key, value in params.items() if value is not None}))
