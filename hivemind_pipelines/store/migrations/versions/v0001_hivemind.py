"""The tables that a HiveMind server owns, schema `public`: created where absent, else left alone."""

from alembic import op
from sqlalchemy import Connection, text

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KNOWLEDGE_CATEGORY = """
CREATE TYPE public.knowledgecategory AS ENUM (
    'bug_fix', 'config', 'domain_expertise', 'workaround', 'pricing_data', 'regulatory_rule', 'tooling',
    'reasoning_trace', 'failed_approach', 'version_workaround', 'general'
)
"""

KNOWLEDGE_ITEMS = """
CREATE TABLE public.knowledge_items (
    id                uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    org_id            varchar(255) NOT NULL,
    is_public         boolean NOT NULL DEFAULT false,
    source_agent_id   varchar(255) NOT NULL,
    run_id            varchar(255),
    content           text NOT NULL,
    content_hash      varchar(64) NOT NULL,
    category          public.knowledgecategory NOT NULL,
    confidence        double precision NOT NULL DEFAULT 0.8,
    framework         varchar(100),
    language          varchar(50),
    version           varchar(50),
    tags              jsonb,
    embedding         vector(384),
    contributed_at    timestamptz NOT NULL DEFAULT now(),
    approved_at       timestamptz NOT NULL DEFAULT now(),
    deleted_at        timestamptz,
    quality_score     double precision NOT NULL DEFAULT 0.5,
    retrieval_count   integer NOT NULL DEFAULT 0,
    helpful_count     integer NOT NULL DEFAULT 0,
    not_helpful_count integer NOT NULL DEFAULT 0,
    valid_at          timestamptz,
    invalid_at        timestamptz,
    expired_at        timestamptz,
    UNIQUE (content_hash, org_id)
)
"""

PENDING_CONTRIBUTIONS = """
CREATE TABLE public.pending_contributions (
    id                   uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    org_id               varchar(255) NOT NULL,
    source_agent_id      varchar(255) NOT NULL,
    run_id               varchar(255),
    content              text NOT NULL,
    content_hash         varchar(64) NOT NULL,
    category             public.knowledgecategory NOT NULL,
    confidence           double precision NOT NULL DEFAULT 0.8,
    framework            varchar(100),
    language             varchar(50),
    version              varchar(50),
    tags                 jsonb,
    contributed_at       timestamptz NOT NULL DEFAULT now(),
    is_sensitive_flagged boolean NOT NULL DEFAULT false
)
"""

QUALITY_SIGNALS = """
CREATE TABLE public.quality_signals (
    id                uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    knowledge_item_id uuid NOT NULL REFERENCES public.knowledge_items (id) ON DELETE CASCADE,
    signal_type       varchar(50) NOT NULL,
    agent_id          varchar(255),
    run_id            varchar(255),
    metadata          jsonb,
    created_at        timestamptz NOT NULL DEFAULT now()
)
"""

DEPLOYMENT_CONFIG = """
CREATE TABLE public.deployment_config (
    key        varchar(255) NOT NULL PRIMARY KEY,
    value      text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
)
"""

TABLES = {
    "knowledge_items": KNOWLEDGE_ITEMS,
    "pending_contributions": PENDING_CONTRIBUTIONS,
    "quality_signals": QUALITY_SIGNALS,
    "deployment_config": DEPLOYMENT_CONFIG,
}


def upgrade() -> None:
    create_absent(op.get_bind())


def create_absent(connection: Connection) -> None:
    """Create what is absent; the indexes follow outside the transaction, see `public_schema`."""
    if connection.execute(text("SELECT to_regtype('public.knowledgecategory')")).scalar() is None:
        connection.execute(text(KNOWLEDGE_CATEGORY))
    for name, statement in TABLES.items():
        if connection.execute(text("SELECT to_regclass(:name)"), {"name": f"public.{name}"}).scalar() is None:
            connection.execute(text(statement))


def downgrade() -> None:
    raise NotImplementedError("the tables belong to the HiveMind server")
