"""Six vendors on memory streams, each in its own words: everything that a fault can be made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import trio
from attrs import frozen

from scm_trio import config
from scm_trio.providers.base import Provider
from scm_trio.providers.catalogue import build_providers
from scm_trio.providers.connections import Dialer

from . import official
from .conftest import Peer
from .spark_memory import FAREWELL, accepting, fragment
from .spark_server import APP_ID, KEY, SECRET, error_frame, frame

RAW = "RAW-WORDS-OF-THE-VENDOR"
"""In every body of an error: nobody but the log may see it."""
EVENT_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
Refusals = Mapping[int, dict[str, Any]]


def response(status: int, body: bytes, content_type: str = "application/json", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status} Whatever\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


@frozen
class Vendor:
    """One of them.

    Attributes:
        settings: its section of the configuration; ``{scheme}`` stands in URLs.
        begin: what comes before the first word.
        keep_alive: what comes while there is no word.
        failing, denying, limiting: events that tell a failure of the server, a wrong key, a rate.
        refusals: bodies by status.
    """

    settings: dict[str, Any]
    begin: bytes
    keep_alive: bytes
    failing: bytes
    denying: bytes
    limiting: bytes
    refusals: Refusals

    def provider(self, dialer: Dialer, *, tls: bool = False, **more: Any) -> Provider:
        """The provider that the configuration makes, over connections of the test's own."""
        url = self.settings["base_url"].format(scheme=self.scheme + ("s" if tls else ""))
        section = config.Provider(**{**self.settings, "base_url": url, **more})
        built = build_providers(config.Ai(providers={"vendor": section}), connect_timeout_s=3, dialer=dialer)
        return built["vendor"]

    @property
    def scheme(self) -> str:
        return "http"

    def say(self, text: str) -> bytes:
        """An event with a word."""
        raise NotImplementedError

    @property
    def whole(self) -> bytes:
        """Everything that a good end of a stream has after its last word."""
        raise NotImplementedError

    def raw(self, data: bytes) -> bytes:
        """An event with any data."""
        return b"data: " + data + b"\n\n"

    async def ready(self, peer: Peer) -> None:
        """Read the question and begin to answer."""
        await peer.request()
        await peer.stream.send_all(EVENT_STREAM)

    def framed(self, events: bytes) -> bytes:
        """Events as they go over the connection."""
        return b"%x\r\n%b\r\n" % (len(events), events)

    @property
    def bye(self) -> bytes:
        """A clean end of the connection, which says nothing of the answer."""
        return b"0\r\n\r\n"

    async def send(self, peer: Peer, *events: bytes) -> None:
        for each in events:
            await peer.send(self.framed(each))

    def failing_with(self, words: str) -> bytes:
        """The event that tells a failure of the server, in other words."""
        return self.failing.replace(RAW.encode(), words.encode())

    async def refuse(self, peer: Peer, answer: bytes) -> None:
        """Answer with these bytes instead."""
        await peer.request()
        await peer.send(answer)


class OpenAiLike(Vendor):
    def say(self, text: str) -> bytes:
        return official.chunk({"content": text})

    @property
    def whole(self) -> bytes:
        return official.chunk(finish_reason="stop") + official.usage_chunk(3, 2) + official.DONE


class Anthropic(Vendor):
    def say(self, text: str) -> bytes:
        return official.text_delta(text)

    @property
    def whole(self) -> bytes:
        return official.message_delta() + official.event("message_stop")


class SparkHttp(Vendor):
    def say(self, text: str) -> bytes:
        return spark_chunk(choices=[{"delta": {"role": "assistant", "content": text}, "index": 0}])

    @property
    def whole(self) -> bytes:
        return b"data:[DONE]\n\n"


class SparkSocket(Vendor):
    @property
    def scheme(self) -> str:
        return "ws"

    def say(self, text: str) -> bytes:
        return as_frame(frame(text))

    @property
    def whole(self) -> bytes:
        return as_frame(frame("", status=2, usage=(3, 2)))

    def raw(self, data: bytes) -> bytes:
        return fragment(b"\x81", data)

    async def ready(self, peer: Peer) -> None:
        head = bytes(await peer.stream.receive_some()).decode()
        await peer.stream.send_all(accepting(head))
        await peer.stream.receive_some()

    def framed(self, events: bytes) -> bytes:
        return events

    @property
    def bye(self) -> bytes:
        return FAREWELL

    def failing_with(self, words: str) -> bytes:
        return as_frame(error_frame(10012, words))

    async def refuse(self, peer: Peer, answer: bytes) -> None:
        await peer.stream.receive_some()
        await peer.send(answer)


def as_frame(payload: object) -> bytes:
    return fragment(b"\x81", json.dumps(payload).encode())


def spark_chunk(**members: object) -> bytes:
    return b"data:%b\n\n" % json.dumps({"code": 0, "message": "Success", "sid": "cha01", **members}).encode()


def _openai_error(kind: str, code: str | None = None, what: str = "") -> dict[str, Any]:
    return official.openai_error(f"{what}{RAW}", kind, code)


def _azure(code: str, what: str = "") -> dict[str, Any]:
    return {"error": {"code": code, "message": f"{what}{RAW}"}}


def _anthropic(kind: str, what: str = "") -> dict[str, Any]:
    return official.anthropic_error(kind, f"{what}{RAW}")


def _llamacpp(code: int, kind: str, what: str = "") -> dict[str, Any]:
    return {"error": {"code": code, "message": f"{what}{RAW}", "type": kind}}


_OPENAI_REFUSALS: Refusals = {
    401: _openai_error("invalid_request_error", "invalid_api_key"),
    403: _openai_error("request_forbidden", "unsupported_country_region_territory"),
    404: _openai_error("invalid_request_error", "model_not_found", "The model does not exist "),
    429: _openai_error("requests", "rate_limit_exceeded"),
    500: _openai_error("server_error"),
    503: _openai_error("service_unavailable_error", "server_is_overloaded"),
}
_AZURE_REFUSALS: Refusals = {
    401: _azure("401", "Access denied due to invalid subscription key "),
    403: _azure("403", "Access denied due to Virtual Network/Firewall rules. "),
    404: _azure("DeploymentNotFound", "The API deployment for this resource does not exist. "),
    429: _azure("429", "Requests have exceeded call rate limit. "),
    500: _azure("InternalServerError"),
    503: {"statusCode": 503, "message": RAW},
}
_ANTHROPIC_REFUSALS: Refusals = {
    401: _anthropic("authentication_error", "invalid x-api-key "),
    403: _anthropic("permission_error"),
    404: _anthropic("not_found_error", "model: claude-0 "),
    429: _anthropic("rate_limit_error"),
    500: _anthropic("api_error"),
    503: _anthropic("overloaded_error"),
}
_KONG: Refusals = {
    401: {"message": f"HMAC signature does not match {RAW}"},
    403: {
        "message": "HMAC signature cannot be verified, a valid date or x-date header is required for HMAC"
        f" Authentication {RAW}"
    },
    404: {"message": f"no Route matched with those values {RAW}"},
    429: {"message": f"API rate limit exceeded {RAW}"},
    500: {"message": f"An unexpected error occurred {RAW}"},
    503: {"message": f"failure to get a peer from the ring-balancer {RAW}"},
}
_SPARK_HTTP_REFUSALS: Refusals = {
    **_KONG,
    401: _openai_error("api_error", None, "invalid user "),
    403: {"message": f"Forbidden {RAW}"},
}
_LLAMACPP_REFUSALS: Refusals = {
    401: _llamacpp(401, "authentication_error", "Invalid API Key "),
    403: _llamacpp(403, "permission_error"),
    404: _llamacpp(404, "not_found_error", "File Not Found "),
    429: _llamacpp(429, "rate_limit_error"),
    500: _llamacpp(500, "server_error"),
    503: _llamacpp(503, "unavailable_error", "Loading model "),
}
_ROLE = official.chunk({"role": "assistant", "content": ""})
_MODEL = {"models": ("gpt-x",)}

VENDORS: dict[str, Vendor] = {
    "openai": OpenAiLike(
        settings={"kind": "openai", "base_url": "{scheme}://vendor.example/v1", "api_key": KEY, **_MODEL},
        begin=_ROLE,
        keep_alive=b": keep-alive\n\n",
        failing=official.sse(_OPENAI_REFUSALS[500]),
        denying=official.sse(_OPENAI_REFUSALS[401]),
        limiting=official.sse(_OPENAI_REFUSALS[429]),
        refusals=_OPENAI_REFUSALS,
    ),
    "azure": OpenAiLike(
        settings={
            "kind": "azure",
            "base_url": "{scheme}://vendor.example",
            "api_key": KEY,
            "deployment": "chat",
            "api_version": "2024-10-21",
        },
        begin=official.unofficial(id="", object="", model="", created=0, prompt_filter_results=[]) + _ROLE,
        keep_alive=official.unofficial(
            choices=[{"index": 0, "finish_reason": None, "content_filter_offsets": {"check_offset": 0}}]
        ),
        failing=official.sse(_AZURE_REFUSALS[500]),
        denying=official.sse(_AZURE_REFUSALS[401]),
        limiting=official.sse(_AZURE_REFUSALS[429]),
        refusals=_AZURE_REFUSALS,
    ),
    "anthropic": Anthropic(
        settings={"kind": "anthropic", "base_url": "{scheme}://vendor.example", "api_key": KEY, **_MODEL},
        begin=official.message_start() + official.block_start(),
        keep_alive=official.PING,
        failing=official.sse(_ANTHROPIC_REFUSALS[503], "error"),
        denying=official.sse(_ANTHROPIC_REFUSALS[401], "error"),
        limiting=official.sse(_ANTHROPIC_REFUSALS[429], "error"),
        refusals=_ANTHROPIC_REFUSALS,
    ),
    "spark websocket": SparkSocket(
        settings={
            "kind": "spark",
            "transport": "websocket",
            "base_url": "{scheme}://vendor.example/v4.0/chat",
            "app_id": APP_ID,
            "api_key": KEY,
            "api_secret": SECRET,
            "models": ("4.0Ultra",),
        },
        begin=as_frame(frame("", status=0)),
        keep_alive=fragment(b"\x89", b""),
        failing=as_frame(error_frame(10012, RAW)),
        denying=as_frame(error_frame(11200, f"AppIdNoAuthError:{RAW}")),
        limiting=as_frame(error_frame(11202, RAW)),
        refusals=_KONG,
    ),
    "spark http": SparkHttp(
        settings={
            "kind": "spark",
            "base_url": "{scheme}://vendor.example/v1",
            "api_key": KEY,
            "models": ("4.0Ultra",),
        },
        begin=spark_chunk(choices=[{"delta": {"role": "assistant", "content": ""}, "index": 0}]),
        keep_alive=b":\n\n",
        failing=spark_chunk(code=10012, message=RAW),
        denying=spark_chunk(code=11200, message=RAW),
        limiting=spark_chunk(code=11202, message=RAW),
        refusals=_SPARK_HTTP_REFUSALS,
    ),
    "llama.cpp": OpenAiLike(
        settings={"kind": "openai", "preset": "llamacpp", "base_url": "{scheme}://vendor.example/v1", **_MODEL},
        begin=official.chunk({"role": "assistant", "content": None}),
        keep_alive=b":\n\n",
        failing=b"error: " + json.dumps(_LLAMACPP_REFUSALS[500]["error"]).encode() + b"\n\n" + official.DONE,
        denying=official.sse(_LLAMACPP_REFUSALS[401]),
        limiting=official.sse(_LLAMACPP_REFUSALS[429]),
        refusals=_LLAMACPP_REFUSALS,
    ),
}


async def hold(peer: Peer) -> None:
    """Say nothing more until the other side has gone."""
    while await peer.stream.receive_some():
        await trio.lowlevel.checkpoint()
