"""Compared pairs, each with what the policy says of it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from hivemind_pipelines.core.model import (
    CandidatePair,
    Comparison,
    ItemId,
    LlmVerdict,
    OrgId,
    PairDecision,
)

PairKey = tuple[ItemId, ItemId]

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


def read_pairs_of(conn: Connection, org_id: OrgId, ids: Sequence[ItemId]) -> dict[PairKey, str]:
    """The stored pairs of some items, each with the version of its row."""
    rows = conn.execute(PAIRS_OF, {"org_id": org_id, "ids": list(ids)})
    return {(ItemId(row.a_id), ItemId(row.b_id)): row.row_version for row in rows}


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


def stored_pairs(rows: Iterable[Mapping[Any, Any]]) -> tuple[StoredPair, ...]:
    """The pairs of rows that `PAIRS` selects."""
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
    return stored_pairs(conn.execute(CLUSTER_PAIRS, parameters).mappings())


def read_stale_pairs(conn: Connection, org_id: OrgId, *, stamp: str, limit: int) -> tuple[StoredPair, ...]:
    """Pairs decided under another matching policy, to be decided again from what is stored."""
    parameters = {"org_id": org_id, "stamp": stamp, "limit": limit, "model": "", "prompt_version": ""}
    return stored_pairs(conn.execute(STALE_PAIRS, parameters).mappings())


UNSETTLE = text("""
    UPDATE distillation.item_features SET settled_stamp = NULL
    WHERE org_id = :org_id AND item_id = ANY(CAST(:ids AS uuid[])) AND settled_stamp IS NOT NULL
""")


def unsettle(conn: Connection, org_id: OrgId, ids: Iterable[ItemId]) -> None:
    """Make the components of these items due for clustering again."""
    conn.execute(UNSETTLE, {"org_id": org_id, "ids": sorted(ids)})
