"""Sessions and messages for tests, one line each. Every function is one for ``db.write``."""

from sqlalchemy import func, select

from scm_trio.model import File, FinishReason, Message, Usage
from scm_trio.store import files, messages, runs, schema
from scm_trio.store.deliveries import mark_given, waiting_for
from scm_trio.store.members import Member
from scm_trio.store.sessions import NewSession, create_session

SPENT = Usage(prompt_tokens=3, completion_tokens=5)


def owner(user):
    return Member(user, "owner")


def member(user):
    return Member(user, "member")


def viewer(user):
    return Member(user, "viewer")


def open_session(conn, global_id="g1", *, by="ann", at=1.0, others=(), **rest):
    return create_session(conn, by, global_id, NewSession(members=tuple(others), **rest), at)


def say(conn, message_id, parent_id=None, *, in_="g1", by="ann", at=10.0, **rest):
    """A question, or with ``role="assistant"`` an answer."""
    said = {"conversation_id": "c1", "role": "user", "content": f"text of {message_id}", **rest}
    messages.add_message(
        conn, Message(message_id=message_id, session_id=in_, parent_id=parent_id, user_id=by, created_at=at, **said)
    )


def answer(conn, message_id, parent_id, **rest):
    say(conn, message_id, parent_id, role="assistant", **rest)


def talk(conn, *turns, in_="g1", by="ann", at=10.0):
    """Questions and answers in turn, each under the one before: ``q1``, ``a1``, ``q2`` …"""
    parent = None
    for number, message_id in enumerate(turns):
        role = "assistant" if number % 2 else "user"
        say(conn, message_id, parent, in_=in_, by=by, at=at + number, role=role)
        parent = message_id


def ask(conn, run_id, *, in_="g1", by="ann", at=10.0, end=True, parent_id=None):
    """A question ``q-…`` with its run, and its answer ``a-…`` if it has ended."""
    question = Message(f"q-{run_id}", in_, "c1", parent_id, "user", by, f"question {run_id}", created_at=at)
    new = runs.NewRun(
        run_id, f"a-{run_id}", f"q-{run_id}", in_, "c1", by, "gpt", "openai", at, run_id, user_message=question
    )
    runs.open_run(conn, new)
    runs.open_attempt(conn, runs.Attempt(f"t-{run_id}", run_id, f"a-{run_id}", by, "openai", "gpt", at))
    if end:
        runs.settle_attempt(conn, runs.SettledAttempt(f"t-{run_id}", "completed", 5, SPENT, 0.5))
        runs.end_run(conn, runs.EndedRun(run_id, FinishReason.COMPLETED, at + 1, f"answer {run_id}", usage=SPENT))


def bring_file(conn, file_id, user="ann"):
    file = File(file_id, user, f"{file_id}.png", "image/png", 9, 5.0)
    files.announce(conn, file)
    files.complete(conn, file)
    return file


def count_rows(conn, table):
    return conn.execute(select(func.count()).select_from(table)).scalar_one()


def sequence_of(conn, message_id):
    return conn.execute(
        select(schema.messages.c.sequence).where(schema.messages.c.message_id == message_id)
    ).scalar_one()


def waiting(conn, user):
    """The ids of what the user was not given yet, in order."""
    return [each.message.message_id for each in waiting_for(conn, user, 0, 100)]


def give_all(conn, user):
    """Mark everything that waits for the user as given; returns it."""
    found = waiting_for(conn, user, 0, 1000)
    for each in found:
        mark_given(conn, {(user, each.message.session_id): [each.message.sequence]})
    return found
