"""What side questions leave in the ledger, and what they may come to."""

import pytest
import trio
from attrs import evolve
from sqlalchemy import func, select

from scm_trio.chat.aside_ledger import AsideLedger
from scm_trio.chat.attempts import UpstreamAttempt
from scm_trio.chat.prompt import estimate_tokens
from scm_trio.chat.quota import Quotas
from scm_trio.chat.usage import Cost
from scm_trio.config import Price, Quota
from scm_trio.errors import QuotaExceeded
from scm_trio.model import Usage
from scm_trio.store import ledger, runs
from scm_trio.store.database import in_thread, inline, open_database
from scm_trio.store.schema import reservations
from scm_trio.testing import EPOCH_S

from .side_question import ASIDE

COSTS = {"openai": Cost({"gpt": Price(prompt=10, completion=20)})}
FIRST = UpstreamAttempt(0, "openai", "gpt", 0.0, prompt_tokens=30)


@pytest.fixture(params=[inline, in_thread])
async def db(request, nursery, tmp_path):
    """In a test's own thread, and where a server writes: Trio's clock is not known there."""
    url = "sqlite://" if request.param is inline else f"sqlite:///{tmp_path / 'store.db'}"
    async with open_database(url, offload=request.param) as database:
        await nursery.start(database.run_writer)
        yield database


def book(db, **quota):
    numbers = iter(range(100))
    now = lambda: EPOCH_S + trio.current_time()
    return AsideLedger(db, now, lambda: str(next(numbers)), COSTS, Quotas(Quota(**quota), COSTS))


def ended(attempt, outcome="completed", usage=None):
    return evolve(attempt, outcome=outcome, usage=usage or Usage(30, 5), ended_at=attempt.started_at + 1.5)


async def rows(db, user="ann"):
    return await db.read(ledger.attempts, user, 0.0, 2 * EPOCH_S)


async def set_aside(db):
    return await db.read(lambda conn: conn.execute(select(func.count()).select_from(reservations)).scalar_one())


async def test_a_row_stands_with_its_answer_and_tells_what_it_was_for(autojump_clock, db):
    own = book(db)
    name = own.name_for(ASIDE)
    await own.open(name, ASIDE, FIRST)
    (row,) = await rows(db)
    assert (row.attempt_id, row.run_id, row.message_id) == ("title-0-0", "msg-1", "msg-1")
    assert (row.outcome, row.usage) == ("running", Usage(prompt_tokens=30, source="estimated"))
    await own.close(name, ASIDE, [evolve(ended(FIRST), is_noted=True)])
    (row,) = await rows(db)
    assert (row.outcome, row.duration_ms, row.usage) == ("completed", 1500, Usage(30, 5))
    assert row.cost == pytest.approx((30 * 10 + 5 * 20) / 1e6)


async def test_further_attempts_have_rows_of_their_own(autojump_clock, db):
    own = book(db)
    await own.open("title-x", ASIDE, FIRST)
    second = UpstreamAttempt(1, "other", "m", 2.0, prompt_tokens=30)
    await own.save("title-x", ASIDE, [evolve(ended(FIRST, "PROVIDER_AUTH"), is_noted=True), second])
    await own.close("title-x", ASIDE, [evolve(ended(second), is_noted=True)])
    found = {row.attempt_id: (row.provider, row.outcome, row.cost) for row in await rows(db)}
    assert found == {
        "title-x-0": ("openai", "PROVIDER_AUTH", pytest.approx(0.0004)),
        "title-x-1": ("other", "completed", None),
    }


async def test_a_first_attempt_elsewhere_is_told_before_it_is_settled(autojump_clock, db):
    own = book(db)
    await own.open("title-x", ASIDE, FIRST)
    await own.save("title-x", ASIDE, [evolve(FIRST, provider="other", model="m")])
    (row,) = await rows(db)
    assert (row.provider, row.model, row.outcome) == ("other", "m", "running")


async def test_it_counts_as_no_request_of_its_own_but_with_all_its_tokens(autojump_clock, db):
    own = book(db)
    answer = ledger.Attempt("msg-1-0", "msg-1", "msg-1", "ann", "openai", "gpt", EPOCH_S, 100)
    await db.write(ledger.open_attempt, answer)
    await db.write(ledger.settle_attempt, ledger.SettledAttempt("msg-1-0", "completed", 5, Usage(100, 50)))
    await own.open("title-x", ASIDE, FIRST)
    await own.close("title-x", ASIDE, [evolve(ended(FIRST), is_noted=True)])
    (day,) = await db.read(ledger.usage_by_day, "ann", 0.0, 2 * EPOCH_S)
    assert (day.requests, day.prompt_tokens, day.completion_tokens) == (1, 130, 55)


async def test_what_it_may_come_to_is_set_aside_and_released_at_its_end(autojump_clock, db):
    own = book(db, tokens_per_day=100, answer_tokens=1)
    await own.open("title-x", ASIDE, FIRST)
    with pytest.raises(QuotaExceeded) as caught:
        await own.open("title-y", ASIDE, FIRST)
    assert caught.value.field == "scm.ai.quota.tokens-per-day"
    assert [row.attempt_id for row in await rows(db)] == ["title-x-0"]
    await own.open("title-z", evolve(ASIDE, user_id="bob"), FIRST)
    assert await set_aside(db) == 2
    await own.save("title-x", ASIDE, [])
    assert await set_aside(db) == 2
    await own.close("title-x", ASIDE, [evolve(ended(FIRST), is_noted=True)])
    assert await set_aside(db) == 1
    with pytest.raises(QuotaExceeded):
        await own.open("title-y", ASIDE, FIRST)  # 35 are spent of 100, and 80 are wanted
    small = evolve(ASIDE, max_tokens=30)
    await own.open("title-y", small, FIRST)


async def test_the_last_request_of_a_day_may_still_have_its_title(autojump_clock, db):
    own = book(db, requests_per_day=1)
    answer = ledger.Attempt("msg-1-0", "msg-1", "msg-1", "ann", "openai", "gpt", EPOCH_S, 100)
    await db.write(ledger.open_attempt, answer)
    await own.open("title-x", ASIDE, FIRST)
    assert len(await rows(db)) == 2


async def test_a_cost_limit_counts_its_price(autojump_clock, db):
    await book(db, cost_per_day=0.0013).open("title-x", ASIDE, FIRST)  # 30 * 10 + 50 * 20 of a million
    with pytest.raises(QuotaExceeded):
        await book(db, cost_per_day=0.0012).open("title-y", evolve(ASIDE, user_id="bob"), FIRST)


async def test_what_a_crash_leaves_is_settled_and_released_at_the_next_start(autojump_clock, db):
    own = book(db, tokens_per_day=100, answer_tokens=1)
    await own.open("title-x", ASIDE, FIRST)
    assert await db.write(runs.seal_interrupted, EPOCH_S, estimate_tokens) == 0
    (row,) = await rows(db)
    assert (row.outcome, row.usage.prompt_tokens) == ("interrupted", 30)
    assert await set_aside(db) == 0


async def test_a_row_that_was_never_opened_is_not_settled(autojump_clock, db):
    own = book(db)
    await own.close("title-x", ASIDE, [evolve(ended(FIRST), is_noted=True)])
    assert await rows(db) == []
