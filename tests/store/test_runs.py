import trio
from attrs import evolve
from sqlalchemy import func, select

from scm_trio.chat.prompt import estimate_tokens
from scm_trio.model import FinishReason, Message, Usage
from scm_trio.store import ledger, runs, schema
from scm_trio.store.database import open_database
from scm_trio.store.messages import branch, ensure_session, find_message
from scm_trio.store.runs import Attempt, EndedRun, NewRun, SettledAttempt

QUESTION = Message("q1", "g1", "c1", None, "user", "ann", "why?", created_at=10.0)
RUN = NewRun("r1", "a1", "q1", "g1", "c1", "ann", "gpt", "openai", 10.0, request_id="x1", user_message=QUESTION)
ATTEMPT = Attempt("t1", "r1", "a1", "ann", "openai", "gpt", 10.5, prompt_tokens=7)
SPENT = Usage(prompt_tokens=8, completion_tokens=9)
ENDED = EndedRun("r1", FinishReason.COMPLETED, 12.0, "because", "hm", usage=SPENT)


def begin(conn, new=RUN, attempt=ATTEMPT):
    """One write at the start of a request, as the chat service makes it."""
    ensure_session(conn, "ann", "s1", "g1", 1.0)
    row = runs.open_run(conn, new)
    if not row.existing and attempt is not None:
        runs.open_attempt(conn, attempt)
    return row


def message_count(conn):
    return conn.execute(select(func.count()).select_from(schema.messages)).scalar()


async def test_a_run_opens_with_its_question(db):
    row = await db.write(begin)
    assert (row.state, row.existing, row.content, row.request_id) == ("running", False, "", "x1")
    assert await db.read(runs.find_run, "a1") == row
    assert await db.read(runs.find_run_by_request, "ann", "x1") == row
    assert await db.read(find_message, "q1") == QUESTION
    assert await db.read(find_message, "a1") is None


async def test_unknown_runs_are_none(db):
    await db.write(begin)
    assert await db.read(runs.find_run, "q1") is None
    assert await db.read(runs.find_run_by_request, "bob", "x1") is None


async def test_the_same_request_of_the_same_user_is_the_same_run(db):
    first = await db.write(begin)
    question = evolve(QUESTION, message_id="q2")
    again = await db.write(
        begin, evolve(RUN, run_id="r2", message_id="a2", user_message_id="q2", user_message=question)
    )
    assert again == evolve(first, existing=True)
    assert await db.read(message_count) == 1


async def test_requests_without_an_id_and_of_other_users_are_runs_of_their_own(db):
    opened = [RUN]
    for number, changes in enumerate(({"request_id": None}, {"request_id": None}, {"user_id": "bob"}), 2):
        question = evolve(QUESTION, message_id=f"q{number}")
        new = evolve(RUN, run_id=f"r{number}", message_id=f"a{number}", user_message=question, **changes)
        opened.append(new)
    for new in opened:
        assert not (await db.write(begin, new, None)).existing


async def test_a_run_that_is_discarded_leaves_nothing_and_its_request_can_be_made_again(db):
    await db.write(begin)
    await db.write(runs.discard_run, "r1")
    assert await db.read(message_count) == 0
    assert await db.read(runs.find_run, "a1") is None
    assert await db.read(ledger.unsettled) == []
    assert not (await db.write(begin)).existing


async def test_what_has_ended_or_was_never_there_is_not_discarded(db):
    await db.write(begin)
    await db.write(runs.end_run, ENDED)
    before = await db.read(runs.find_run, "a1")
    for run_id in ("r1", "r2"):
        await db.write(runs.discard_run, run_id)
    assert await db.read(runs.find_run, "a1") == before
    assert await db.read(message_count) == 2


async def test_a_question_that_others_go_on_from_outlives_its_discarded_run(db):
    await db.write(begin)
    follow_up = evolve(QUESTION, message_id="q2", parent_id="q1")
    second = evolve(RUN, run_id="r2", message_id="a2", user_message_id="q2", request_id="x2", user_message=follow_up)
    await db.write(begin, second, None)
    await db.write(runs.discard_run, "r1")
    assert await db.read(find_message, "q1") == QUESTION
    assert await db.read(runs.find_run, "a1") is None


async def test_a_question_with_another_answer_outlives_a_discarded_one(db):
    await db.write(begin)
    await db.write(runs.end_run, ENDED)
    again = evolve(RUN, run_id="r2", message_id="a2", request_id="x2", user_message=None)
    await db.write(begin, again, None)
    await db.write(runs.discard_run, "r2")
    assert await db.read(find_message, "q1") == QUESTION
    assert await db.read(find_message, "a1") is not None


async def test_nodes_that_get_the_same_request_at_once_open_one_run(shared_url, nursery):
    rows = []

    def open_one(conn, number):
        # Each has an id of its own in hand for a session that is not there yet.
        session = ensure_session(conn, "ann", "s1", f"g{number}", 1.0).global_id
        question = evolve(QUESTION, message_id=f"q{number}", session_id=session)
        new = evolve(
            RUN, run_id=f"r{number}", message_id=f"a{number}", user_message_id=f"q{number}", session_id=session
        )
        return runs.open_run(conn, evolve(new, user_message=question))

    async def ask(node, number):
        rows.append(await node.write(open_one, number))

    async with open_database(shared_url) as one, open_database(shared_url) as other:
        for node in (one, other):
            await nursery.start(node.run_writer)
        async with trio.open_nursery() as askers:
            for number in range(20):
                askers.start_soon(ask, (one, other)[number % 2], number)
        assert await one.read(message_count) == 1
    assert len({row.run_id for row in rows}) == 1
    assert [row.existing for row in rows].count(False) == 1


async def test_regenerating_opens_a_run_without_storing_the_question_again(db):
    await db.write(begin)
    await db.write(runs.end_run, ENDED)
    await db.write(begin, evolve(RUN, run_id="r2", message_id="a2", request_id=None, user_message=None), None)
    await db.write(runs.end_run, evolve(ENDED, run_id="r2", content="therefore"))
    assert [each.message_id for each in await db.read(branch, "a2", 9)] == ["q1", "a2"]
    assert [each.message_id for each in await db.read(branch, "a1", 9)] == ["q1", "a1"]


async def test_a_checkpoint_keeps_the_text_so_far(db):
    await db.write(begin)
    await db.write(runs.checkpoint, [runs.Checkpoint("r1", "bec", "h", 1)])
    row = await db.read(runs.find_run, "a1")
    assert (row.content, row.reasoning, row.rev, row.state) == ("bec", "h", 1, "running")


async def test_the_end_of_a_run_stores_the_answer_and_clears_the_checkpoint(db):
    begun = await db.write(begin)
    await db.write(runs.checkpoint, [runs.Checkpoint("r1", "bec", "h", 0)])
    await db.write(runs.end_run, evolve(ENDED, rev=1, provider="azure"))
    ended = evolve(begun, state="ended", finish_reason="completed", rev=1, ended_at=12.0, provider="azure")
    assert await db.read(runs.find_run, "a1") == ended
    assert await db.read(find_message, "a1") == Message(
        "a1", "g1", "c1", "q1", "assistant", "ann", "because", "hm", "gpt", "azure", "completed", SPENT, 12.0
    )


async def test_a_second_end_and_a_late_checkpoint_change_nothing(db):
    await db.write(begin)
    await db.write(runs.end_run, ENDED)
    row, answer = await db.read(runs.find_run, "a1"), await db.read(find_message, "a1")
    await db.write(runs.end_run, evolve(ENDED, finish_reason=FinishReason.CANCELLED, content="other"))
    await db.write(runs.checkpoint, [runs.Checkpoint("r1", "late", "", 5)])
    assert await db.read(runs.find_run, "a1") == row
    assert await db.read(find_message, "a1") == answer
    assert await db.read(message_count) == 2


async def test_an_error_before_the_first_word_is_told_by_the_run_alone(db):
    await db.write(begin)
    failed = EndedRun("r1", FinishReason.ERROR, 12.0, error_code="PROVIDER_UNAVAILABLE")
    await db.write(runs.end_run, failed)
    row = await db.read(runs.find_run, "a1")
    assert (row.state, row.finish_reason, row.error_code) == ("ended", "error", "PROVIDER_UNAVAILABLE")
    assert await db.read(find_message, "a1") is None


async def test_what_was_said_before_an_error_or_a_cancel_is_stored(db):
    await db.write(begin)
    await db.write(runs.end_run, EndedRun("r1", FinishReason.ERROR, 12.0, "bec", error_code="TIMEOUT"))
    assert (await db.read(find_message, "a1")).content == "bec"
    second = evolve(RUN, run_id="r2", message_id="a2", request_id="x2", user_message=None)
    await db.write(begin, second, None)
    await db.write(runs.end_run, EndedRun("r2", FinishReason.CANCELLED, 13.0))
    answer = await db.read(find_message, "a2")
    assert (answer.content, answer.finish_reason, answer.usage) == ("", "cancelled", None)


async def test_ending_an_unknown_run_does_nothing(db):
    await db.write(runs.end_run, ENDED)
    assert await db.read(message_count) == 0


async def test_a_crash_is_sealed_with_the_text_of_the_last_checkpoint(db):
    await db.write(begin)
    await db.write(runs.checkpoint, [runs.Checkpoint("r1", "because 世界", "hmmm", 2)])
    assert await db.write(runs.seal_interrupted, 99.0, estimate_tokens) == 1

    spent = Usage(prompt_tokens=7, completion_tokens=5, reasoning_tokens=1, source="estimated")
    row = await db.read(runs.find_run, "a1")
    assert (row.state, row.finish_reason, row.rev, row.content, row.ended_at) == ("ended", "interrupted", 2, "", 99.0)
    answer = await db.read(find_message, "a1")
    assert (answer.content, answer.reasoning, answer.parent_id) == ("because 世界", "hmmm", "q1")
    assert (answer.finish_reason, answer.usage) == ("interrupted", spent)
    (attempt,) = await db.read(ledger.attempts, "ann", 0.0, 100.0)
    assert (attempt.outcome, attempt.usage, attempt.duration_ms) == ("interrupted", spent, None)


async def test_sealing_leaves_ended_runs_alone_and_finds_nothing_twice(db):
    await db.write(begin)
    await db.write(runs.settle_attempt, SettledAttempt("t1", "completed", 1500, SPENT))
    await db.write(runs.end_run, ENDED)
    await db.write(begin, evolve(RUN, run_id="r2", message_id="a2", request_id="x2", user_message=None), None)
    before = await db.read(find_message, "a1"), await db.read(ledger.attempts, "ann", 0.0, 100.0)
    assert await db.write(runs.seal_interrupted, 99.0, estimate_tokens) == 1
    assert await db.write(runs.seal_interrupted, 99.0, estimate_tokens) == 0
    assert (await db.read(find_message, "a1"), await db.read(ledger.attempts, "ann", 0.0, 100.0)) == before
    without_attempt = await db.read(find_message, "a2")
    assert (without_attempt.content, without_attempt.usage) == ("", None)


async def test_sealing_settles_an_attempt_whose_run_has_ended(db):
    await db.write(begin)
    await db.write(runs.end_run, ENDED)
    assert await db.write(runs.seal_interrupted, 99.0, estimate_tokens) == 0
    (attempt,) = await db.read(ledger.attempts, "ann", 0.0, 100.0)
    assert (attempt.outcome, attempt.usage) == ("interrupted", Usage(prompt_tokens=7, source="estimated"))


BROKEN = Usage(prompt_tokens=7, completion_tokens=3)


def break_off(conn, outcome="PROVIDER_UNAVAILABLE"):
    """The first attempt said something and broke off; another one, elsewhere, is under way."""
    begin(conn)
    runs.settle_attempt(conn, SettledAttempt("t1", outcome, 1500, BROKEN))
    ledger.note_attempt(conn, evolve(ATTEMPT, attempt_id="t2", provider="azure", model="mine", started_at=12.0))


async def test_sealing_leaves_a_text_to_the_attempt_that_broke_off_until_another_one_speaks(db):
    await db.write(break_off)
    await db.write(runs.checkpoint, [runs.Checkpoint("r1", "half an answer", "", 0)])
    await db.write(runs.seal_interrupted, 99.0, estimate_tokens)
    answer = await db.read(find_message, "a1")
    assert (answer.content, answer.provider, answer.model, answer.usage) == ("half an answer", "openai", "gpt", BROKEN)
    second, first = await db.read(ledger.attempts, "ann", 0.0, 100.0)
    assert (first.outcome, first.usage) == ("PROVIDER_UNAVAILABLE", BROKEN)
    assert (second.outcome, second.usage) == ("interrupted", Usage(prompt_tokens=7, source="estimated"))


async def test_sealing_gives_a_text_that_began_anew_to_the_attempt_that_said_it(db):
    await db.write(break_off)
    await db.write(runs.checkpoint, [runs.Checkpoint("r1", "a new answer", "", 1)])
    await db.write(runs.seal_interrupted, 99.0, estimate_tokens)
    spent = Usage(prompt_tokens=7, completion_tokens=3, source="estimated")
    answer = await db.read(find_message, "a1")
    assert (answer.content, answer.provider, answer.model, answer.usage) == ("a new answer", "azure", "mine", spent)
    second, _first = await db.read(ledger.attempts, "ann", 0.0, 100.0)
    assert (second.outcome, second.usage) == ("interrupted", spent)


async def test_sealing_settles_attempts_at_their_own_price(db):
    def price(provider, model, usage):
        return {("azure", "mine"): 2.0}[provider, model] * usage.total_tokens

    await db.write(break_off)
    await db.write(runs.checkpoint, [runs.Checkpoint("r1", "a new answer", "", 1)])
    await db.write(runs.seal_interrupted, 99.0, estimate_tokens, price)
    second, first = await db.read(ledger.attempts, "ann", 0.0, 100.0)
    assert (second.cost, first.cost) == (20.0, None)


async def test_the_estimate_of_tokens_can_be_the_callers(db):
    await db.write(begin)
    await db.write(runs.checkpoint, [runs.Checkpoint("r1", "12345", "", 0)])
    await db.write(runs.seal_interrupted, 99.0, estimate=len)
    assert (await db.read(find_message, "a1")).usage.completion_tokens == 5
