"""Uploaded files, and the messages that they are attached to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_files()
    _create_attachments()


def downgrade() -> None:
    for table in ("attachments", "files"):
        op.drop_table(table)


def _create_files() -> None:
    op.create_table(
        "files",
        sa.Column("file_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("media_type", sa.Text, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("attached_at", sa.Double),
        sa.PrimaryKeyConstraint("file_id", name="pk_files"),
    )
    op.create_index("ix_files_user_id", "files", ["user_id"])
    _create_partial_index("ix_files_unattached", "files", "created_at", "attached_at IS NULL")
    _create_partial_index("ix_files_leaving", "files", "file_id", "state = 'leaving'")


def _create_attachments() -> None:
    op.create_table(
        "attachments",
        # Not as a named constraint: SQLite counts up only where the column itself is the primary key.
        sa.Column(
            "sequence",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column("message_id", sa.Text),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("file_id", sa.Text, nullable=False),
        sa.UniqueConstraint("message_id", "position", name="uq_attachments_message_id_position"),
        sa.ForeignKeyConstraint(
            ["message_id"], ["messages.message_id"], name="fk_attachments_message_id", ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(["file_id"], ["files.file_id"], name="fk_attachments_file_id", ondelete="CASCADE"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_attachments_file_id", "attachments", ["file_id"])
    _create_partial_index("ix_attachments_lost", "attachments", "sequence", "message_id IS NULL")


def _create_partial_index(name: str, table: str, column: str, condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, [column], sqlite_where=where, postgresql_where=where)
