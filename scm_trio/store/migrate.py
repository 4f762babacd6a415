"""Runs the migrations that are shipped inside the package; no alembic.ini, no command line.

A new one: add ``migrations/versions/000N_what.py`` by hand and change ``schema.py`` alike; the tests compare them.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, text

ADVISORY_LOCK = 7_261_942
"""An arbitrary number: PostgreSQL lets one node at a time migrate, the others wait for it."""

_one_at_a_time = Lock()


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the schema up to a revision, in one transaction.

    Raises:
        CommandError: the database is at a revision that this version does not know.
        SQLAlchemyError: a statement failed; nothing has changed.
    """
    _run(engine, command.upgrade, revision)


def downgrade(engine: Engine, revision: str = "base") -> None:
    """Take the schema back to a revision, in one transaction; raises what ``upgrade`` does."""
    _run(engine, command.downgrade, revision)


def _run(engine: Engine, step: Callable[[Config, str], None], revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", "scm_trio.store:migrations")
    # The lock, because Alembic keeps the migration that is running in a variable of the whole process.
    with _one_at_a_time, engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
        config.attributes["connection"] = connection
        step(config, revision)
