"""Rows of files: coming, ready, attached, unneeded. The same on every database."""

import pytest
from sqlalchemy import delete, select

from scm_trio.errors import StoreError
from scm_trio.model import File, Message
from scm_trio.store import files, messages, schema
from scm_trio.store.files import LEAST_CHARGE_BYTES
from scm_trio.store.members import add_members

DAY_S = 86_400.0


def file(file_id="f1", *, user="ann", size=10_000, at=100.0, **rest):
    return File(file_id, user, f"{file_id}.png", rest.pop("media_type", "image/png"), size, at)


def bring(conn, *found):
    for each in found:
        files.announce(conn, each)
        assert files.complete(conn, each)


def say(conn, message_id, *file_ids, session="s1", role="user"):
    held = messages.ensure_session(conn, "ann", session, f"g-{session}", 1.0)
    said = Message(message_id, held.global_id, session, None, role, "ann", "look", created_at=1.0)
    messages.add_message(conn, said)
    return files.attach(conn, message_id, file_ids, 500.0)


def unsay(conn, message_id):
    conn.execute(delete(schema.messages).where(schema.messages.c.message_id == message_id))


def rows(conn):
    return {row.file_id: row.state for row in conn.execute(select(schema.files))}


async def test_a_file_is_readable_when_all_of_it_is_there(db):
    assert await db.write(files.announce, file()) == 0
    assert await db.read(files.find_readable, "ann", "f1") is None
    assert await db.write(files.complete, file())
    assert await db.read(files.find_readable, "ann", "f1") == file()


async def test_what_is_only_known_at_the_end_is_written_then(db):
    await db.write(files.announce, file(size=0, media_type=""))
    await db.write(files.complete, file(size=3_000_000_000))
    assert await db.read(files.find_readable, "ann", "f1") == file(size=3_000_000_000)


async def test_a_file_that_was_swept_while_it_came_cannot_be_completed(db):
    await db.write(files.announce, file())
    await db.write(files.sweep, unattached_before=101.0, limit=10)
    assert not await db.write(files.complete, file())
    assert not await db.write(files.complete, file("f2"))


async def test_nobody_else_may_read_a_file(db):
    await db.write(bring, file())
    assert await db.read(files.find_readable, "bob", "f1") is None
    assert await db.read(files.find_readable, "ann", "f2") is None
    assert await db.read(files.find_own, "bob", ["f1"]) == {}
    assert await db.read(files.find_own, "ann", ["f2", "f1"]) == {"f1": file()}


async def test_members_may_read_what_a_message_of_their_session_shows(db):
    await db.write(bring, file("f1"), file("f2"))
    await db.write(say, "m1", "f1")
    await db.write(add_members, "g-s1", {"bob": "viewer"}, 1.0)
    assert await db.read(files.find_readable, "bob", "f1") == file("f1")
    assert await db.read(files.find_readable, "bob", "f2") is None
    assert await db.read(files.find_own, "bob", ["f1"]) == {}, "but attach it he may not"
    await db.write(unsay, "m1")
    assert await db.read(files.find_readable, "bob", "f1") is None
    assert await db.read(files.find_readable, "ann", "f1")


async def test_small_files_cost_a_block_each(db):
    await db.write(bring, file("f1", size=1), file("f2", size=9_000), file("f3", user="bob", size=70_000))
    assert await db.read(files.used_bytes, "ann") == LEAST_CHARGE_BYTES + 9_000
    assert await db.read(files.used_bytes, "nobody") == 0
    assert await db.write(files.announce, file("f4")) == LEAST_CHARGE_BYTES + 9_000


async def test_messages_come_with_their_attachments_in_order(db):
    await db.write(bring, file("f1"), file("f2"), file("f3"))
    assert await db.write(say, "m1", "f2", "f1")
    assert await db.write(say, "m2")
    assert await db.write(say, "m3", "f1", "f3")

    found = [await db.read(messages.find_message, name) for name in ("m3", "m2", "m1")]
    complete = await db.read(files.with_attachments, found)
    assert [each.message_id for each in complete] == ["m3", "m2", "m1"]
    assert [each.attachments for each in complete] == [(file("f1"), file("f3")), (), (file("f2"), file("f1"))]


async def test_answers_and_plain_messages_stay_as_they_are(db):
    await db.write(say, "m1", role="assistant")
    await db.write(say, "m2")
    found = [await db.read(messages.find_message, name) for name in ("m1", "m2")]
    assert await db.read(files.with_attachments, found) == found
    assert await db.read(files.with_attachments, found[:1]) == found[:1]
    assert await db.read(files.with_attachments, []) == []


async def test_what_is_coming_or_leaving_cannot_be_attached(db):
    await db.write(bring, file("f1"), file("f2"))
    await db.write(files.announce, file("f3"))
    assert not await db.write(say, "m1", "f1", "f3")
    await db.write(files.sweep, unattached_before=101.0, limit=10)
    assert await db.read(files.find_own, "ann", ["f2"]) == {}
    assert not await db.write(say, "m2", "f2")


async def test_the_same_file_can_be_attached_to_many_messages_but_once_to_one(db):
    await db.write(bring, file())
    assert await db.write(say, "m1", "f1")
    assert await db.write(say, "m2", "f1")
    with pytest.raises(StoreError):
        await db.write(
            lambda conn: conn.execute(schema.attachments.insert(), {"message_id": "m1", "position": 0, "file_id": "f1"})
        )


# ---- sweeping


async def test_what_was_never_attached_goes_after_its_time(db):
    await db.write(bring, file("old", at=100.0), file("new", at=100.0 + DAY_S))
    await db.write(files.announce, file("stuck", at=100.0))
    assert await db.write(files.sweep, unattached_before=100.0, limit=10) == []
    assert sorted(await db.write(files.sweep, unattached_before=101.0, limit=10)) == ["old", "stuck"]
    assert await db.read(files.find_readable, "ann", "old") is None
    assert await db.read(files.find_readable, "ann", "new") is not None


async def test_what_is_attached_stays_however_old_it_is(db):
    await db.write(bring, file())
    await db.write(say, "m1", "f1")
    assert await db.write(files.sweep, unattached_before=9e9, limit=10) == []


async def test_a_file_goes_with_its_last_message_at_any_age(db):
    await db.write(bring, file("f1"), file("f2"))
    await db.write(say, "m1", "f1", "f2")
    await db.write(say, "m2", "f2")
    await db.write(unsay, "m1")
    assert await db.write(files.sweep, unattached_before=0.0, limit=10) == ["f1"]
    await db.write(files.forget, ["f1"])
    await db.write(unsay, "m2")
    assert await db.write(files.sweep, unattached_before=0.0, limit=10) == ["f2"]


async def test_a_file_goes_with_its_session(db):
    await db.write(bring, file())
    await db.write(say, "m1", "f1")
    await db.write(lambda conn: conn.execute(delete(schema.sessions)) and None)
    assert await db.write(files.sweep, unattached_before=0.0, limit=10) == ["f1"]


async def test_what_leaves_is_told_until_it_is_forgotten(db):
    await db.write(bring, file())
    for _ in range(2):
        assert await db.write(files.sweep, unattached_before=101.0, limit=10) == ["f1"]
    await db.write(files.forget, ["f1"])
    assert await db.write(files.sweep, unattached_before=101.0, limit=10) == []
    assert await db.read(rows) == {}


async def test_a_sweep_takes_no_more_than_it_may(db):
    await db.write(bring, *(file(f"a{n}") for n in range(5)), *(file(f"b{n}") for n in range(5)))
    await db.write(say, "m1", *(f"b{n}" for n in range(5)))
    await db.write(unsay, "m1")
    swept = []
    for _ in range(20):
        leaving = await db.write(files.sweep, unattached_before=101.0, limit=2)
        assert len(leaving) <= 2
        await db.write(files.forget, leaving)
        swept += leaving
    assert sorted(swept) == sorted([f"a{n}" for n in range(5)] + [f"b{n}" for n in range(5)])
    assert await db.read(lambda conn: conn.execute(select(schema.attachments)).all()) == []


async def test_forgetting_a_file_takes_its_attachments_along(db):
    await db.write(bring, file("f1"), file("f2"))
    await db.write(say, "m1", "f1", "f2")
    await db.write(files.forget, ["f1"])
    message = await db.read(messages.find_message, "m1")
    assert [each.attachments for each in await db.read(files.with_attachments, [message])] == [(file("f2"),)]
