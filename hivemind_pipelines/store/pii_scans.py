"""What the gate found in each live original: counts by type, for people who decide what to erase."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from hivemind_pipelines.core.model import ItemId, OrgId
from hivemind_pipelines.store.items import LIVE


@dataclass(frozen=True, slots=True)
class Unscanned:
    """A live original whose text no scan under the current stamp has seen."""

    item_id: ItemId
    content_hash: str
    content: str


# Due is a set difference: a new text, another text or another scanner.
DUE = text(f"""
    SELECT k.id, k.content_hash, k.content
    FROM distillation.item_features f
    JOIN public.knowledge_items k
        ON k.org_id = f.org_id AND k.id = f.item_id AND k.content_hash = f.content_hash AND {LIVE}
    LEFT JOIN distillation.pii_scans s
        ON s.org_id = f.org_id AND s.item_id = f.item_id
        AND s.content_hash = f.content_hash AND s.stamp = :stamp
    WHERE f.org_id = :org_id AND s.item_id IS NULL
      AND (CAST(:after AS uuid) IS NULL OR f.item_id > CAST(:after AS uuid))
    ORDER BY f.item_id LIMIT :batch
""")

# Features are locked first: an erasure beside us may remove them, or another text may be theirs by now.
STORE = text("""
    WITH present AS (
        SELECT f.item_id, f.content_hash FROM distillation.item_features f
        WHERE f.org_id = :org_id AND f.item_id = ANY(CAST(:ids AS uuid[]))
        ORDER BY f.item_id FOR KEY SHARE
    )
    INSERT INTO distillation.pii_scans (org_id, item_id, content_hash, counts, stamp, scanned_at)
    SELECT :org_id, n.item_id, n.content_hash, n.counts, :stamp, :at
    FROM unnest(CAST(:ids AS uuid[]), CAST(:hashes AS text[]), CAST(:counts AS jsonb[]))
        AS n (item_id, content_hash, counts)
    JOIN present p ON p.item_id = n.item_id AND p.content_hash = n.content_hash
    ORDER BY n.item_id
    ON CONFLICT (org_id, item_id) DO UPDATE SET
        content_hash = EXCLUDED.content_hash, counts = EXCLUDED.counts, stamp = EXCLUDED.stamp,
        scanned_at = EXCLUDED.scanned_at
""")

# Items that expired or were deleted since they were scanned are no longer of concern here.
FOUND = text(f"""
    SELECT s.item_id, s.counts FROM distillation.pii_scans s
    JOIN public.knowledge_items k
        ON k.org_id = s.org_id AND k.id = s.item_id AND k.content_hash = s.content_hash AND {LIVE}
    WHERE s.org_id = :org_id AND s.counts <> '{{}}'
    ORDER BY s.item_id
""")


def read_due(
    conn: Connection, org_id: OrgId, *, stamp: str, after: ItemId | None, batch: int
) -> tuple[Unscanned, ...]:
    """Live originals of the org that wait for a scan under `stamp`, in id order behind `after`."""
    rows = conn.execute(DUE, {"org_id": org_id, "stamp": stamp, "after": after, "batch": batch})
    return tuple(Unscanned(ItemId(row.id), row.content_hash, row.content) for row in rows)


def store(
    conn: Connection,
    org_id: OrgId,
    scanned: Iterable[tuple[Unscanned, Mapping[str, int]]],
    *,
    stamp: str,
    at: datetime,
) -> None:
    """Keep the counts of each text, also that it holds nothing."""
    rows = list(scanned)
    columns = {
        "ids": [item.item_id for item, _ in rows],
        "hashes": [item.content_hash for item, _ in rows],
        "counts": [json.dumps(dict(counts)) for _, counts in rows],
    }
    conn.execute(STORE, {"org_id": org_id, "stamp": stamp, "at": at, **columns})


def read_found(conn: Connection, org_id: OrgId) -> dict[ItemId, dict[str, int]]:
    """Live originals of the org in which something was found, with its counts by type."""
    return {ItemId(row.item_id): row.counts for row in conn.execute(FOUND, {"org_id": org_id})}
