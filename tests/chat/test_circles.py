"""Who belongs together is looked up once, and never remembered when it may be wrong."""

import pytest
import trio

from scm_trio.chat import circles as module
from scm_trio.chat.circles import Circles
from scm_trio.errors import NotFound
from scm_trio.store.database import inline, open_database
from scm_trio.store.members import Member
from scm_trio.store.messages import ensure_session
from scm_trio.store.sessions import SessionChanges, update_session

GLOBAL_ID = f"s-{1:024x}"


@pytest.fixture
async def db(nursery):
    async with open_database("sqlite://", offload=inline) as database:
        await nursery.start(database.run_writer)
        yield database


async def share(db, *people, by="ann", reference="plans"):
    wanted = SessionChanges(members=[Member(user, "owner") for user in people])
    await db.write(update_session, by, reference, wanted, 2.0)


async def test_a_session_is_found_by_its_owner_s_name_and_by_its_global_id(db):
    await db.write(ensure_session, "ann", "plans", GLOBAL_ID, 1.0)
    await share(db, "ann", "bob")
    circles = Circles(db)
    by_name = await circles.find("ann", "plans")
    assert by_name == await circles.find("ann", GLOBAL_ID) == await circles.find("bob", GLOBAL_ID)
    assert by_name.names == {"ann": "plans", "bob": GLOBAL_ID}
    assert by_name.keys == {GLOBAL_ID, ("ann", "plans")}
    with pytest.raises(NotFound):
        await circles.find("bob", "plans")


async def test_a_name_that_has_passed_to_another_session_is_not_remembered(db):
    await db.write(ensure_session, "ann", "plans", GLOBAL_ID, 1.0)
    await share(db, "ann", "bob")
    circles = Circles(db)
    await circles.find("ann", "plans")
    await share(db, "bob", by="ann")  # it is bob's now, and called by its global id
    circles.forget(GLOBAL_ID, ["ann", "bob"])
    await share(db, "bob", "ann", by="bob", reference=GLOBAL_ID)
    circles.forget(GLOBAL_ID, ["ann", "bob"])
    await circles.find("bob", GLOBAL_ID)
    await db.write(ensure_session, "ann", "plans", f"s-{2:024x}", 3.0)
    assert (await circles.find("ann", "plans")).global_id == f"s-{2:024x}"


async def test_what_changes_while_it_is_looked_up_is_looked_up_again(db, monkeypatch):
    await db.write(ensure_session, "ann", "plans", GLOBAL_ID, 1.0)
    circles = Circles(db)
    real, reads = db.read, []

    async def slow(fn, *args, **more):
        found = await real(fn, *args, **more)
        reads.append(fn)
        if len(reads) in (1, 3):
            await share(db, *(["ann", "bob"] if len(reads) == 1 else ["ann"]))
            circles.forget(GLOBAL_ID, ["ann", "bob"])
        return found

    monkeypatch.setattr(db, "read", slow)
    assert set((await circles.find("ann", "plans")).names) == {"ann", "bob"}
    assert await circles.companions("ann") == frozenset()
    assert len(reads) == 4


async def test_what_is_remembered_stays_bounded(db, monkeypatch, autojump_clock):
    monkeypatch.setattr(module, "MAX_REMEMBERED", 3)
    circles = Circles(db)
    for number in range(5):
        await circles.companions(f"user{number}")
    assert len(circles._companions._entries) == 3
    await trio.sleep(module.TTL_S)
    assert circles._companions.get("user4") is None
