"""The people whom a user shares sessions with."""

from scm_trio.store import companions as module
from scm_trio.store.companions import companions
from scm_trio.store.members import Member
from scm_trio.store.sessions import NewSession, create_session


def create(conn, global_id, owner, *others):
    create_session(conn, owner, global_id, NewSession(members=tuple(Member(other, "viewer") for other in others)), 1.0)


async def test_everybody_else_in_a_user_s_sessions_is_named_once(db):
    await db.write(create, "g1", "ann", "bob", "eve")
    await db.write(create, "g2", "bob", "ann", "joe")
    await db.write(create, "g3", "eve", "zoe")
    await db.write(create, "g4", "ann")
    assert sorted(await db.read(companions, "ann")) == ["bob", "eve", "joe"]
    assert sorted(await db.read(companions, "zoe")) == ["eve"]
    assert await db.read(companions, "nobody") == []


async def test_there_is_a_limit(db, monkeypatch):
    monkeypatch.setattr(module, "MAX_COMPANIONS", 3)
    await db.write(create, "g1", "ann", *(f"u{number}" for number in range(9)))
    assert len(await db.read(companions, "ann")) == 3
