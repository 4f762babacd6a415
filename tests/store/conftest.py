"""The same tests run on SQLite in memory (inline), SQLite in a file and PostgreSQL (threads)."""

import pytest

from scm_trio.store.database import in_thread, inline, open_database


@pytest.fixture(params=["memory", "file", "postgres"])
def url(request, tmp_path):
    if request.param == "postgres":
        return request.getfixturevalue("postgres_url")
    return "sqlite://" if request.param == "memory" else f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture(params=["file", "postgres"])
def shared_url(request, tmp_path):
    """A database that several nodes can open."""
    if request.param == "postgres":
        return request.getfixturevalue("postgres_url")
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture(params=["memory", "file", "postgres"])
def migrated_url(request, tmp_path):
    """As ``url``, at the newest schema already where that saves time."""
    if request.param == "postgres":
        return request.getfixturevalue("migrated_postgres_url")
    return "sqlite://" if request.param == "memory" else f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture
async def db(migrated_url, nursery):
    """An empty, migrated store whose writer runs."""
    offload = inline if migrated_url == "sqlite://" else in_thread
    async with open_database(migrated_url, offload=offload) as database:
        await nursery.start(database.run_writer)
        yield database
