"""What an answer says, as wire messages: START, DATA and END, one RESPONSE, or an ERROR."""

from __future__ import annotations

from math import ceil

from scm_trio.errors import RequestFailed
from scm_trio.model import AnswerInfo, Chunk, Ending
from scm_trio.protocol import messages
from scm_trio.protocol.records import usage
from scm_trio.protocol.texts import Lang, sentence

MAX_FRAME_CHARS = 16_384
"""Code points of text in one DATA frame. A viewer who takes nothing holds one frame, and one on a slow line has to take it
within the write timeout: twice that many (content and delta) are 100 kB of Chinese."""


def start(info: AnswerInfo, *, rev: int, resumed: bool = False, reset: bool = False) -> messages.ChatStreamStart:
    return messages.ChatStreamStart(
        message_id=info.message_id,
        model=info.model,
        provider=info.provider,
        request_id=info.request_id,
        user_message_id=info.user_message_id,
        rev=rev,
        resumed=resumed,
        reset=reset,
    )


def data(info: AnswerInfo, chunk: Chunk, *, rev: int) -> messages.ChatStreamData:
    text = "" if chunk.reasoning else chunk.text
    return messages.ChatStreamData(
        message_id=info.message_id,
        content=text,
        delta=text,
        index=chunk.index,
        next_index=chunk.next_index,
        rev=rev,
        reasoning=chunk.text if chunk.reasoning else None,
    )


def end(info: AnswerInfo, ending: Ending, *, rev: int, length: int, sha256: str) -> messages.ChatStreamEnd:
    """``length`` in code points and ``sha256`` in hex are of the whole content."""
    return messages.ChatStreamEnd(
        message_id=info.message_id,
        finished=True,
        total_tokens=ending.usage.total_tokens,
        duration=round(ending.duration_s * 1000),
        finish_reason=ending.reason.value,
        usage=usage(ending.usage),
        length=length,
        sha256=sha256,
        rev=rev,
        upstream_closed=ending.upstream_closed,
        cancel_ms=None if ending.cancel_s is None else round(ending.cancel_s * 1000),
    )


def notice(info: AnswerInfo, code: str, lang: Lang, **params: object) -> messages.Info:
    """Something on the way to an answer; ``params`` go into the code's sentence."""
    return messages.Info(code=code, message=sentence(code, lang, **params), message_id=info.message_id)


def response(info: AnswerInfo, content: str, ending: Ending) -> messages.ChatResponse:
    return messages.ChatResponse(
        message_id=info.message_id,
        content=content,
        model=info.model,
        provider=info.provider,
        usage=usage(ending.usage),
        finish_reason=ending.reason.value,
        duration=round(ending.duration_s * 1000),
    )


def error(
    failure: RequestFailed, lang: Lang, *, started: bool = False, message_id: str | None = None
) -> messages.Error:
    """``started``: whether a model had begun to answer, so that a retry may be billed twice."""
    seconds = None if failure.retry_after_s is None else max(1, ceil(failure.retry_after_s))
    params: dict[str, object] = {"seconds": seconds, **failure.params, "field": failure.field}
    return messages.Error(
        sentence(failure.code, lang, **params),
        messages.ErrorDetail(
            code=failure.code,
            retryable=failure.retryable,
            generation_started=started,
            retry_after_ms=None if failure.retry_after_s is None else round(failure.retry_after_s * 1000),
            message_id=message_id,
            field=failure.field,
        ),
    )
