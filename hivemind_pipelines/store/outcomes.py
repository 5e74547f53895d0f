"""What matching made of an org, for whoever measures it: every compared pair and every item's class."""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, text

from hivemind_pipelines.core.model import Comparison, ItemId, LlmVerdict, OrgId, PairDecision

#: Rows held at a time while stored scores stream by.
STREAMED = 2_000

OUTCOMES = text("""
    -- Every compared pair with its decision, without the scores behind it.
    SELECT p.a_id, p.b_id, p.decision, p.probability, p.reason, p.comparison -> 'vetoes' AS vetoes,
           v.same, v.confidence
    FROM distillation.candidate_pairs p
    LEFT JOIN distillation.llm_verdicts v
        ON v.org_id = p.org_id AND v.model = :model AND v.prompt_version = :prompt_version
       AND v.a_hash = LEAST(p.a_hash COLLATE "C", p.b_hash COLLATE "C")
       AND v.b_hash = GREATEST(p.a_hash COLLATE "C", p.b_hash COLLATE "C")
    WHERE p.org_id = :org_id
    ORDER BY p.a_id, p.b_id
""")

SCORES = text("""
    -- Every compared pair with its comparison.
    SELECT p.a_id, p.b_id, p.comparison FROM distillation.candidate_pairs p
    WHERE p.org_id = :org_id ORDER BY p.a_id, p.b_id
""")

CLASS_KEYS = text("""
    -- Items that matching treats as one node have one key.
    SELECT f.item_id, f.class_key FROM distillation.item_features f WHERE f.org_id = :org_id
""")


@dataclass(frozen=True, slots=True)
class PairOutcome:
    """A compared pair, `a_id < b_id`: its decision, its vetoes and the model's cached verdict, if any."""

    a_id: ItemId
    b_id: ItemId
    decided: PairDecision
    vetoes: tuple[str, ...]
    llm: LlmVerdict | None


def read_pair_outcomes(
    conn: Connection, org_id: OrgId, *, model: str, prompt_version: str
) -> tuple[PairOutcome, ...]:
    """Every compared pair of the org in order of ids."""
    parameters = {"org_id": org_id, "model": model, "prompt_version": prompt_version}
    return tuple(
        PairOutcome(
            a_id=ItemId(row.a_id),
            b_id=ItemId(row.b_id),
            decided=PairDecision(row.decision, row.probability, row.reason),
            vetoes=tuple(row.vetoes),
            llm=None if row.same is None else LlmVerdict(row.same, row.confidence),
        )
        for row in conn.execute(OUTCOMES, parameters)
    )


def read_comparisons(conn: Connection, org_id: OrgId) -> Iterator[tuple[ItemId, ItemId, Comparison]]:
    """Every compared pair with all its scores, streamed: there are dozens of them to a pair."""
    options = {"stream_results": True, "max_row_buffer": STREAMED}
    for row in conn.execute(SCORES, {"org_id": org_id}, execution_options=options):
        scores = tuple(row.comparison["scores"].items())
        yield ItemId(row.a_id), ItemId(row.b_id), Comparison(scores, tuple(row.comparison["vetoes"]))


def read_class_keys(conn: Connection, org_id: OrgId) -> dict[ItemId, bytes]:
    """The class of every item that has features."""
    return {ItemId(row.item_id): bytes(row.class_key) for row in conn.execute(CLASS_KEYS, {"org_id": org_id})}
