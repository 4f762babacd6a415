"""What OpenAI, Azure and Anthropic send, in the shapes that their own packages describe.

Nothing else leaves the tests' fake servers: whatever is built here is judged strictly by those packages' types. What a
vendor sends although its own types refuse it is built by ``unofficial``, which insists that they do.
"""

from __future__ import annotations

import json
from typing import Any

from anthropic.types import ErrorResponse, Message, RawMessageStreamEvent
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.shared import ErrorObject
from pydantic import TypeAdapter, ValidationError

CREATED_S = 1_790_000_000
DONE = b"data: [DONE]\n\n"
PING = b'event: ping\ndata: {"type":"ping"}\n\n'
"""Of Anthropic; its package skips them, and has no type for them."""

_CHUNK = TypeAdapter[Any](ChatCompletionChunk)
_COMPLETION = TypeAdapter[Any](ChatCompletion)
_OPENAI_ERROR = TypeAdapter[Any](ErrorObject)
_EVENT = TypeAdapter[Any](RawMessageStreamEvent)
_MESSAGE = TypeAdapter[Any](Message)
_ANTHROPIC_ERROR = TypeAdapter[Any](ErrorResponse)


def accepts(judge: TypeAdapter[Any], payload: object) -> bool:
    """Whether the package that the type is from takes it, with no value read as another kind of value."""
    try:
        judge.validate_python(payload, strict=True)
    except ValidationError:
        return False
    return True


def is_chunk(payload: object) -> bool:
    return accepts(_CHUNK, payload)


def is_event(payload: object) -> bool:
    return accepts(_EVENT, payload)


def is_completion(payload: object) -> bool:
    return accepts(_COMPLETION, payload)


def is_message(payload: object) -> bool:
    return accepts(_MESSAGE, payload)


def _judged(judge: TypeAdapter[Any], payload: dict[str, Any]) -> dict[str, Any]:
    judge.validate_python(payload, strict=True)
    return payload


def sse(payload: object, name: str | None = None) -> bytes:
    event = f"event: {name}\n" if name else ""
    return f"{event}data: {json.dumps(payload, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


# ---- OpenAI and Azure


def openai_usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _chunk(choices: list[dict[str, Any]], more: dict[str, Any]) -> dict[str, Any]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": CREATED_S, "model": "gpt-x"}
    return {**head, "choices": choices, **more}


def chunk(delta: dict[str, Any] | None = None, finish_reason: str | None = None, **more: object) -> bytes:
    """An event of a stream; ``more`` are members of the chunk, or of its choice where they are called so."""
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish_reason, **more.pop("choice", {})}
    return sse(_judged(_CHUNK, _chunk([choice], more)))


def usage_chunk(prompt: int, completion: int, **more: object) -> bytes:
    """The event that tells the tokens, after the last one with a choice."""
    return sse(_judged(_CHUNK, _chunk([], {"usage": openai_usage(prompt, completion), **more})))


def unofficial(**members: object) -> bytes:
    """An event that a vendor is documented to send although its own package's types refuse it."""
    payload = {**_chunk([], {}), **members}
    assert not is_chunk(payload), f"this is official: {payload}"
    return sse(payload)


def openai_error(message: str, kind: str = "server_error", code: str | None = None) -> dict[str, Any]:
    return {"error": _judged(_OPENAI_ERROR, {"message": message, "type": kind, "param": None, "code": code})}


def completion(text: str | None, finish_reason: str = "stop", **more: object) -> bytes:
    """A whole answer in one body."""
    said = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": said, "finish_reason": finish_reason, "logprobs": None}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": CREATED_S, "model": "gpt-x"}
    return json.dumps(_judged(_COMPLETION, {**head, "choices": [choice], **more}), ensure_ascii=False).encode()


# ---- Anthropic


def event(kind: str, **members: object) -> bytes:
    payload = {"type": kind, **members}
    return sse(_judged(_EVENT, payload), kind)


def _message(content: list[dict[str, Any]], stop_reason: str | None, usage: dict[str, Any]) -> dict[str, Any]:
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x"}
    return {**head, "content": content, "stop_reason": stop_reason, "stop_sequence": None, "usage": usage}


def anthropic_usage(prompt: int, completion: int) -> dict[str, int]:
    return {"input_tokens": prompt, "output_tokens": completion}


def message_start(prompt: int = 3, completion: int = 1) -> bytes:
    return event("message_start", message=_message([], None, anthropic_usage(prompt, completion)))


def block_start(index: int = 0, block: dict[str, Any] | None = None) -> bytes:
    return event("content_block_start", index=index, content_block=block or {"type": "text", "text": ""})


def block_delta(delta: dict[str, Any], index: int = 0) -> bytes:
    return event("content_block_delta", index=index, delta=delta)


def text_delta(text: str, index: int = 0) -> bytes:
    return block_delta({"type": "text_delta", "text": text}, index)


def message_delta(stop_reason: str = "end_turn", completion: int = 2) -> bytes:
    stop = {"stop_reason": stop_reason, "stop_sequence": None}
    return event("message_delta", delta=stop, usage={"output_tokens": completion})


def message(text: str, stop_reason: str = "end_turn", prompt: int = 3, completion: int = 2) -> bytes:
    """A whole answer in one body."""
    payload = _message([{"type": "text", "text": text}], stop_reason, anthropic_usage(prompt, completion))
    return json.dumps(_judged(_MESSAGE, payload), ensure_ascii=False).encode()


def anthropic_error(kind: str, text: str) -> dict[str, Any]:
    error = {"type": kind, "message": text}
    return _judged(_ANTHROPIC_ERROR, {"type": "error", "error": error, "request_id": "req_1"})
