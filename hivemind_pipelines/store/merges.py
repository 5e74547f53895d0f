"""Merges: expiring duplicates, bringing them back, and the links that show it on their canonical."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from hivemind_pipelines.core.changes import Merge, Unmerge
from hivemind_pipelines.core.model import ItemId, OrgId, RunId
from hivemind_pipelines.store.ledger import Applied, Entry

# The duplicate must be live (or ours, when re-pointed) and of the text that was compared, and so the
# canonical; an earlier statement of this transaction may have brought the canonical back. A person may
# have parted the two since the plan was made.
APPLY_MERGES = text("""
    WITH wanted AS (
        SELECT * FROM unnest(CAST(:duplicates AS uuid[]), CAST(:duplicate_hashes AS text[]),
                             CAST(:canonicals AS uuid[]), CAST(:canonical_hashes AS text[]))
            AS n (duplicate_id, duplicate_hash, canonical_id, canonical_hash)
    ), valid AS (
        SELECT w.duplicate_id, w.canonical_id, m.canonical_id AS previous_id,
               COALESCE(d.expired_at, CAST(:as_of AS timestamptz)) AS expired_at,
               d.expired_at IS NULL AS is_new,
               CASE WHEN c.tags IS NULL THEN 'sql_null' WHEN jsonb_typeof(c.tags) = 'null' THEN 'json_null'
                    WHEN jsonb_typeof(c.tags) = 'object' THEN 'object' ELSE 'other' END AS canonical_tags
        FROM wanted w
        JOIN public.knowledge_items d
            ON d.org_id = :org_id AND d.id = w.duplicate_id AND d.content_hash = w.duplicate_hash
           AND d.deleted_at IS NULL
        JOIN public.knowledge_items c
            ON c.org_id = :org_id AND c.id = w.canonical_id AND c.content_hash = w.canonical_hash
           AND c.deleted_at IS NULL AND c.expired_at IS NULL
        LEFT JOIN distillation.merges m ON m.org_id = :org_id AND m.duplicate_id = w.duplicate_id
        WHERE (d.expired_at IS NULL OR (m.expired_at = d.expired_at AND NOT m.is_legacy))
          AND w.canonical_id NOT IN (SELECT duplicate_id FROM wanted)
          AND NOT EXISTS (
            SELECT FROM distillation.pair_verdicts r
            WHERE r.org_id = :org_id AND r.verdict = 'distinct'
              AND ((r.a_id, r.a_hash, r.b_id, r.b_hash) = (d.id, d.content_hash, c.id, c.content_hash)
                OR (r.a_id, r.a_hash, r.b_id, r.b_hash) = (c.id, c.content_hash, d.id, d.content_hash)))
    ), registered AS (
        INSERT INTO distillation.registered_items (org_id, item_id, kind)
        SELECT :org_id, duplicate_id, 'original' FROM valid
        UNION SELECT :org_id, canonical_id, 'original' FROM valid
        ON CONFLICT DO NOTHING
    ), expired AS (
        UPDATE public.knowledge_items k SET expired_at = v.expired_at
        FROM valid v WHERE k.org_id = :org_id AND k.id = v.duplicate_id AND v.is_new
    ), recorded AS (
        INSERT INTO distillation.merges AS m
            (org_id, duplicate_id, canonical_id, expired_at, is_legacy, run_id, stamp)
        SELECT :org_id, duplicate_id, canonical_id, expired_at, false, :run_id, :stamp FROM valid
        ON CONFLICT (org_id, duplicate_id) DO UPDATE SET
            canonical_id = EXCLUDED.canonical_id, expired_at = EXCLUDED.expired_at,
            is_legacy = false, run_id = EXCLUDED.run_id, stamp = EXCLUDED.stamp
    )
    SELECT duplicate_id, canonical_id, previous_id, expired_at, is_new, canonical_tags
    FROM valid ORDER BY duplicate_id
""")

APPLY_UNMERGES = text("""
    WITH valid AS (
        SELECT m.duplicate_id, m.canonical_id, to_jsonb(m.expired_at) AS expired_at
        FROM distillation.merges m
        JOIN public.knowledge_items k
            ON k.org_id = m.org_id AND k.id = m.duplicate_id AND k.expired_at = m.expired_at
        WHERE m.org_id = :org_id AND k.deleted_at IS NULL AND m.duplicate_id = ANY(CAST(:duplicates AS uuid[]))
    ), revived AS (
        UPDATE public.knowledge_items k SET expired_at = NULL
        FROM valid v WHERE k.org_id = :org_id AND k.id = v.duplicate_id
    ), unplaced AS (
        UPDATE distillation.item_features f SET topic_stamp = NULL
        FROM valid v WHERE f.org_id = :org_id AND f.item_id = v.duplicate_id
    ), forgotten AS (
        DELETE FROM distillation.merges m USING valid v
        WHERE m.org_id = :org_id AND m.duplicate_id = v.duplicate_id
    )
    SELECT duplicate_id, canonical_id, expired_at FROM valid ORDER BY duplicate_id
""")

# Somebody else revived a duplicate, or expired it anew: the merge is no longer what hides it.
TAKEN_BACK = """
    SELECT m.org_id, m.duplicate_id, m.canonical_id, to_jsonb(m.expired_at) AS merged_at,
           to_jsonb(k.expired_at) AS expired_at
    FROM distillation.merges m
    JOIN public.knowledge_items k ON k.org_id = m.org_id AND k.id = m.duplicate_id
    WHERE m.org_id = :org_id AND k.expired_at IS DISTINCT FROM m.expired_at
"""
HAS_TAKEN_BACK = text(f"SELECT EXISTS ({TAKEN_BACK})")
FORGET_TAKEN_BACK = text(f"""
    WITH taken AS ({TAKEN_BACK}), forgotten AS (
        DELETE FROM distillation.merges m USING taken t
        WHERE m.org_id = :org_id AND m.duplicate_id = t.duplicate_id
    ), unplaced AS (
        UPDATE distillation.item_features f SET topic_stamp = NULL
        FROM taken t WHERE f.org_id = :org_id AND f.item_id = t.duplicate_id
    )
    SELECT duplicate_id, canonical_id, merged_at, expired_at FROM taken ORDER BY duplicate_id
""")


def has_taken_back(conn: Connection, org_id: OrgId) -> bool:
    """Whether somebody else changed the expiry of an item that a merge expired."""
    return bool(conn.execute(HAS_TAKEN_BACK, {"org_id": org_id}).scalar_one())


def forget_taken_back(conn: Connection, org_id: OrgId) -> tuple[Entry, ...]:
    """Drop merges whose duplicate is live, or expired by somebody else; returns the ledger entries."""
    return tuple(
        Entry(
            "unmerge",
            row.duplicate_id,
            {"expired_at": row.merged_at, "canonical": str(row.canonical_id)},
            {"expired_at": row.expired_at, "canonical": None, "reason": "changed_by_others"},
        )
        for row in conn.execute(FORGET_TAKEN_BACK, {"org_id": org_id})
    )


# Our key alone, set from the merges in force plus links that were there and are no merge of ours. When
# the last of ours goes, the key goes, and tags that were NULL before us are NULL again.
SYNC_LINKS = text("""
    WITH touched AS (
        SELECT k.id, k.tags, k.content_hash,
               CASE WHEN jsonb_typeof(k.tags) = 'object'
                         AND jsonb_typeof(k.tags -> 'provenance_links') = 'array'
                    THEN k.tags -> 'provenance_links' ELSE '[]'::jsonb END AS links
        FROM public.knowledge_items k
        WHERE k.org_id = :org_id AND k.id = ANY(CAST(:canonicals AS uuid[]))
          AND (k.tags IS NULL OR jsonb_typeof(k.tags) IN ('null', 'object'))
    ), foreign_links AS (
        SELECT t.id, link
        FROM touched t CROSS JOIN LATERAL jsonb_array_elements(t.links) AS link
        WHERE link #>> '{}' IS NULL OR NOT (link #>> '{}' = ANY(CAST(:moved AS text[])))
    ), all_links AS (
        SELECT id, link FROM foreign_links
        UNION
        SELECT m.canonical_id, to_jsonb(m.duplicate_id::text)
        FROM distillation.merges m JOIN touched t ON t.id = m.canonical_id
        WHERE m.org_id = :org_id
    ), grouped_links AS (
        SELECT id, jsonb_agg(link ORDER BY link #>> '{}') AS links FROM all_links GROUP BY id
    ), desired AS (
        SELECT t.id, t.tags,
               g.links,
               (SELECT l.before ->> 'canonical_tags' FROM distillation.ledger l
                WHERE l.org_id = :org_id AND l.change IN ('merge', 'repoint') AND l.before ? 'canonical_tags'
                  AND l.after ->> 'canonical' = t.id::text ORDER BY l.seq LIMIT 1) AS origin
        FROM touched t LEFT JOIN grouped_links g ON g.id = t.id
    )
    UPDATE public.knowledge_items k
    SET tags = CASE
        WHEN d.links IS NOT NULL THEN jsonb_set(
            CASE WHEN jsonb_typeof(k.tags) = 'object' THEN k.tags ELSE '{}'::jsonb END,
            '{provenance_links}', d.links)
        WHEN k.tags - 'provenance_links' = '{}'::jsonb AND d.origin = 'sql_null' THEN NULL
        WHEN k.tags - 'provenance_links' = '{}'::jsonb AND d.origin = 'json_null' THEN 'null'::jsonb
        ELSE k.tags - 'provenance_links' END
    FROM desired d
    WHERE k.org_id = :org_id AND k.id = d.id
      AND (d.links IS NOT NULL OR (jsonb_typeof(k.tags) = 'object' AND k.tags ? 'provenance_links'))
""")


# Those of merges that somebody else took back are locked with them: their links and features follow.
LOCK_PARTIES = text(f"""
    WITH taken AS ({TAKEN_BACK})
    SELECT k.id FROM public.knowledge_items k
    WHERE k.org_id = :org_id
      AND (k.id = ANY(CAST(:ids AS uuid[])) OR k.id IN (
          SELECT duplicate_id FROM taken UNION ALL SELECT canonical_id FROM taken))
    ORDER BY k.id FOR NO KEY UPDATE OF k
""")


def lock_parties(conn: Connection, org_id: OrgId, plan: Sequence[Merge | Unmerge]) -> None:
    """Lock what a plan names, in id order and before any feature row, as every other writer does."""
    involved = {change.duplicate_id for change in plan} | {change.canonical_id for change in plan}
    involved |= {
        change.previous_canonical_id
        for change in plan
        if isinstance(change, Merge) and change.previous_canonical_id
    }
    conn.execute(LOCK_PARTIES, {"org_id": org_id, "ids": sorted(involved)})


def apply_merges(
    conn: Connection,
    org_id: OrgId,
    plan: Sequence[Merge | Unmerge],
    *,
    run_id: RunId,
    stamp: str,
    as_of: datetime,
) -> Applied:
    """Apply merges and unmerges in one transaction; every row is checked again under its lock."""
    unmerges = [change for change in plan if isinstance(change, Unmerge)]
    merges = [change for change in plan if isinstance(change, Merge)]
    lock_parties(conn, org_id, plan)
    revived = conn.execute(
        APPLY_UNMERGES, {"org_id": org_id, "duplicates": [change.duplicate_id for change in unmerges]}
    ).all()
    parameters = {
        "org_id": org_id,
        "run_id": run_id,
        "stamp": stamp,
        "as_of": as_of,
        "duplicates": [change.duplicate_id for change in merges],
        "duplicate_hashes": [change.duplicate_hash for change in merges],
        "canonicals": [change.canonical_id for change in merges],
        "canonical_hashes": [change.canonical_hash for change in merges],
    }
    merged = conn.execute(APPLY_MERGES, parameters).all()
    reasons = {change.duplicate_id: change.reason for change in unmerges}
    entries = (
        *(unmerge_entry(row.duplicate_id, row.canonical_id, row.expired_at, reasons) for row in revived),
        *(merge_entry(row) for row in merged),
    )
    return Applied(len(entries), len(plan) - len(entries), entries)


def unmerge_entry(
    duplicate_id: UUID, canonical_id: UUID, expired_at: str, reasons: Mapping[ItemId, str]
) -> Entry:
    """The ledger entry of a duplicate that came back; the time as JSON has it, since it may be infinite."""
    before = {"expired_at": expired_at, "canonical": str(canonical_id)}
    after = {"expired_at": None, "canonical": None, "reason": reasons[ItemId(duplicate_id)]}
    return Entry("unmerge", duplicate_id, before, after)


def merge_entry(row: Any) -> Entry:
    """The ledger entry of a duplicate that was merged or re-pointed."""
    after = {"expired_at": row.expired_at.isoformat(), "canonical": str(row.canonical_id)}
    tags = {"canonical_tags": row.canonical_tags}
    if not row.is_new:
        return Entry("repoint", row.duplicate_id, {"canonical": str(row.previous_id), **tags}, after)
    return Entry("merge", row.duplicate_id, {"expired_at": None, "canonical": None, **tags}, after)


def sync_provenance_links(conn: Connection, org_id: OrgId, entries: Sequence[Entry]) -> None:
    """Bring `tags.provenance_links` of every canonical these entries touch in line with the merges.

    Call it after the entries are in the ledger: the oldest one remembers what the tags were before us.
    """
    sides = (side for entry in entries for side in (entry.before, entry.after))
    canonicals = {str(side["canonical"]) for side in sides if side.get("canonical")}
    moved = sorted({str(entry.subject_id) for entry in entries})
    conn.execute(SYNC_LINKS, {"org_id": org_id, "canonicals": sorted(canonicals), "moved": moved})
