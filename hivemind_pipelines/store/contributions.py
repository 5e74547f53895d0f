"""Pending contributions and the labels that pre-screening puts on them."""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from hivemind_pipelines.core.changes import Flag
from hivemind_pipelines.core.model import Category, OrgId, PendingContribution, PendingId
from hivemind_pipelines.store.items import KNOWN_CATEGORIES
from hivemind_pipelines.store.ledger import Entry
from hivemind_pipelines.store.pairs import Applied

UNSCREENED = text(f"""
    SELECT p.id, p.content, p.content_hash, p.category::text AS category, p.confidence
    FROM public.pending_contributions p
    LEFT JOIN distillation.prescreens s ON s.org_id = p.org_id AND s.pending_id = p.id
    WHERE p.org_id = :org_id
      AND (s.stamp IS DISTINCT FROM :stamp OR s.content_hash <> p.content_hash)
      AND p.category::text IN ({KNOWN_CATEGORIES})
    ORDER BY p.id
""")


def read_unscreened(conn: Connection, org_id: OrgId, *, stamp: str) -> tuple[PendingContribution, ...]:
    """Pending rows whose labels are missing or of another policy or content, in id order."""
    return tuple(
        PendingContribution(
            PendingId(row.id), org_id, row.content, row.content_hash, Category(row.category), row.confidence
        )
        for row in conn.execute(UNSCREENED, {"org_id": org_id, "stamp": stamp})
    )


# A row that was approved or rejected meanwhile is simply not there to be locked.
LOCK_PENDING = text("""
    SELECT p.id FROM public.pending_contributions p
    WHERE p.org_id = :org_id AND p.id = ANY(CAST(:ids AS uuid[]))
    ORDER BY p.id FOR NO KEY UPDATE
""")

# Tags are touched only where what a reviewer sees changes, and only our two keys of an object.
APPLY_FLAGS = text("""
    WITH wanted AS (
        SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:hashes AS text[]), CAST(:scores AS float8[]),
                             CAST(:lows AS boolean[])) AS n (pending_id, content_hash, score, is_low)
    ), valid AS (
        SELECT w.*, COALESCE(s.is_low_quality, false) AS was_low, s.score AS score_before,
               p.tags IS NULL OR jsonb_typeof(p.tags) IN ('null', 'object') AS is_taggable,
               CASE WHEN p.tags IS NULL THEN 'sql_null' WHEN jsonb_typeof(p.tags) = 'null' THEN 'json_null'
                    WHEN jsonb_typeof(p.tags) = 'object' THEN 'object' ELSE 'other' END AS tags_kind
        FROM wanted w
        JOIN public.pending_contributions p
            ON p.org_id = :org_id AND p.id = w.pending_id AND p.content_hash = w.content_hash
        LEFT JOIN distillation.prescreens s ON s.org_id = p.org_id AND s.pending_id = p.id
    ), tagged AS (
        UPDATE public.pending_contributions p
        SET tags = CASE WHEN v.is_low
            THEN CASE WHEN jsonb_typeof(p.tags) = 'object' THEN p.tags ELSE '{}'::jsonb END
                 || jsonb_build_object('low_quality_prescreened', true, 'preliminary_quality_score', v.score)
            ELSE p.tags - 'low_quality_prescreened' - 'preliminary_quality_score' END
        FROM valid v
        WHERE p.org_id = :org_id AND p.id = v.pending_id AND v.is_taggable
          AND CASE WHEN v.is_low
                   THEN NOT v.was_low OR v.score_before IS DISTINCT FROM v.score
                   ELSE v.was_low AND jsonb_typeof(p.tags) = 'object' END
    ), recorded AS (
        INSERT INTO distillation.prescreens AS s
            (org_id, pending_id, content_hash, score, is_low_quality, stamp)
        SELECT :org_id, pending_id, content_hash, score, is_low, :stamp FROM valid
        ON CONFLICT (org_id, pending_id) DO UPDATE SET
            content_hash = EXCLUDED.content_hash, score = EXCLUDED.score,
            is_low_quality = EXCLUDED.is_low_quality, stamp = EXCLUDED.stamp
    )
    SELECT pending_id, score, score_before, is_low, was_low, tags_kind FROM valid ORDER BY pending_id
""")

FORGET_GONE = text("""
    DELETE FROM distillation.prescreens s
    WHERE s.org_id = :org_id AND NOT EXISTS (
        SELECT FROM public.pending_contributions p WHERE p.org_id = s.org_id AND p.id = s.pending_id)
""")


def apply_flags(conn: Connection, org_id: OrgId, plan: Sequence[Flag], *, stamp: str) -> Applied:
    """Label pending rows in one statement; the ledger gets those whose label or score changed."""
    conn.execute(LOCK_PENDING, {"org_id": org_id, "ids": [flag.pending_id for flag in plan]})
    parameters = {
        "org_id": org_id,
        "stamp": stamp,
        "ids": [flag.pending_id for flag in plan],
        "hashes": [flag.content_hash for flag in plan],
        "scores": [flag.score for flag in plan],
        "lows": [flag.is_low_quality for flag in plan],
    }
    rows = conn.execute(APPLY_FLAGS, parameters).all()
    conn.execute(FORGET_GONE, {"org_id": org_id})
    entries = tuple(
        Entry(
            "flag" if row.is_low else "unflag",
            row.pending_id,
            {"low_quality": row.was_low, "score": row.score_before, "tags": row.tags_kind},
            {"low_quality": row.is_low, "score": row.score},
        )
        for row in rows
        if row.is_low != row.was_low or (row.is_low and row.score != row.score_before)
    )
    return Applied(len(rows), len(plan) - len(rows), entries)
