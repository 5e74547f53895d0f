"""Erased items: a kind of their own in the registry, the keyed names of their texts, erasures under way."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# An erased item keeps its place, so that what refers to its id still does, and is nobody's source again.
ERASED_KIND = """
ALTER TABLE distillation.registered_items
    DROP CONSTRAINT registered_items_kind_check,
    ADD CONSTRAINT registered_items_kind_check CHECK (kind IN ('original', 'summary', 'erased'))
"""

ERASED_TEXTS = """
CREATE TABLE distillation.erased_texts (
    org_id     varchar(255) NOT NULL,
    keyed_name varchar(64) NOT NULL,
    sameness   text NOT NULL CHECK (sameness IN ('exact', 'normalised')),
    item_id    uuid NOT NULL,
    erased_at  timestamptz NOT NULL,
    PRIMARY KEY (org_id, keyed_name)
)
"""

# `unfinished` holds the reason and the keyed needles from the erasure until its receipt is written.
ERASURES = """
CREATE TABLE distillation.erasures (
    org_id      varchar(255) NOT NULL,
    erasure_id  uuid NOT NULL,
    run_id      uuid NOT NULL,
    erased_at   timestamptz NOT NULL,
    unfinished  jsonb,
    finished_at timestamptz,
    PRIMARY KEY (org_id, erasure_id),
    CHECK ((unfinished IS NULL) = (finished_at IS NOT NULL))
);
CREATE INDEX erasures_unfinished ON distillation.erasures (erased_at) WHERE finished_at IS NULL
"""

BLOCKS = (ERASED_KIND, ERASED_TEXTS, ERASURES)


def upgrade() -> None:
    for block in BLOCKS:
        op.execute(block)


def downgrade() -> None:
    raise NotImplementedError("knowledge is only added to; restore a backup instead")
