"""Executed by Alembic for every run; the connection, inside its transaction, comes from ``store/migrate.py``."""

from __future__ import annotations

from alembic import context

from scm_trio.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite can alter little in place: later revisions rebuild a table there.
    render_as_batch=True,
)
context.run_migrations()
