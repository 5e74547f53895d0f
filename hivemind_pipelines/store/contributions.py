"""The labels that pre-screening puts on pending contributions, and the order in which a look at them pays."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql import JSONB

from hivemind_pipelines.core.changes import Flag
from hivemind_pipelines.core.model import OrgId, PendingId
from hivemind_pipelines.store.ledger import Applied, Entry

#: Our keys in the tags of a pending row: the seed's two, and one for everything else.
OUR_KEYS = "- 'low_quality_prescreened' - 'preliminary_quality_score' - 'prescreen'"

# A row that was approved or rejected meanwhile is simply not there to be locked.
LOCK_PENDING = text("""
    SELECT p.id FROM public.pending_contributions p
    WHERE p.org_id = :org_id AND p.id = ANY(CAST(:ids AS uuid[]))
    ORDER BY p.id FOR NO KEY UPDATE
""")

#: What tags hold of ours, given `{low}`, `{score}` and `{document}` of a row.
OUR_TAGS = """
    CASE WHEN {low} THEN jsonb_build_object('low_quality_prescreened', true, 'preliminary_quality_score', {score})
         ELSE '{{}}'::jsonb END
    || CASE WHEN {document} IS NULL THEN '{{}}'::jsonb ELSE jsonb_build_object('prescreen', {document}) END
"""

# Tags are touched only where what a reviewer sees changes, and only our keys of an object.
APPLY_FLAGS = text(f"""
    WITH wanted AS (
        SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:hashes AS text[]), CAST(:scores AS float8[]),
                             CAST(:lows AS boolean[]), CAST(:documents AS jsonb[]), CAST(:values AS float8[]),
                             CAST(:parts AS jsonb[]))
            AS n (pending_id, content_hash, score, is_low, document, value, parts)
    ), valid AS (
        SELECT w.*, COALESCE(s.is_low_quality, false) AS was_low, s.score AS score_before,
               s.document AS document_before, COALESCE(s.is_marked, false) AS was_marked,
               p.tags IS NULL OR jsonb_typeof(p.tags) IN ('null', 'object') AS is_taggable,
               CASE WHEN p.tags IS NULL THEN 'sql_null' WHEN jsonb_typeof(p.tags) = 'null' THEN 'json_null'
                    WHEN jsonb_typeof(p.tags) = 'object' THEN 'object' ELSE 'other' END AS tags_kind
        FROM wanted w
        JOIN public.pending_contributions p
            ON p.org_id = :org_id AND p.id = w.pending_id AND p.content_hash = w.content_hash
        LEFT JOIN distillation.prescreens s ON s.org_id = p.org_id AND s.pending_id = p.id
    ), judged AS (
        SELECT *, is_low <> was_low OR (is_low AND score IS DISTINCT FROM score_before)
                  OR document IS DISTINCT FROM document_before AS is_changed
        FROM valid
    ), tagged AS (
        UPDATE public.pending_contributions p
        SET tags = (CASE WHEN jsonb_typeof(p.tags) = 'object' THEN p.tags ELSE '{{}}'::jsonb END {OUR_KEYS})
                   || {OUR_TAGS.format(low="v.is_low", score="v.score", document="v.document")}
        FROM judged v
        WHERE p.org_id = :org_id AND p.id = v.pending_id AND v.is_taggable AND v.is_changed
          AND (v.is_low OR v.document IS NOT NULL OR jsonb_typeof(p.tags) = 'object')
    ), recorded AS (
        INSERT INTO distillation.prescreens AS s
            (org_id, pending_id, content_hash, score, is_low_quality, stamp, document, value, parts, label_stamp)
        SELECT :org_id, pending_id, content_hash, score, is_low, :stamp, document, value, parts, :labels
        FROM judged
        ON CONFLICT (org_id, pending_id) DO UPDATE SET
            content_hash = EXCLUDED.content_hash, score = EXCLUDED.score,
            is_low_quality = EXCLUDED.is_low_quality, stamp = EXCLUDED.stamp, document = EXCLUDED.document,
            value = EXCLUDED.value, parts = EXCLUDED.parts, label_stamp = EXCLUDED.label_stamp
    )
    SELECT pending_id, score, score_before, is_low, was_low, document, document_before, tags_kind, was_marked,
           is_changed
    FROM judged ORDER BY pending_id
""").columns(document=JSONB, document_before=JSONB)


def apply_flags(
    conn: Connection,
    org_id: OrgId,
    plan: Sequence[Flag],
    *,
    stamp: str,
    labels: str,
    marks: Mapping[PendingId, bool] | None = None,
) -> Applied:
    """Label pending rows in one statement; the ledger gets those of which a reviewer sees something else.

    `marks` say whose `is_sensitive_flagged` is set, or taken back where we had set it; None leaves it alone.
    """
    conn.execute(LOCK_PENDING, {"org_id": org_id, "ids": [flag.pending_id for flag in plan]})
    parameters = {
        "org_id": org_id,
        "stamp": stamp,
        "labels": labels,
        "ids": [flag.pending_id for flag in plan],
        "hashes": [flag.content_hash for flag in plan],
        "scores": [flag.score for flag in plan],
        "lows": [flag.is_low_quality for flag in plan],
        "documents": [None if flag.document is None else json.dumps(flag.document) for flag in plan],
        "values": [flag.value for flag in plan],
        "parts": [json.dumps(dict(flag.parts)) for flag in plan],
    }
    rows = conn.execute(APPLY_FLAGS, parameters).all()
    wanted = {row.pending_id: marks[row.pending_id] for row in rows} if marks is not None else {}
    marked = _mark_sensitive(conn, org_id, wanted) if wanted else {}
    entries = tuple(
        _entry(row, is_marked=marked.get(row.pending_id, row.was_marked))
        for row in rows
        if row.is_changed or row.pending_id in marked
    )
    return Applied(len(rows), len(plan) - len(rows), entries)


def _entry(row: Any, *, is_marked: bool) -> Entry:
    before = {"low_quality": row.was_low, "score": row.score_before, "tags": row.tags_kind}
    after = {"low_quality": row.is_low, "score": row.score}
    is_labelled = row.is_low or row.document is not None
    return Entry(
        "flag" if is_labelled else "unflag",
        row.pending_id,
        {**before, "prescreen": row.document_before, "sensitive": row.was_marked},
        {**after, "prescreen": row.document, "sensitive": is_marked},
    )


# Only false becomes true, and only what we set ourselves goes back.
MARK_SENSITIVE = text("""
    WITH wanted AS (
        SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:marks AS boolean[])) AS n (pending_id, is_marked)
    ), marked AS (
        UPDATE public.pending_contributions p SET is_sensitive_flagged = w.is_marked
        FROM wanted w JOIN distillation.prescreens s ON s.org_id = :org_id AND s.pending_id = w.pending_id
        WHERE p.org_id = :org_id AND p.id = w.pending_id AND p.is_sensitive_flagged <> w.is_marked
          AND (w.is_marked OR s.is_marked)
        RETURNING p.id, p.is_sensitive_flagged
    )
    UPDATE distillation.prescreens s SET is_marked = m.is_sensitive_flagged
    FROM marked m WHERE s.org_id = :org_id AND s.pending_id = m.id
    RETURNING s.pending_id, s.is_marked
""")


def _mark_sensitive(
    conn: Connection, org_id: OrgId, marks: Mapping[PendingId, bool]
) -> dict[PendingId, bool]:
    """The marks that were set or taken back."""
    parameters = {"org_id": org_id, "ids": list(marks), "marks": list(marks.values())}
    return {PendingId(row.pending_id): row.is_marked for row in conn.execute(MARK_SENSITIVE, parameters)}


# Rows that nobody has screened yet come first: nothing is known against them.
QUEUE = text("""
    SELECT p.org_id, p.id, p.category::text AS category, p.is_sensitive_flagged, s.value, s.parts, s.score,
           COALESCE(s.document -> 'labels', '[]'::jsonb) AS labels, count(*) OVER () AS total
    FROM public.pending_contributions p
    LEFT JOIN distillation.prescreens s
        ON s.org_id = p.org_id AND s.pending_id = p.id AND s.content_hash = p.content_hash
    WHERE CAST(:org_id AS text) IS NULL OR p.org_id = :org_id
    ORDER BY s.value DESC NULLS FIRST, p.contributed_at, p.id
    LIMIT :limit OFFSET :offset
""").columns(parts=JSONB, labels=JSONB)


@dataclass(frozen=True, slots=True)
class QueuedRow:
    """A pending row with what a look at it is worth, the factors of that, and its labels."""

    org_id: OrgId
    id: UUID
    category: str
    is_sensitive_flagged: bool
    score: float | None
    value: float | None
    parts: Mapping[str, float]
    labels: tuple[Mapping[str, object], ...]


@dataclass(frozen=True, slots=True)
class QueuePage:
    """Some pending rows, those worth most first, of so many in all."""

    total: int
    rows: tuple[QueuedRow, ...]


def read_queue(conn: Connection, org_id: OrgId | None, *, limit: int, offset: int) -> QueuePage:
    """The review queue by expected value; `org_id` None means every org."""
    found = conn.execute(QUEUE, {"org_id": org_id, "limit": limit, "offset": offset}).all()
    rows = tuple(
        QueuedRow(
            OrgId(row.org_id), row.id, row.category, row.is_sensitive_flagged, row.score, row.value,
            row.parts or {}, tuple(row.labels),
        )
        for row in found
    )  # fmt: skip
    return QueuePage(found[0].total if found else 0, rows)
