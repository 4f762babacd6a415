"""What has been spent and set aside, on every database."""

import pytest

from scm_trio.chat.prompt import estimate_tokens
from scm_trio.model import Message, Usage
from scm_trio.store import ledger, messages, migrate, quota, runs
from scm_trio.store.engine import make_engine, parse_url
from scm_trio.store.ledger import Attempt, SettledAttempt
from scm_trio.store.quota import Amounts, Contended, Reservation

DAY = 86_400.0
SPENT = Usage(prompt_tokens=100, completion_tokens=20)


def attempt(attempt_id, at=10.0, *, run="r1", user="ann"):
    return Attempt(attempt_id, run, f"answer of {run}", user, "openai", "gpt", at, prompt_tokens=90)


def settled(conn, row, cost=None):
    ledger.open_attempt(conn, row)
    ledger.settle_attempt(conn, SettledAttempt(row.attempt_id, "completed", 1500, SPENT, cost))


async def test_who_has_asked_nothing_has_spent_nothing(db):
    assert await db.read(quota.amounts, "ann", 0) == Amounts()


async def test_settled_attempts_are_spent_on_the_day_they_began(db):
    def book(conn):
        settled(conn, attempt("t1", 0.0), 0.5)
        settled(conn, attempt("t2", DAY - 0.001, run="r2"), 0.25)
        settled(conn, attempt("t3", DAY, run="r3"), 1.0)
        settled(conn, attempt("t4", 5.0, run="r4"))  # no price
        settled(conn, attempt("bobs", 5.0, run="r5", user="bob"), 9.0)

    await db.write(book)
    assert await db.read(quota.amounts, "ann", 0) == Amounts(360, 3, 0.75)
    assert await db.read(quota.amounts, "ann", 1) == Amounts(120, 1, 1.0)
    assert await db.read(quota.amounts, "ann", 2) == Amounts()


async def test_all_attempts_of_a_request_are_spent_and_are_one_request(db):
    await db.write(settled, attempt("t1"), 0.5)
    await db.write(settled, attempt("t2", 11.0), 0.5)
    assert await db.read(quota.amounts, "ann", 0) == Amounts(240, 1, 1.0)


async def test_counts_that_no_answer_has_are_added_up_like_others(db):
    def book(conn):
        for number in range(3):
            row = attempt(f"t{number}", run=f"r{number}")
            ledger.open_attempt(conn, row)
            usage = Usage(2**31 - 1, 2**31 - 1)
            ledger.settle_attempt(conn, SettledAttempt(row.attempt_id, "completed", 1, usage, 1.0))

    await db.write(book)
    assert await db.read(quota.amounts, "ann", 0) == Amounts(6 * (2**31 - 1), 3, 3.0)


async def test_an_attempt_that_runs_is_a_request_and_its_reservation_is_what_it_spends(db):
    await db.write(ledger.open_attempt, attempt("t1"))
    assert await db.read(quota.amounts, "ann", 0) == Amounts(0, 1, 0.0)
    await db.write(quota.reserve, Reservation("r1", "ann", 0, 2**40, 0.5))
    await db.write(quota.reserve, Reservation("r2", "bob", 0, 7, 0.25))
    await db.write(quota.reserve, Reservation("r3", "ann", 1, 7, 0.25))
    assert await db.read(quota.amounts, "ann", 0) == Amounts(2**40, 1, 0.5)
    await db.write(quota.release, "r1")
    assert await db.read(quota.amounts, "ann", 0) == Amounts(0, 1, 0.0)
    assert await db.read(quota.amounts, "bob", 0) == Amounts(7, 0, 0.25)


async def test_what_dead_runs_have_set_aside_is_let_go(db):
    def leave_behind(conn):
        session = messages.ensure_session(conn, "ann", "s1", "g1", 1.0)
        asked = Message("q1", session.global_id, "c1", None, "user", "ann", "why?", created_at=1.0)
        ids = ("r1", "a1", "q1", session.global_id, "c1")
        runs.open_run(conn, runs.NewRun(*ids, "ann", "m", "p", 1.0, user_message=asked))
        ledger.open_attempt(conn, attempt("t1", 1.0))
        quota.reserve(conn, Reservation("r1", "ann", 0, 5, 0.0))
        quota.reserve(conn, Reservation("its session is gone", "ann", 0, 7, 0.0))

    await db.write(leave_behind)
    await db.write(quota.release_dead)
    assert (await db.read(quota.amounts, "ann", 0)).tokens == 5
    await db.write(runs.seal_interrupted, 99.0, estimate_tokens)
    # Now it is what the ledger says.
    assert await db.read(quota.amounts, "ann", 0) == Amounts(90, 1, 0.0)


async def test_a_claim_can_be_made_again_in_the_same_transaction(db):
    def twice(conn):
        quota.claim(conn, "ann")
        quota.claim(conn, "ann")
        return "claimed"

    assert await db.write(twice) == "claimed"
    assert await db.write(twice) == "claimed"


def test_a_claim_of_another_process_is_not_waited_for(postgres_url):
    engine = make_engine(parse_url(postgres_url))
    try:
        with engine.begin() as first, engine.connect() as second:
            quota.claim(first, "ann")
            with second.begin(), pytest.raises(Contended):
                quota.claim(second, "ann")
            with second.begin():
                quota.claim(second, "bob")
        with engine.begin() as third:
            quota.claim(third, "ann")
    finally:
        engine.dispose()


def test_a_claim_is_given_back_with_the_savepoint_that_took_it(postgres_url):
    """A write that fails inside of a batch leaves its user to others, although the batch goes on."""
    engine = make_engine(parse_url(postgres_url))
    try:
        with engine.begin() as first, engine.begin() as second:
            first.exec_driver_sql("SAVEPOINT one_write")
            quota.claim(first, "ann")
            first.exec_driver_sql("ROLLBACK TO SAVEPOINT one_write")
            quota.claim(second, "ann")
    finally:
        engine.dispose()


def test_what_another_process_has_committed_is_seen_under_the_claim(postgres_url):
    """Also by a transaction that began before."""
    engine = make_engine(parse_url(postgres_url))
    try:
        migrate.upgrade(engine)
        with engine.begin() as later:
            later.exec_driver_sql("SELECT 1")
            with engine.begin() as first:
                quota.claim(first, "ann")
                quota.reserve(first, Reservation("r1", "ann", 0, 5, 0.0))
            quota.claim(later, "ann")
            assert quota.amounts(later, "ann", 0).tokens == 5
    finally:
        engine.dispose()
