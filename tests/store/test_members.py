import pytest
import trio

from scm_trio.errors import Forbidden, InvalidMessage, NotFound
from scm_trio.store.access import enter, resolve, resolve_for_change
from scm_trio.store.database import open_database
from scm_trio.store.members import MAX_MEMBERS, Markers, markers_of, members_of, set_members

from .talking import answer, member, open_session, owner, say, viewer


def change(conn, user, wanted, reference="g1", at=20.0):
    return set_members(conn, resolve_for_change(conn, user, reference), wanted, at)


async def people(db, global_id="g1"):
    return {each.user_id: each.role for each in (await db.read(members_of, [global_id]))[global_id]}


async def test_a_list_replaces_the_list_before(db):
    await db.write(open_session, others=[member("bob"), viewer("eve")])
    removed = await db.write(change, "ann", [owner("ann"), viewer("bob"), owner("dan")])
    assert removed == ("eve",)
    assert await db.read(members_of, ["g1"]) == {"g1": (owner("ann"), owner("dan"), viewer("bob"))}
    with pytest.raises(NotFound):
        await db.read(resolve, "eve", "g1")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([], "owner"),
        ([member("ann"), viewer("bob")], "owner"),
        ([owner("ann"), member("bob"), viewer("bob")], "once"),
        ([owner("ann"), *(member(f"u{number}") for number in range(MAX_MEMBERS))], "too_long"),
    ],
)
async def test_a_list_that_cannot_be_changes_nothing(db, wanted, expected):
    await db.write(open_session, others=[member("bob")])
    with pytest.raises(InvalidMessage) as caught:
        await db.write(change, "ann", wanted)
    assert (caught.value.field, caught.value.params["expected"]) == ("members", expected)
    assert await people(db) == {"ann": "owner", "bob": "member"}


async def test_owners_alone_change_the_list(db):
    await db.write(open_session, others=[member("bob"), viewer("eve")])
    for user in ("bob", "eve"):
        with pytest.raises(Forbidden):
            await db.write(change, user, [owner("ann"), owner("bob"), viewer("eve")])
        with pytest.raises(Forbidden):
            await db.write(change, user, [owner("ann"), member("bob"), viewer("eve")])
    with pytest.raises(NotFound):
        await db.write(change, "dan", [owner("dan")])


async def test_everybody_may_leave_but_the_last_owner(db):
    await db.write(open_session, others=[member("bob"), viewer("eve")])
    assert await db.write(change, "eve", [owner("ann"), member("bob")]) == ("eve",)
    with pytest.raises(InvalidMessage):
        await db.write(change, "ann", [member("bob")])
    assert await people(db) == {"ann": "owner", "bob": "member"}


async def test_a_new_member_has_read_what_was_said_before_and_who_stays_keeps_his_markers(db):
    await db.write(open_session)
    await db.write(say, "q1")
    await db.write(answer, "a1", "q1")
    await db.write(change, "ann", [owner("ann"), member("bob")])
    markers = await db.read(markers_of, "g1")
    assert markers["ann"] == Markers(0, 0)
    assert markers["bob"].read_to == markers["bob"].delivered_to > 0
    await db.write(change, "ann", [owner("ann"), owner("bob")])
    assert await db.read(markers_of, "g1") == markers


async def test_when_the_one_who_named_a_session_leaves_it_everybody_calls_it_by_its_global_id(db):
    await db.write(enter, "ann", "s1", "g1", 5.0)
    await db.write(change, "ann", [owner("ann"), member("bob"), owner("dan")], "s1", 6.0)
    await db.write(change, "ann", [owner("ann"), owner("dan"), owner("bob")], "s1", 7.0)
    await db.write(change, "ann", [owner("bob"), owner("dan")], "s1", 8.0)
    for user in ("bob", "dan"):
        assert (await db.read(resolve, user, "g1")).name == "g1"
    for reference in ("s1", "g1"):
        with pytest.raises(NotFound):
            await db.read(resolve, "ann", reference)


async def test_a_name_whose_session_one_has_left_is_free_for_another(db):
    await db.write(enter, "ann", "s1", "g1", 5.0)
    await db.write(change, "ann", [owner("ann"), owner("bob")], "s1")
    await db.write(change, "bob", [owner("bob")])
    again = await db.write(enter, "ann", "s1", "g2", 9.0)
    assert (again.global_id, again.role) == ("g2", "owner")
    await db.write(change, "bob", [owner("bob"), viewer("ann")])
    assert (await db.read(resolve, "ann", "g1")).role == "viewer", "who comes back uses the global id"


async def test_who_named_a_session_keeps_the_name_in_any_role(db):
    await db.write(enter, "ann", "s1", "g1", 5.0)
    await db.write(change, "ann", [viewer("ann"), owner("bob")], "s1")
    found = await db.read(resolve, "ann", "s1")
    assert (found.global_id, found.role, found.session.owner_id) == ("g1", "viewer", "ann")


async def test_two_owners_who_take_each_other_off_at_once_do_not_both_succeed(shared_url, nursery):
    lost = []

    async def take_over(node, user, session):
        try:
            await node.write(change, user, [owner(user)], session)
        except NotFound:
            lost.append(user)

    sessions = [f"g{number}" for number in range(10)]
    async with open_database(shared_url) as one, open_database(shared_url) as other:
        for node in (one, other):
            await nursery.start(node.run_writer)
        for session in sessions:
            await one.write(open_session, session, others=[owner("bob")])
            async with trio.open_nursery() as both:
                both.start_soon(take_over, one, "ann", session)
                both.start_soon(take_over, other, "bob", session)
        left = await one.read(members_of, sessions)
    assert len(lost) == 10
    assert all([each.role for each in people] == ["owner"] for people in left.values())
