"""The same tests run on SQLite in memory (inline), SQLite in a file and PostgreSQL (threads).

The PostgreSQL server is started here, on a free port and in a fresh folder, and stopped afterwards.
"""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest
from attrs import frozen

from scm_trio.store import migrate
from scm_trio.store.database import in_thread, inline, open_database
from scm_trio.store.engine import make_engine, parse_url

PASSWORD = "wachtwoord-7d41"


@frozen
class Cluster:
    """A running PostgreSQL server whose superuser is ``owner``."""

    port: int
    names: Iterator[int]

    def url(self, database: str) -> str:
        return f"postgresql://owner:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)


def find_binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not found:
        pytest.fail("these tests need the server binaries of PostgreSQL")
    return found[-1].parent


def unprivileged() -> dict:
    """PostgreSQL refuses to run as root."""
    if os.geteuid():
        return {}
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    account = names.get("postgres") or names["nobody"]
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def postgres():
    binaries, account, port = find_binaries(), unprivileged(), free_port()
    # Not pytest's own folder: it is closed to the account that the server runs under.
    home = Path(tempfile.mkdtemp(prefix="pg-"))
    (home / "password").write_text(PASSWORD)
    if account:
        for path in (home, home / "password"):
            os.chown(path, account["user"], account["group"])

    def run(program: str, *args: str) -> None:
        command = [str(binaries / program), "-D", str(home / "data"), *args]
        with (home / "output").open("wb") as output:
            done = subprocess.run(
                command, check=False, cwd=home, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **account
            )
        assert done.returncode == 0, (home / "output").read_text()

    try:
        run("initdb", "-U", "owner", "-A", "scram-sha-256", f"--pwfile={home / 'password'}", "-E", "UTF8", "--locale=C")
        options = f"-p {port} -k {home} -c listen_addresses=127.0.0.1 -c fsync=off -c log_min_messages=fatal"
        run("pg_ctl", "start", "-w", "-l", str(home / "log"), "-o", options)
        try:
            yield Cluster(port, count())
        finally:
            run("pg_ctl", "stop", "-w", "-m", "immediate")
    finally:
        shutil.rmtree(home)


@pytest.fixture
def postgres_url(postgres):
    """An empty database of the test's own."""
    name = f"test_{next(postgres.names)}"
    postgres.execute(f"CREATE DATABASE {name}")
    yield postgres.url(name)
    postgres.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


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


@pytest.fixture(scope="session")
def migrated(postgres):
    """The name of a database at the newest schema, to be copied: that is quicker than migrating each one."""
    postgres.execute("CREATE DATABASE migrated")
    engine = make_engine(parse_url(postgres.url("migrated")))
    migrate.upgrade(engine)
    engine.dispose()
    return "migrated"


@pytest.fixture(params=["memory", "file", "postgres"])
def migrated_url(request, tmp_path):
    """As ``url``, at the newest schema already where that saves time."""
    if request.param != "postgres":
        yield "sqlite://" if request.param == "memory" else f"sqlite:///{tmp_path / 'store.db'}"
        return
    postgres, template = request.getfixturevalue("postgres"), request.getfixturevalue("migrated")
    name = f"test_{next(postgres.names)}"
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield postgres.url(name)
    postgres.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
async def db(migrated_url, nursery):
    """An empty, migrated store whose writer runs."""
    offload = inline if migrated_url == "sqlite://" else in_thread
    async with open_database(migrated_url, offload=offload) as database:
        await nursery.start(database.run_writer)
        yield database
