"""Labels of pending rows: what they were matched with, what their texts hold, and what a look is worth."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# What matching needs of a pending row, and what was found in its text: counts by type and reason codes.
PENDING_FEATURES = """
CREATE TABLE distillation.pending_features (
    org_id       varchar(255) NOT NULL,
    pending_id   uuid NOT NULL,
    content_hash varchar(64) NOT NULL,
    class_key    bytea NOT NULL CHECK (octet_length(class_key) = 32),
    signature    bytea NOT NULL,
    embedding    vector(384),
    findings     jsonb NOT NULL,
    stamp        text NOT NULL,
    text_stamp   text NOT NULL,
    PRIMARY KEY (org_id, pending_id)
)
"""

# Texts near a pending row, or against it. `is_held` says that the labels took the match to hold: another
# answer today means due.
PENDING_MATCHES = """
CREATE TABLE distillation.pending_matches (
    org_id       varchar(255) NOT NULL,
    pending_id   uuid NOT NULL,
    other_id     uuid NOT NULL,
    other_kind   text NOT NULL CHECK (other_kind IN ('item', 'pending')),
    pending_hash varchar(64) NOT NULL,
    other_hash   varchar(64) NOT NULL,
    similarity   double precision NOT NULL,
    probability  double precision NOT NULL CHECK (probability BETWEEN 0 AND 1),
    decision     text NOT NULL CHECK (decision IN ('duplicate', 'possible', 'distinct')),
    reason       text NOT NULL,
    conflict     text,
    is_held      boolean NOT NULL,
    PRIMARY KEY (org_id, pending_id, other_id),
    FOREIGN KEY (org_id, pending_id) REFERENCES distillation.pending_features ON DELETE CASCADE
);
CREATE INDEX pending_matches_other ON distillation.pending_matches (org_id, other_id)
"""

# Live items that every pending row of their org was held against.
SCREENED_ITEMS = """
CREATE TABLE distillation.screened_items (
    org_id       varchar(255) NOT NULL,
    item_id      uuid NOT NULL,
    content_hash varchar(64) NOT NULL,
    stamp        text NOT NULL,
    PRIMARY KEY (org_id, item_id)
)
"""

PRESCREENS = """
ALTER TABLE distillation.prescreens
    ADD COLUMN document jsonb,
    ADD COLUMN value double precision,
    ADD COLUMN parts jsonb,
    ADD COLUMN is_marked boolean NOT NULL DEFAULT false,
    ADD COLUMN label_stamp text NOT NULL DEFAULT ''
"""

BLOCKS = (PENDING_FEATURES, PENDING_MATCHES, SCREENED_ITEMS, PRESCREENS)


def upgrade() -> None:
    for block in BLOCKS:
        op.execute(block)


def downgrade() -> None:
    raise NotImplementedError("knowledge is only added to; restore a backup instead")
