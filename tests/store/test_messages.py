import trio
from sqlalchemy import delete, func, select

from scm_trio.model import FinishReason, Message, Session, Usage
from scm_trio.store import messages, schema
from scm_trio.store.database import open_database
from scm_trio.store.markers import sequence_in

USAGE = Usage(prompt_tokens=3, completion_tokens=5, reasoning_tokens=2, cached_tokens=1, source="estimated")


def message(message_id, parent_id=None, *, session="g1", conversation="c1", at=10.0, **rest):
    return Message(
        **{
            "message_id": message_id,
            "session_id": session,
            "conversation_id": conversation,
            "parent_id": parent_id,
            "role": "user",
            "user_id": "ann",
            "content": f"text of {message_id}",
            "created_at": at,
            **rest,
        }
    )


def talk(conn, *said):
    messages.ensure_session(conn, "ann", "s1", "g1", 1.0)
    for each in said:
        messages.add_message(conn, each)


def ids(found):
    return [each.message_id for each in found]


async def test_a_session_is_created_once_and_then_found(db):
    first = await db.write(messages.ensure_session, "ann", "s1", "g1", 5.0)
    again = await db.write(messages.ensure_session, "ann", "s1", "g2", 6.0)
    assert first == again == Session("g1", "s1", "ann", created_at=5.0, updated_at=5.0)
    assert await db.read(messages.find_session, "ann", "s1") == first
    assert await db.read(messages.find_session, "bob", "s1") is None


async def test_two_owners_may_use_the_same_name_for_two_sessions(db):
    ann = await db.write(messages.ensure_session, "ann", "s1", "g1", 5.0)
    bob = await db.write(messages.ensure_session, "bob", "s1", "g2", 5.0)
    assert (ann.global_id, bob.global_id) == ("g1", "g2")


async def test_a_session_that_another_node_creates_in_between_is_taken_over(db, monkeypatch):
    theirs = await db.write(messages.ensure_session, "ann", "s1", "theirs", 5.0)
    monkeypatch.setattr(messages, "find_session", lambda *_: None)
    assert await db.write(messages.ensure_session, "ann", "s1", "ours", 6.0) == theirs


async def test_nodes_that_create_the_same_session_at_once_agree_on_it(shared_url, nursery):
    got = []

    async def ask(node, name):
        session = await node.write(messages.ensure_session, "ann", "s1", name, 5.0)
        got.append(session.global_id)

    async with open_database(shared_url) as one, open_database(shared_url) as other:
        for node in (one, other):
            await nursery.start(node.run_writer)
        async with trio.open_nursery() as askers:
            for number in range(20):
                askers.start_soon(ask, (one, other)[number % 2], f"g{number}")
    assert len(got) == 20
    assert len(set(got)) == 1


async def test_a_message_comes_back_as_it_was_stored(db):
    full = message(
        "m1",
        role="assistant",
        content="你好 🌍",
        reasoning="hm",
        model="gpt",
        provider="openai",
        finish_reason=FinishReason.COMPLETED,
        usage=USAGE,
    )
    plain = message("m2", "m1")
    await db.write(talk, full, plain)
    assert await db.read(messages.find_message, "m1") == full
    assert await db.read(messages.find_message, "m2") == plain
    assert await db.read(messages.find_message, "m3") is None


async def test_storing_a_message_updates_its_session_and_never_turns_its_clock_back(db):
    await db.write(talk, message("m1", at=20.0), message("m2", at=15.0))
    assert (await db.read(messages.find_session, "ann", "s1")).updated_at == 20.0


async def test_newest_is_the_message_stored_last_whatever_its_clock_said(db):
    await db.write(talk, message("m1", at=30.0), message("m2", at=20.0), message("other", conversation="c2"))
    assert (await db.read(messages.newest, "g1", "c1")).message_id == "m2"
    assert await db.read(messages.newest, "g1", "c3") is None
    assert await db.read(messages.newest, "g2", "c1") is None


async def test_a_branch_runs_from_the_root_to_its_leaf_and_leaves_its_siblings_out(db):
    tree = [message("q1"), message("a1", "q1"), message("a2", "q1"), message("q2", "a1"), message("q3", "a2")]
    await db.write(talk, *tree)
    assert ids(await db.read(messages.branch, "q3", 10)) == ["q1", "a2", "q3"]
    assert ids(await db.read(messages.branch, "q2", 10)) == ["q1", "a1", "q2"]


async def test_a_branch_is_cut_at_its_old_end(db):
    await db.write(talk, message("1"), message("2", "1"), message("3", "2"))
    assert ids(await db.read(messages.branch, "3", 3)) == ["1", "2", "3"]
    assert ids(await db.read(messages.branch, "3", 2)) == ["2", "3"]
    assert ids(await db.read(messages.branch, "3", 1)) == ["3"]
    assert ids(await db.read(messages.branch, "3", 0)) == []
    assert ids(await db.read(messages.branch, "nobody", 3)) == []


async def test_history_pages_backwards_through_all_conversations(db):
    await db.write(talk, message("1"), message("2", conversation="c2"), message("3"), message("4"))
    page = await db.read(messages.history, "g1", None, 3)
    assert ids(page) == ["2", "3", "4"]
    before = await db.read(sequence_in, "g1", page[0].message_id)
    assert ids(await db.read(messages.history, "g1", before, 3)) == ["1"]
    assert await db.read(messages.history, "g2", None, 3) == []


async def test_deleting_a_session_takes_a_very_long_conversation_along(db):
    long = [message("0"), *(message(str(n), str(n - 1)) for n in range(1, 1500))]
    await db.write(talk, *long)
    await db.write(lambda conn: conn.execute(delete(schema.sessions)) and None)
    assert await db.read(lambda conn: conn.execute(select(func.count()).select_from(schema.messages)).scalar()) == 0


async def test_sequence_numbers_are_not_used_twice(db):
    await db.write(talk, message("1"), message("2"))
    second = await db.read(sequence_in, "g1", "2")
    await db.write(lambda conn: conn.execute(delete(schema.messages)) and None)
    await db.write(talk, message("3"))
    assert await db.read(sequence_in, "g1", "3") > second
