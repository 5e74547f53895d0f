"""Blocking tables, compared pairs, verdicts and merges."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from hivemind_pipelines.core.changes import Merge, Unmerge
from hivemind_pipelines.core.model import (
    CandidatePair,
    Comparison,
    ItemId,
    LlmVerdict,
    OrgId,
    PairDecision,
    RunId,
)
from hivemind_pipelines.store.items import POOL
from hivemind_pipelines.store.jobs import job_fingerprint
from hivemind_pipelines.store.ledger import Entry

PairKey = tuple[ItemId, ItemId]

# A class (equal normalised text and scope) looks for candidates through one member. It is due when no
# member that is still in the pool has looked under the current stamp.
DUE_PROBES = f"""
    SELECT min(f.item_id::text)::uuid AS item_id
    FROM distillation.item_features f
    JOIN public.knowledge_items k
        ON k.org_id = f.org_id AND k.id = f.item_id AND k.content_hash = f.content_hash
    WHERE f.org_id = :org_id AND f.stamp = :feature_stamp AND {POOL}
    GROUP BY f.class_key
    HAVING NOT bool_or(f.probed_stamp IS NOT DISTINCT FROM :probe_stamp)
"""
READ_DUE_PROBES = text(f"SELECT item_id FROM ({DUE_PROBES}) due ORDER BY item_id")

PROBED_MEMBERS = text(f"""
    SELECT f.item_id
    FROM distillation.item_features f
    JOIN public.knowledge_items k
        ON k.org_id = f.org_id AND k.id = f.item_id AND k.content_hash = f.content_hash
    WHERE f.org_id = :org_id AND f.probed_stamp = :probe_stamp AND {POOL}
    ORDER BY f.item_id
""")


def read_due_probes(
    conn: Connection, org_id: OrgId, *, feature_stamp: str, probe_stamp: str
) -> tuple[ItemId, ...]:
    """One member of every class that has to look for candidates, in id order."""
    parameters = {"org_id": org_id, "feature_stamp": feature_stamp, "probe_stamp": probe_stamp}
    return tuple(map(ItemId, conn.execute(READ_DUE_PROBES, parameters).scalars()))


def read_probed(conn: Connection, org_id: OrgId, *, probe_stamp: str) -> tuple[ItemId, ...]:
    """Pool items that looked for candidates under the stamp: those a new probe is held against."""
    parameters = {"org_id": org_id, "probe_stamp": probe_stamp}
    return tuple(map(ItemId, conn.execute(PROBED_MEMBERS, parameters).scalars()))


SIGNATURES = text("""
    SELECT item_id, signature FROM distillation.item_features
    WHERE org_id = :org_id AND item_id = ANY(CAST(:ids AS uuid[]))
""")


def read_signatures(conn: Connection, org_id: OrgId, ids: Sequence[ItemId]) -> dict[ItemId, bytes]:
    """MinHash signatures as stored: little-endian uint32."""
    rows = conn.execute(SIGNATURES, {"org_id": org_id, "ids": list(ids)})
    return {ItemId(row.item_id): bytes(row.signature) for row in rows}


# Bands of items that have not looked under the current stamp may be of another shape.
DROP_STALE_BANDS = text("""
    DELETE FROM distillation.lsh_bands b
    USING distillation.item_features f
    WHERE b.org_id = :org_id AND f.org_id = b.org_id AND f.item_id = b.item_id
      AND f.probed_stamp IS DISTINCT FROM :probe_stamp
""")

# Features are locked before rows that refer to them are written: an erasure beside us may remove them.
INSERT_BANDS = text("""
    WITH present AS (
        SELECT f.item_id FROM distillation.item_features f
        WHERE f.org_id = :org_id AND f.item_id = ANY(CAST(:item_ids AS uuid[]))
        ORDER BY f.item_id FOR KEY SHARE
    )
    INSERT INTO distillation.lsh_bands (org_id, band, bucket, item_id)
    SELECT :org_id, n.band, n.bucket, n.item_id
    FROM unnest(CAST(:bands AS smallint[]), CAST(:buckets AS bigint[]), CAST(:ids AS uuid[]))
         AS n (band, bucket, item_id)
    JOIN present p ON p.item_id = n.item_id
    ORDER BY n.item_id, n.band
    ON CONFLICT DO NOTHING
""")


def store_bands(
    conn: Connection, org_id: OrgId, bands: Mapping[ItemId, Sequence[int]], *, probe_stamp: str
) -> None:
    """Replace the bands of items that are about to look for candidates."""
    conn.execute(DROP_STALE_BANDS, {"org_id": org_id, "probe_stamp": probe_stamp})
    rows = [
        (band, bucket, item_id) for item_id in sorted(bands) for band, bucket in enumerate(bands[item_id])
    ]
    parameters = {
        "org_id": org_id,
        "item_ids": sorted(bands),
        "bands": [row[0] for row in rows],
        "buckets": [row[1] for row in rows],
        "ids": [row[2] for row in rows],
    }
    conn.execute(INSERT_BANDS, parameters)


# Buckets above the cap are boilerplate: their members are found by other bands or by their vectors. Each
# bucket is looked up once, by its key: the planner, left to join bands with bands, is at times quadratic.
BAND_CANDIDATES = text("""
    WITH probed AS MATERIALIZED (
        SELECT item_id, band, bucket FROM distillation.lsh_bands
        WHERE org_id = :org_id AND item_id = ANY(CAST(:probes AS uuid[]))
    ), buckets AS MATERIALIZED (
        SELECT w.band, w.bucket, found.members
        FROM (SELECT DISTINCT band, bucket FROM probed) w
        CROSS JOIN LATERAL (
            SELECT array_agg(capped.item_id) AS members FROM (
                SELECT b.item_id FROM distillation.lsh_bands b
                WHERE b.org_id = :org_id AND b.band = w.band AND b.bucket = w.bucket
                LIMIT CAST(:bucket_max AS bigint) + 1) capped) found
        WHERE cardinality(found.members) BETWEEN 2 AND :bucket_max
    ), shared AS (
        SELECT p.item_id AS probe_id, other.id AS other_id, count(*) AS bands
        FROM probed p
        JOIN buckets USING (band, bucket)
        CROSS JOIN LATERAL unnest(members) AS other (id)
        WHERE other.id <> p.item_id
        GROUP BY p.item_id, other.id
    ), ranked AS (
        SELECT probe_id, other_id,
               row_number() OVER (PARTITION BY probe_id ORDER BY bands DESC, other_id) AS place
        FROM shared
    )
    SELECT DISTINCT LEAST(probe_id, other_id) AS a_id, GREATEST(probe_id, other_id) AS b_id
    FROM ranked WHERE place <= :max_candidates
""")

# While the planner knows nothing of new buckets, it takes a nested loop over all of them for the cheapest.
HASH_JOINS_ONLY = text("SET LOCAL enable_nestloop = off")
ANY_JOIN = text("SET LOCAL enable_nestloop TO DEFAULT")


def read_band_candidates(
    conn: Connection, org_id: OrgId, probes: Sequence[ItemId], *, bucket_max: int, max_candidates: int
) -> set[PairKey]:
    """Pairs (a < b) that share an LSH bucket, the closest `max_candidates` of each probe."""
    parameters = {
        "org_id": org_id,
        "probes": list(probes),
        "bucket_max": bucket_max,
        "max_candidates": max_candidates,
    }
    conn.execute(HASH_JOINS_ONLY)
    found = {(ItemId(row.a_id), ItemId(row.b_id)) for row in conn.execute(BAND_CANDIDATES, parameters)}
    conn.execute(ANY_JOIN)
    return found


UPSERT_PAIRS = text("""
    WITH present AS (
        SELECT f.item_id FROM distillation.item_features f
        WHERE f.org_id = :org_id
          AND f.item_id = ANY(CAST(:a_ids AS uuid[]) || CAST(:b_ids AS uuid[]))
        ORDER BY f.item_id FOR KEY SHARE
    )
    INSERT INTO distillation.candidate_pairs AS p
        (org_id, a_id, b_id, a_hash, b_hash, comparison, probability, decision, reason, stamp)
    SELECT :org_id, n.a_id, n.b_id, n.a_hash, n.b_hash, n.comparison, n.probability, n.decision, n.reason, :stamp
    FROM unnest(CAST(:a_ids AS uuid[]), CAST(:b_ids AS uuid[]), CAST(:a_hashes AS text[]),
                CAST(:b_hashes AS text[]), CAST(:comparisons AS jsonb[]), CAST(:probabilities AS float8[]),
                CAST(:decisions AS text[]), CAST(:reasons AS text[]))
         AS n (a_id, b_id, a_hash, b_hash, comparison, probability, decision, reason)
    JOIN present fa ON fa.item_id = n.a_id
    JOIN present fb ON fb.item_id = n.b_id
    ORDER BY n.a_id, n.b_id
    ON CONFLICT (org_id, a_id, b_id) DO UPDATE SET
        a_hash = EXCLUDED.a_hash, b_hash = EXCLUDED.b_hash, comparison = EXCLUDED.comparison,
        probability = EXCLUDED.probability, decision = EXCLUDED.decision, reason = EXCLUDED.reason,
        stamp = EXCLUDED.stamp
""")


def store_pairs(conn: Connection, org_id: OrgId, pairs: Sequence[CandidatePair], *, stamp: str) -> None:
    """Cache compared pairs and what the policy with this stamp says of them."""
    parameters = {
        "org_id": org_id,
        "stamp": stamp,
        "a_ids": [pair.a_id for pair in pairs],
        "b_ids": [pair.b_id for pair in pairs],
        "a_hashes": [pair.a_hash for pair in pairs],
        "b_hashes": [pair.b_hash for pair in pairs],
        "comparisons": [_comparison_json(pair.comparison) for pair in pairs],
        "probabilities": [pair.decided.probability for pair in pairs],
        "decisions": [pair.decided.decision for pair in pairs],
        "reasons": [pair.decided.reason for pair in pairs],
    }
    conn.execute(UPSERT_PAIRS, parameters)


def _comparison_json(value: Comparison) -> str:
    return json.dumps({"scores": dict(value.scores), "vetoes": list(value.vetoes)})


def comparison_of(value: dict[str, Any]) -> Comparison:
    """A comparison as it is stored."""
    return Comparison(tuple(value["scores"].items()), tuple(value["vetoes"]))


PAIRS_OF = text("""
    SELECT a_id, b_id, xmin::text AS row_version FROM distillation.candidate_pairs
    WHERE org_id = :org_id AND (a_id = ANY(CAST(:ids AS uuid[])) OR b_id = ANY(CAST(:ids AS uuid[])))
""")

DROP_PAIRS = text("""
    DELETE FROM distillation.candidate_pairs p
    USING unnest(CAST(:a_ids AS uuid[]), CAST(:b_ids AS uuid[]), CAST(:versions AS text[]))
        AS n (a_id, b_id, row_version)
    WHERE p.org_id = :org_id AND p.a_id = n.a_id AND p.b_id = n.b_id AND p.xmin::text = n.row_version
""")


def read_pairs_of(conn: Connection, org_id: OrgId, ids: Sequence[ItemId]) -> dict[PairKey, str]:
    """The stored pairs of some items, each with the version of its row."""
    rows = conn.execute(PAIRS_OF, {"org_id": org_id, "ids": list(ids)})
    return {(ItemId(row.a_id), ItemId(row.b_id)): row.row_version for row in rows}


MARK_PROBED = text("""
    UPDATE distillation.item_features f SET probed_stamp = :probe_stamp, settled_stamp = NULL
    WHERE f.org_id = :org_id AND f.stamp = :feature_stamp AND f.item_id = ANY(CAST(:ids AS uuid[]))
      AND EXISTS (SELECT FROM distillation.lsh_bands b WHERE b.org_id = f.org_id AND b.item_id = f.item_id)
""")


def finish_probes(
    conn: Connection,
    org_id: OrgId,
    probes: Sequence[ItemId],
    obsolete: Mapping[PairKey, str],
    considered: Collection[ItemId],
    *,
    feature_stamp: str,
    probe_stamp: str,
) -> bool:
    """Forget obsolete pairs and mark the probes as done and unsettled; False when they stay due.

    They do when another run has probed an item meanwhile that these probes were not held against.
    A pair that another run has stored since (its xmin moved) is kept.
    """
    if set(read_probed(conn, org_id, probe_stamp=probe_stamp)) - set(considered):
        return False
    keys = sorted(obsolete)
    columns = {
        "a_ids": [key[0] for key in keys],
        "b_ids": [key[1] for key in keys],
        "versions": [obsolete[key] for key in keys],
    }
    conn.execute(DROP_PAIRS, {"org_id": org_id, **columns})
    conn.execute(
        MARK_PROBED,
        {"org_id": org_id, "ids": list(probes), "feature_stamp": feature_stamp, "probe_stamp": probe_stamp},
    )
    return True


@dataclass(frozen=True, slots=True)
class StoredPair:
    """A stored pair with the model's cached verdict on it, if any."""

    a_id: ItemId
    b_id: ItemId
    a_hash: str
    b_hash: str
    comparison: Comparison
    decided: PairDecision
    llm: LlmVerdict | None = None


# Only pairs of items in the pool, compared under their current texts, count.
COMPARED = """
    FROM distillation.candidate_pairs p
    JOIN public.knowledge_items a ON a.org_id = p.org_id AND a.id = p.a_id AND a.content_hash = p.a_hash
    JOIN public.knowledge_items b ON b.org_id = p.org_id AND b.id = p.b_id AND b.content_hash = p.b_hash
    LEFT JOIN distillation.llm_verdicts v
        ON v.org_id = p.org_id AND v.model = :model AND v.prompt_version = :prompt_version
       AND v.a_hash = LEAST(p.a_hash COLLATE "C", p.b_hash COLLATE "C")
       AND v.b_hash = GREATEST(p.a_hash COLLATE "C", p.b_hash COLLATE "C")
"""
PAIRS = f"""
    SELECT p.a_id, p.b_id, p.a_hash, p.b_hash, p.comparison, p.probability, p.decision, p.reason,
           v.same, v.confidence
    {COMPARED}
    WHERE p.org_id = :org_id AND a.deleted_at IS NULL AND b.deleted_at IS NULL
"""
CLUSTER_PAIRS = text(
    f"{PAIRS} AND (p.decision <> 'distinct' OR jsonb_array_length(p.comparison -> 'vetoes') > 0)"
)
STALE_PAIRS = text(f"{PAIRS} AND p.stamp <> :stamp ORDER BY p.a_id, p.b_id LIMIT :limit")

# What another run asks right now, or what failed a while ago, is not asked again yet.
IS_UNCONFIRMED = """
    p.decision = 'possible' AND v.same IS NULL AND jsonb_array_length(p.comparison -> 'vetoes') = 0
    AND a.deleted_at IS NULL AND b.deleted_at IS NULL
    AND NOT EXISTS (
        SELECT FROM distillation.pair_verdicts r
        WHERE r.org_id = p.org_id AND r.a_id = p.a_id AND r.b_id = p.b_id
          AND r.a_hash = p.a_hash AND r.b_hash = p.b_hash)
    AND NOT EXISTS (
        SELECT FROM distillation.llm_jobs j
        WHERE j.org_id = p.org_id AND (j.lease_until >= :now OR j.next_attempt_at > :now)
          AND j.fingerprint = encode(sha256(convert_to(concat_ws('|', 'confirm',
                LEAST(p.a_hash COLLATE "C", p.b_hash COLLATE "C"),
                GREATEST(p.a_hash COLLATE "C", p.b_hash COLLATE "C"),
                :prompt_version, :model), 'UTF8')), 'hex'))
"""
UNCONFIRMED_PAIRS = text(
    f"{PAIRS} AND {IS_UNCONFIRMED} ORDER BY p.probability DESC, p.a_id, p.b_id LIMIT :limit"
)


def _pairs(rows: Iterable[Mapping[Any, Any]]) -> tuple[StoredPair, ...]:
    return tuple(
        StoredPair(
            a_id=ItemId(row["a_id"]),
            b_id=ItemId(row["b_id"]),
            a_hash=row["a_hash"],
            b_hash=row["b_hash"],
            comparison=comparison_of(row["comparison"]),
            decided=PairDecision(row["decision"], row["probability"], row["reason"]),
            llm=None if row["same"] is None else LlmVerdict(row["same"], row["confidence"]),
        )
        for row in rows
    )


def read_cluster_pairs(
    conn: Connection, org_id: OrgId, *, model: str, prompt_version: str
) -> tuple[StoredPair, ...]:
    """The pairs clustering needs: everything but plainly distinct ones, vetoed ones included."""
    parameters = {"org_id": org_id, "model": model, "prompt_version": prompt_version}
    return _pairs(conn.execute(CLUSTER_PAIRS, parameters).mappings())


def read_stale_pairs(conn: Connection, org_id: OrgId, *, stamp: str, limit: int) -> tuple[StoredPair, ...]:
    """Pairs decided under another matching policy, to be decided again from what is stored."""
    parameters = {"org_id": org_id, "stamp": stamp, "limit": limit, "model": "", "prompt_version": ""}
    return _pairs(conn.execute(STALE_PAIRS, parameters).mappings())


def read_unconfirmed_pairs(
    conn: Connection, org_id: OrgId, *, model: str, prompt_version: str, now: datetime, limit: int
) -> tuple[StoredPair, ...]:
    """Possible pairs to ask the model about, the likeliest first: no veto, no verdict, no claim, no backoff."""
    parameters = {
        "org_id": org_id, "model": model, "prompt_version": prompt_version, "now": now, "limit": limit,
    }  # fmt: skip
    return _pairs(conn.execute(UNCONFIRMED_PAIRS, parameters).mappings())


def confirmation_fingerprint(pair: StoredPair, *, model: str, prompt_version: str) -> str:
    """The name of the job that asks the model about a pair, the same in `IS_UNCONFIRMED`."""
    return job_fingerprint("confirm", *sorted((pair.a_hash, pair.b_hash)), prompt_version, model)


UNSETTLE = text("""
    UPDATE distillation.item_features SET settled_stamp = NULL
    WHERE org_id = :org_id AND item_id = ANY(CAST(:ids AS uuid[])) AND settled_stamp IS NOT NULL
""")


def unsettle(conn: Connection, org_id: OrgId, ids: Iterable[ItemId]) -> None:
    """Make the components of these items due for clustering again."""
    conn.execute(UNSETTLE, {"org_id": org_id, "ids": sorted(ids)})


# Only while the pair stands as it was asked about: an erasure beside us may have removed a text meanwhile,
# and then not even its hash may come back.
INSERT_VERDICT = text("""
    WITH standing AS (
        SELECT p.a_hash, p.b_hash FROM distillation.candidate_pairs p
        WHERE p.org_id = :org_id AND p.a_id = :a_id AND p.b_id = :b_id
          AND p.a_hash = :a_hash AND p.b_hash = :b_hash
        FOR KEY SHARE
    )
    INSERT INTO distillation.llm_verdicts (org_id, a_hash, b_hash, prompt_version, model, same, confidence)
    SELECT :org_id, LEAST(a_hash COLLATE "C", b_hash COLLATE "C"),
           GREATEST(a_hash COLLATE "C", b_hash COLLATE "C"), :prompt_version, :model, :same, :confidence
    FROM standing
    ON CONFLICT DO NOTHING
""")


def store_verdict(
    conn: Connection, org_id: OrgId, pair: StoredPair, verdict: LlmVerdict, *, model: str, prompt_version: str
) -> None:
    """Cache the model's answer under both texts' hashes, while they stand, and make the component due."""
    parameters = {
        "org_id": org_id,
        "a_id": pair.a_id,
        "b_id": pair.b_id,
        "a_hash": pair.a_hash,
        "b_hash": pair.b_hash,
        "prompt_version": prompt_version,
        "model": model,
        "same": verdict.same,
        "confidence": verdict.confidence,
    }
    conn.execute(INSERT_VERDICT, parameters)
    unsettle(conn, org_id, (pair.a_id, pair.b_id))


@dataclass(frozen=True, slots=True)
class Applied:
    """What a transaction did: the changes that took effect and how many met a changed row."""

    applied: int
    dropped: int
    entries: tuple[Entry, ...]


LOCK_ITEMS = text("""
    SELECT k.id FROM public.knowledge_items k
    WHERE k.org_id = :org_id AND k.id = ANY(CAST(:ids AS uuid[]))
    ORDER BY k.id FOR NO KEY UPDATE
""")

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
                WHERE l.org_id = :org_id AND l.change = 'merge'
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
    SELECT k.id, k.id IN (SELECT duplicate_id FROM taken) AS is_taken_back
    FROM public.knowledge_items k
    WHERE k.org_id = :org_id
      AND (k.id = ANY(CAST(:ids AS uuid[])) OR k.id IN (
          SELECT duplicate_id FROM taken UNION ALL SELECT canonical_id FROM taken))
    ORDER BY k.id FOR NO KEY UPDATE OF k
""")


def lock_parties(conn: Connection, org_id: OrgId, plan: Sequence[Merge | Unmerge]) -> set[ItemId]:
    """Lock what a plan names, in id order and before any feature row, as every other writer does.

    Returns the items whose feature rows applying it will touch: those that come back.
    """
    involved = {change.duplicate_id for change in plan} | {change.canonical_id for change in plan}
    involved |= {
        change.previous_canonical_id
        for change in plan
        if isinstance(change, Merge) and change.previous_canonical_id
    }
    rows = conn.execute(LOCK_PARTIES, {"org_id": org_id, "ids": sorted(involved)})
    taken_back = {ItemId(row.id) for row in rows if row.is_taken_back}
    return taken_back | {change.duplicate_id for change in plan if isinstance(change, Unmerge)}


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
    if not row.is_new:
        return Entry("repoint", row.duplicate_id, {"canonical": str(row.previous_id)}, after)
    before = {"expired_at": None, "canonical": None, "canonical_tags": row.canonical_tags}
    return Entry("merge", row.duplicate_id, before, after)


def sync_provenance_links(conn: Connection, org_id: OrgId, entries: Sequence[Entry]) -> None:
    """Bring `tags.provenance_links` of every canonical these entries touch in line with the merges.

    Call it after the entries are in the ledger: the oldest one remembers what the tags were before us.
    """
    sides = (side for entry in entries for side in (entry.before, entry.after))
    canonicals = {str(side["canonical"]) for side in sides if side.get("canonical")}
    moved = sorted({str(entry.subject_id) for entry in entries})
    conn.execute(SYNC_LINKS, {"org_id": org_id, "canonicals": sorted(canonicals), "moved": moved})
