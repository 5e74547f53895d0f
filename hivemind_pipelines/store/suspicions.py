"""What the detector of injections made of each original: kinds and scores, never words."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from hivemind_pipelines.core.injection import Suspicion
from hivemind_pipelines.core.model import ItemId, OrgId
from hivemind_pipelines.store.items import LIVE

TEXTS = text("""
    SELECT k.id, k.content_hash, k.content FROM public.knowledge_items k
    WHERE k.org_id = :org_id AND k.id = ANY(CAST(:ids AS uuid[])) ORDER BY k.id
""")

# Features are locked first: an erasure beside us may remove them, or another text may be theirs by now.
STORE = text("""
    WITH present AS (
        SELECT f.item_id, f.content_hash FROM distillation.item_features f
        WHERE f.org_id = :org_id AND f.item_id = ANY(CAST(:ids AS uuid[]))
        ORDER BY f.item_id FOR KEY SHARE
    )
    INSERT INTO distillation.suspicions (org_id, item_id, content_hash, kinds, score, stamp)
    SELECT :org_id, n.item_id, n.content_hash,
           ARRAY(SELECT jsonb_array_elements_text(n.kinds)), n.score, :stamp
    FROM unnest(CAST(:ids AS uuid[]), CAST(:hashes AS text[]), CAST(:kinds AS jsonb[]),
                CAST(:scores AS double precision[])) AS n (item_id, content_hash, kinds, score)
    JOIN present p ON p.item_id = n.item_id AND p.content_hash = n.content_hash
    ORDER BY n.item_id
    ON CONFLICT (org_id, item_id) DO UPDATE SET
        content_hash = EXCLUDED.content_hash, kinds = EXCLUDED.kinds, score = EXCLUDED.score,
        stamp = EXCLUDED.stamp
""")

# Deliberately over every org: `status` shows them all.
COUNTS = text(f"""
    SELECT s.org_id, count(*) AS suspicious FROM distillation.suspicions s
    JOIN public.knowledge_items k
        ON k.org_id = s.org_id AND k.id = s.item_id AND k.content_hash = s.content_hash AND {LIVE}
    WHERE s.kinds <> '{{}}' GROUP BY s.org_id
""")


# Every org on purpose when `:org_id` is NULL. What is retrieved most, and believed most, comes first: a model
# reads it soonest.
LISTED = text(f"""
    SELECT s.org_id, s.item_id, s.kinds, s.score, k.source_agent_id,
           GREATEST(k.retrieval_count, 0) * COALESCE(NULLIF(k.confidence, 'NaN'), 0) AS harm,
           count(*) OVER () AS total
    FROM distillation.suspicions s
    JOIN public.knowledge_items k
        ON k.org_id = s.org_id AND k.id = s.item_id AND k.content_hash = s.content_hash AND {LIVE}
    WHERE s.kinds <> '{{}}' AND (CAST(:org_id AS text) IS NULL OR s.org_id = :org_id)
    ORDER BY harm DESC, s.score DESC, s.org_id, s.item_id
    LIMIT :limit OFFSET :offset
""")


@dataclass(frozen=True, slots=True)
class SuspiciousItem:
    """A live original that seems to give a model instructions; `harm` is its retrievals x confidence."""

    org_id: OrgId
    item_id: ItemId
    kinds: tuple[str, ...]
    score: float
    harm: float
    source_agent_id: str


@dataclass(frozen=True, slots=True)
class SuspiciousPage:
    """Some suspicious originals, the most harmful first, of so many in all."""

    total: int
    items: tuple[SuspiciousItem, ...]


def read_listed(conn: Connection, org_id: OrgId | None, *, limit: int, offset: int) -> SuspiciousPage:
    """Live suspicious originals, the most harmful first; `org_id` None means every org."""
    rows = conn.execute(LISTED, {"org_id": org_id, "limit": limit, "offset": offset}).all()
    items = tuple(
        SuspiciousItem(
            OrgId(row.org_id), ItemId(row.item_id), tuple(row.kinds), row.score, float(row.harm),
            row.source_agent_id,
        )
        for row in rows
    )  # fmt: skip
    return SuspiciousPage(rows[0].total if rows else 0, items)


def read_texts(conn: Connection, org_id: OrgId, ids: Sequence[ItemId]) -> dict[tuple[ItemId, str], str]:
    """The texts of items by id and content hash; removed ones are left out."""
    rows = conn.execute(TEXTS, {"org_id": org_id, "ids": list(ids)})
    return {(ItemId(row.id), row.content_hash): row.content for row in rows}


def store(
    conn: Connection,
    org_id: OrgId,
    judged: Mapping[tuple[ItemId, str], Suspicion | None],
    *,
    stamp: str,
) -> None:
    """Keep what was made of each (item, content hash), also that nothing is suspicious."""
    conn.execute(STORE, {"org_id": org_id, "stamp": stamp, **_columns(judged.items())})


def _columns(
    judged: Iterable[tuple[tuple[ItemId, str], Suspicion | None]],
) -> Mapping[str, list[object]]:
    rows = [(item_id, content_hash, one) for (item_id, content_hash), one in judged]
    return {
        "ids": [item_id for item_id, _, _ in rows],
        "hashes": [content_hash for _, content_hash, _ in rows],
        "kinds": [json.dumps(one.kinds if one else ()) for _, _, one in rows],
        "scores": [one.score if one else 0.0 for _, _, one in rows],
    }


def read_counts(conn: Connection) -> dict[OrgId, int]:
    """Live suspicious originals of each org that has any."""
    return {OrgId(row.org_id): row.suspicious for row in conn.execute(COUNTS)}
