"""What people said of pairs, kept as labels; and runs that undo or review."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# One verdict a pair; it holds while both texts are those it was given for. `reason` is what the detector
# had said when a person decided; NULL where an undo only implies the verdict, or no detector had spoken.
PAIR_VERDICTS = """
CREATE TABLE distillation.pair_verdicts (
    org_id     varchar(255) NOT NULL,
    a_id       uuid NOT NULL,
    b_id       uuid NOT NULL,
    pair_id    uuid NOT NULL,
    a_hash     varchar(64) NOT NULL,
    b_hash     varchar(64) NOT NULL,
    verdict    text NOT NULL CHECK (verdict IN ('same', 'distinct')),
    source     text NOT NULL CHECK (source IN ('review', 'undo')),
    reason     text,
    decided_by text NOT NULL,
    decided_at timestamptz NOT NULL,
    run_id     uuid NOT NULL,
    PRIMARY KEY (org_id, a_id, b_id),
    CHECK (a_id < b_id),
    FOREIGN KEY (org_id, a_id) REFERENCES distillation.registered_items ON DELETE CASCADE,
    FOREIGN KEY (org_id, b_id) REFERENCES distillation.registered_items ON DELETE CASCADE
);
CREATE INDEX pair_verdicts_b ON distillation.pair_verdicts (org_id, b_id);
CREATE INDEX pair_verdicts_pair ON distillation.pair_verdicts (org_id, pair_id)
"""

MORE_JOBS = """
ALTER TABLE distillation.runs
    DROP CONSTRAINT runs_job_check,
    ADD CONSTRAINT runs_job_check
        CHECK (job IN ('distillation', 'quality', 'erasure', 'undo', 'review'))
"""

BLOCKS = (PAIR_VERDICTS, MORE_JOBS)


def upgrade() -> None:
    for block in BLOCKS:
        op.execute(block)


def downgrade() -> None:
    raise NotImplementedError("knowledge is only added to; restore a backup instead")
