"""What the caller's own answers cost, by day or attempt by attempt."""

from __future__ import annotations

from attrs import frozen
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from scm_trio.chat.quota import Standing
from scm_trio.errors import InvalidMessage
from scm_trio.protocol.codec import timestamp
from scm_trio.store.ledger import AttemptRow, UsageDay
from scm_trio.web.openapi import ERROR, INTEGER, MOMENT, STRING, TIME, Answer, Operation, Parameter, array_of, object_of
from scm_trio.web.parameters import limit_of, period_of
from scm_trio.web.services import WebServices
from scm_trio.web.sessions import COUNTED

MAX_ATTEMPTS = 1000

_COST = {"type": ["number", "null"], "description": "null where the model has no price"}
_DAY = object_of(
    day={"type": "string", "format": "date"},
    provider=STRING,
    model=STRING,
    requests=INTEGER,
    promptTokens=INTEGER,
    completionTokens=INTEGER,
    cost=_COST,
)
_ATTEMPT = object_of(
    attemptId=STRING,
    runId=STRING,
    messageId=STRING,
    provider=STRING,
    model=STRING,
    startedAt=TIME,
    durationMs={"type": ["integer", "null"]},
    outcome=STRING,
    promptTokens=INTEGER,
    completionTokens=INTEGER,
    source={"type": "string", "enum": ["provider", "estimated"]},
    cost=_COST,
)
_QUOTA = object_of(
    tokensPerDay={"type": ["integer", "null"], "description": "null: no limit, also of the others"},
    tokensLeft={"type": ["integer", "null"], "description": "what running answers have set aside is not left"},
    requestsPerDay={"type": ["integer", "null"]},
    requestsLeft={"type": ["integer", "null"]},
    costPerDay={"type": ["number", "null"]},
    costLeft={"type": ["number", "null"]},
    resetsAt=TIME,
)
_PARAMETERS = (
    Parameter("from", "UTC unless it says otherwise; 30 days before the end by default", schema=MOMENT),
    Parameter("to", "A date counts as a whole day, a time is excluded; now by default", schema=MOMENT),
    Parameter("detail", "`attempts`: a row per upstream attempt, newest first", schema={"enum": ["attempts"]}),
    Parameter("limit", "attempts at most", schema={"type": "integer", "minimum": 1, "maximum": MAX_ATTEMPTS}),
)


@frozen
class UsageRoutes:
    services: WebServices

    def operations(self) -> list[Operation]:
        rows = array_of({"oneOf": [_DAY, _ATTEMPT]})
        return [
            Operation(
                "GET",
                "/scm/ai/usage",
                self.usage,
                "What the caller's answers cost",
                {
                    200: Answer(
                        "A row per day, provider and model, or per attempt; and what is left of today's quota",
                        object_of(rows=rows, quota={"oneOf": [_QUOTA, {"type": "null"}]}),
                    ),
                    400: Answer("A parameter is not valid", ERROR),
                    **COUNTED,
                },
                access="user",
                parameters=_PARAMETERS,
            )
        ]

    async def usage(self, request: Request) -> Response:
        principal = await self.services.counted_user(request)
        asked = request.query_params
        since, until = period_of(asked.get("from"), asked.get("to"))
        limit = limit_of(asked.get("limit"), default=MAX_ATTEMPTS, most=MAX_ATTEMPTS)
        detail = asked.get("detail")
        if detail not in {None, "attempts"}:
            raise InvalidMessage(field="detail", expected="attempts")
        rows = await self.services.usage(principal.user_id, since, until, limit if detail else None)
        quota = await self.services.quota(principal.user_id)
        return JSONResponse({"rows": [_row(row) for row in rows], "quota": _quota(quota)})


def _quota(standing: Standing | None) -> dict[str, object] | None:
    if standing is None:
        return None
    limits, spent = standing.limits, standing.spent
    told: dict[str, object] = {}
    for name in ("tokens", "requests", "cost"):
        limit = getattr(limits, name)
        told[f"{name}PerDay"] = limit or None
        told[f"{name}Left"] = max(0, limit - getattr(spent, name)) if limit else None
    return {**told, "resetsAt": timestamp(standing.resets_at)}


def _row(row: UsageDay | AttemptRow) -> dict[str, object]:
    if isinstance(row, UsageDay):
        return {
            "day": row.day,
            "provider": row.provider,
            "model": row.model,
            "requests": row.requests,
            "promptTokens": row.prompt_tokens,
            "completionTokens": row.completion_tokens,
            "cost": row.cost,
        }
    return {
        "attemptId": row.attempt_id,
        "runId": row.run_id,
        "messageId": row.message_id,
        "provider": row.provider,
        "model": row.model,
        "startedAt": timestamp(row.started_at),
        "durationMs": row.duration_ms,
        "outcome": row.outcome,
        "promptTokens": row.usage.prompt_tokens,
        "completionTokens": row.usage.completion_tokens,
        "source": row.usage.source,
        "cost": row.cost,
    }
