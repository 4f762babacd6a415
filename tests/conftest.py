"""PostgreSQL for the tests of several folders.

The server is started here, on a free port and in a fresh folder, and stopped afterwards.
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

from scm_trio import house
from scm_trio.store import migrate
from scm_trio.store.database import open_database
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


@pytest.fixture(scope="session")
def migrated(postgres):
    """The name of a database at the newest schema, to be copied: that is quicker than migrating each one."""
    postgres.execute("CREATE DATABASE migrated")
    engine = make_engine(parse_url(postgres.url("migrated")))
    migrate.upgrade(engine)
    engine.dispose()
    return "migrated"


@pytest.fixture
def migrated_postgres_url(postgres, migrated):
    """A database of the test's own, empty and at the newest schema."""
    name = f"test_{next(postgres.names)}"
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE {migrated}")
    yield postgres.url(name)
    postgres.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def emptied(postgres, migrated):
    """Empties a database that all tests of this process share, and returns its URL: quicker than one for each."""
    url = postgres.url("shared")
    postgres.execute(f"CREATE DATABASE shared TEMPLATE {migrated}")
    with psycopg.connect(url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        sequences = connection.execute("SELECT sequencename FROM pg_sequences WHERE schemaname = 'public'").fetchall()
    # Quicker than TRUNCATE, which makes new files; the role keeps foreign keys and triggers out of it.
    statements = [
        "SET session_replication_role = replica",
        *(f"DELETE FROM {name}" for (name,) in tables if name != "alembic_version"),
        *(f"ALTER SEQUENCE {name} RESTART" for (name,) in sequences),
    ]

    def empty() -> str:
        with psycopg.connect(url) as connection:
            connection.execute("; ".join(statements))
        return url

    return empty


@pytest.fixture(params=["sqlite", "postgres"])
def both_databases(request):
    """What is kept in memory otherwise: once there, and once in PostgreSQL. Virtual time stands still meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "postgres":
            url = request.getfixturevalue("emptied")()
            patch.setattr(house, "open_database", lambda _, *, offload: open_database(url, offload=offload))
        yield
