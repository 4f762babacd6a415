"""The usage route: what it asks the ledger for, and how it tells the rows."""

import orjson
import pytest
import trio

from scm_trio.chat.quota import Limits, Standing
from scm_trio.config import Ai, Quota
from scm_trio.errors import StoreError
from scm_trio.model import Usage
from scm_trio.providers.scripted import Scripted, Stall
from scm_trio.store.ledger import AttemptRow, UsageDay
from scm_trio.store.quota import Amounts
from scm_trio.testing import open_server, quiet_config

USER = {"Authorization": "Bearer user"}
DAY_S = 86_400.0
NEW_YEAR_S = 1_767_225_600.0  # 2026-01-01T00:00:00Z
ROW = AttemptRow("m1-0", "m1", "m1", "ann", "openai", "gpt", NEW_YEAR_S, 1500, "completed", Usage(10, 20), 0.25)


async def test_a_row_per_day_provider_and_model(site, world) -> None:
    world.usage_rows = [UsageDay("2026-01-01", "openai", "gpt", 2, 10, 20, None)]
    answer = await site.ask("GET", "/scm/ai/usage", headers=USER)

    assert answer.status == 200
    day = {"day": "2026-01-01", "provider": "openai", "model": "gpt", "requests": 2}
    rows = [{**day, "promptTokens": 10, "completionTokens": 20, "cost": None}]
    assert answer.json == {"rows": rows, "quota": None}
    assert world.usage_asked == [("ann", None, None, None)]


async def test_a_row_per_attempt(site, world) -> None:
    world.usage_rows = [ROW]
    answer = await site.ask("GET", "/scm/ai/usage?detail=attempts", headers=USER)

    assert answer.json["rows"] == [
        {
            "attemptId": "m1-0",
            "runId": "m1",
            "messageId": "m1",
            "provider": "openai",
            "model": "gpt",
            "startedAt": "2026-01-01T00:00:00.000Z",
            "durationMs": 1500,
            "outcome": "completed",
            "promptTokens": 10,
            "completionTokens": 20,
            "source": "provider",
            "cost": 0.25,
        }
    ]
    assert world.usage_asked == [("ann", None, None, 1000)]


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("from=2026-01-01&to=2026-01-01", (NEW_YEAR_S, NEW_YEAR_S + DAY_S, None)),
        ("from=2026-01-01T01:00:00Z&to=2026-01-01T02:00:00", (NEW_YEAR_S + 3600, NEW_YEAR_S + 7200, None)),
        ("from=2026-01-01T08:00:00%2B08:00", (NEW_YEAR_S, None, None)),
        ("from=2026-01-01T08:00:00+08:00", (NEW_YEAR_S, None, None)),
        ("to=20260101", (None, NEW_YEAR_S + DAY_S, None)),
        ("detail=attempts&limit=7", (None, None, 7)),
        ("limit=7", (None, None, None)),
    ],
)
async def test_times_and_limits(site, world, query, asked) -> None:
    assert (await site.ask("GET", f"/scm/ai/usage?{query}", headers=USER)).status == 200
    assert world.usage_asked == [("ann", *asked)]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("from=yesterday", "from"),
        ("from=", "from"),
        ("to=2026-13-01", "to"),
        ("to=9999-12-31", "to"),
        ("from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "to"),
        ("detail=days", "detail"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=ten", "limit"),
        ("limit=%C2%B2", "limit"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_name(site, world, query, field) -> None:
    answer = await site.ask("GET", f"/scm/ai/usage?{query}&lang=en", headers=USER)

    assert (answer.status, answer.json["code"]) == (400, "INVALID_MESSAGE")
    assert field in answer.json["message"]
    assert world.usage_asked == []


async def test_nobody_reads_anything_without_a_token(site, world) -> None:
    assert (await site.ask("GET", "/scm/ai/usage")).status == 401
    assert world.usage_asked == []


async def test_a_store_that_fails_is_a_busy_server(site, world) -> None:
    world.usage_rows = StoreError("gone")
    answer = await site.ask("GET", "/scm/ai/usage", headers=USER)

    assert (answer.status, answer.json["code"]) == (503, "SERVER_BUSY")


@pytest.mark.parametrize(
    ("limits", "spent", "told"),
    [
        (
            Limits(tokens=1000, requests=5, cost=2.5),
            Amounts(400, 2, 1.0),
            {"tokensPerDay": 1000, "tokensLeft": 600, "requestsPerDay": 5, "requestsLeft": 3}
            | {"costPerDay": 2.5, "costLeft": 1.5},
        ),
        (
            Limits(tokens=1000),
            Amounts(1400, 2, 1.0),
            {"tokensPerDay": 1000, "tokensLeft": 0, "requestsPerDay": None, "requestsLeft": None}
            | {"costPerDay": None, "costLeft": None},
        ),
    ],
)
async def test_what_is_left_of_todays_quota_stands_beside_the_rows(site, world, limits, spent, told) -> None:
    world.standing = {"ann": Standing(limits, spent, NEW_YEAR_S)}
    answer = await site.ask("GET", "/scm/ai/usage", headers=USER)

    assert answer.json == {"rows": [], "quota": {**told, "resetsAt": "2026-01-01T00:00:00.000Z"}}


async def test_a_store_that_fails_over_the_quota_is_a_busy_server(site, world) -> None:
    world.standing = StoreError("gone")
    answer = await site.ask("GET", "/scm/ai/usage", headers=USER)

    assert (answer.status, answer.json["code"]) == (503, "SERVER_BUSY")


async def test_the_quota_of_a_whole_server_counts_what_runs(autojump_clock) -> None:
    config = quiet_config(ai=Ai(quota=Quota(tokens_per_day=5000, answer_tokens=1000)))
    async with open_server({"openai": Scripted(["a", Stall()])}, config) as server, server.peer("ann") as peer:
        await peer.send("CHAT_REQUEST", {"message": "Hi"}, request_id="r1")
        await peer.until("CHAT_STREAM_DATA")
        running = (await _usage(server, "ann"))["quota"]
        others = (await _usage(server, "bob"))["quota"]
        await peer.send("CHAT_CANCEL", {"requestId": "r1"})
        await peer.until("CHAT_STREAM_END")
        ended = (await _usage(server, "ann"))["quota"]
    assert others["tokensLeft"] == 5000
    assert running["tokensLeft"] < 4000 < ended["tokensLeft"] < 5000
    assert ended["resetsAt"] == "2023-11-15T00:00:00.000Z"


async def test_everybody_sees_the_own_answers_alone(autojump_clock) -> None:
    async with open_server({"openai": Scripted(["a"])}) as server:
        for user in ("ann", "bob"):
            async with server.peer(user) as peer:
                await peer.send("CHAT_REQUEST", {"message": "Hi"})
                await peer.until("CHAT_STREAM_END")
        (day,) = (await _usage(server, "ann"))["rows"]
        (attempt,) = (await _usage(server, "ann", "?detail=attempts"))["rows"]
    assert (day["provider"], day["requests"]) == ("scripted", 1)
    assert attempt["outcome"] == "completed"


async def _usage(server, user, query=""):
    stream = server.dial()
    lines = [
        f"GET /scm/ai/usage{query} HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {server.token(user)}",
        "Connection: close",
    ]
    await stream.send_all("\r\n".join([*lines, "", ""]).encode())
    data = b""
    with trio.fail_after(30):
        while more := await stream.receive_some():
            data += more
    return orjson.loads(data.partition(b"\r\n\r\n")[2])
