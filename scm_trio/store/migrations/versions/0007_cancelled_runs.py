"""How long it took to stop a cancelled answer, and whether that was done in time. Of earlier ones nobody knows it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("upstream_closed", sa.Boolean))
    op.add_column("runs", sa.Column("cancel_s", sa.Double))


def downgrade() -> None:
    op.drop_column("runs", "cancel_s")
    op.drop_column("runs", "upstream_closed")
