"""A session's own conversation is kept under its global id: what its members call it is theirs to know."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TABLES = ("messages", "runs")


def upgrade() -> None:
    for table in TABLES:
        op.execute(
            f"UPDATE {table} SET conversation_id = session_id WHERE EXISTS (SELECT 1 FROM sessions "  # noqa: S608 - ours
            f"WHERE sessions.global_id = {table}.session_id AND sessions.session_id = {table}.conversation_id)"
        )


def downgrade() -> None:
    for table in TABLES:
        op.execute(
            f"UPDATE {table} SET conversation_id = (SELECT sessions.session_id FROM sessions "  # noqa: S608 - ours
            f"WHERE sessions.global_id = {table}.session_id) WHERE conversation_id = session_id"
        )
