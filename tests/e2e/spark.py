"""Spark's two forms on loopback: the signed WebSocket and HTTP, both remembering what they were asked.

The first question is answered by ``FIRST``; one that comes with the first and its answer, by ``second(…)``.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from typing import Any

import trio
from attrs import define, field

from tests.providers.spark_server import Session, SparkServer, frame

PASSWORD = "an APIPassword of the console"
FIRST = "好的，我记住了。"
PATIENCE_S = 30.0

Messages = list[dict[str, Any]]


def second(messages: Messages) -> str:
    return f"您先问了：{messages[0]['content']}"


def answer_to(messages: Messages) -> str:
    """What only somebody who was told the beginning can say."""
    is_second = [each["role"] for each in messages] == ["user", "assistant", "user"]
    return second(messages) if is_second and messages[1]["content"] == FIRST else FIRST


@define
class Spark:
    """Both servers.

    Attributes:
        asked: the conversations that came, oldest first.
    """

    websocket_url: str = ""
    http_url: str = ""
    asked: list[Messages] = field(factory=list)

    def answer(self, messages: Messages) -> str:
        self.asked.append(messages)
        return answer_to(messages)


@contextmanager
def running_spark() -> Iterator[Spark]:
    spark = Spark()
    with _over_websocket(spark), _over_http(spark):
        yield spark


@contextmanager
def _over_websocket(spark: Spark) -> Iterator[None]:
    """The server of the provider's own tests, in a loop and a thread of its own."""
    started: SimpleQueue[tuple[int, trio.lowlevel.TrioToken, trio.CancelScope]] = SimpleQueue()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = SparkServer(nursery, now_s=time.time)

            async def script(session: Session) -> None:
                words = spark.answer(server.questions[-1]["payload"]["message"]["text"])
                half = len(words) // 2
                await session.say(frame(words[:half], status=0), frame(words[half:], status=2, usage=(5, 7)))

            server.script = script
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            started.put((listener.socket.getsockname()[1], trio.lowlevel.current_trio_token(), nursery.cancel_scope))
            await trio.serve_listeners(server.serve, [listener])

    thread = threading.Thread(target=trio.run, args=(main,), daemon=True)
    thread.start()
    port, token, scope = started.get(timeout=PATIENCE_S)
    spark.websocket_url = f"ws://127.0.0.1:{port}/v4.0/chat"
    try:
        yield
    finally:
        token.run_sync_soon(scope.cancel)
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    spark: Spark


@contextmanager
def _over_http(spark: Spark) -> Iterator[None]:
    with _HttpServer(("127.0.0.1", 0), _Handler) as server:
        server.spark = spark
        spark.http_url = f"http://127.0.0.1:{server.server_port}/v1"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: _HttpServer

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {PASSWORD}" or self.path != "/v1/chat/completions":
            error = {"message": "invalid user", "type": "api_error", "param": None, "code": None}
            self._say(401, "application/json", json.dumps({"error": error}).encode())
            return
        words = self.server.spark.answer(body["messages"])
        half = len(words) // 2
        usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
        chunks = [_chunk(words[:half]), _chunk(words[half:], usage=usage), b"data:[DONE]\n\n"]
        self._say(200, "text/event-stream", b"".join(chunks))

    def _say(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _chunk(content: str, **more: Any) -> bytes:
    choice = {"delta": {"role": "assistant", "content": content}, "index": 0}
    return (
        b"data:%b\n\n"
        % json.dumps(
            {"code": 0, "message": "Success", "sid": "cha01", "choices": [choice], **more}, ensure_ascii=False
        ).encode()
    )
