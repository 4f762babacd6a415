"""The tables, one definition for SQLite and PostgreSQL. ``migrations/`` builds them; a test holds both together.

Times are UTC seconds since the epoch. Ids are text and made outside of the database.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    column,
    literal_column,
    table,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite

RUNNING = "running"
ENDED = "ended"

COMING = "coming"
READY = "ready"
LEAVING = "leaving"

SEQUENCE = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

sessions = Table(
    "sessions",
    metadata,
    Column("global_id", Text, primary_key=True),
    Column("owner_id", Text, nullable=False),
    Column("session_id", Text, nullable=False),
    Column("title", Text),
    Column("model", Text),
    Column("provider", Text),
    Column("system_prompt", Text),
    Column("archived", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    # Whose question the title was made from; empty where somebody chose it, or there is none.
    Column("title_source", Text),
    UniqueConstraint("owner_id", "session_id"),
)

messages = Table(
    "messages",
    metadata,
    # The primary key is the counter, because SQLite counts up by itself in no other column.
    Column("sequence", SEQUENCE, primary_key=True, autoincrement=True),
    Column("message_id", Text, nullable=False),
    Column("session_id", Text, ForeignKey("sessions.global_id", ondelete="CASCADE"), nullable=False),
    Column("conversation_id", Text, nullable=False),
    # No cascade here: SQLite would recurse once per link and give up at a thousand when a session is deleted.
    Column("parent_id", Text, ForeignKey("messages.message_id")),
    Column("role", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("content", Text, nullable=False),
    Column("reasoning", Text, nullable=False),
    Column("model", Text),
    Column("provider", Text),
    Column("finish_reason", Text),
    Column("prompt_tokens", Integer),
    Column("completion_tokens", Integer),
    Column("reasoning_tokens", Integer),
    Column("cached_tokens", Integer),
    Column("usage_source", Text),
    Column("created_at", Double, nullable=False),
    UniqueConstraint("message_id"),
    # One for all: pages of a session, the newest message of a conversation, and unread messages, counted in the index alone.
    Index("ix_messages_session", "session_id", "sequence", "conversation_id", "role", "user_id"),
    Index(None, "parent_id"),
    Index(None, "created_at"),
    Index(
        "ix_messages_roots",
        "session_id",
        "conversation_id",
        sqlite_where=text("parent_id IS NULL"),
        postgresql_where=text("parent_id IS NULL"),
    ),
    sqlite_autoincrement=True,
)

files = Table(
    "files",
    metadata,
    # The row is there before the first byte and goes after the last: nothing lies on the disk that no row knows.
    Column("file_id", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("attached_at", Double),
    Index(None, "user_id"),
    Index(
        "ix_files_unattached",
        "created_at",
        sqlite_where=text("attached_at IS NULL"),
        postgresql_where=text("attached_at IS NULL"),
    ),
    Index(
        "ix_files_leaving",
        "file_id",
        sqlite_where=text("state = 'leaving'"),
        postgresql_where=text("state = 'leaving'"),
    ),
)

attachments = Table(
    "attachments",
    metadata,
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    # Emptied with its message, so that the sweeper finds what has lost it without looking at everything else.
    Column("message_id", Text, ForeignKey("messages.message_id", ondelete="SET NULL")),
    Column("position", Integer, nullable=False),
    Column("file_id", Text, ForeignKey("files.file_id", ondelete="CASCADE"), nullable=False),
    UniqueConstraint("message_id", "position"),
    Index(None, "file_id"),
    Index(
        "ix_attachments_lost",
        "sequence",
        sqlite_where=text("message_id IS NULL"),
        postgresql_where=text("message_id IS NULL"),
    ),
    sqlite_autoincrement=True,
)

members = Table(
    "members",
    metadata,
    Column("session_id", Text, ForeignKey("sessions.global_id", ondelete="CASCADE"), primary_key=True),
    Column("user_id", Text, primary_key=True),
    Column("role", Text, nullable=False),
    Column("joined_at", Double, nullable=False),
    # The markers: sequence numbers up to which the member was given, and has read, this session's messages.
    Column("delivered_to", SEQUENCE, nullable=False),
    Column("read_to", SEQUENCE, nullable=False),
    Index(None, "user_id"),
    sqlite_with_rowid=False,
)

# The index of the full text search, filled by ``search.py``. SQLite and PostgreSQL build it differently: it stands in the
# migrations alone. A row's ``rowid`` is its message's sequence number.
message_search = table("message_search", column("rowid", SEQUENCE), column("words", Text))
# PostgreSQL only: messages that are not in that index yet; a trigger puts them here.
search_queue = table("search_queue", column("sequence", SEQUENCE))

runs = Table(
    "runs",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("message_id", Text, nullable=False),
    # No foreign key: the row is written before its question, so that a repeated request inserts neither.
    Column("user_message_id", Text, nullable=False),
    Column("session_id", Text, ForeignKey("sessions.global_id", ondelete="CASCADE"), nullable=False),
    Column("conversation_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("request_id", Text),
    Column("model", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("streaming", Boolean, nullable=False),
    Column("state", Text, nullable=False),
    Column("finish_reason", Text),
    Column("error_code", Text),
    Column("rev", Integer, nullable=False),
    Column("content", Text, nullable=False),
    Column("reasoning", Text, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("upstream_closed", Boolean),
    Column("cancel_s", Double),
    UniqueConstraint("message_id"),
    UniqueConstraint("user_id", "request_id"),
    Index(None, "session_id"),
    # Few rows are running at any time: the search for interrupted ones at start stays short for ever.
    Index(
        "ix_runs_running",
        "started_at",
        sqlite_where=text("state = 'running'"),
        postgresql_where=text("state = 'running'"),
    ),
)

usage = Table(
    "usage",
    metadata,
    # The ledger refers to nothing: what was spent stays known when a session is deleted.
    Column("attempt_id", Text, primary_key=True),
    Column("run_id", Text, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("started_at", Double, nullable=False),
    # UTC days since the epoch: the engines share no date function to group by.
    Column("day", Integer, nullable=False),
    Column("duration_ms", Integer),
    Column("outcome", Text, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("reasoning_tokens", Integer, nullable=False),
    Column("cached_tokens", Integer, nullable=False),
    Column("source", Text, nullable=False),
    Column("cost", Double),
    Index(None, "user_id", "started_at"),
    Index(
        "ix_usage_running",
        "run_id",
        sqlite_where=text("outcome = 'running'"),
        postgresql_where=text("outcome = 'running'"),
    ),
)

reservations = Table(
    "reservations",
    metadata,
    # No foreign key: a session that is deleted takes its runs with it, but not what they are about to cost.
    Column("run_id", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("day", Integer, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("cost", Double, nullable=False),
    Index(None, "user_id", "day"),
)

# As literals, because a planner cannot match a parameter with a partial index.
run_is_running = runs.c.state == literal_column(f"'{RUNNING}'")
attempt_is_running = usage.c.outcome == literal_column(f"'{RUNNING}'")
file_is_leaving = files.c.state == literal_column(f"'{LEAVING}'")


def insert_unless_there(dialect: str, table: Table, *unique: str) -> sqlite.Insert | postgresql.Insert:
    """Return an INSERT that does nothing where a row with the same ``unique`` columns exists; ``dialect`` by its name."""
    if dialect == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing(index_elements=unique)
    return postgresql.insert(table).on_conflict_do_nothing(index_elements=unique)
