"""What each quality score was computed from, and how the scores of an org were distributed day by day."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# The inputs of a score as the last run saw them: another value than today's means due. `score` is what
# readers see, so that one written by somebody else is another value as well.
QUALITY_INPUTS = """
CREATE TABLE distillation.quality_inputs (
    org_id         varchar(255) NOT NULL,
    item_id        uuid NOT NULL,
    retrievals     double precision NOT NULL,
    helpful        double precision NOT NULL,
    not_helpful    double precision NOT NULL,
    signals        bigint NOT NULL,
    contradictions bigint NOT NULL,
    accessed_at    timestamptz,
    is_current     boolean NOT NULL,
    score          double precision NOT NULL,
    day            date NOT NULL,
    stamp          text NOT NULL,
    PRIMARY KEY (org_id, item_id)
)
"""

# Counts of live items by score in equal parts of [0, 1].
QUALITY_HISTORY = """
CREATE TABLE distillation.quality_history (
    org_id varchar(255) NOT NULL,
    day    date NOT NULL,
    counts integer[] NOT NULL,
    PRIMARY KEY (org_id, day)
)
"""


def upgrade() -> None:
    op.execute(QUALITY_INPUTS)
    op.execute(QUALITY_HISTORY)


def downgrade() -> None:
    raise NotImplementedError("knowledge is only added to; restore a backup instead")
