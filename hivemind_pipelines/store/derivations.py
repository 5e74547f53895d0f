"""Summaries and what they were derived from: publishing, reviving, retiring, jobs and spend."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from hivemind_pipelines.core.changes import Publish, Retire, Revive
from hivemind_pipelines.core.model import ItemId, OrgId, RunId, SourceText, TopicCluster
from hivemind_pipelines.core.policy import SummaryPolicy
from hivemind_pipelines.core.upkeep import StandingSummary
from hivemind_pipelines.store.items import LIVE, vector_literal
from hivemind_pipelines.store.ledger import Entry

# A source counts while it is live and still says what it said.
LIVE_SOURCE = f"k.content_hash = d.source_hash AND {LIVE}"

SUMMARIES = text(f"""
    SELECT r.item_id AS summary_id, s.fingerprint, s.pii_stamp, s.retired_reason,
           i.expired_at IS NULL AS is_live,
           count(k.id) FILTER (WHERE {LIVE_SOURCE}) AS live_sources,
           count(d.source_id) FILTER (WHERE k.id IS NULL OR k.deleted_at IS NOT NULL) AS lost_sources,
           count(k.id) FILTER (WHERE k.content_hash <> d.source_hash) AS changed_sources,
           array_agg(d.source_id ORDER BY d.source_id) AS source_ids
    FROM distillation.registered_items r
    JOIN public.knowledge_items i ON i.org_id = r.org_id AND i.id = r.item_id AND i.deleted_at IS NULL
    JOIN distillation.derivations d ON d.org_id = r.org_id AND d.derived_id = r.item_id
    LEFT JOIN distillation.summaries s ON s.org_id = r.org_id AND s.summary_id = r.item_id
    LEFT JOIN public.knowledge_items k ON k.org_id = d.org_id AND k.id = d.source_id
    WHERE r.org_id = :org_id AND r.kind = 'summary'
    GROUP BY r.item_id, s.fingerprint, s.pii_stamp, s.retired_reason, i.expired_at
    ORDER BY r.item_id
""")


def read_summaries(conn: Connection, org_id: OrgId) -> tuple[StandingSummary, ...]:
    """Every summary of the org with the state of its sources, in id order."""
    return tuple(
        StandingSummary(
            ItemId(row.summary_id),
            row.fingerprint,
            row.pii_stamp,
            row.retired_reason,
            row.is_live,
            row.live_sources,
            row.lost_sources,
            row.changed_sources,
            tuple(map(ItemId, row.source_ids)),
        )
        for row in conn.execute(SUMMARIES, {"org_id": org_id})
    )


KNOWN_FINGERPRINT = text("""
    SELECT FROM distillation.summaries WHERE org_id = :org_id AND fingerprint = :fingerprint
""")

KNOWN_FINGERPRINTS = text("SELECT fingerprint FROM distillation.summaries WHERE org_id = :org_id")


def read_known_fingerprints(conn: Connection, org_id: OrgId) -> frozenset[str]:
    """Fingerprints that were ever published, those whose summary is deleted or gone included."""
    return frozenset(conn.execute(KNOWN_FINGERPRINTS, {"org_id": org_id}).scalars())


SOURCES = text(f"""
    SELECT k.id, k.content, k.content_hash, k.is_public FROM public.knowledge_items k
    WHERE k.org_id = :org_id AND k.id = ANY(CAST(:ids AS uuid[])) AND {LIVE}
    ORDER BY k.id
""")


def read_sources(conn: Connection, org_id: OrgId, cluster: TopicCluster) -> tuple[SourceText, ...]:
    """The cluster's sources that are live and unchanged, numbered from 1 in id order."""
    hashes = dict(zip(cluster.source_ids, cluster.source_hashes, strict=True))
    rows = conn.execute(SOURCES, {"org_id": org_id, "ids": sorted(cluster.source_ids)})
    current = [row for row in rows if hashes[ItemId(row.id)] == row.content_hash]
    return tuple(
        SourceText(number, ItemId(row.id), row.content_hash, row.content, row.is_public)
        for number, row in enumerate(current, start=1)
    )


TEXTS = text("""
    SELECT k.id, k.content FROM public.knowledge_items k
    WHERE k.org_id = :org_id AND k.id = ANY(CAST(:ids AS uuid[])) ORDER BY k.id
""")


def read_texts(conn: Connection, org_id: OrgId, ids: Sequence[ItemId]) -> dict[ItemId, str]:
    """Contents by id."""
    rows = conn.execute(TEXTS, {"org_id": org_id, "ids": list(ids)})
    return {ItemId(row.id): row.content for row in rows}


# Locked so that no source can change, expire or be deleted between this check and the commit.
LOCK_SOURCES = text(f"""
    SELECT k.id, k.content_hash FROM public.knowledge_items k
    WHERE k.org_id = :org_id AND k.id = ANY(CAST(:ids AS uuid[])) AND {LIVE}
    ORDER BY k.id FOR NO KEY UPDATE
""")

# (content_hash, org_id) is unique over expired and deleted rows too: an identical text is not stored.
INSERT_SUMMARY_ITEM = text("""
    INSERT INTO public.knowledge_items
        (id, org_id, is_public, source_agent_id, content, content_hash, category, confidence, framework,
         language, version, tags, embedding, contributed_at, approved_at, quality_score,
         retrieval_count, helpful_count, not_helpful_count)
    VALUES (:id, :org_id, false, 'distillation', :content, :content_hash,
            CAST(:category AS public.knowledgecategory), :confidence, :framework, :language, :version,
            CAST(:tags AS jsonb), CAST(:embedding AS vector), :as_of, :as_of, :quality_score, 0, 0, 0)
    ON CONFLICT DO NOTHING
""")

# A summary of ours that says the same and is expired, or about to be replaced, gets the new topic.
SAME_TEXT = text("""
    SELECT k.id FROM public.knowledge_items k
    JOIN distillation.summaries s ON s.org_id = k.org_id AND s.summary_id = k.id
    WHERE k.org_id = :org_id AND k.content_hash = :content_hash AND k.deleted_at IS NULL
      AND k.category = CAST(:category AS public.knowledgecategory)
      AND (k.framework, k.language, k.version)
          IS NOT DISTINCT FROM (CAST(:framework AS text), CAST(:language AS text), CAST(:version AS text))
      AND (k.expired_at IS NOT NULL OR k.id = ANY(CAST(:replaces AS uuid[])))
    FOR NO KEY UPDATE OF k
""")

REBIND_ITEM = text("""
    UPDATE public.knowledge_items k
    SET expired_at = NULL,
        tags = CASE WHEN k.tags IS NULL OR jsonb_typeof(k.tags) = 'null' THEN CAST(:tags AS jsonb)
                    WHEN jsonb_typeof(k.tags) = 'object' THEN k.tags || CAST(:tags AS jsonb) ELSE k.tags END
    WHERE k.org_id = :org_id AND k.id = :id
""")

FORGET_DERIVATIONS = text("DELETE FROM distillation.derivations WHERE org_id = :org_id AND derived_id = :id")

REGISTER_PARTIES = text("""
    INSERT INTO distillation.registered_items (org_id, item_id, kind)
    SELECT :org_id, CAST(:id AS uuid), 'summary'
    UNION ALL SELECT :org_id, unnest(CAST(:source_ids AS uuid[])), 'original'
    ON CONFLICT DO NOTHING
""")

RECORD_SUMMARY = text("""
    WITH summary AS (
        INSERT INTO distillation.summaries AS s
            (org_id, summary_id, fingerprint, content_hash, method, model, prompt_version, stamp, pii_stamp, run_id)
        VALUES (:org_id, :id, :fingerprint, :content_hash, :method, :model, :prompt_version, :stamp,
                :pii_stamp, :run_id)
        ON CONFLICT (org_id, summary_id) DO UPDATE SET
            fingerprint = EXCLUDED.fingerprint, method = EXCLUDED.method, model = EXCLUDED.model,
            prompt_version = EXCLUDED.prompt_version, stamp = EXCLUDED.stamp,
            pii_stamp = EXCLUDED.pii_stamp, run_id = EXCLUDED.run_id, retired_reason = NULL
    )
    INSERT INTO distillation.derivations (org_id, derived_id, source_id, source_hash, run_id)
    SELECT :org_id, :id, n.source_id, n.source_hash, :run_id
    FROM unnest(CAST(:source_ids AS uuid[]), CAST(:source_hashes AS text[])) AS n (source_id, source_hash)
""")


@dataclass(frozen=True, slots=True)
class SummaryStamps:
    """The fingerprints a published summary depends on."""

    summary: str
    pii: str


def publish(
    conn: Connection,
    org_id: OrgId,
    change: Publish,
    policy: SummaryPolicy,
    *,
    run_id: RunId,
    stamps: SummaryStamps,
    as_of: datetime,
) -> tuple[Entry, ...] | str:
    """Store a summary and retire what it replaces; a reason code when a source or the text forbids it.

    When an expired summary of ours says the very same, that one comes back for the new topic.
    """
    cluster = change.cluster
    locked = conn.execute(LOCK_SOURCES, {"org_id": org_id, "ids": sorted(cluster.source_ids)})
    current = {(ItemId(row.id), row.content_hash) for row in locked}
    if current != set(zip(cluster.source_ids, cluster.source_hashes, strict=True)):
        return "source_changed"
    known = conn.execute(KNOWN_FINGERPRINT, {"org_id": org_id, "fingerprint": cluster.fingerprint})
    if known.first() is not None:
        return "already_published"
    item = {
        "id": change.summary_id, "org_id": org_id, "content": change.content,
        "content_hash": change.content_hash, "category": cluster.category.value,
        "confidence": policy.confidence, "quality_score": policy.quality_score,
        "framework": cluster.scope.framework, "language": cluster.scope.language,
        "version": cluster.scope.version, "embedding": vector_literal(change.vector[0]), "as_of": as_of,
        "tags": json.dumps(
            {"distilled": True, "source_item_ids": [str(source) for source in cluster.source_ids]}
        ),
    }  # fmt: skip
    summary_id, is_new = change.summary_id, conn.execute(INSERT_SUMMARY_ITEM, item).rowcount == 1
    if not is_new:
        same = conn.execute(SAME_TEXT, {**item, "replaces": list(change.replaces)}).scalar()
        if same is None:
            return "said_already"
        summary_id = ItemId(same)
        conn.execute(REBIND_ITEM, {"org_id": org_id, "id": summary_id, "tags": item["tags"]})
        conn.execute(FORGET_DERIVATIONS, {"org_id": org_id, "id": summary_id})
    record = {
        "org_id": org_id, "id": summary_id, "fingerprint": cluster.fingerprint,
        "content_hash": change.content_hash, "method": change.method, "model": change.model,
        "prompt_version": change.prompt_version, "stamp": stamps.summary, "pii_stamp": stamps.pii,
        "run_id": run_id, "source_ids": list(cluster.source_ids), "source_hashes": list(cluster.source_hashes),
    }  # fmt: skip
    conn.execute(REGISTER_PARTIES, record)
    conn.execute(RECORD_SUMMARY, record)
    superseded = [Retire(summary, "superseded") for summary in change.replaces if summary != summary_id]
    retired = retire(conn, org_id, superseded, as_of=as_of)
    # Not its fingerprint, a hash over the sources' hashes: a short text of an erased one could be guessed.
    after = {"sources": len(cluster.source_ids), "expired_at": None}
    return (Entry("publish" if is_new else "revive", summary_id, {}, after), *retired)


RETIRE = text("""
    WITH wanted AS (
        SELECT k.id, n.reason, k.expired_at IS NULL AS is_live
        FROM unnest(CAST(:ids AS uuid[]), CAST(:reasons AS text[])) AS n (summary_id, reason)
        JOIN distillation.registered_items r
            ON r.org_id = :org_id AND r.item_id = n.summary_id AND r.kind = 'summary'
        JOIN public.knowledge_items k ON k.org_id = r.org_id AND k.id = n.summary_id
        ORDER BY k.id FOR NO KEY UPDATE OF k
    ), retired AS (
        UPDATE public.knowledge_items k SET expired_at = :as_of
        FROM wanted w WHERE k.org_id = :org_id AND k.id = w.id AND w.is_live
    ), remembered AS (
        -- A text in which the gate found something never comes back: its topic is free for another.
        UPDATE distillation.summaries s SET retired_reason = w.reason,
            fingerprint = CASE WHEN w.reason <> 'pii_found' THEN s.fingerprint
                ELSE encode(sha256(convert_to(s.fingerprint || s.summary_id::text, 'UTF8')), 'hex') END
        FROM wanted w WHERE s.org_id = :org_id AND s.summary_id = w.id
    )
    SELECT id, reason FROM wanted WHERE is_live ORDER BY id
""")


def retire(conn: Connection, org_id: OrgId, plan: Sequence[Retire], *, as_of: datetime) -> tuple[Entry, ...]:
    """Expire summaries; returns the ledger entries of those that were live, the others keep the reason."""
    parameters = {
        "org_id": org_id,
        "as_of": as_of,
        "ids": [change.summary_id for change in plan],
        "reasons": [change.reason for change in plan],
    }
    after = {"expired_at": as_of.isoformat()}
    return tuple(
        Entry("retire", row.id, {"expired_at": None}, {**after, "reason": row.reason})
        for row in conn.execute(RETIRE, parameters)
    )


# Revived only while every source still says what it said when the summary was made. One that somebody
# else brought back is live already: it is only entered as revived.
REVIVE = text(f"""
    WITH valid AS (
        SELECT i.id, i.expired_at, to_jsonb(i.expired_at) AS expired_before
        FROM public.knowledge_items i
        JOIN distillation.summaries s ON s.org_id = i.org_id AND s.summary_id = i.id
        WHERE i.org_id = :org_id AND i.id = ANY(CAST(:ids AS uuid[]))
          AND i.deleted_at IS NULL AND s.retired_reason IS NOT NULL
          AND (i.expired_at IS NULL OR (i.content_hash = s.content_hash AND NOT EXISTS (
            SELECT FROM distillation.derivations d
            LEFT JOIN public.knowledge_items k
                ON k.org_id = d.org_id AND k.id = d.source_id AND {LIVE_SOURCE}
            WHERE d.org_id = s.org_id AND d.derived_id = s.summary_id AND k.id IS NULL)))
        ORDER BY i.id FOR NO KEY UPDATE OF i
    ), revived AS (
        UPDATE public.knowledge_items i SET expired_at = NULL
        FROM valid v WHERE i.org_id = :org_id AND i.id = v.id AND v.expired_at IS NOT NULL
    ), remembered AS (
        UPDATE distillation.summaries s SET retired_reason = NULL
        FROM valid v WHERE s.org_id = :org_id AND s.summary_id = v.id
    )
    SELECT id, expired_before FROM valid ORDER BY id
""")


def revive(conn: Connection, org_id: OrgId, plan: Sequence[Revive]) -> tuple[Entry, ...]:
    """Bring expired summaries back; returns the ledger entries of those that came."""
    rows = conn.execute(REVIVE, {"org_id": org_id, "ids": [change.summary_id for change in plan]})
    return tuple(
        Entry("revive", row.id, {"expired_at": row.expired_before}, {"expired_at": None}) for row in rows
    )


RESTAMP_PII = text("""
    UPDATE distillation.summaries SET pii_stamp = :stamp
    WHERE org_id = :org_id AND summary_id = ANY(CAST(:ids AS uuid[]))
""")


def restamp_pii(conn: Connection, org_id: OrgId, ids: Sequence[ItemId], *, stamp: str) -> None:
    """Remember that these summaries passed the scanner of this stamp."""
    conn.execute(RESTAMP_PII, {"org_id": org_id, "ids": list(ids), "stamp": stamp})
