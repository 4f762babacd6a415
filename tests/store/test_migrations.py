from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import func, inspect, select, text

import scm_trio.store
from scm_trio.store import migrate
from scm_trio.store.engine import make_engine, parse_url
from scm_trio.store.schema import messages, metadata
from scm_trio.store.search import SearchQuery, find, index_pending


@pytest.fixture
def engine(url):
    made = make_engine(parse_url(url))
    yield made
    made.dispose()


SEARCH = ("message_search", "search_queue")
"""The search's own tables, which stand in the migrations alone; FTS5 adds some to each of its tables."""


def tables(engine):
    return {name for name in found(engine) if not name.startswith(SEARCH)}


def found(engine):
    return set(inspect(engine).get_table_names()) - {"alembic_version"}


def is_in_the_code(name, kind, _parents):
    return kind != "table" or not name.startswith(SEARCH)


def differences(engine):
    options = {"compare_type": True, "include_name": is_in_the_code}
    with engine.connect() as connection:
        return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)


def test_up_down_and_up_again(engine):
    migrate.upgrade(engine)
    assert tables(engine) == set(metadata.tables)
    assert "message_search" in found(engine)
    migrate.downgrade(engine)
    assert found(engine) == set()
    migrate.upgrade(engine)
    assert tables(engine) == set(metadata.tables)


def test_upgrading_twice_changes_nothing(engine):
    migrate.upgrade(engine)
    migrate.upgrade(engine)
    assert differences(engine) == []


def test_the_migrated_schema_is_the_one_in_the_code(engine):
    migrate.upgrade(engine)
    assert differences(engine) == []


def fine_print(engine):
    """What ``compare_metadata`` does not look at: conditions of indexes, names and actions of constraints."""
    found = inspect(engine)
    kinds = (found.get_indexes, found.get_unique_constraints, found.get_foreign_keys)
    lists = {(kind.__name__, table): sorted(map(spelled, kind(table))) for kind in kinds for table in metadata.tables}
    return lists, {table: found.get_pk_constraint(table) for table in metadata.tables}


def spelled(described):
    options = described.get("dialect_options", {})
    return str({**described, "dialect_options": {key: str(value) for key, value in options.items()}})


def test_the_migrations_name_and_condition_everything_as_the_code_does(engine):
    migrate.upgrade(engine)
    migrated = fine_print(engine)
    migrate.downgrade(engine)
    metadata.create_all(engine)
    assert migrated == fine_print(engine)


def test_the_search_for_what_is_running_uses_its_indexes():
    engine = make_engine(parse_url("sqlite://"))
    migrate.upgrade(engine)
    with engine.connect() as connection:
        for table, index in (("runs WHERE state", "ix_runs_running"), ("usage WHERE outcome", "ix_usage_running")):
            plan = connection.execute(text(f"EXPLAIN QUERY PLAN SELECT * FROM {table} = 'running'")).all()
            assert index in plan[0].detail
    engine.dispose()


def plan(connection, statement):
    text_of = statement.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
    return [row[3] for row in connection.execute(text(f"EXPLAIN QUERY PLAN {text_of}"))]


def test_pages_the_newest_message_and_unread_ones_are_read_in_the_order_of_an_index():
    engine = make_engine(parse_url("sqlite://"))
    migrate.upgrade(engine)
    stored = messages.c
    newest_first = select(stored.content).where(stored.session_id == "g1").order_by(stored.sequence.desc()).limit(9)
    new = select(func.count()).where(stored.session_id == "g1", stored.sequence > 5, stored.role == "assistant")
    plans = {
        "page": newest_first.where(stored.sequence < 5),
        "newest of a conversation": newest_first.where(stored.conversation_id == "c1"),
        "unread": new.where(stored.user_id != "ann"),
        "first questions": select(stored.role).where(stored.session_id == "g1", stored.parent_id.is_(None)),
        "oldest": select(stored.sequence).where(stored.created_at < 5).order_by(stored.created_at),
    }
    with engine.connect() as connection:
        found = {name: plan(connection, statement) for name, statement in plans.items()}
    assert found == {
        "page": ["SEARCH messages USING INDEX ix_messages_session (session_id=? AND sequence<?)"],
        "newest of a conversation": ["SEARCH messages USING INDEX ix_messages_session (session_id=?)"],
        "unread": ["SEARCH messages USING COVERING INDEX ix_messages_session (session_id=? AND sequence>?)"],
        "first questions": ["SEARCH messages USING INDEX ix_messages_roots (session_id=?)"],
        "oldest": ["SEARCH messages USING COVERING INDEX ix_messages_created_at (created_at<?)"],
    }
    engine.dispose()


def test_a_failing_migration_leaves_nothing_behind(engine):
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE usage (in_the_way int)"))
    with pytest.raises(Exception, match="usage"):
        migrate.upgrade(engine)
    assert tables(engine) == {"usage"}
    assert inspect(engine).has_table("alembic_version") is False


def test_the_revisions_are_one_line_and_numbered():
    folder = Path(scm_trio.store.__file__).parent / "migrations"
    script = ScriptDirectory(str(folder))
    found = [each.revision for each in script.walk_revisions()]
    assert found == sorted(found, reverse=True)
    assert len(found) == len(list((folder / "versions").glob("0*.py")))


# ---- with data in it

SESSION = "INSERT INTO sessions VALUES (:id, :owner, :name, NULL, NULL, NULL, NULL, FALSE, :at, :at)"
REMOVED = (
    "INSERT INTO sessions (global_id, owner_id, session_id, archived, created_at, updated_at) "
    "VALUES ('g3', '', 'g3', FALSE, 7.0, 7.0)"
)
MESSAGE = (
    "INSERT INTO messages (message_id, session_id, conversation_id, role, user_id, content, reasoning, created_at) "
    "VALUES (:id, :session, 'c1', :role, 'ann', '供应链', '', 1.0)"
)


def fill_the_first_version(engine):
    migrate.upgrade(engine, "0001")
    with engine.begin() as connection:
        connection.execute(text(SESSION), {"id": "g1", "owner": "ann", "name": "s1", "at": 5.0})
        connection.execute(text(SESSION), {"id": "g2", "owner": "bob", "name": "s1", "at": 6.0})
        for message, role in (("m1", "user"), ("m2", "assistant")):
            connection.execute(text(MESSAGE), {"id": message, "session": "g1", "role": role})


def rows(engine, query):
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def test_whoever_had_a_session_is_its_owner_and_has_read_what_was_said(engine):
    fill_the_first_version(engine)
    migrate.upgrade(engine)
    newest = rows(engine, "SELECT max(sequence) FROM messages")[0][0]
    assert rows(engine, "SELECT * FROM members ORDER BY session_id") == [
        ("g1", "ann", "owner", 5.0, newest, newest),
        ("g2", "bob", "owner", 6.0, 0, 0),
    ]


def test_what_was_said_in_a_sessions_own_conversation_stays_in_it(engine):
    fill_the_first_version(engine)
    own = text("UPDATE messages SET conversation_id = 's1' WHERE message_id = 'm1'")
    places = "SELECT message_id, conversation_id FROM messages ORDER BY sequence"
    with engine.begin() as connection:
        connection.execute(own)
    migrate.upgrade(engine)
    assert rows(engine, places) == [("m1", "g1"), ("m2", "c1")]
    migrate.downgrade(engine, "0004")
    assert rows(engine, places) == [("m1", "s1"), ("m2", "c1")]


def test_what_was_said_before_is_found(engine):
    fill_the_first_version(engine)
    migrate.upgrade(engine)
    with engine.begin() as connection:
        assert index_pending(connection) == 2
        found = find(connection, "ann", SearchQuery("链"))
    assert [hit.message.message_id for hit in found.items] == ["m2", "m1"]


def test_the_way_back_loses_what_is_new_alone(engine):
    fill_the_first_version(engine)
    before = rows(engine, "SELECT * FROM messages ORDER BY sequence"), rows(engine, "SELECT * FROM sessions")
    migrate.upgrade(engine)
    with engine.begin() as connection:
        index_pending(connection)
        connection.execute(text(REMOVED))
    migrate.downgrade(engine, "0001")
    assert before == (rows(engine, "SELECT * FROM messages ORDER BY sequence"), rows(engine, "SELECT * FROM sessions"))
    with engine.begin() as connection:
        connection.execute(text(MESSAGE), {"id": "m3", "session": "g2", "role": "user"})
    migrate.upgrade(engine)
    assert differences(engine) == []
    assert rows(engine, "SELECT count(*) FROM members") == [(2,)]
