import stat
import sys

import pytest
import trio
from sqlalchemy import text

from scm_trio.errors import ConfigError, StoreError
from scm_trio.store import engine as engines
from scm_trio.store.database import open_database
from scm_trio.store.messages import ensure_session, find_session


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hunter2",
        "hunter2://",
        "mysql://ann:hunter2@db/store",
        "postgresql+asyncpg://ann:hunter2@db/store",
        "postgresql://ann:hunter2@db:port/store",
        "sqlite://store.db",
        "sqlite:///store.db?mode=hunter2",
        "sqlite:///file:store.db",
    ],
)
async def test_a_wrong_url_is_a_configuration_error_that_does_not_repeat_it(url):
    with pytest.raises(ConfigError, match=r"^store\.url: ") as caught:
        async with open_database(url):
            pass
    assert "ann:" not in str(caught.value)
    assert "@" not in str(caught.value)


def test_every_password_of_a_url_is_known():
    url = engines.parse_url("postgresql://ann:p%40ss@db/store?password=two&sslpassword=three&sslmode=require")
    assert sorted(engines.secrets(url)) == ["p@ss", "three", "two"]


async def test_postgresql_without_its_driver_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"store\.url: .*scm-trio\[postgres\]"):
        async with open_database("postgresql://ann:hunter2@db/store"):
            pass


@pytest.mark.parametrize("form", ["right", "postgres", "psycopg"])
async def test_the_usual_spellings_of_a_postgresql_url_are_one(postgres_url, form):
    scheme = {"right": "postgresql", "postgres": "postgres", "psycopg": "postgresql+psycopg"}[form]
    async with open_database(postgres_url.replace("postgresql", scheme)) as db:
        await db.ping()


async def test_a_refused_login_is_told_without_the_password(postgres_url):
    with pytest.raises(StoreError, match="password authentication failed") as caught:
        async with open_database(postgres_url.replace("wachtwoord", "hunter2")):
            pass
    assert "hunter2" not in str(caught.value)
    assert "postgresql test_" in str(caught.value)


async def test_passwords_are_cut_out_of_what_the_driver_says(postgres_url):
    with pytest.raises(StoreError) as caught:
        async with open_database(f"{postgres_url}?password=hunter2&sslmode=hunter2"):
            pass
    assert "hunter2" not in str(caught.value)
    assert "***" in str(caught.value)


async def test_an_unreachable_server_is_a_store_error(postgres):
    with pytest.raises(StoreError, match="cannot open the store"):
        async with open_database(postgres.url("no_such_database")):
            pass


async def test_a_missing_folder_is_a_store_error(tmp_path):
    with pytest.raises(StoreError, match=r"cannot open the store \(sqlite .*missing"):
        async with open_database(f"sqlite:///{tmp_path / 'missing' / 'store.db'}"):
            pass


async def test_a_file_that_is_no_database_is_a_store_error(tmp_path):
    path = tmp_path / "store.db"
    path.write_text("Dear diary, " * 100)
    with pytest.raises(StoreError, match="not a database"):
        async with open_database(f"sqlite:///{path}"):
            pass


async def test_a_database_of_a_newer_version_is_refused(shared_url):
    async with open_database(shared_url) as db, trio.open_nursery() as nursery:
        await nursery.start(db.run_writer)
        await db.write(lambda conn: conn.execute(text("UPDATE alembic_version SET version_num = '9999'")) and None)
        nursery.cancel_scope.cancel()
    with pytest.raises(StoreError, match="9999"):
        async with open_database(shared_url):
            pass


async def test_a_new_database_file_belongs_to_its_owner_alone(tmp_path):
    path = tmp_path / "store.db"
    async with open_database(f"sqlite:///{path}") as db:
        await db.ping()
        assert {stat.S_IMODE(each.stat().st_mode) for each in tmp_path.glob("store.db*")} == {0o600}


async def test_the_mode_of_an_existing_file_is_its_owners_business(tmp_path):
    path = tmp_path / "store.db"
    path.touch()
    path.chmod(0o640)
    async with open_database(f"sqlite:///{path}"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


async def test_what_was_written_is_there_after_reopening(shared_url):
    async with open_database(shared_url) as db, trio.open_nursery() as nursery:
        await nursery.start(db.run_writer)
        session = await db.write(ensure_session, "ann", "s1", "g1", 1.0)
        nursery.cancel_scope.cancel()
    async with open_database(shared_url) as db:
        assert await db.read(find_session, "ann", "s1") == session


async def test_several_nodes_may_open_an_empty_database_at_once(shared_url):
    async def node():
        async with open_database(shared_url) as db:
            await db.ping()

    async with trio.open_nursery() as nodes:
        for _ in range(4):
            nodes.start_soon(node)


async def test_a_database_in_memory_uses_no_threads():
    async with open_database("sqlite://") as db:
        here = await db.read(lambda _: trio.lowlevel.current_task())
    assert here is trio.lowlevel.current_task()


async def test_closing_survives_cancellation(tmp_path):
    path = tmp_path / "store.db"
    with trio.CancelScope() as scope:
        async with open_database(f"sqlite:///{path}") as db:
            await db.ping()
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert [each.name for each in tmp_path.iterdir()] == ["store.db"], "the log is folded in"


def test_limits_in_the_url_win():
    url = engines.parse_url("postgresql://ann@db/store?connect_timeout=3")
    engine = engines.make_engine(url)
    assert engine.dialect.create_connect_args(url)[1]["connect_timeout"] == "3"
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("sqlite://", "sqlite :memory:"),
        ("sqlite:///a.db", "sqlite a.db"),
        ("postgresql://ann:hunter2@db/store", "postgresql store at db"),
        ("postgresql:///store?host=/run/pg", "postgresql store at /run/pg"),
        ("postgresql://", "postgresql  at localhost"),
    ],
)
def test_a_place_is_named_without_secrets(url, place):
    assert engines.place(engines.parse_url(url)) == place
