"""What a call may cost is booked before it is made, so that runs side by side share one budget."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# A row is reserved at its worst cost and settled at what it did cost; a killed run leaves the worst.
RESERVED = """
ALTER TABLE distillation.llm_spend ADD COLUMN is_reserved boolean NOT NULL DEFAULT false
"""

BLOCKS = (RESERVED,)


def upgrade() -> None:
    for block in BLOCKS:
        op.execute(block)


def downgrade() -> None:
    raise NotImplementedError("knowledge is only added to; restore a backup instead")
