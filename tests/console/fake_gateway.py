"""A small gateway on memory streams that can answer, stop and attach, and can break any one of its promises."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio
from trio.testing import memory_stream_pair

from scm_trio.client.wire import open_wire_over
from tests.client.fake_server import FakeServer


class Run:
    def __init__(self, message_id, request_id, *, orphan):
        self.message_id = message_id
        self.request_id = request_id
        self.orphan = orphan
        self.scope = trio.CancelScope()
        self.parts = []
        self.reason = None
        self.changed = trio.Event()

    def tell(self):
        self.changed.set()
        self.changed = trio.Event()


class FakeGateway:
    """``parts`` pieces of text, one every ``pace_s`` seconds; ``fault`` names the promise it breaks."""

    def __init__(self, nursery, *, parts=40, pace_s=0.05, fault=None):
        self.nursery = nursery
        self.parts, self.pace_s, self.fault = parts, pace_s, fault
        self.runs = {}
        self.opened = []
        self.refusals = 1

    def wires(self, url, token, **options):
        self.opened.append((url, token, options))
        return open_wire_over(self._dial(), url, token, **options)

    def _dial(self):
        client_end, server_end = memory_stream_pair()
        self.nursery.start_soon(server_end.aclose if self.fault == "hangs up" else partial(self._serve, server_end))
        return client_end

    async def _serve(self, stream):
        server = FakeServer()
        mine = []
        async with trio.open_nursery() as nursery:
            await server.serve(stream, lambda peer: self._requests(peer, nursery, mine))
            for run in mine:
                if run.orphan == "cancel" and self.fault != "keeps orphans":
                    run.scope.cancel()
            nursery.cancel_scope.cancel()

    async def _requests(self, server, nursery, mine):
        while True:
            message = await server._receive.receive()
            if message.kind == "CHAT_REQUEST":
                await self._request(server, message, nursery, mine)
            elif message.kind == "CHAT_CANCEL":
                await self._cancel(server, message)

    async def _request(self, server, message, nursery, mine):
        rid = message.request_id
        if self.fault == "refuses":
            return await server.refuse(rid, "PROVIDER_UNAVAILABLE")
        if self.fault == "limits" or (self.fault == "limits once" and self.refusals):
            self.refusals -= 1
            return await server.refuse(rid, "RATE_LIMITED", retry_after_ms=5000)
        if rid not in self.runs:
            self.runs[rid] = run = Run(f"m-{len(self.runs)}", rid, orphan=message.data.on_orphan)
            mine.append(run)
            self.nursery.start_soon(self._generate, run, message.data)
        nursery.start_soon(self._follow, server, self.runs[rid])
        return None

    async def _generate(self, run, request):
        count = min(self.parts, request.max_tokens or self.parts)
        limit_s = float("inf") if request.timeout_ms is None else request.timeout_ms / 1000
        if self.fault == "no timeout":
            limit_s = float("inf")
        with run.scope, trio.move_on_after(limit_s) as limit:
            for number in range(count):
                await trio.sleep(self.pace_s)
                run.parts.append(f"w{number} ")
                run.tell()
        run.reason = "cancelled" if run.scope.cancelled_caught else "timeout" if limit.cancelled_caught else "completed"
        if self.fault in ("stops alone", "stops in silence") and run.reason == "completed":
            run.reason = "timeout"
        if self.fault == "fails when cancelled" and run.reason == "cancelled":
            run.reason = "error"
        run.tell()

    async def _follow(self, server, run):
        rid, sent, more = run.request_id, 0, {"message_id": run.message_id}
        await server.start(rid, **more)
        while run.reason is None or sent < len(run.parts):
            if sent < len(run.parts):
                skip = self.fault == "gap" and sent == 1
                await server.data(rid, run.parts[sent], sent + skip, next_index=sent + 1 + skip, **more)
                sent += 1
            else:
                await run.changed.wait()
        await self._finish(server, run, more)

    async def _finish(self, server, run, more):
        rid, text = run.request_id, "".join(run.parts)
        if run.reason == "cancelled":
            more |= {"upstream_closed": self.fault != "not closed"}
            more |= {} if self.fault == "no cancelMs" else {"cancel_ms": 3}
        if (run.reason == "timeout" and self.fault not in ("silent timeout", "stops in silence")) or (
            self.fault in ("fails", "fails when cancelled") and run.reason != "cancelled"
        ):
            code = "TIMEOUT" if run.reason == "timeout" else "INTERNAL"
            await server.refuse(rid, code, started=True)
        wrong = {"sha256": "0" * 64} if self.fault == "wrong hash" else {}
        reason = "error" if self.fault == "fails" and run.reason == "completed" else run.reason
        await server.end(rid, text, reason, **(more | wrong))
        if self.fault == "talks on":
            await server.data(rid, "more", len(run.parts), message_id=run.message_id)

    async def _cancel(self, server, message):
        wanted = message.data
        found = [run for run in self.runs.values() if wanted.request_id == run.request_id]
        found += [run for run in self.runs.values() if wanted.message_id == run.message_id]
        running = [run for run in found if run.reason is None]
        if self.fault == "closes":
            await server.socket.aclose(1011)
        elif self.fault == "forbids":
            await server.refuse(message.request_id, "FORBIDDEN")
        elif not running or self.fault == "finds nothing":
            await server.refuse(message.request_id, "NOT_FOUND")
        elif self.fault != "deaf":
            running[0].scope.cancel()


@asynccontextmanager
async def gateway(**how: object) -> AsyncIterator[FakeGateway]:
    async with trio.open_nursery() as nursery:
        yield FakeGateway(nursery, **how)
        nursery.cancel_scope.cancel()
