"""A fake OpenAI server in threads: says what the question asks for, and notices when its client leaves.

Plans, by the first word of the question:

- ``hold``: the first pieces, then nothing until the test releases it, then the rest.
- ``mute``: nothing at all until the test releases it.
- ``slow``: fifty pieces, 20 ms apart.
- ``long``: 900 000 characters as fast as they are taken.
- ``gate``: the same once the test releases it.
- ``step``: fifty pieces, the end and ``[DONE]``, each when the test allows it.
- ``busy``: refused with status 503, but asked again it is like ``step``.
- ``fail``: refused with status 400.
- anything else: the usual pieces at once.
"""

from __future__ import annotations

import json
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.e2e.process import until
from tests.providers import official

FIRST = ["供应链", "管理"]
REST = ["是对", "物流、", "信息流", "和资金流", "的协调。"]
ANSWER = "".join([*FIRST, *REST])
SLOW = [f"wagon {number} " for number in range(50)]
SLOW_GAP_S = 0.02
LONG = ["0123456789" * 100] * 900
PATIENCE_S = 120.0


class Exchange:
    """One request.

    Attributes:
        left: the client closed its connection before the answer was over.
        over: nothing will be said any more.
        allowed: how many steps of a ``step`` may be taken.
        written: how many have been.
    """

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body
        self.allowed = 0
        self.written = 0
        self.left = threading.Event()
        self.over = threading.Event()
        self.released = threading.Event()

    @property
    def question(self) -> str:
        return str(self.body["messages"][-1]["content"])

    def release(self) -> None:
        self.released.set()

    def step(self, steps: int = 1) -> None:
        """Allow so many further steps, and wait until they have been taken."""
        self.allowed += steps
        until(lambda: self.written >= self.allowed, f"step {self.allowed}")


class FakeUpstream(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.exchanges: list[Exchange] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def asked(self, question: str) -> Exchange:
        """The newest exchange about this question, waiting until it is there."""
        return until(lambda: self._find(question), f"the provider is asked {question!r}")

    def _find(self, question: str) -> Exchange | None:
        return next((each for each in reversed(self.exchanges) if each.question == question), None)

    @property
    def open_answers(self) -> int:
        return sum(not each.over.is_set() for each in self.exchanges)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no error here."""


@contextmanager
def fake_upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            for exchange in server.exchanges:
                exchange.release()
            server.shutdown()
            thread.join()


class _ClientLeft(Exception):
    pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeUpstream

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        exchange = Exchange(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.server.exchanges.append(exchange)
        try:
            self._answer(exchange)
        except (_ClientLeft, OSError):
            exchange.left.set()
            self.close_connection = True
        finally:
            exchange.over.set()

    def _answer(self, exchange: Exchange) -> None:
        plan = exchange.question.split(" ")[0]
        if plan == "fail":
            self._json(400, json.dumps(official.openai_error("no such thing", "invalid_request_error")).encode())
        elif plan == "busy" and sum(each.question == exchange.question for each in self.server.exchanges) == 1:
            self._json(503, json.dumps(official.openai_error("overloaded", "server_error")).encode())
        elif plan in {"step", "busy"}:
            self._step_by_step(exchange)
        elif not exchange.body.get("stream"):
            self._json(
                200, official.completion(ANSWER, model=exchange.body["model"], usage=official.openai_usage(7, 11))
            )
        else:
            self._stream(exchange, plan)

    def _step_by_step(self, exchange: Exchange) -> None:
        model, whole = exchange.body["model"], not exchange.body.get("stream")
        if whole:
            self._take_step(exchange)
            self._json(200, official.completion("".join(SLOW), model=model, usage=official.openai_usage(7, 50)))
            return
        self._begin_stream()
        for piece in SLOW:
            self._take_step(exchange)
            self._say(exchange, {"content": piece})
            exchange.written += 1
        self._take_step(exchange)
        self._say(exchange, {}, "stop")
        exchange.written += 1
        self._take_step(exchange)
        self._end_stream(model)
        exchange.written += 1

    def _take_step(self, exchange: Exchange) -> None:
        while exchange.written >= exchange.allowed:
            self._wait(threading.Event(), 0.01)

    def _json(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _end_stream(self, model: str) -> None:
        self._chunk(official.usage_chunk(7, 11, model=model))
        self._chunk(official.DONE)
        self._chunk(b"")

    def _stream(self, exchange: Exchange, plan: str) -> None:
        self._begin_stream()
        if plan in {"mute", "gate"}:
            self._wait(exchange.released, PATIENCE_S)
        for piece in {"slow": SLOW, "long": LONG, "gate": LONG}.get(plan, FIRST):
            self._say(exchange, {"content": piece})
            self._wait(threading.Event() if plan == "slow" else None, SLOW_GAP_S)
        if plan == "hold":
            self._wait(exchange.released, PATIENCE_S)
        for piece in () if plan in {"slow", "long", "gate"} else REST:
            self._say(exchange, {"content": piece})
        self._say(exchange, {}, "stop")
        self._end_stream(exchange.body["model"])

    def _say(self, exchange: Exchange, delta: dict[str, Any], finish: str | None = None) -> None:
        self._chunk(official.chunk(delta, finish, model=exchange.body["model"]))

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _wait(self, event: threading.Event | None, limit_s: float) -> None:
        """Wait, but not for a client that has left."""
        waited_s = 0.0
        while event is not None and not event.is_set() and waited_s < limit_s:
            step_s = min(0.01, limit_s)
            readable, _, _ = select.select([self.connection], [], [], step_s)
            if readable and not self.connection.recv(1, socket.MSG_PEEK):
                raise _ClientLeft
            waited_s += step_s
