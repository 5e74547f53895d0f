"""Candidates: which classes look for a pair, by which bands, and what a finished look leaves behind."""

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import Connection, text

from hivemind_pipelines.core.model import ItemId, OrgId
from hivemind_pipelines.store.items import POOL
from hivemind_pipelines.store.pairs import PairKey

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


DROP_PAIRS = text("""
    DELETE FROM distillation.candidate_pairs p
    USING unnest(CAST(:a_ids AS uuid[]), CAST(:b_ids AS uuid[]), CAST(:versions AS text[]))
        AS n (a_id, b_id, row_version)
    WHERE p.org_id = :org_id AND p.a_id = n.a_id AND p.b_id = n.b_id AND p.xmin::text = n.row_version
""")

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
