"""Rows for tests, written the way a HiveMind server or an operator would: by plain SQL."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import numpy as np
from numpy.typing import NDArray
from psycopg import sql
from psycopg.types.json import Jsonb
from sqlalchemy import text

from hivemind_pipelines.core.model import EMBEDDING_DIMENSION, ItemId, OrgId, PendingId, SignalId
from hivemind_pipelines.store.connection import Store, raw_cursor

ACME = OrgId("acme")

#: When everything was contributed, unless a test says otherwise.
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)

#: `tags=JSON_NULL` stores JSON null; `tags=None` stores SQL NULL.
JSON_NULL = Jsonb(None)

#: What a server that creates its tables itself leaves behind: names of its own, defaults in its code
#: rather than in the database, a column we do not know, and its own Alembic table.
HIVEMIND_SCHEMA = """
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TYPE knowledgecategory AS ENUM ('bug_fix', 'config', 'domain_expertise', 'workaround',
    'pricing_data', 'regulatory_rule', 'tooling', 'reasoning_trace', 'failed_approach',
    'version_workaround', 'general');
CREATE TABLE knowledge_items (
    id uuid PRIMARY KEY, org_id varchar(255) NOT NULL, is_public boolean NOT NULL,
    source_agent_id varchar(255) NOT NULL, run_id varchar(255), content text NOT NULL,
    content_hash varchar(64) NOT NULL, category knowledgecategory NOT NULL,
    confidence double precision NOT NULL, framework varchar(100), language varchar(50),
    version varchar(50), tags jsonb, embedding vector(384), contributed_at timestamptz NOT NULL,
    approved_at timestamptz NOT NULL, deleted_at timestamptz, quality_score double precision NOT NULL,
    retrieval_count integer NOT NULL, helpful_count integer NOT NULL, not_helpful_count integer NOT NULL,
    valid_at timestamptz, invalid_at timestamptz, expired_at timestamptz,
    server_note text,
    CONSTRAINT uq_hash_org UNIQUE (content_hash, org_id));
CREATE INDEX knowledge_items_embedding_idx ON knowledge_items
    USING hnsw (embedding vector_cosine_ops) WITH (m = 16, ef_construction = 64);
CREATE INDEX knowledge_items_org_idx ON knowledge_items (org_id);
CREATE INDEX knowledge_items_org_public_idx ON knowledge_items (org_id, is_public);
CREATE TABLE pending_contributions (
    id uuid PRIMARY KEY, org_id varchar(255) NOT NULL, source_agent_id varchar(255) NOT NULL,
    run_id varchar(255), content text NOT NULL, content_hash varchar(64) NOT NULL,
    category knowledgecategory NOT NULL, confidence double precision NOT NULL, framework varchar(100),
    language varchar(50), version varchar(50), tags jsonb, contributed_at timestamptz NOT NULL,
    is_sensitive_flagged boolean NOT NULL);
CREATE INDEX pending_contributions_org_idx ON pending_contributions (org_id);
CREATE TABLE quality_signals (
    id uuid PRIMARY KEY,
    knowledge_item_id uuid NOT NULL REFERENCES knowledge_items (id) ON DELETE CASCADE,
    signal_type varchar(50) NOT NULL, agent_id varchar(255), run_id varchar(255), metadata jsonb,
    created_at timestamptz NOT NULL);
CREATE INDEX quality_signals_item_idx ON quality_signals (knowledge_item_id);
CREATE INDEX quality_signals_item_type_idx ON quality_signals (knowledge_item_id, signal_type);
CREATE TABLE deployment_config (
    key varchar(255) PRIMARY KEY, value text NOT NULL,
    created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL);
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('server_42');
"""


def insert_item(store: Store, content: str, org: str = ACME, **columns: object) -> ItemId:
    """One knowledge item, live unless `columns` say otherwise; `embedding` is a vector of shape (384,)."""
    return insert_items(store, [content], org, **columns)[0]


def insert_items(store: Store, contents: Sequence[str], org: str = ACME, **columns: object) -> list[ItemId]:
    """Several items of one org with the same other columns, in one transaction."""
    rows = [_item(content, org) | columns for content in contents]
    _insert(store, "knowledge_items", rows)
    return [ItemId(row["id"]) for row in rows]


def insert_pending(store: Store, content: str, org: str = ACME, **columns: object) -> PendingId:
    """One row of the review queue."""
    return insert_pendings(store, [content], org, **columns)[0]


def insert_pendings(
    store: Store, contents: Sequence[str], org: str = ACME, **columns: object
) -> list[PendingId]:
    """Several rows of the review queue with the same other columns, in one transaction."""
    rows = [_contribution(content, org) | {"is_sensitive_flagged": False} | columns for content in contents]
    _insert(store, "pending_contributions", rows)
    return [PendingId(row["id"]) for row in rows]


def insert_signal(
    store: Store, item_id: UUID, signal_type: str = "contradiction", **columns: object
) -> SignalId:
    """One behaviour signal on an item."""
    row: dict[str, Any] = {
        "id": uuid4(),
        "knowledge_item_id": item_id,
        "signal_type": signal_type,
        "created_at": LONG_AGO,
    } | columns
    _insert(store, "quality_signals", [row])
    return SignalId(row["id"])


def set_item(store: Store, item_id: UUID, **columns: object) -> None:
    """Overwrite columns of one item, as its owner or the server might at any moment."""
    assignments = [sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in columns]
    statement = sql.SQL("UPDATE public.knowledge_items SET {} WHERE id = %(the_id)s").format(
        sql.SQL(", ").join(assignments)
    )
    with store.begin() as connection, raw_cursor(connection) as cursor:
        cursor.execute(
            statement, {name: _plain(name, value) for name, value in columns.items()} | {"the_id": item_id}
        )


def delete_item(store: Store, item_id: UUID) -> None:
    """Hard-delete one item, as only the server may."""
    execute(store, "DELETE FROM public.knowledge_items WHERE id = :id", id=item_id)


def execute(store: Store, statement: str, **values: object) -> None:
    """One statement in one transaction."""
    with store.begin() as connection:
        connection.execute(text(statement), values)


def rows(store: Store, query: str, **values: object) -> list[Any]:
    """All rows of a query."""
    with store.read() as connection:
        return list(connection.execute(text(query), values))


def scalar(store: Store, query: str, **values: object) -> Any:
    """The single value of a query."""
    with store.read() as connection:
        return connection.execute(text(query), values).scalar_one()


def read_item(store: Store, item_id: UUID) -> dict[str, Any]:
    """One item as JSON, by column name."""
    return dict(scalar(store, "SELECT to_jsonb(k) FROM public.knowledge_items k WHERE id = :id", id=item_id))


Dump = dict[str, dict[str, dict[str, Any]]]

_ORG_ROWS = {
    "knowledge_items": "SELECT id, to_jsonb(t) FROM public.knowledge_items t WHERE org_id = :org",
    "pending_contributions": "SELECT id, to_jsonb(t) FROM public.pending_contributions t WHERE org_id = :org",
    "quality_signals": (
        "SELECT t.id, to_jsonb(t) FROM public.quality_signals t"
        " JOIN public.knowledge_items k ON k.id = t.knowledge_item_id WHERE k.org_id = :org"
    ),
}


def org_dump(store: Store, org: str = ACME) -> Dump:
    """Every public row of one org: table -> id -> row as JSON; equal dumps mean nothing was touched."""
    return {
        table: {str(key): row for key, row in rows(store, query, org=org)}
        for table, query in _ORG_ROWS.items()
    }


def public_dump(store: Store) -> Dump:
    """Every public row of every org, and the deployment's configuration."""
    queries = {table: query.split(" WHERE ")[0] for table, query in _ORG_ROWS.items()} | {
        "deployment_config": "SELECT key, to_jsonb(t) FROM public.deployment_config t"
    }
    return {table: _by_key(rows(store, query)) for table, query in queries.items()}


def _by_key(found: Sequence[Any]) -> dict[str, dict[str, Any]]:
    return {str(key): row for key, row in found}


def unit_vector(seed: int) -> NDArray[np.float32]:
    """A unit vector of shape (384,); vectors of different seeds are nearly orthogonal."""
    vector = np.random.default_rng(seed).standard_normal(EMBEDDING_DIMENSION)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def vector_near(vector: NDArray[np.float32], cosine: float, seed: int = 0) -> NDArray[np.float32]:
    """A unit vector whose cosine to `vector` is `cosine`, up to float32."""
    other = np.random.default_rng(seed).standard_normal(EMBEDDING_DIMENSION)
    other -= (other @ vector) * vector
    other /= np.linalg.norm(other)
    return np.asarray(cosine * vector + np.sqrt(1.0 - cosine**2) * other, dtype=np.float32)


def _contribution(content: str, org: str) -> dict[str, Any]:
    return {
        "id": uuid4(),
        "org_id": org,
        "source_agent_id": "agent-1",
        "content": content,
        "content_hash": hashlib.sha256(content.encode()).hexdigest(),
        "category": "general",
        "confidence": 0.8,
        "contributed_at": LONG_AGO,
    }


def _item(content: str, org: str) -> dict[str, Any]:
    return _contribution(content, org) | {
        "is_public": False,
        "approved_at": LONG_AGO,
        "quality_score": 0.5,
        "retrieval_count": 0,
        "helpful_count": 0,
        "not_helpful_count": 0,
    }


def _insert(store: Store, table: str, new_rows: Sequence[dict[str, Any]]) -> None:
    if not new_rows:
        return
    names = list(new_rows[0])
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        sql.Identifier("public", table),
        sql.SQL(", ").join(map(sql.Identifier, names)),
        sql.SQL(", ").join(map(sql.Placeholder, names)),
    )
    with store.begin() as connection, raw_cursor(connection) as cursor:
        cursor.executemany(statement, [{name: _plain(name, row[name]) for name in names} for row in new_rows])


def _plain(name: str, value: object) -> object:
    if name in ("tags", "metadata") and value is not None and not isinstance(value, Jsonb):
        return Jsonb(value)
    if name == "embedding" and value is not None and not isinstance(value, str):
        return f"[{','.join(str(float(number)) for number in value)}]"  # type: ignore[attr-defined]
    return value
