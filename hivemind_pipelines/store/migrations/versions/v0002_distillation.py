"""Our own tables, schema `distillation`: every promise that a constraint can keep, is one."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Every item we ever touched, with its org: the anchor of all composite keys. There is no foreign key
# to public.knowledge_items on purpose: the server may hard-delete rows, and must not feel us there.
REGISTERED_ITEMS = """
CREATE TABLE distillation.registered_items (
    org_id  varchar(255) NOT NULL,
    item_id uuid NOT NULL UNIQUE,
    kind    text NOT NULL CHECK (kind IN ('original', 'summary')),
    PRIMARY KEY (org_id, item_id),
    UNIQUE (org_id, item_id, kind)
)
"""

# `embedding` holds a vector only until it is published to a public row whose own is NULL.
# `probed_stamp`, `settled_stamp` and `topic_stamp` say under which policy the item last looked for
# candidates, was clustered and was placed in topics; NULL or another stamp means due.
ITEM_FEATURES = """
CREATE TABLE distillation.item_features (
    org_id         varchar(255) NOT NULL,
    item_id        uuid NOT NULL,
    content_hash   varchar(64) NOT NULL,
    scope_hash     varchar(32) NOT NULL,
    class_key      bytea NOT NULL CHECK (octet_length(class_key) = 32),
    signature      bytea NOT NULL,
    discriminators jsonb NOT NULL,
    embedding      vector(384),
    stamp          text NOT NULL,
    probed_stamp   text,
    settled_stamp  text,
    topic_stamp    text,
    PRIMARY KEY (org_id, item_id),
    FOREIGN KEY (org_id, item_id) REFERENCES distillation.registered_items ON DELETE CASCADE
);
CREATE INDEX item_features_class ON distillation.item_features (org_id, class_key)
"""

LSH_BANDS = """
CREATE TABLE distillation.lsh_bands (
    org_id  varchar(255) NOT NULL,
    band    smallint NOT NULL,
    bucket  bigint NOT NULL,
    item_id uuid NOT NULL,
    PRIMARY KEY (org_id, band, bucket, item_id),
    FOREIGN KEY (org_id, item_id) REFERENCES distillation.item_features ON DELETE CASCADE
);
CREATE INDEX lsh_bands_item ON distillation.lsh_bands (org_id, item_id)
"""

# `stamp` is the matching fingerprint under which the stored comparison was decided.
CANDIDATE_PAIRS = """
CREATE TABLE distillation.candidate_pairs (
    org_id      varchar(255) NOT NULL,
    a_id        uuid NOT NULL,
    b_id        uuid NOT NULL,
    a_hash      varchar(64) NOT NULL,
    b_hash      varchar(64) NOT NULL,
    comparison  jsonb NOT NULL,
    probability double precision NOT NULL CHECK (probability BETWEEN 0 AND 1),
    decision    text NOT NULL CHECK (decision IN ('duplicate', 'possible', 'distinct')),
    reason      text NOT NULL,
    stamp       text NOT NULL,
    PRIMARY KEY (org_id, a_id, b_id),
    CHECK (a_id < b_id),
    FOREIGN KEY (org_id, a_id) REFERENCES distillation.item_features ON DELETE CASCADE,
    FOREIGN KEY (org_id, b_id) REFERENCES distillation.item_features ON DELETE CASCADE
);
CREATE INDEX candidate_pairs_b ON distillation.candidate_pairs (org_id, b_id)
"""

# Merges in force; an undone one leaves this table and stays in the ledger.
MERGES = """
CREATE TABLE distillation.merges (
    org_id       varchar(255) NOT NULL,
    duplicate_id uuid NOT NULL,
    canonical_id uuid NOT NULL,
    expired_at   timestamptz NOT NULL,
    is_legacy    boolean NOT NULL DEFAULT false,
    run_id       uuid,
    stamp        text NOT NULL,
    PRIMARY KEY (org_id, duplicate_id),
    CHECK (duplicate_id <> canonical_id),
    FOREIGN KEY (org_id, duplicate_id) REFERENCES distillation.registered_items,
    FOREIGN KEY (org_id, canonical_id) REFERENCES distillation.registered_items
);
CREATE INDEX merges_canonical ON distillation.merges (org_id, canonical_id)
"""

CONTRADICTION_CASES = """
CREATE TABLE distillation.contradiction_cases (
    org_id      varchar(255) NOT NULL,
    case_id     uuid NOT NULL,
    category    text NOT NULL,
    detector    text NOT NULL,
    status      text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'resolved', 'dismissed')),
    outcome     text,
    evidence    jsonb NOT NULL DEFAULT '{}',
    signal_id   uuid,
    opened_at   timestamptz NOT NULL,
    decided_at  timestamptz,
    decided_by  text,
    run_id      uuid NOT NULL,
    stamp       text NOT NULL,
    PRIMARY KEY (org_id, case_id),
    CHECK ((status = 'open') = (decided_at IS NULL))
);
CREATE TABLE distillation.case_items (
    org_id  varchar(255) NOT NULL,
    case_id uuid NOT NULL,
    item_id uuid NOT NULL,
    PRIMARY KEY (org_id, case_id, item_id),
    FOREIGN KEY (org_id, case_id) REFERENCES distillation.contradiction_cases ON DELETE CASCADE,
    FOREIGN KEY (org_id, item_id) REFERENCES distillation.registered_items
);
CREATE INDEX case_items_item ON distillation.case_items (org_id, item_id)
"""

# One row a contradiction signal: part of a case, or (case_id NULL) a lone suspect.
STAMPED_SIGNALS = """
CREATE TABLE distillation.stamped_signals (
    org_id    varchar(255) NOT NULL,
    signal_id uuid NOT NULL,
    item_id   uuid NOT NULL,
    case_id   uuid,
    PRIMARY KEY (org_id, signal_id),
    FOREIGN KEY (org_id, case_id) REFERENCES distillation.contradiction_cases ON DELETE CASCADE,
    FOREIGN KEY (org_id, item_id) REFERENCES distillation.registered_items
);
CREATE INDEX stamped_signals_case ON distillation.stamped_signals (org_id, case_id)
"""

# The topics of the commons as it stands.
TOPIC_CLUSTERS = """
CREATE TABLE distillation.topic_clusters (
    org_id      varchar(255) NOT NULL,
    fingerprint varchar(64) NOT NULL,
    category    text NOT NULL,
    framework   text,
    language    text,
    version     text,
    medoid_id   uuid NOT NULL,
    stamp       text NOT NULL,
    PRIMARY KEY (org_id, fingerprint)
);
CREATE TABLE distillation.topic_members (
    org_id       varchar(255) NOT NULL,
    fingerprint  varchar(64) NOT NULL,
    item_id      uuid NOT NULL,
    content_hash varchar(64) NOT NULL,
    PRIMARY KEY (org_id, item_id),
    FOREIGN KEY (org_id, fingerprint) REFERENCES distillation.topic_clusters ON DELETE CASCADE,
    FOREIGN KEY (org_id, item_id) REFERENCES distillation.item_features ON DELETE CASCADE
);
CREATE INDEX topic_members_fingerprint ON distillation.topic_members (org_id, fingerprint)
"""

# One row per fingerprint ever published; whether it is live is said by the public row alone.
SUMMARIES = """
CREATE TABLE distillation.summaries (
    org_id         varchar(255) NOT NULL,
    summary_id     uuid NOT NULL,
    kind           text NOT NULL DEFAULT 'summary' CHECK (kind = 'summary'),
    fingerprint    varchar(64) NOT NULL,
    content_hash   varchar(64) NOT NULL,
    method         text NOT NULL,
    model          text NOT NULL,
    prompt_version text NOT NULL,
    stamp          text NOT NULL,
    pii_stamp      text NOT NULL,
    run_id         uuid,
    retired_reason text,
    PRIMARY KEY (org_id, summary_id),
    UNIQUE (org_id, fingerprint),
    FOREIGN KEY (org_id, summary_id, kind) REFERENCES distillation.registered_items (org_id, item_id, kind)
)
"""

# The kinds are pinned, so an edge that starts at a summary cannot exist: one level deep.
DERIVATIONS = """
CREATE TABLE distillation.derivations (
    org_id       varchar(255) NOT NULL,
    derived_id   uuid NOT NULL,
    derived_kind text NOT NULL DEFAULT 'summary' CHECK (derived_kind = 'summary'),
    source_id    uuid NOT NULL,
    source_kind  text NOT NULL DEFAULT 'original' CHECK (source_kind = 'original'),
    source_hash  varchar(64) NOT NULL,
    is_legacy    boolean NOT NULL DEFAULT false,
    run_id       uuid,
    PRIMARY KEY (org_id, derived_id, source_id),
    FOREIGN KEY (org_id, derived_id, derived_kind)
        REFERENCES distillation.registered_items (org_id, item_id, kind),
    FOREIGN KEY (org_id, source_id, source_kind)
        REFERENCES distillation.registered_items (org_id, item_id, kind)
);
CREATE INDEX derivations_source ON distillation.derivations (org_id, source_id)
"""

# Attempts at work around the model, named by a topic's fingerprint or by a hash over a pair's texts,
# prompt and model: the claim (with its lease) before a call, the backoff after a failure.
LLM_JOBS = """
CREATE TABLE distillation.llm_jobs (
    org_id          varchar(255) NOT NULL,
    fingerprint     varchar(64) NOT NULL,
    attempts        integer NOT NULL DEFAULT 0,
    last_reason     text,
    next_attempt_at timestamptz,
    claimed_by      uuid,
    lease_until     timestamptz,
    PRIMARY KEY (org_id, fingerprint),
    CHECK ((claimed_by IS NULL) = (lease_until IS NULL))
)
"""

LLM_VERDICTS = """
CREATE TABLE distillation.llm_verdicts (
    org_id         varchar(255) NOT NULL,
    a_hash         varchar(64) NOT NULL,
    b_hash         varchar(64) NOT NULL,
    prompt_version text NOT NULL,
    model          text NOT NULL,
    same           boolean NOT NULL,
    confidence     double precision NOT NULL CHECK (confidence BETWEEN 0 AND 1),
    PRIMARY KEY (org_id, a_hash, b_hash, prompt_version, model),
    CHECK (a_hash <= b_hash COLLATE "C")
);
CREATE TABLE distillation.llm_spend (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    org_id        varchar(255) NOT NULL,
    run_id        uuid NOT NULL,
    purpose       text NOT NULL,
    at            timestamptz NOT NULL,
    calls         integer NOT NULL CHECK (calls >= 0),
    input_tokens  bigint NOT NULL CHECK (input_tokens >= 0),
    output_tokens bigint NOT NULL CHECK (output_tokens >= 0),
    usd           double precision NOT NULL CHECK (usd >= 0)
);
CREATE INDEX llm_spend_org_at ON distillation.llm_spend (org_id, at)
"""

PRESCREENS = """
CREATE TABLE distillation.prescreens (
    org_id         varchar(255) NOT NULL,
    pending_id     uuid NOT NULL,
    content_hash   varchar(64) NOT NULL,
    score          double precision NOT NULL CHECK (score BETWEEN 0 AND 1),
    is_low_quality boolean NOT NULL,
    stamp          text NOT NULL,
    PRIMARY KEY (org_id, pending_id)
)
"""

RUNS = """
CREATE TABLE distillation.runs (
    run_id         uuid NOT NULL PRIMARY KEY,
    org_id         varchar(255),
    job            text NOT NULL CHECK (job IN ('distillation', 'quality', 'erasure')),
    status         text NOT NULL CHECK (status IN ('running', 'finished', 'failed')),
    as_of          timestamptz NOT NULL,
    finished_at    timestamptz,
    dagster_run_id text,
    policy_version text NOT NULL,
    stamps         jsonb NOT NULL,
    counts         jsonb NOT NULL DEFAULT '{}',
    allowed        jsonb NOT NULL DEFAULT '[]',
    CHECK ((status = 'running') = (finished_at IS NULL))
);
CREATE INDEX runs_org ON distillation.runs (org_id, job, as_of DESC);
CREATE TABLE distillation.policies (
    version       text NOT NULL PRIMARY KEY,
    document      jsonb NOT NULL,
    first_used_at timestamptz NOT NULL
);
CREATE TABLE distillation.receipts (
    asset      text NOT NULL,
    org_id     varchar(255) NOT NULL,
    payload    jsonb NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (asset, org_id)
)
"""

# A plan that the breaker stopped, named by what it was planned from: the same plan is not due again.
REFUSED_PLANS = """
CREATE TABLE distillation.refused_plans (
    org_id        varchar(255) NOT NULL PRIMARY KEY,
    inputs_hash   varchar(32) NOT NULL,
    stamp         text NOT NULL,
    expired_count integer NOT NULL,
    live_count    integer NOT NULL,
    run_id        uuid NOT NULL,
    at            timestamptz NOT NULL
)
"""

TOMBSTONES = """
CREATE TABLE distillation.tombstones (
    org_id  varchar(255) NOT NULL,
    item_id uuid NOT NULL,
    kind    text NOT NULL CHECK (kind IN ('deleted', 'gone', 'erased')),
    at      timestamptz NOT NULL,
    run_id  uuid NOT NULL,
    PRIMARY KEY (org_id, item_id)
)
"""

LEDGER = """
CREATE TABLE distillation.ledger (
    seq        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    org_id     varchar(255) NOT NULL,
    run_id     uuid NOT NULL,
    change     text NOT NULL,
    subject_id uuid NOT NULL,
    before     jsonb NOT NULL,
    after      jsonb NOT NULL,
    stamp      text NOT NULL,
    at         timestamptz NOT NULL
);
CREATE INDEX ledger_subject ON distillation.ledger (org_id, subject_id, seq);
CREATE INDEX ledger_state ON distillation.ledger (org_id, subject_id, seq DESC)
    WHERE change NOT IN ('rescore', 'embed', 'flag', 'unflag');
CREATE INDEX ledger_run ON distillation.ledger (org_id, run_id);
CREATE INDEX ledger_canonical ON distillation.ledger (org_id, (after ->> 'canonical'), seq)
    WHERE change = 'merge';
CREATE FUNCTION distillation.refuse_ledger_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is append-only';
END
$$;
CREATE TRIGGER ledger_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON distillation.ledger
    FOR EACH STATEMENT EXECUTE FUNCTION distillation.refuse_ledger_change()
"""

BLOCKS = (
    REGISTERED_ITEMS,
    ITEM_FEATURES,
    LSH_BANDS,
    CANDIDATE_PAIRS,
    MERGES,
    CONTRADICTION_CASES,
    STAMPED_SIGNALS,
    TOPIC_CLUSTERS,
    SUMMARIES,
    DERIVATIONS,
    LLM_JOBS,
    LLM_VERDICTS,
    PRESCREENS,
    RUNS,
    REFUSED_PLANS,
    TOMBSTONES,
    LEDGER,
)


def upgrade() -> None:
    for block in BLOCKS:
        op.execute(block)


def downgrade() -> None:
    raise NotImplementedError("knowledge is only added to; restore a backup instead")
