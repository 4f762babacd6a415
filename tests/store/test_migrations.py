from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

import scm_trio.store
from scm_trio.store import migrate
from scm_trio.store.engine import make_engine, parse_url
from scm_trio.store.schema import metadata


@pytest.fixture
def engine(url):
    made = make_engine(parse_url(url))
    yield made
    made.dispose()


def tables(engine):
    return set(inspect(engine).get_table_names()) - {"alembic_version"}


def differences(engine):
    with engine.connect() as connection:
        return compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)


def test_up_down_and_up_again(engine):
    migrate.upgrade(engine)
    assert tables(engine) == set(metadata.tables)
    migrate.downgrade(engine)
    assert tables(engine) == set()
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
