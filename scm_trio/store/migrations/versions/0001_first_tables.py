"""Sessions, messages, runs and the usage ledger."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_sessions()
    _create_messages()
    _create_runs()
    _create_usage()


def downgrade() -> None:
    for table in ("usage", "runs", "messages", "sessions"):
        op.drop_table(table)


def _create_sessions() -> None:
    op.create_table(
        "sessions",
        sa.Column("global_id", sa.Text, nullable=False),
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("title", sa.Text),
        sa.Column("model", sa.Text),
        sa.Column("provider", sa.Text),
        sa.Column("system_prompt", sa.Text),
        sa.Column("archived", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("global_id", name="pk_sessions"),
        sa.UniqueConstraint("owner_id", "session_id", name="uq_sessions_owner_id_session_id"),
    )


def _create_messages() -> None:
    op.create_table(
        "messages",
        # Not as a named constraint: SQLite counts up only where the column itself is the primary key.
        sa.Column(
            "sequence",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column("message_id", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("conversation_id", sa.Text, nullable=False),
        sa.Column("parent_id", sa.Text),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("reasoning", sa.Text, nullable=False),
        sa.Column("model", sa.Text),
        sa.Column("provider", sa.Text),
        sa.Column("finish_reason", sa.Text),
        sa.Column("prompt_tokens", sa.Integer),
        sa.Column("completion_tokens", sa.Integer),
        sa.Column("reasoning_tokens", sa.Integer),
        sa.Column("cached_tokens", sa.Integer),
        sa.Column("usage_source", sa.Text),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.UniqueConstraint("message_id", name="uq_messages_message_id"),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.global_id"], name="fk_messages_session_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["parent_id"], ["messages.message_id"], name="fk_messages_parent_id"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_messages_session_id_conversation_id_sequence",
        "messages",
        ["session_id", "conversation_id", "sequence"],
    )
    op.create_index("ix_messages_parent_id", "messages", ["parent_id"])


def _create_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("message_id", sa.Text, nullable=False),
        sa.Column("user_message_id", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("conversation_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("request_id", sa.Text),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("streaming", sa.Boolean, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("finish_reason", sa.Text),
        sa.Column("error_code", sa.Text),
        sa.Column("rev", sa.Integer, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("reasoning", sa.Text, nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double),
        sa.PrimaryKeyConstraint("run_id", name="pk_runs"),
        sa.UniqueConstraint("message_id", name="uq_runs_message_id"),
        sa.UniqueConstraint("user_id", "request_id", name="uq_runs_user_id_request_id"),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.global_id"], name="fk_runs_session_id", ondelete="CASCADE"),
    )
    op.create_index("ix_runs_session_id", "runs", ["session_id"])
    op.create_index(
        "ix_runs_running",
        "runs",
        ["started_at"],
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )


def _create_usage() -> None:
    op.create_table(
        "usage",
        sa.Column("attempt_id", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("message_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("day", sa.Integer, nullable=False),
        sa.Column("duration_ms", sa.Integer),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("prompt_tokens", sa.Integer, nullable=False),
        sa.Column("completion_tokens", sa.Integer, nullable=False),
        sa.Column("reasoning_tokens", sa.Integer, nullable=False),
        sa.Column("cached_tokens", sa.Integer, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("cost", sa.Double),
        sa.PrimaryKeyConstraint("attempt_id", name="pk_usage"),
    )
    op.create_index("ix_usage_user_id_started_at", "usage", ["user_id", "started_at"])
    op.create_index(
        "ix_usage_running",
        "usage",
        ["run_id"],
        sqlite_where=sa.text("outcome = 'running'"),
        postgresql_where=sa.text("outcome = 'running'"),
    )
