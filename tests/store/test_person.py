import pytest
from sqlalchemy import Text, or_, select

from scm_trio.errors import NotFound
from scm_trio.model import FinishReason
from scm_trio.store import files, ledger, quota, runs, schema
from scm_trio.store.access import enter, resolve
from scm_trio.store.housekeeping import catch_up, purge_removed
from scm_trio.store.members import members_of
from scm_trio.store.messages import branch, find_message
from scm_trio.store.person import delete_user, export_user
from scm_trio.store.removal import NOBODY, SOMEBODY
from scm_trio.store.search import SearchQuery, find
from scm_trio.store.sessions import SessionChanges, set_title_if_absent, update_session

from .talking import answer, ask, bring_file, count_rows, give_all, member, open_session, owner, say


def live(conn):
    """Ann has a session of her own and one with Bob, who owns another one with her in it; Eve has nothing to do with it."""
    enter(conn, "ann", "s1", "g1", 1.0)
    open_session(conn, "g2", others=[owner("bob"), member("eve")], title="供应链", at=2.0)
    open_session(conn, "g3", by="bob", others=[member("ann")], at=3.0)
    ask(conn, "r1", in_="g1", at=10.0)
    ask(conn, "r2", in_="g2", at=20.0)
    ask(conn, "r3", in_="g2", by="bob", at=30.0, parent_id="a-r2")
    ask(conn, "r4", in_="g3", at=40.0)
    ask(conn, "r5", in_="g3", by="bob", at=50.0, parent_id="a-r4")
    for user in ("ann", "bob"):
        bring_file(conn, f"f-{user}", user)
    files.attach(conn, "q-r2", ["f-ann"], 20.0)
    files.attach(conn, "q-r3", ["f-bob"], 30.0)
    set_title_if_absent(conn, "g3", "question", "q-r4")
    quota.reserve(conn, quota.Reservation("r4", "ann", 0, 100, 1.0))


async def everything(db, user):
    return await db.read(lambda conn: list(export_user(conn, user)))


async def erase(db, user):
    steps = 0
    while await db.write(delete_user, user):
        steps += 1
    await purge_removed(db)
    return steps


# ---- export


async def test_an_export_has_all_that_is_kept_about_a_person(db):
    await db.write(live)
    await db.write(give_all, "ann")
    records = await everything(db, "ann")
    assert [record["kind"] for record in records] == [
        *["session"] * 3,
        *["message"] * 6,
        *["file", "attachment"],
        *["run"] * 3,
        *["reservation"],
        *["usage"] * 3,
    ]
    first, second, third = records[:3]
    assert (first["sessionId"], first["role"], first["readTo"], first["deliveredTo"] > 0) == ("s1", "owner", 0, True)
    assert (second["title"], second["ownerId"], second["userId"]) == ("供应链", "ann", "ann")
    assert (second["createdAt"], second["joinedAt"]) == ("1970-01-01T00:00:02.000Z", "1970-01-01T00:00:02.000Z")
    assert (third["globalId"], third["role"], third["archived"]) == ("g3", "member", False)
    said = [
        (record["messageId"], record["content"], record["userId"]) for record in records if record["kind"] == "message"
    ]
    assert said[:2] == [("q-r1", "question r1", "ann"), ("a-r1", "answer r1", "ann")]
    assert {user for _, _, user in said} == {"ann"}, "what others said is theirs"
    (kept,) = [record for record in records if record["kind"] == "file"]
    assert (kept["fileId"], kept["name"], kept["sizeBytes"]) == ("f-ann", "f-ann.png", 9)
    ran = [record for record in records if record["kind"] == "run"]
    assert [(record["runId"], record["requestId"], record["state"]) for record in ran] == [
        (run, run, "ended") for run in ("r1", "r2", "r4")
    ]
    (spent, *_) = [record for record in records if record["kind"] == "usage"]
    assert (spent["attemptId"], spent["promptTokens"], spent["cost"]) == ("t-r1", 3, 0.5)


async def test_an_export_of_nobody_is_empty(db):
    await db.write(live)
    assert await everything(db, "dan") == []


async def test_an_export_has_nothing_that_only_others_know_of_a_session(db):
    await db.write(enter, "bob", "lawyer", "g1", 1.0)
    people = [owner("bob"), member("ann")]
    await db.write(update_session, "bob", "lawyer", SessionChanges(members=people), 2.0)
    await db.write(ask, "r1", by="bob")
    await db.write(set_title_if_absent, "g1", "Contracts", "q-r1")
    (hers,) = await everything(db, "ann")
    assert (hers["sessionId"], hers["globalId"], hers["title"]) == ("g1", "g1", "Contracts")
    assert (hers["ownerId"], hers["titleSource"]) == (None, None)
    (his, *_) = await everything(db, "bob")
    assert (his["sessionId"], his["ownerId"], his["titleSource"]) == ("lawyer", "bob", "bob")


async def test_of_a_session_that_one_began_and_left_an_export_has_what_is_ones_own(db):
    def begin_and_leave(conn):
        enter(conn, "ann", "mine", "g1", 1.0)
        ask(conn, "r1", in_="g1", at=10.0)
        set_title_if_absent(conn, "g1", "Ann's question", "q-r1")
        update_session(conn, "ann", "mine", SessionChanges(members=[owner("bob")], system_prompt="Bob's"), 50.0)

    await db.write(begin_and_leave)
    (session,) = [each for each in await everything(db, "ann") if each["kind"] == "session"]
    assert (session["globalId"], session["ownerId"], session["title"]) == ("g1", "ann", "Ann's question")
    assert (session["role"], session["userId"], session["systemPrompt"]) == (None, None, None)
    await db.write(lambda conn: update_session(conn, "bob", "g1", SessionChanges(title="Bob's own"), 60.0))
    (session,) = [each for each in await everything(db, "ann") if each["kind"] == "session"]
    assert session["title"] is None


@pytest.mark.parametrize("name", [NOBODY, SOMEBODY])
async def test_the_names_of_nobody_are_no_persons(db, name):
    await db.write(live)
    assert await db.write(delete_user, name) == 0


async def test_what_one_said_in_a_session_that_one_has_left_is_exported(db):
    await db.write(live)
    await db.write(update_session, "bob", "g3", SessionChanges(members=[owner("bob")]), 60.0)
    records = await everything(db, "ann")
    assert "q-r4" in {record.get("messageId") for record in records}
    # Of the session itself the title alone is hers: it was made from her question.
    (left,) = [each for each in records if each["kind"] == "session" and each["globalId"] == "g3"]
    assert (left["title"], left["titleSource"], left["ownerId"], left["role"]) == ("question", "ann", None, None)


# ---- deletion


def named_in(conn, user):
    """The tables that have the user's name anywhere."""
    found = set()
    for table in schema.metadata.sorted_tables:
        texts = [column for column in table.c if isinstance(column.type, Text)]
        if conn.execute(select(table).where(or_(*(column == user for column in texts)))).first():
            found.add(table.name)
    return found


async def test_a_deleted_persons_name_stands_nowhere(db):
    """A new table with people in it has to be looked after in ``person.py``, and to be filled by ``live``."""
    await db.write(live)
    people = {table.name for table in schema.metadata.sorted_tables if {"user_id", "owner_id"} & set(table.c.keys())}
    assert await db.read(named_in, "ann") == people
    await erase(db, "ann")
    assert await db.read(named_in, "ann") == set()


async def test_ones_own_sessions_go_and_others_are_left(db):
    await db.write(live)
    assert await erase(db, "ann") > 0
    for user, reference in (("ann", "s1"), ("ann", "g1"), ("ann", "g2"), ("ann", "g3")):
        with pytest.raises(NotFound):
            await db.read(resolve, user, reference)
    assert await db.read(members_of, ["g2", "g3"]) == {"g2": (owner("bob"), member("eve")), "g3": (owner("bob"),)}
    assert await everything(db, "ann") == []
    assert await db.write(delete_user, "ann") == 0


async def test_a_session_whose_only_owner_goes_goes_with_him(db):
    await db.write(live)
    await erase(db, "bob")
    assert await db.read(count_rows, schema.sessions) == 2
    with pytest.raises(NotFound):
        await db.read(resolve, "ann", "g3")
    assert await db.read(members_of, ["g2"]) == {"g2": (owner("ann"), member("eve"))}


async def test_what_one_said_is_deleted_everywhere_and_what_others_said_can_still_be_read(db):
    await db.write(live)
    await catch_up(db)
    await erase(db, "ann")
    for run in ("r2", "r4"):
        assert await db.read(find_message, f"q-{run}") is None
        assert await db.read(find_message, f"a-{run}") is None
    assert [each.message_id for each in await db.read(branch, "a-r3", 9)] == ["q-r3", "a-r3"]
    assert [each.message_id for each in await db.read(branch, "a-r5", 9)] == ["q-r5", "a-r5"]
    assert [hit.message.message_id for hit in (await db.read(find, "bob", SearchQuery("question"))).items] == [
        "q-r5",
        "q-r3",
    ]
    assert await db.read(count_rows, schema.messages) == await db.read(count_rows, schema.message_search) == 4


async def test_what_one_said_in_a_session_that_one_has_left_is_deleted_too(db):
    await db.write(live)
    await db.write(update_session, "bob", "g3", SessionChanges(members=[owner("bob")]), 60.0)
    await erase(db, "ann")
    assert await db.read(find_message, "q-r4") is None
    assert await db.read(find_message, "q-r5")


async def test_a_title_that_was_made_of_what_one_asked_goes_and_one_that_somebody_chose_stays(db):
    await db.write(live)
    await db.write(open_session, "g4", by="bob", others=[owner("ann")], at=4.0)
    await db.write(open_session, "g5", by="bob", others=[owner("ann")], at=5.0)
    for number, (session, user) in enumerate((("g4", "ann"), ("g5", "bob"))):
        await db.write(say, f"q{number}", in_=session, by=user)
        assert await db.write(set_title_if_absent, session, f"of {user}", f"q{number}")
    await db.write(update_session, "bob", "g3", SessionChanges(title="chosen"), 60.0)
    await db.write(update_session, "bob", "g4", SessionChanges(members=[owner("bob")]), 60.0)
    await erase(db, "ann")
    titles = {name: (await db.read(resolve, "bob", name)).session.title for name in ("g2", "g3", "g4", "g5")}
    assert titles == {"g2": "供应链", "g3": "chosen", "g4": None, "g5": "of bob"}
    assert not await db.write(set_title_if_absent, "g4", "too late", "q0")


async def test_ones_files_are_leaving_under_no_name_and_others_stay(db):
    await db.write(live)
    await erase(db, "ann")
    assert await db.write(files.sweep, unattached_before=0.0, limit=9) == ["f-ann"]
    assert await db.read(files.find_readable, "ann", "f-ann") is None
    assert await db.read(files.find_readable, "eve", "f-bob"), "his question is still there, and shows it"


async def test_the_ledger_keeps_its_sums_and_forgets_the_name(db):
    await db.write(live)
    total = select(schema.usage.c.cost, schema.usage.c.user_id).order_by(schema.usage.c.started_at)
    await erase(db, "ann")
    rows = await db.read(lambda conn: conn.execute(total).all())
    assert rows == [(0.5, ""), (0.5, ""), (0.5, "bob"), (0.5, ""), (0.5, "bob")]
    assert await db.read(ledger.attempts, "ann", 0.0, 99.0) == []


async def test_an_answer_that_is_running_meanwhile_ends_without_a_trace(db):
    await db.write(live)
    await db.write(ask, "r9", in_="g3", at=60.0, end=False)
    await erase(db, "ann")
    await db.write(runs.end_run, runs.EndedRun("r9", FinishReason.COMPLETED, 70.0, "because"))
    assert await everything(db, "ann") == []


async def test_another_answer_to_a_deleted_question_goes_and_one_to_anothers_question_is_taken_out(db):
    await db.write(open_session, "g1", by="bob", others=[member("ann")])
    await db.write(say, "hers", by="ann")
    await db.write(answer, "to hers", "hers", by="bob")
    await db.write(say, "his", "to hers", by="bob")
    await db.write(answer, "again", "his", by="ann")
    await db.write(say, "after", "again", by="bob")
    await erase(db, "ann")
    assert await db.read(find_message, "to hers") is None
    assert [each.message_id for each in await db.read(branch, "after", 9)] == ["his", "after"]


async def test_nobody_cannot_be_deleted(db):
    await db.write(live)
    await erase(db, "ann")
    assert await db.write(delete_user, "") == 0


async def test_a_person_with_much_is_deleted_in_batches(db, monkeypatch):
    monkeypatch.setattr("scm_trio.store.person.BATCH", 2)
    await db.write(open_session, "g1", by="bob", others=[member("ann")])
    for number in range(5):
        await db.write(ask, f"r{number}")
    sizes = []
    while not sizes or sizes[-1]:
        sizes.append(await db.write(delete_user, "ann"))
    assert max(sizes) <= 4
    assert len(sizes) > 5
    assert await everything(db, "ann") == []


async def test_a_session_that_has_no_members_by_mistake_goes_with_the_one_who_named_it(db):
    await db.write(open_session)
    await db.write(lambda conn: conn.execute(schema.members.delete()) and None)
    await erase(db, "ann")
    assert await db.read(count_rows, schema.sessions) == 0
