"""Whose question a session's title was made from. Of titles that are there already nobody knows it; they stay."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sessions", sa.Column("title_source", sa.Text))


def downgrade() -> None:
    # Not in a batch, which would rebuild the table: its deletion would take all messages along.
    op.drop_column("sessions", "title_source")
