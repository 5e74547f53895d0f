"""Every table as SQLAlchemy metadata: typed access, and the other half of the schema agreement.

The migrations create the tables; `migrations.check` proves that both say the same.
"""

from typing import Any

from pgvector.sqlalchemy import Vector
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Double,
    Enum,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

from hivemind_pipelines.core.model import EMBEDDING_DIMENSION, Category

OWN_SCHEMA = "distillation"
PUBLIC_SCHEMA = "public"

metadata = MetaData()

KNOWLEDGE_CATEGORY = Enum(
    *(category.value for category in Category),
    name="knowledgecategory",
    schema=PUBLIC_SCHEMA,
    metadata=metadata,
)
HASH = String(64)
MOMENT = DateTime(timezone=True)

AnyColumn = Column[Any]
ColumnKind = TypeEngine[Any] | type[TypeEngine[Any]]


def _needed(name: str, kind: ColumnKind, default: str | None = None) -> AnyColumn:
    return Column(name, kind, nullable=False, server_default=None if default is None else text(default))


def _optional(name: str, kind: ColumnKind) -> AnyColumn:
    return Column(name, kind, nullable=True)


def _org() -> AnyColumn:
    return _needed("org_id", String(255))


def _id(name: str = "id") -> AnyColumn:
    return _needed(name, Uuid, "gen_random_uuid()")


def _refers(
    columns: str, table: str, referred: str | None = None, ondelete: str | None = None
) -> ForeignKeyConstraint:
    targets = (referred or columns).split()
    return ForeignKeyConstraint(
        columns.split(), [f"{OWN_SCHEMA}.{table}.{column}" for column in targets], ondelete=ondelete
    )


def _own(name: str, *parts: Any) -> Table:
    return Table(name, metadata, *parts, schema=OWN_SCHEMA)


def _public(name: str, *parts: Any) -> Table:
    return Table(name, metadata, *parts, schema=PUBLIC_SCHEMA)


knowledge_items = _public(
    "knowledge_items",
    _id(),
    _org(),
    _needed("is_public", Boolean, "false"),
    _needed("source_agent_id", String(255)),
    _optional("run_id", String(255)),
    _needed("content", Text),
    _needed("content_hash", HASH),
    _needed("category", KNOWLEDGE_CATEGORY),
    _needed("confidence", Double, "0.8"),
    _optional("framework", String(100)),
    _optional("language", String(50)),
    _optional("version", String(50)),
    _optional("tags", JSONB),
    _optional("embedding", Vector(EMBEDDING_DIMENSION)),
    _needed("contributed_at", MOMENT, "now()"),
    _needed("approved_at", MOMENT, "now()"),
    _optional("deleted_at", MOMENT),
    _needed("quality_score", Double, "0.5"),
    _needed("retrieval_count", Integer, "0"),
    _needed("helpful_count", Integer, "0"),
    _needed("not_helpful_count", Integer, "0"),
    _optional("valid_at", MOMENT),
    _optional("invalid_at", MOMENT),
    _optional("expired_at", MOMENT),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("content_hash", "org_id"),
    Index(
        "ix_knowledge_items_embedding",
        "embedding",
        postgresql_using="hnsw",
        postgresql_with={"m": 16, "ef_construction": 64},
        postgresql_ops={"embedding": "vector_cosine_ops"},
    ),
    Index("ix_knowledge_items_org_id", "org_id"),
    Index("ix_knowledge_items_org_id_is_public", "org_id", "is_public"),
)

pending_contributions = _public(
    "pending_contributions",
    _id(),
    _org(),
    _needed("source_agent_id", String(255)),
    _optional("run_id", String(255)),
    _needed("content", Text),
    _needed("content_hash", HASH),
    _needed("category", KNOWLEDGE_CATEGORY),
    _needed("confidence", Double, "0.8"),
    _optional("framework", String(100)),
    _optional("language", String(50)),
    _optional("version", String(50)),
    _optional("tags", JSONB),
    _needed("contributed_at", MOMENT, "now()"),
    _needed("is_sensitive_flagged", Boolean, "false"),
    PrimaryKeyConstraint("id"),
    Index("ix_pending_contributions_org_id", "org_id"),
)

quality_signals = _public(
    "quality_signals",
    _id(),
    Column(
        "knowledge_item_id", Uuid, ForeignKey("public.knowledge_items.id", ondelete="CASCADE"), nullable=False
    ),
    _needed("signal_type", String(50)),
    _optional("agent_id", String(255)),
    _optional("run_id", String(255)),
    _optional("metadata", JSONB),
    _needed("created_at", MOMENT, "now()"),
    PrimaryKeyConstraint("id"),
    Index("ix_quality_signals_knowledge_item_id", "knowledge_item_id"),
    Index("ix_quality_signals_knowledge_item_id_signal_type", "knowledge_item_id", "signal_type"),
)

deployment_config = _public(
    "deployment_config",
    _needed("key", String(255)),
    _needed("value", Text),
    _needed("created_at", MOMENT, "now()"),
    _needed("updated_at", MOMENT, "now()"),
    PrimaryKeyConstraint("key"),
)

PUBLIC_TABLES: tuple[Table, ...] = (
    knowledge_items,
    pending_contributions,
    quality_signals,
    deployment_config,
)

registered_items = _own(
    "registered_items",
    _org(),
    _needed("item_id", Uuid),
    _needed("kind", Text),
    PrimaryKeyConstraint("org_id", "item_id"),
    UniqueConstraint("item_id"),
    UniqueConstraint("org_id", "item_id", "kind"),
    CheckConstraint("kind IN ('original', 'summary', 'erased')"),
)

item_features = _own(
    "item_features",
    _org(),
    _needed("item_id", Uuid),
    _needed("content_hash", HASH),
    _needed("scope_hash", String(32)),
    _needed("class_key", LargeBinary),
    _needed("signature", LargeBinary),
    _needed("discriminators", JSONB),
    _optional("embedding", Vector(EMBEDDING_DIMENSION)),
    _needed("stamp", Text),
    _optional("probed_stamp", Text),
    _optional("settled_stamp", Text),
    _optional("topic_stamp", Text),
    PrimaryKeyConstraint("org_id", "item_id"),
    CheckConstraint("octet_length(class_key) = 32"),
    _refers("org_id item_id", "registered_items", ondelete="CASCADE"),
    Index("item_features_class", "org_id", "class_key"),
)

lsh_bands = _own(
    "lsh_bands",
    _org(),
    _needed("band", SmallInteger),
    _needed("bucket", BigInteger),
    _needed("item_id", Uuid),
    PrimaryKeyConstraint("org_id", "band", "bucket", "item_id"),
    _refers("org_id item_id", "item_features", ondelete="CASCADE"),
    Index("lsh_bands_item", "org_id", "item_id"),
)

candidate_pairs = _own(
    "candidate_pairs",
    _org(),
    _needed("a_id", Uuid),
    _needed("b_id", Uuid),
    _needed("a_hash", HASH),
    _needed("b_hash", HASH),
    _needed("comparison", JSONB),
    _needed("probability", Double),
    _needed("decision", Text),
    _needed("reason", Text),
    _needed("stamp", Text),
    PrimaryKeyConstraint("org_id", "a_id", "b_id"),
    CheckConstraint("a_id < b_id"),
    CheckConstraint("probability BETWEEN 0 AND 1"),
    CheckConstraint("decision IN ('duplicate', 'possible', 'distinct')"),
    _refers("org_id a_id", "item_features", "org_id item_id", ondelete="CASCADE"),
    _refers("org_id b_id", "item_features", "org_id item_id", ondelete="CASCADE"),
    Index("candidate_pairs_b", "org_id", "b_id"),
)

merges = _own(
    "merges",
    _org(),
    _needed("duplicate_id", Uuid),
    _needed("canonical_id", Uuid),
    _needed("expired_at", MOMENT),
    _needed("is_legacy", Boolean, "false"),
    _optional("run_id", Uuid),
    _needed("stamp", Text),
    PrimaryKeyConstraint("org_id", "duplicate_id"),
    CheckConstraint("duplicate_id <> canonical_id"),
    _refers("org_id duplicate_id", "registered_items", "org_id item_id"),
    _refers("org_id canonical_id", "registered_items", "org_id item_id"),
    Index("merges_canonical", "org_id", "canonical_id"),
)

contradiction_cases = _own(
    "contradiction_cases",
    _org(),
    _needed("case_id", Uuid),
    _needed("category", Text),
    _needed("detector", Text),
    _needed("status", Text, "'open'"),
    _optional("outcome", Text),
    _needed("evidence", JSONB, "'{}'"),
    _optional("signal_id", Uuid),
    _needed("opened_at", MOMENT),
    _optional("decided_at", MOMENT),
    _optional("decided_by", Text),
    _needed("run_id", Uuid),
    _needed("stamp", Text),
    PrimaryKeyConstraint("org_id", "case_id"),
    CheckConstraint("status IN ('open', 'resolved', 'dismissed')"),
    CheckConstraint("(status = 'open') = (decided_at IS NULL)"),
)

case_items = _own(
    "case_items",
    _org(),
    _needed("case_id", Uuid),
    _needed("item_id", Uuid),
    PrimaryKeyConstraint("org_id", "case_id", "item_id"),
    _refers("org_id case_id", "contradiction_cases", ondelete="CASCADE"),
    _refers("org_id item_id", "registered_items"),
    Index("case_items_item", "org_id", "item_id"),
)

stamped_signals = _own(
    "stamped_signals",
    _org(),
    _needed("signal_id", Uuid),
    _needed("item_id", Uuid),
    _optional("case_id", Uuid),
    PrimaryKeyConstraint("org_id", "signal_id"),
    _refers("org_id case_id", "contradiction_cases", ondelete="CASCADE"),
    _refers("org_id item_id", "registered_items"),
    Index("stamped_signals_case", "org_id", "case_id"),
)

topic_clusters = _own(
    "topic_clusters",
    _org(),
    _needed("fingerprint", HASH),
    _needed("category", Text),
    _optional("framework", Text),
    _optional("language", Text),
    _optional("version", Text),
    _needed("medoid_id", Uuid),
    _needed("stamp", Text),
    PrimaryKeyConstraint("org_id", "fingerprint"),
)

suspicions = _own(
    "suspicions",
    _org(),
    _needed("item_id", Uuid),
    _needed("content_hash", HASH),
    _needed("kinds", ARRAY(Text)),
    _needed("score", Double),
    _needed("stamp", Text),
    PrimaryKeyConstraint("org_id", "item_id"),
    CheckConstraint("score >= 0"),
    _refers("org_id item_id", "item_features", ondelete="CASCADE"),
    Index("suspicions_found", "org_id", "item_id", postgresql_where=text("kinds <> '{}'")),
)

pii_scans = _own(
    "pii_scans",
    _org(),
    _needed("item_id", Uuid),
    _needed("content_hash", HASH),
    _needed("counts", JSONB),
    _needed("stamp", Text),
    _needed("scanned_at", MOMENT),
    PrimaryKeyConstraint("org_id", "item_id"),
    _refers("org_id item_id", "item_features", ondelete="CASCADE"),
    Index("pii_scans_found", "org_id", "item_id", postgresql_where=text("counts <> '{}'")),
)

topic_members = _own(
    "topic_members",
    _org(),
    _needed("fingerprint", HASH),
    _needed("item_id", Uuid),
    _needed("content_hash", HASH),
    PrimaryKeyConstraint("org_id", "item_id"),
    _refers("org_id fingerprint", "topic_clusters", ondelete="CASCADE"),
    _refers("org_id item_id", "item_features", ondelete="CASCADE"),
    Index("topic_members_fingerprint", "org_id", "fingerprint"),
)

summaries = _own(
    "summaries",
    _org(),
    _needed("summary_id", Uuid),
    _needed("kind", Text, "'summary'"),
    _needed("fingerprint", HASH),
    _needed("content_hash", HASH),
    _needed("method", Text),
    _needed("model", Text),
    _needed("prompt_version", Text),
    _needed("stamp", Text),
    _needed("pii_stamp", Text),
    _optional("run_id", Uuid),
    _optional("retired_reason", Text),
    PrimaryKeyConstraint("org_id", "summary_id"),
    UniqueConstraint("org_id", "fingerprint"),
    CheckConstraint("kind = 'summary'"),
    _refers("org_id summary_id kind", "registered_items", "org_id item_id kind"),
)

derivations = _own(
    "derivations",
    _org(),
    _needed("derived_id", Uuid),
    _needed("derived_kind", Text, "'summary'"),
    _needed("source_id", Uuid),
    _needed("source_kind", Text, "'original'"),
    _needed("source_hash", HASH),
    _needed("is_legacy", Boolean, "false"),
    _optional("run_id", Uuid),
    PrimaryKeyConstraint("org_id", "derived_id", "source_id"),
    CheckConstraint("derived_kind = 'summary'"),
    CheckConstraint("source_kind = 'original'"),
    _refers("org_id derived_id derived_kind", "registered_items", "org_id item_id kind"),
    _refers("org_id source_id source_kind", "registered_items", "org_id item_id kind"),
    Index("derivations_source", "org_id", "source_id"),
)

llm_jobs = _own(
    "llm_jobs",
    _org(),
    _needed("fingerprint", HASH),
    _needed("attempts", Integer, "0"),
    _optional("last_reason", Text),
    _optional("next_attempt_at", MOMENT),
    _optional("claimed_by", Uuid),
    _optional("lease_until", MOMENT),
    PrimaryKeyConstraint("org_id", "fingerprint"),
    CheckConstraint("(claimed_by IS NULL) = (lease_until IS NULL)"),
)

llm_verdicts = _own(
    "llm_verdicts",
    _org(),
    _needed("a_hash", HASH),
    _needed("b_hash", HASH),
    _needed("prompt_version", Text),
    _needed("model", Text),
    _needed("same", Boolean),
    _needed("confidence", Double),
    PrimaryKeyConstraint("org_id", "a_hash", "b_hash", "prompt_version", "model"),
    CheckConstraint("confidence BETWEEN 0 AND 1"),
    CheckConstraint('a_hash <= b_hash COLLATE "C"'),
)

pair_conflicts = _own(
    "pair_conflicts",
    _org(),
    _needed("a_id", Uuid),
    _needed("b_id", Uuid),
    _needed("a_hash", HASH),
    _needed("b_hash", HASH),
    _needed("case_id", Uuid),
    _needed("outcome", Text),
    _needed("reason", Text),
    _needed("score", Double),
    _needed("spans", JSONB),
    _needed("stamp", Text),
    _needed("is_settled", Boolean, "false"),
    PrimaryKeyConstraint("org_id", "a_id", "b_id"),
    CheckConstraint("outcome IN ('contradiction', 'version_fork', 'update', 'both_true_in_scope', 'none')"),
    CheckConstraint("score BETWEEN 0 AND 1"),
    CheckConstraint("a_id < b_id"),
    _refers("org_id a_id", "registered_items", "org_id item_id", ondelete="CASCADE"),
    _refers("org_id b_id", "registered_items", "org_id item_id", ondelete="CASCADE"),
    Index("pair_conflicts_b", "org_id", "b_id"),
    Index("pair_conflicts_case", "org_id", "case_id", postgresql_where=text("outcome <> 'none'")),
)

conflict_verdicts = _own(
    "conflict_verdicts",
    _org(),
    _needed("a_hash", HASH),
    _needed("b_hash", HASH),
    _needed("prompt_version", Text),
    _needed("model", Text),
    _needed("outcome", Text),
    _needed("confidence", Double),
    _needed("reason", Text),
    PrimaryKeyConstraint("org_id", "a_hash", "b_hash", "prompt_version", "model"),
    CheckConstraint(
        "outcome IN ('contradiction', 'version_fork', 'update', 'both_true_in_scope', 'unrelated')"
    ),
    CheckConstraint("confidence BETWEEN 0 AND 1"),
    CheckConstraint('a_hash <= b_hash COLLATE "C"'),
)

pair_verdicts = _own(
    "pair_verdicts",
    _org(),
    _needed("a_id", Uuid),
    _needed("b_id", Uuid),
    _needed("pair_id", Uuid),
    _needed("a_hash", HASH),
    _needed("b_hash", HASH),
    _needed("verdict", Text),
    _needed("source", Text),
    _optional("reason", Text),
    _needed("decided_by", Text),
    _needed("decided_at", MOMENT),
    _needed("run_id", Uuid),
    PrimaryKeyConstraint("org_id", "a_id", "b_id"),
    CheckConstraint("a_id < b_id"),
    CheckConstraint("verdict IN ('same', 'distinct')"),
    CheckConstraint("source IN ('review', 'undo')"),
    _refers("org_id a_id", "registered_items", "org_id item_id", ondelete="CASCADE"),
    _refers("org_id b_id", "registered_items", "org_id item_id", ondelete="CASCADE"),
    Index("pair_verdicts_b", "org_id", "b_id"),
    Index("pair_verdicts_pair", "org_id", "pair_id"),
)

llm_spend = _own(
    "llm_spend",
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    _org(),
    _needed("run_id", Uuid),
    _needed("purpose", Text),
    _needed("at", MOMENT),
    _needed("calls", Integer),
    _needed("input_tokens", BigInteger),
    _needed("output_tokens", BigInteger),
    _needed("usd", Double),
    _needed("is_reserved", Boolean, "false"),
    CheckConstraint("calls >= 0"),
    CheckConstraint("input_tokens >= 0"),
    CheckConstraint("output_tokens >= 0"),
    CheckConstraint("usd >= 0"),
    Index("llm_spend_org_at", "org_id", "at"),
)

prescreens = _own(
    "prescreens",
    _org(),
    _needed("pending_id", Uuid),
    _needed("content_hash", HASH),
    _needed("score", Double),
    _needed("is_low_quality", Boolean),
    _needed("stamp", Text),
    _optional("document", JSONB),
    _optional("value", Double),
    _optional("parts", JSONB),
    _needed("is_marked", Boolean, "false"),
    _needed("label_stamp", Text, "''"),
    PrimaryKeyConstraint("org_id", "pending_id"),
    CheckConstraint("score BETWEEN 0 AND 1"),
)

pending_features = _own(
    "pending_features",
    _org(),
    _needed("pending_id", Uuid),
    _needed("content_hash", HASH),
    _needed("class_key", LargeBinary),
    _needed("signature", LargeBinary),
    _optional("embedding", Vector(EMBEDDING_DIMENSION)),
    _needed("findings", JSONB),
    _needed("stamp", Text),
    _needed("text_stamp", Text),
    PrimaryKeyConstraint("org_id", "pending_id"),
    CheckConstraint("octet_length(class_key) = 32"),
)

pending_matches = _own(
    "pending_matches",
    _org(),
    _needed("pending_id", Uuid),
    _needed("other_id", Uuid),
    _needed("other_kind", Text),
    _needed("pending_hash", HASH),
    _needed("other_hash", HASH),
    _needed("similarity", Double),
    _needed("probability", Double),
    _needed("decision", Text),
    _needed("reason", Text),
    _optional("conflict", Text),
    _needed("is_held", Boolean),
    PrimaryKeyConstraint("org_id", "pending_id", "other_id"),
    CheckConstraint("other_kind IN ('item', 'pending')"),
    CheckConstraint("probability BETWEEN 0 AND 1"),
    CheckConstraint("decision IN ('duplicate', 'possible', 'distinct')"),
    _refers("org_id pending_id", "pending_features", ondelete="CASCADE"),
    Index("pending_matches_other", "org_id", "other_id"),
)

screened_items = _own(
    "screened_items",
    _org(),
    _needed("item_id", Uuid),
    _needed("content_hash", HASH),
    _needed("stamp", Text),
    PrimaryKeyConstraint("org_id", "item_id"),
)

quality_inputs = _own(
    "quality_inputs",
    _org(),
    _needed("item_id", Uuid),
    _needed("retrievals", Double),
    _needed("helpful", Double),
    _needed("not_helpful", Double),
    _needed("signals", BigInteger),
    _needed("contradictions", BigInteger),
    _optional("accessed_at", MOMENT),
    _needed("is_current", Boolean),
    _needed("score", Double),
    _needed("day", Date),
    _needed("stamp", Text),
    PrimaryKeyConstraint("org_id", "item_id"),
)

quality_history = _own(
    "quality_history",
    _org(),
    _needed("day", Date),
    _needed("counts", ARRAY(Integer)),
    PrimaryKeyConstraint("org_id", "day"),
)

runs = _own(
    "runs",
    _needed("run_id", Uuid),
    _optional("org_id", String(255)),
    _needed("job", Text),
    _needed("status", Text),
    _needed("as_of", MOMENT),
    _optional("finished_at", MOMENT),
    _optional("dagster_run_id", Text),
    _needed("policy_version", Text),
    _needed("stamps", JSONB),
    _needed("counts", JSONB, "'{}'"),
    _needed("allowed", JSONB, "'[]'"),
    _optional("backfill_id", Text),
    PrimaryKeyConstraint("run_id"),
    CheckConstraint("job IN ('distillation', 'quality', 'erasure', 'undo', 'review')"),
    CheckConstraint("status IN ('running', 'finished', 'failed')"),
    CheckConstraint("(status = 'running') = (finished_at IS NULL)"),
    Index("runs_org", "org_id", "job", text("as_of DESC")),
    Index("runs_backfill", "backfill_id", postgresql_where=text("backfill_id IS NOT NULL")),
)

policies = _own(
    "policies",
    _needed("version", Text),
    _needed("document", JSONB),
    _needed("first_used_at", MOMENT),
    PrimaryKeyConstraint("version"),
)

receipts = _own(
    "receipts",
    _needed("asset", Text),
    _org(),
    _needed("payload", JSONB),
    _needed("updated_at", MOMENT),
    PrimaryKeyConstraint("asset", "org_id"),
)

refused_plans = _own(
    "refused_plans",
    _org(),
    _needed("inputs_hash", String(32)),
    _needed("stamp", Text),
    _needed("expired_count", Integer),
    _needed("live_count", Integer),
    _needed("run_id", Uuid),
    _needed("at", MOMENT),
    PrimaryKeyConstraint("org_id"),
)

tombstones = _own(
    "tombstones",
    _org(),
    _needed("item_id", Uuid),
    _needed("kind", Text),
    _needed("at", MOMENT),
    _needed("run_id", Uuid),
    PrimaryKeyConstraint("org_id", "item_id"),
    CheckConstraint("kind IN ('deleted', 'gone', 'erased')"),
)

erased_texts = _own(
    "erased_texts",
    _org(),
    _needed("keyed_name", HASH),
    _needed("sameness", Text),
    _needed("item_id", Uuid),
    _needed("erased_at", MOMENT),
    PrimaryKeyConstraint("org_id", "keyed_name"),
    CheckConstraint("sameness IN ('exact', 'normalised')"),
)

erasures = _own(
    "erasures",
    _org(),
    _needed("erasure_id", Uuid),
    _needed("run_id", Uuid),
    _needed("erased_at", MOMENT),
    _optional("unfinished", JSONB),
    _optional("finished_at", MOMENT),
    PrimaryKeyConstraint("org_id", "erasure_id"),
    CheckConstraint("(unfinished IS NULL) = (finished_at IS NOT NULL)"),
    Index("erasures_unfinished", "erased_at", postgresql_where=text("finished_at IS NULL")),
)

ledger = _own(
    "ledger",
    Column("seq", BigInteger, Identity(always=True), primary_key=True),
    _org(),
    _needed("run_id", Uuid),
    _needed("change", Text),
    _needed("subject_id", Uuid),
    _needed("before", JSONB),
    _needed("after", JSONB),
    _needed("stamp", Text),
    _needed("at", MOMENT),
    Index("ledger_subject", "org_id", "subject_id", "seq"),
    Index(
        "ledger_state",
        "org_id",
        "subject_id",
        text("seq DESC"),
        postgresql_where=text("change NOT IN ('rescore', 'embed', 'flag', 'unflag')"),
    ),
    Index("ledger_run", "org_id", "run_id"),
    Index(
        "ledger_canonical",
        "org_id",
        text("(after ->> 'canonical')"),
        "seq",
        postgresql_where=text("change = 'merge'"),
    ),
)

OWN_TABLES: tuple[Table, ...] = tuple(table for table in metadata.sorted_tables if table.schema == OWN_SCHEMA)
