"""What compared pairs are to each other as statements, by the rules and by the model."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# One row for each examined pair, of outcome `none` where nothing is the matter. `is_settled` once a person
# has decided the pair's case for these very texts: another text is new evidence. Spans are offsets.
PAIR_CONFLICTS = """
CREATE TABLE distillation.pair_conflicts (
    org_id     varchar(255) NOT NULL,
    a_id       uuid NOT NULL,
    b_id       uuid NOT NULL,
    a_hash     varchar(64) NOT NULL,
    b_hash     varchar(64) NOT NULL,
    case_id    uuid NOT NULL,
    outcome    text NOT NULL
        CHECK (outcome IN ('contradiction', 'version_fork', 'update', 'both_true_in_scope', 'none')),
    reason     text NOT NULL,
    score      double precision NOT NULL CHECK (score BETWEEN 0 AND 1),
    spans      jsonb NOT NULL,
    stamp      text NOT NULL,
    is_settled boolean NOT NULL DEFAULT false,
    PRIMARY KEY (org_id, a_id, b_id),
    CHECK (a_id < b_id),
    FOREIGN KEY (org_id, a_id) REFERENCES distillation.registered_items ON DELETE CASCADE,
    FOREIGN KEY (org_id, b_id) REFERENCES distillation.registered_items ON DELETE CASCADE
);
CREATE INDEX pair_conflicts_b ON distillation.pair_conflicts (org_id, b_id);
CREATE INDEX pair_conflicts_case ON distillation.pair_conflicts (org_id, case_id) WHERE outcome <> 'none'
"""

CONFLICT_VERDICTS = """
CREATE TABLE distillation.conflict_verdicts (
    org_id         varchar(255) NOT NULL,
    a_hash         varchar(64) NOT NULL,
    b_hash         varchar(64) NOT NULL,
    prompt_version text NOT NULL,
    model          text NOT NULL,
    outcome        text NOT NULL
        CHECK (outcome IN ('contradiction', 'version_fork', 'update', 'both_true_in_scope', 'unrelated')),
    confidence     double precision NOT NULL CHECK (confidence BETWEEN 0 AND 1),
    reason         text NOT NULL,
    PRIMARY KEY (org_id, a_hash, b_hash, prompt_version, model),
    CHECK (a_hash <= b_hash COLLATE "C")
)
"""

BLOCKS = (PAIR_CONFLICTS, CONFLICT_VERDICTS)


def upgrade() -> None:
    for block in BLOCKS:
        op.execute(block)


def downgrade() -> None:
    raise NotImplementedError("knowledge is only added to; restore a backup instead")
