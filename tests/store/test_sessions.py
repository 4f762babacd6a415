import pytest
from attrs import evolve
from sqlalchemy import select

from scm_trio.errors import Forbidden, InvalidMessage, NotFound
from scm_trio.model import FinishReason
from scm_trio.store import ledger, runs, schema
from scm_trio.store.access import enter, resolve
from scm_trio.store.messages import find_message
from scm_trio.store.removal import BATCH, purge
from scm_trio.store.session_list import SessionView, view, views_of_members
from scm_trio.store.sessions import (
    MAX_SYSTEM_PROMPT_CHARS,
    MAX_TITLE_CHARS,
    NewSession,
    SessionChanges,
    create_session,
    delete_session,
    set_title_if_absent,
    update_session,
)

from .talking import ask, count_rows, member, open_session, owner, talk, viewer

PLAIN = SessionView("g1", "g1", None, False, None, None, None, "owner", (owner("ann"),), 0, 1.0, 1.0)


def update(conn, user="ann", reference="g1", at=9.0, **changes):
    return update_session(conn, user, reference, SessionChanges(**changes), at)


def look(conn, user, reference="g1"):
    return view(conn, resolve(conn, user, reference))


async def test_a_created_session_is_called_by_its_global_id(db):
    assert await db.write(open_session) == PLAIN
    assert await db.read(look, "ann") == PLAIN


async def test_a_session_is_created_with_all_that_is_said_about_it(db):
    said = {"title": " 供应链 ", "model": "gpt", "provider": "openai", "system_prompt": "Be brief."}
    created = await db.write(open_session, others=[viewer("eve"), member("bob"), viewer("ann")], **said)
    people = (owner("ann"), member("bob"), viewer("eve"))
    assert created == evolve(PLAIN, **{**said, "title": "供应链"}, members=people)
    assert await db.read(look, "eve") == evolve(created, role="viewer")


@pytest.mark.parametrize(
    ("new", "field", "expected"),
    [
        (NewSession(title="x" * (MAX_TITLE_CHARS + 1)), "title", "too_long"),
        (NewSession(system_prompt="x" * (MAX_SYSTEM_PROMPT_CHARS + 1)), "systemPrompt", "too_long"),
        (NewSession(members=(member("bob"), viewer("bob"))), "members", "once"),
        (NewSession(members=tuple(member(f"u{number}") for number in range(100))), "members", "too_long"),
    ],
)
async def test_an_impossible_session_is_not_created(db, new, field, expected):
    with pytest.raises(InvalidMessage) as caught:
        await db.write(create_session, "ann", "g1", new, 1.0)
    assert (caught.value.field, caught.value.params["expected"]) == (field, expected)
    assert await db.read(count_rows, schema.sessions) == 0


async def test_an_update_changes_what_it_names_and_shows_everybody_the_result(db):
    await db.write(open_session, title="old", system_prompt="Be brief.", others=[member("bob")])
    changed = await db.write(update, "bob", title="new", archived=True)
    assert (changed.global_id, set(changed.views), changed.removed) == ("g1", {"ann", "bob"}, ())
    seen = changed.views["bob"]
    assert (seen.title, seen.archived, seen.system_prompt, seen.role) == ("new", True, "Be brief.", "member")
    assert (seen.updated_at, seen.created_at) == (9.0, 1.0)
    assert await db.read(views_of_members, "g1") == changed.views
    assert await db.read(views_of_members, "g9") == {}
    cleared = await db.write(update, title=" ", system_prompt="", archived=False)
    seen = cleared.views["ann"]
    assert (seen.title, seen.system_prompt, seen.archived) == (None, None, False)


async def test_an_update_does_not_turn_the_clock_back_and_an_empty_one_does_nothing(db):
    await db.write(open_session, at=50.0)
    assert (await db.write(update, title="t", at=40.0)).views["ann"].updated_at == 50.0
    assert (await db.write(update, at=60.0)).views["ann"].updated_at == 50.0


async def test_an_update_of_the_members_tells_who_was_taken_off(db):
    await db.write(open_session, others=[member("bob"), viewer("eve")])
    changed = await db.write(update, members=[owner("ann"), owner("dan")])
    assert (set(changed.views), changed.removed) == ({"ann", "dan"}, ("bob", "eve"))
    assert (changed.added, changed.before.owner_id, changed.after.owner_id) == (("dan",), "ann", "ann")
    left = await db.write(update, members=[owner("dan")])
    assert (set(left.views), left.added, left.removed) == ({"dan"}, (), ("ann",))
    assert (left.before.owner_id, left.after.owner_id) == ("ann", "ann"), "she began it"
    assert (left.views["dan"].session_id, left.views["dan"].updated_at) == ("g1", 9.0)


async def test_an_update_that_is_refused_changes_nothing(db):
    await db.write(open_session, title="old", others=[member("bob"), viewer("eve")])
    refusals = [
        ("eve", {"title": "new"}, Forbidden),
        ("eve", {"archived": True}, Forbidden),
        ("bob", {"title": "new", "members": [owner("bob")]}, Forbidden),
        ("dan", {"title": "new"}, NotFound),
        ("ann", {"title": "x" * (MAX_TITLE_CHARS + 1)}, InvalidMessage),
        ("ann", {"title": "new", "members": [viewer("ann")]}, InvalidMessage),
    ]
    before = await db.read(look, "ann")
    for user, changes, failure in refusals:
        with pytest.raises(failure):
            await db.write(update, user, **changes)
    assert await db.read(look, "ann") == before


async def test_deleting_a_session_takes_everything_but_the_ledger(db):
    await db.write(enter, "ann", "s1", "g1", 1.0)
    await db.write(open_session, "g2")
    await db.write(update, reference="s1", members=[owner("ann"), member("bob")])
    for session, run in (("g1", "r1"), ("g2", "r2")):
        await db.write(ask, run, in_=session)
    deleted = await db.write(delete_session, "ann", "s1")
    assert (deleted.global_id, deleted.names) == ("g1", {"ann": "s1", "bob": "g1"})
    for table, left in ((schema.sessions, 1), (schema.messages, 2), (schema.runs, 1), (schema.members, 1)):
        assert await db.read(count_rows, table) == left
    assert len(await db.read(ledger.attempts, "ann", 0.0, 99.0)) == 2
    assert (await db.write(enter, "ann", "s1", "g3", 20.0)).global_id == "g3", "the name is free again"


async def test_owners_alone_delete(db):
    await db.write(open_session, others=[member("bob"), viewer("eve")])
    for user, failure in (("bob", Forbidden), ("eve", Forbidden), ("dan", NotFound)):
        with pytest.raises(failure):
            await db.write(delete_session, user, "g1")
    assert await db.read(look, "ann")


async def test_a_huge_session_is_gone_at_once_and_its_messages_follow_in_batches(db):
    await db.write(enter, "ann", "s1", "g1", 1.0)
    await db.write(talk, *(f"m{number}" for number in range(2 * BATCH + 10)))
    await db.write(delete_session, "ann", "s1")
    with pytest.raises(NotFound):
        await db.read(resolve, "ann", "s1")
    assert await db.read(count_rows, schema.messages) == BATCH + 10
    assert await db.read(lambda conn: conn.execute(select(schema.sessions.c.title)).scalars().all()) == [None]
    assert [await db.write(purge) for _ in range(3)] == [BATCH, 10, 0]
    assert await db.read(count_rows, schema.sessions) == 0


async def test_a_run_whose_session_was_deleted_ends_without_a_trace(db):
    await db.write(open_session)
    await db.write(ask, "r1", end=False)
    await db.write(delete_session, "ann", "g1")
    await db.write(runs.end_run, runs.EndedRun("r1", FinishReason.COMPLETED, 12.0, "because"))
    assert await db.read(find_message, "a-r1") is None


async def test_a_title_is_made_only_where_there_is_none(db):
    await db.write(open_session)
    await db.write(talk, "q1")
    assert not await db.write(set_title_if_absent, "g1", "  ", "q1")
    assert await db.write(set_title_if_absent, "g1", " " + "长" * 300, "q1")
    assert (await db.read(look, "ann")).title == "长" * MAX_TITLE_CHARS
    assert not await db.write(set_title_if_absent, "g1", "another", "q1")
    assert not await db.write(set_title_if_absent, "g9", "another", "q1")


async def test_no_title_is_made_from_a_question_that_is_not_there_any_more(db):
    await db.write(open_session)
    await db.write(open_session, "g2")
    await db.write(talk, "q1", in_="g2")
    assert not await db.write(set_title_if_absent, "g1", "title", "q9")
    assert not await db.write(set_title_if_absent, "g1", "title", "q1")
    assert (await db.read(look, "ann")).title is None
