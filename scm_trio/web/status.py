"""Is it alive, is it ready, what does it count."""

from __future__ import annotations

import trio
from attrs import frozen
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from scm_trio.web.openapi import INTEGER, NUMBER, STRING, Answer, Operation, object_of
from scm_trio.web.services import WebServices

_READINESS_TIMEOUT_S = 5.0

_CHECKS = object_of(status=STRING, checks={"type": "object", "additionalProperties": STRING})
_STATS = object_of(
    activeConnections=INTEGER,
    totalConnections=INTEGER,
    activeUsers=INTEGER,
    activeStreams=INTEGER,
    totalStreams=INTEGER,
    messagesIn=INTEGER,
    messagesOut=INTEGER,
    uptimeSeconds=NUMBER,
)


@frozen
class StatusRoutes:
    services: WebServices

    def operations(self) -> list[Operation]:
        alive = Answer("The process answers", object_of(status=STRING))
        text = Answer("Prometheus text format", media_type="text/plain")
        return [
            Operation("GET", "/healthz", self.healthz, "Is the process alive?", {200: alive}),
            Operation(
                "GET",
                "/readyz",
                self.readyz,
                "May traffic be sent here?",
                {200: Answer("Yes", _CHECKS), 503: Answer("No: draining, or a check failed", _CHECKS)},
            ),
            Operation("GET", "/metrics", self.metrics, "Counters for Prometheus", {200: text}),
            Operation(
                "GET",
                "/scm/ai/stats",
                self.stats,
                "Connections and streams, for administrators",
                {200: Answer("The numbers now", _STATS)},
                access="admin",
            ),
        ]

    async def healthz(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(self, _request: Request) -> Response:
        """``status`` is ok, draining or unavailable; while draining the checks still tell their own."""
        checks = {"readiness": "timed out"}
        with trio.move_on_after(_READINESS_TIMEOUT_S):
            checks = dict(await self.services.readiness())
        if self.services.draining():
            status = "draining"
        else:
            status = "ok" if all(result == "ok" for result in checks.values()) else "unavailable"
        return JSONResponse({"status": status, "checks": checks}, 200 if status == "ok" else 503)

    async def metrics(self, _request: Request) -> Response:
        body, content_type = self.services.metrics.render()
        return Response(body, headers={"Content-Type": content_type})

    async def stats(self, request: Request) -> Response:
        await self.services.admin(request)
        return JSONResponse(dict(self.services.stats()))
