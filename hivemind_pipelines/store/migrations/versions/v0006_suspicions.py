"""Which originals read as if they talked to a model; their words are in no row of it."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# One row for each judged original, of no kinds where nothing is suspicious. It goes with the features.
SUSPICIONS = """
CREATE TABLE distillation.suspicions (
    org_id       varchar(255) NOT NULL,
    item_id      uuid NOT NULL,
    content_hash varchar(64) NOT NULL,
    kinds        text[] NOT NULL,
    score        double precision NOT NULL CHECK (score >= 0),
    stamp        text NOT NULL,
    PRIMARY KEY (org_id, item_id),
    FOREIGN KEY (org_id, item_id) REFERENCES distillation.item_features ON DELETE CASCADE
);
CREATE INDEX suspicions_found ON distillation.suspicions (org_id, item_id) WHERE kinds <> '{}'
"""

BLOCKS = (SUSPICIONS,)


def upgrade() -> None:
    for block in BLOCKS:
        op.execute(block)


def downgrade() -> None:
    raise NotImplementedError("knowledge is only added to; restore a backup instead")
