"""What the gate finds in originals: counts by type, neither words nor places."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# One row for each scanned original, of no counts where nothing was found. It goes with the features.
PII_SCANS = """
CREATE TABLE distillation.pii_scans (
    org_id       varchar(255) NOT NULL,
    item_id      uuid NOT NULL,
    content_hash varchar(64) NOT NULL,
    counts       jsonb NOT NULL,
    stamp        text NOT NULL,
    scanned_at   timestamptz NOT NULL,
    PRIMARY KEY (org_id, item_id),
    FOREIGN KEY (org_id, item_id) REFERENCES distillation.item_features ON DELETE CASCADE
);
CREATE INDEX pii_scans_found ON distillation.pii_scans (org_id, item_id) WHERE counts <> '{}'
"""

BLOCKS = (PII_SCANS,)


def upgrade() -> None:
    for block in BLOCKS:
        op.execute(block)


def downgrade() -> None:
    raise NotImplementedError("knowledge is only added to; restore a backup instead")
