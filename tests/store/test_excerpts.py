"""A session's messages from the beginning on. The same on every database."""

from sqlalchemy import delete

from scm_trio.model import File, Message
from scm_trio.store import excerpts, files, messages, paging, schema


def message(message_id, parent_id=None, *, session="g1", conversation="c1"):
    return Message(message_id, session, conversation, parent_id, "user", "ann", f"text of {message_id}", created_at=1.0)


def talk(conn, *said):
    for session in ("1", "2"):
        messages.ensure_session(conn, "ann", f"s{session}", f"g{session}", 1.0)
    for each in said:
        messages.add_message(conn, each)


TREE = [
    message("q1"),
    message("a1", "q1"),
    message("a2", "q1"),
    message("other", conversation="c2"),
    message("theirs", session="g2"),
    message("q2", "a1"),
]


async def test_the_whole_is_told_in_the_order_of_storing(db):
    await db.write(talk, *TREE)
    assert await db.read(excerpts.whole, "g1") == ["q1", "a1", "a2", "other", "q2"]
    assert await db.read(excerpts.whole, "g2") == ["theirs"]
    assert await db.read(excerpts.whole, "g3") == []


async def test_a_branch_runs_from_its_root_to_its_leaf(db):
    await db.write(talk, *TREE)
    assert await db.read(excerpts.branch, "g1", "q2") == ["q1", "a1", "q2"]
    assert await db.read(excerpts.branch, "g1", "a2") == ["q1", "a2"]
    assert await db.read(excerpts.branch, "g1", "other") == ["other"]


async def test_without_a_leaf_it_is_the_branch_of_the_newest_message(db):
    await db.write(talk, *TREE)
    assert await db.read(excerpts.branch, "g1", None) == ["q1", "a1", "q2"]
    assert await db.read(excerpts.branch, "g3", None) == []


async def test_a_leaf_of_another_session_has_no_branch(db):
    await db.write(talk, *TREE)
    assert await db.read(excerpts.branch, "g1", "theirs") == []
    assert await db.read(excerpts.branch, "g1", "nobody") == []


async def test_a_very_long_conversation_is_told_to_its_newest_end(db, monkeypatch):
    monkeypatch.setattr(excerpts, "MAX_MESSAGES", 3)
    await db.write(talk, message("1"), *(message(str(n), str(n - 1)) for n in range(2, 7)))
    assert await db.read(excerpts.whole, "g1") == ["4", "5", "6"]
    assert await db.read(excerpts.branch, "g1", None) == ["4", "5", "6"]
    assert await db.read(excerpts.branch, "g1", "4") == ["2", "3", "4"]


async def test_a_branch_of_thousands_is_one_query(db):
    await db.write(talk, message("0"), *(message(str(n), str(n - 1)) for n in range(1, 3000)))
    assert await db.read(excerpts.branch, "g1", None) == [str(n) for n in range(3000)]


async def test_messages_are_read_in_the_order_asked_for_with_their_attachments(db):
    file = File("f1", "ann", "a.png", "image/png", 10, 1.0)
    await db.write(talk, *TREE)
    await db.write(files.announce, file)
    await db.write(files.complete, file)
    await db.write(files.attach, "q2", ["f1"], 2.0)
    found, _ = await db.read(excerpts.read, ["q2", "q1"])
    assert [(each.message_id, each.attachments) for each in found] == [("q2", (file,)), ("q1", ())]


async def test_what_was_deleted_meanwhile_is_left_out(db):
    await db.write(talk, *TREE)
    gone = schema.messages.c.message_id == "q2"
    await db.write(lambda conn: conn.execute(delete(schema.messages).where(gone)) and None)
    found, count = await db.read(excerpts.read, ["q2", "q1"])
    assert ([each.message_id for each in found], count) == (["q1"], 2)


async def test_long_messages_come_in_short_pages_of_which_no_more_is_read_than_they_hold(db, monkeypatch):
    monkeypatch.setattr(paging, "MAX_PAGE_CHARS", 25)
    looked_up, find = [], excerpts.find_message
    monkeypatch.setattr(excerpts, "find_message", lambda conn, name: looked_up.append(name) or find(conn, name))
    await db.write(talk, *TREE)  # ten characters each
    ids = ["q1", "a1", "a2", "q2"]
    found, count = await db.read(excerpts.read, ids)
    assert ([each.message_id for each in found], count, looked_up) == (["q1", "a1"], 2, ["q1", "a1", "a2"])
    monkeypatch.setattr(paging, "MAX_PAGE_CHARS", 1)
    found, count = await db.read(excerpts.read, ids[count:])
    assert ([each.message_id for each in found], count) == (["a2"], 1), "one is a page, however long"
