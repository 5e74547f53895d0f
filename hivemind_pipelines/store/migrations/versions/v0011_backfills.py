"""Runs name the backfill they belong to, so that a backfill is undone as one."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

BACKFILLS = """
ALTER TABLE distillation.runs ADD COLUMN backfill_id text;
CREATE INDEX runs_backfill ON distillation.runs (backfill_id) WHERE backfill_id IS NOT NULL
"""


def upgrade() -> None:
    op.execute(BACKFILLS)


def downgrade() -> None:
    raise NotImplementedError("knowledge is only added to; restore a backup instead")
