from scm_trio.model import FinishReason, Usage
from scm_trio.store import ledger
from scm_trio.store.ledger import Attempt, SettledAttempt, UsageDay

DAY = 86_400.0
SPENT = Usage(prompt_tokens=100, completion_tokens=20, reasoning_tokens=5, cached_tokens=50)


def attempt(attempt_id, at=10.0, *, run="r1", user="ann", provider="openai", model="gpt"):
    return Attempt(attempt_id, run, f"answer of {run}", user, provider, model, at, prompt_tokens=90)


def book(conn, *rows):
    for row, cost in rows:
        ledger.open_attempt(conn, row)
        ledger.settle_attempt(conn, SettledAttempt(row.attempt_id, FinishReason.COMPLETED, 1500, SPENT, cost))


async def test_an_attempt_is_running_until_it_is_settled(db):
    await db.write(ledger.open_attempt, attempt("t1"))
    (row,) = await db.read(ledger.attempts, "ann", 0.0, DAY)
    assert (row.outcome, row.duration_ms, row.cost) == ("running", None, None)
    assert row.usage == Usage(prompt_tokens=90, source="estimated")
    await db.write(ledger.settle_attempt, SettledAttempt("t1", "PROVIDER_RATE_LIMITED", 1500, SPENT, 0.25))
    (row,) = await db.read(ledger.attempts, "ann", 0.0, DAY)
    assert (row.outcome, row.duration_ms, row.cost, row.usage) == ("PROVIDER_RATE_LIMITED", 1500, 0.25, SPENT)


async def test_an_attempt_is_settled_once(db):
    await db.write(book, (attempt("t1"), 0.25))
    settled = await db.read(ledger.attempts, "ann", 0.0, DAY)
    await db.write(ledger.settle_attempt, SettledAttempt("t1", "cancelled", 1, Usage(), 9.0))
    await db.write(ledger.settle_attempt, SettledAttempt("unknown", "cancelled", 1, Usage(), 9.0))
    assert await db.read(ledger.attempts, "ann", 0.0, DAY) == settled
    assert settled[0].outcome == "completed"


async def test_attempts_come_newest_first_within_their_time(db):
    rows = [(attempt(f"t{n}", at=float(n)), None) for n in range(5)]
    await db.write(book, *rows, (attempt("bobs", 2.0, user="bob"), None))
    found = await db.read(ledger.attempts, "ann", 1.0, 4.0)
    assert [row.attempt_id for row in found] == ["t3", "t2", "t1"]
    assert [row.attempt_id for row in await db.read(ledger.attempts, "ann", 1.0, 4.0, limit=1)] == ["t3"]


async def test_usage_adds_up_by_utc_day_provider_and_model(db):
    await db.write(
        book,
        (attempt("t1", 0.0), 0.5),
        (attempt("t2", DAY - 0.001, run="r2"), 0.25),
        (attempt("t3", DAY, run="r3"), 1.0),
        (attempt("t4", 5.0, run="r4", provider="Local"), None),
        (attempt("t5", 5.0, run="r5", model="mini"), None),
        (attempt("bobs", 5.0, run="r6", user="bob"), 9.0),
    )
    assert await db.read(ledger.usage_by_day, "ann", 0.0, 2 * DAY) == [
        UsageDay("1970-01-01", "Local", "gpt", 1, 100, 20, None),
        UsageDay("1970-01-01", "openai", "gpt", 2, 200, 40, 0.75),
        UsageDay("1970-01-01", "openai", "mini", 1, 100, 20, None),
        UsageDay("1970-01-02", "openai", "gpt", 1, 100, 20, 1.0),
    ]


async def test_a_retried_request_counts_once_with_the_tokens_of_all_its_attempts(db):
    await db.write(book, (attempt("t1"), 0.5), (attempt("t2", 11.0), 0.5))
    assert await db.read(ledger.usage_by_day, "ann", 0.0, DAY) == [
        UsageDay("1970-01-01", "openai", "gpt", 1, 200, 40, 1.0)
    ]


async def test_the_end_of_the_time_asked_for_is_exclusive(db):
    await db.write(book, (attempt("t1", 5.0), None))
    assert await db.read(ledger.usage_by_day, "ann", 0.0, 5.0) == []
    assert len(await db.read(ledger.usage_by_day, "ann", 5.0, 6.0)) == 1
