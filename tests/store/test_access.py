import pytest

from scm_trio.errors import Conflict, Forbidden, NotFound
from scm_trio.model import Session
from scm_trio.store import access, messages
from scm_trio.store.access import Access, enter, resolve
from scm_trio.store.members import Member, members_of
from scm_trio.store.person import delete_user
from scm_trio.store.sessions import SessionChanges, delete_session, update_session

from .talking import member, open_session, owner, viewer

FORM_OF_A_GLOBAL_ID = "s-0123456789abcdef01234567"


async def test_a_session_is_created_by_the_first_who_names_it_and_then_found(db):
    created = await db.write(enter, "ann", "s1", "g1", 5.0)
    assert created == Access(Session("g1", "s1", "ann", created_at=5.0, updated_at=5.0), "ann", "owner", 0, 0)
    assert await db.write(enter, "ann", "s1", "g2", 6.0) == created
    assert await db.read(resolve, "ann", "s1") == created
    assert await db.read(members_of, ["g1"]) == {"g1": (Member("ann", "owner"),)}


async def test_the_session_of_a_first_question_has_its_owner_as_a_member(db):
    await db.write(messages.ensure_session, "ann", "s1", "g1", 5.0)
    assert (await db.read(resolve, "ann", "s1")).role == "owner"


async def test_a_name_is_known_to_its_owner_only(db):
    await db.write(enter, "ann", "s1", "g1", 5.0)
    with pytest.raises(NotFound):
        await db.read(resolve, "bob", "s1")
    await db.write(enter, "bob", "s1", "g2", 5.0)
    assert (await db.read(resolve, "bob", "s1")).global_id == "g2"


async def test_members_address_a_session_by_its_global_id_and_nobody_else_does(db):
    await db.write(enter, "ann", "s1", "g1", 5.0)
    with pytest.raises(NotFound):
        await db.read(resolve, "bob", "g1")
    await db.write(open_session, "g2", others=[viewer("bob")])
    found = await db.read(resolve, "bob", "g2")
    assert (found.global_id, found.name, found.role) == ("g2", "g2", "viewer")
    assert (await db.read(resolve, "ann", "g1")).name == "s1", "her own name for it, however she asked"


async def test_ones_own_name_comes_before_a_global_id(db):
    await db.write(open_session, "g1", others=[member("bob")])
    await db.write(enter, "bob", "mine", "g2", 5.0)
    await db.write(messages.ensure_session, "bob", "g1", "g3", 5.0)
    assert (await db.read(resolve, "bob", "g1")).global_id == "g3"


async def test_what_looks_like_a_global_id_is_never_created(db):
    with pytest.raises(NotFound):
        await db.write(enter, "bob", FORM_OF_A_GLOBAL_ID, "g9", 5.0)
    await db.write(open_session, FORM_OF_A_GLOBAL_ID)
    with pytest.raises(NotFound):
        await db.write(enter, "bob", FORM_OF_A_GLOBAL_ID, "g9", 5.0)
    assert (await db.write(enter, "ann", FORM_OF_A_GLOBAL_ID, "g9", 5.0)).global_id == FORM_OF_A_GLOBAL_ID


@pytest.mark.parametrize(
    ("role", "allowed"),
    [("viewer", ["viewer"]), ("member", ["viewer", "member"]), ("owner", ["viewer", "member", "owner"])],
)
def test_each_role_may_what_the_lesser_ones_may(role, allowed):
    way = Access(Session("g1", "s1", "ann"), "ann", role)
    assert [least for least in access.ROLES if way.may(least)] == allowed
    for least in access.ROLES:
        if least in allowed:
            way.demand(least)
        else:
            with pytest.raises(Forbidden):
                way.demand(least)


async def test_a_user_may_begin_only_so_many_sessions(db, monkeypatch):
    monkeypatch.setattr(access, "MAX_SESSIONS", 2)
    await db.write(enter, "ann", "s1", "g1", 5.0)
    await db.write(open_session, "g2")
    await db.write(open_session, "g3", by="bob", others=[member("ann")])
    with pytest.raises(Conflict) as caught:
        await db.write(enter, "ann", "s3", "g4", 5.0)
    assert caught.value.params == {"notice": "TOO_MANY_SESSIONS", "limit": 2}
    with pytest.raises(Conflict):
        await db.write(open_session, "g4")
    # What is there can be used, and other people's sessions do not count.
    assert (await db.write(enter, "ann", "s1", "g4", 5.0)).global_id == "g1"
    await db.write(enter, "bob", "s1", "g4", 5.0)


async def test_sessions_that_were_given_away_count_for_who_began_them(db, monkeypatch):
    monkeypatch.setattr(access, "MAX_SESSIONS", 2)
    alone = SessionChanges(members=[owner("bob")])
    for session in ("g1", "g2"):
        await db.write(open_session, session, others=[owner("bob")])
        await db.write(update_session, "ann", session, alone, 9.0)
    with pytest.raises(Conflict):
        await db.write(open_session, "g3")
    await db.write(enter, "bob", "s1", "g4", 9.0)
    await db.write(open_session, "g5", by="bob")
    await db.write(delete_session, "bob", "g1")
    await db.write(open_session, "g6")


async def test_sessions_of_a_deleted_person_count_for_nobody(db, monkeypatch):
    monkeypatch.setattr(access, "MAX_SESSIONS", 1)
    await db.write(open_session, others=[owner("bob")])
    while await db.write(delete_user, "ann"):
        pass
    await db.write(open_session, "g2", by="bob")
    assert (await db.read(resolve, "bob", "g1")).role == "owner"
    await db.write(open_session, "g3")
