"""What compared pairs are to each other as statements: the pairs to examine, what was found, who judged."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from hivemind_pipelines.core.conflict import Conflict
from hivemind_pipelines.core.judging import JudgeVerdict
from hivemind_pipelines.core.model import CaseId, Category, ConflictFinding, ItemId, OrgId, Scope
from hivemind_pipelines.store.items import KNOWN_CATEGORIES
from hivemind_pipelines.store.jobs import job_fingerprint

# Both originals are live and have the texts that they were compared with.
_LIVE_PAIR = f"""
    JOIN public.knowledge_items a
        ON a.org_id = {{0}}.org_id AND a.id = {{0}}.a_id AND a.content_hash = {{0}}.a_hash
       AND a.expired_at IS NULL AND a.deleted_at IS NULL AND a.category::text IN ({KNOWN_CATEGORIES})
    JOIN public.knowledge_items b
        ON b.org_id = {{0}}.org_id AND b.id = {{0}}.b_id AND b.content_hash = {{0}}.b_hash
       AND b.expired_at IS NULL AND b.deleted_at IS NULL
"""

#: Near pairs that the rules of today have not looked at; `p` is the pair. A compared item that was merged
#: stands for its canonical: one item of a class is compared for all of them.
UNEXAMINED = f"""
    FROM (
        SELECT c.org_id, LEAST(s.x, s.y) AS a_id, GREATEST(s.x, s.y) AS b_id,
               max((c.comparison #>> '{{scores,cosine}}')::float8) AS cosine
        FROM distillation.candidate_pairs c
        LEFT JOIN distillation.merges m
            ON m.org_id = c.org_id AND m.duplicate_id = c.a_id AND NOT m.is_legacy
        LEFT JOIN distillation.merges n
            ON n.org_id = c.org_id AND n.duplicate_id = c.b_id AND NOT n.is_legacy
        CROSS JOIN LATERAL (
            SELECT COALESCE(m.canonical_id, c.a_id) AS x, COALESCE(n.canonical_id, c.b_id) AS y) s
        WHERE c.decision <> 'duplicate' AND s.x <> s.y
          AND GREATEST((c.comparison #>> '{{scores,cosine}}')::float8,
                       (c.comparison #>> '{{scores,content_overlap}}')::float8) >= :overlap_min
        GROUP BY 1, 2, 3
    ) p
    JOIN public.knowledge_items a
        ON a.org_id = p.org_id AND a.id = p.a_id AND a.expired_at IS NULL AND a.deleted_at IS NULL
       AND a.category::text IN ({KNOWN_CATEGORIES})
    JOIN public.knowledge_items b
        ON b.org_id = p.org_id AND b.id = p.b_id AND b.expired_at IS NULL AND b.deleted_at IS NULL
    LEFT JOIN distillation.pair_conflicts e
        ON e.org_id = p.org_id AND e.a_id = p.a_id AND e.b_id = p.b_id AND e.a_hash = a.content_hash
       AND e.b_hash = b.content_hash AND e.stamp = :rules
    WHERE e.org_id IS NULL
"""

TO_EXAMINE = text(f"""
    SELECT p.a_id, p.b_id, a.content_hash AS a_hash, b.content_hash AS b_hash, p.cosine,
           a.content AS a_text, b.content AS b_text, a.framework AS a_framework, a.language AS a_language,
           a.version AS a_version, b.framework AS b_framework, b.language AS b_language, b.version AS b_version
    {UNEXAMINED} AND p.org_id = :org_id
    ORDER BY p.a_id, p.b_id LIMIT :limit
""")


@dataclass(frozen=True, slots=True)
class NearPair:
    """Two live originals to examine, `a_id < b_id`, with their texts and scopes; cosine 0 without vectors."""

    a_id: ItemId
    b_id: ItemId
    a_hash: str
    b_hash: str
    a_text: str
    b_text: str
    a_scope: Scope
    b_scope: Scope
    cosine: float


@dataclass(frozen=True, slots=True)
class Examined:
    """What the rules made of a pair, and the case that it would be."""

    pair: NearPair
    case_id: CaseId
    found: Conflict


def read_unexamined(
    conn: Connection, org_id: OrgId, *, rules: str, overlap_min: float, limit: int
) -> tuple[NearPair, ...]:
    """Pairs that the rules have not looked at, in id order."""
    parameters = {"org_id": org_id, "rules": rules, "overlap_min": overlap_min, "limit": limit}
    return tuple(_near(row) for row in conn.execute(TO_EXAMINE, parameters).mappings())


def _near(row: Mapping[Any, Any]) -> NearPair:
    a_scope, b_scope = (
        Scope(row[f"{side}_framework"], row[f"{side}_language"], row[f"{side}_version"]) for side in "ab"
    )
    return NearPair(
        ItemId(row["a_id"]), ItemId(row["b_id"]), row["a_hash"], row["b_hash"], row["a_text"], row["b_text"],
        a_scope, b_scope, row["cosine"] or 0.0,
    )  # fmt: skip


STORE = text("""
    INSERT INTO distillation.pair_conflicts AS c
        (org_id, a_id, b_id, a_hash, b_hash, case_id, outcome, reason, score, spans, stamp)
    SELECT :org_id, n.a_id, n.b_id, n.a_hash, n.b_hash, n.case_id, n.outcome, n.reason, n.score,
           n.spans::jsonb, :rules
    FROM unnest(CAST(:a_ids AS uuid[]), CAST(:b_ids AS uuid[]), CAST(:a_hashes AS text[]),
                CAST(:b_hashes AS text[]), CAST(:case_ids AS uuid[]), CAST(:outcomes AS text[]),
                CAST(:reasons AS text[]), CAST(:scores AS float8[]), CAST(:spans AS text[]))
        AS n (a_id, b_id, a_hash, b_hash, case_id, outcome, reason, score, spans)
    JOIN distillation.registered_items a ON a.org_id = :org_id AND a.item_id = n.a_id
    JOIN distillation.registered_items b ON b.org_id = :org_id AND b.item_id = n.b_id
    ORDER BY n.a_id, n.b_id
    ON CONFLICT (org_id, a_id, b_id) DO UPDATE SET
        a_hash = EXCLUDED.a_hash, b_hash = EXCLUDED.b_hash, outcome = EXCLUDED.outcome,
        reason = EXCLUDED.reason, score = EXCLUDED.score, spans = EXCLUDED.spans, stamp = EXCLUDED.stamp,
        is_settled = c.is_settled AND c.a_hash = EXCLUDED.a_hash AND c.b_hash = EXCLUDED.b_hash
""")


def store_examined(conn: Connection, org_id: OrgId, examined: Sequence[Examined], *, rules: str) -> None:
    """Keep what the rules found; a person's decision stays settled while both texts stay."""
    parameters = {
        "org_id": org_id,
        "rules": rules,
        "a_ids": [one.pair.a_id for one in examined],
        "b_ids": [one.pair.b_id for one in examined],
        "a_hashes": [one.pair.a_hash for one in examined],
        "b_hashes": [one.pair.b_hash for one in examined],
        "case_ids": [one.case_id for one in examined],
        "outcomes": [one.found.outcome for one in examined],
        "reasons": [one.found.reason for one in examined],
        "scores": [one.found.score for one in examined],
        "spans": [json.dumps({"a": one.found.spans_a, "b": one.found.spans_b}) for one in examined],
    }
    conn.execute(STORE, parameters)


_MEMBERS = """
    (SELECT f.{0} AS id UNION ALL
     SELECT m.duplicate_id FROM distillation.merges m
     WHERE m.org_id = f.org_id AND m.canonical_id = f.{0} AND NOT m.is_legacy)
"""
# What was examined under other merges is kept, and counts again as soon as it stands for a near pair.
_IS_NEAR = f"""
    EXISTS (
        SELECT FROM {_MEMBERS.format("a_id")} x CROSS JOIN {_MEMBERS.format("b_id")} y
        JOIN distillation.candidate_pairs c
            ON c.org_id = f.org_id AND c.a_id = LEAST(x.id, y.id) AND c.b_id = GREATEST(x.id, y.id)
        WHERE c.decision <> 'duplicate'
          AND GREATEST((c.comparison #>> '{{scores,cosine}}')::float8,
                       (c.comparison #>> '{{scores,content_overlap}}')::float8) >= :overlap_min)
"""
#: Pairs in conflict by today's rules, unless the model is sure that they are not; `f` is the pair.
FOUND = f"""
    SELECT f.org_id, f.case_id, f.a_id, f.b_id, f.a_hash, f.b_hash, a.category::text AS category, f.reason,
           f.score, f.spans, f.is_settled, v.outcome AS judged,
           CASE WHEN v.confidence >= :judge_confidence_min THEN v.outcome ELSE f.outcome END AS outcome
    FROM distillation.pair_conflicts f
    {_LIVE_PAIR.format("f")}
    LEFT JOIN distillation.conflict_verdicts v
        ON v.org_id = f.org_id AND v.model = :model AND v.prompt_version = :judge_version
       AND v.a_hash = LEAST(f.a_hash COLLATE "C", f.b_hash COLLATE "C")
       AND v.b_hash = GREATEST(f.a_hash COLLATE "C", f.b_hash COLLATE "C")
    WHERE f.outcome IN ('contradiction', 'update', 'version_fork') AND f.score >= :score_min
      AND f.stamp = :rules AND {_IS_NEAR}
"""
#: Of those, the ones that open a case.
IN_CONFLICT = "outcome IN ('contradiction', 'update', 'version_fork')"

FINDINGS = text(f"SELECT * FROM ({FOUND} AND f.org_id = :org_id) found WHERE {IN_CONFLICT} ORDER BY case_id")


@dataclass(frozen=True, slots=True)
class Judge:
    """Which near pairs are in conflict: by which rules, above which score, by whose word above which confidence."""

    rules: str
    overlap_min: float
    score_min: float
    model: str
    judge_version: str
    judge_confidence_min: float

    def parameters(self) -> dict[str, object]:
        """The values by the names that the statements use."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def read_findings(conn: Connection, org_id: OrgId, judge: Judge) -> tuple[ConflictFinding, ...]:
    """The pairs of the org that are in conflict, in the order of their cases."""
    rows = conn.execute(FINDINGS, {"org_id": org_id, **judge.parameters()}).mappings()
    return tuple(
        ConflictFinding(
            case_id=CaseId(row["case_id"]),
            a_id=ItemId(row["a_id"]),
            b_id=ItemId(row["b_id"]),
            category=Category(row["category"]),
            outcome=row["outcome"],
            reason=row["reason"],
            score=row["score"],
            spans=row["spans"],
            is_settled=row["is_settled"],
            judged=row["judged"],
        )
        for row in rows
    )


#: Found by the rules, not yet judged, and no job that is claimed or waits after a failure.
IS_UNJUDGED = """
    v.outcome IS NULL AND NOT f.is_settled AND NOT EXISTS (
        SELECT FROM distillation.llm_jobs j
        WHERE j.org_id = f.org_id AND (j.lease_until >= :now OR j.next_attempt_at > :now)
          AND j.fingerprint = encode(sha256(convert_to(concat_ws('|', 'judge',
                LEAST(f.a_hash COLLATE "C", f.b_hash COLLATE "C"),
                GREATEST(f.a_hash COLLATE "C", f.b_hash COLLATE "C"),
                :judge_version, :model), 'UTF8')), 'hex'))
"""
_OF_UNJUDGED = f"""
    FROM ({FOUND} AND f.org_id = :org_id AND {IS_UNJUDGED}) found
    JOIN public.knowledge_items a ON a.org_id = found.org_id AND a.id = found.a_id
    JOIN public.knowledge_items b ON b.org_id = found.org_id AND b.id = found.b_id
    ORDER BY found.score DESC, found.case_id
"""
UNJUDGED = text(f"SELECT found.*, a.content AS a_text, b.content AS b_text {_OF_UNJUDGED} LIMIT :limit")
UNJUDGED_LENGTHS = text(
    f"SELECT char_length(a.content) + char_length(b.content) AS characters {_OF_UNJUDGED}"
)


@dataclass(frozen=True, slots=True)
class UnjudgedPair:
    """A pair that the rules hold apart, with its texts."""

    a_hash: str
    b_hash: str
    a_text: str
    b_text: str


def read_unjudged(
    conn: Connection, org_id: OrgId, judge: Judge, *, now: datetime, limit: int
) -> tuple[UnjudgedPair, ...]:
    """Pairs to ask the model about, the surest first."""
    parameters = {"org_id": org_id, "now": now, "limit": limit, **judge.parameters()}
    rows = conn.execute(UNJUDGED, parameters)
    return tuple(UnjudgedPair(row.a_hash, row.b_hash, row.a_text, row.b_text) for row in rows)


def read_unjudged_lengths(conn: Connection, org_id: OrgId, judge: Judge, *, now: datetime) -> tuple[int, ...]:
    """The characters of both texts of each pair that the model would be asked about, the surest first."""
    rows = conn.execute(UNJUDGED_LENGTHS, {"org_id": org_id, "now": now, **judge.parameters()})
    return tuple(int(row.characters) for row in rows)


def judging_fingerprint(pair: UnjudgedPair, judge: Judge) -> str:
    """The name of the job that asks the model about a pair, the same in `IS_UNJUDGED`."""
    return job_fingerprint("judge", *sorted((pair.a_hash, pair.b_hash)), judge.judge_version, judge.model)


INSERT_VERDICT = text("""
    INSERT INTO distillation.conflict_verdicts
        (org_id, a_hash, b_hash, prompt_version, model, outcome, confidence, reason)
    VALUES (:org_id, LEAST(:a_hash COLLATE "C", :b_hash COLLATE "C"),
            GREATEST(:a_hash COLLATE "C", :b_hash COLLATE "C"), :prompt_version, :model, :outcome, :confidence,
            :reason)
    ON CONFLICT DO NOTHING
""")


def store_verdict(
    conn: Connection, org_id: OrgId, pair: UnjudgedPair, verdict: JudgeVerdict, judge: Judge
) -> None:
    """Cache the model's answer under both texts' hashes."""
    parameters = {
        "org_id": org_id, "a_hash": pair.a_hash, "b_hash": pair.b_hash, "model": judge.model,
        "prompt_version": judge.judge_version, "outcome": verdict.outcome, "confidence": verdict.confidence,
        "reason": verdict.reason,
    }  # fmt: skip
    conn.execute(INSERT_VERDICT, parameters)


SETTLE = text("""
    UPDATE distillation.pair_conflicts SET is_settled = :is_settled
    WHERE org_id = :org_id AND case_id = ANY(CAST(:case_ids AS uuid[])) AND is_settled <> :is_settled
""")


def settle(conn: Connection, org_id: OrgId, case_ids: Iterable[CaseId], *, is_settled: bool) -> None:
    """Remember of the pairs of these cases whether a person has decided them for the texts as they are."""
    conn.execute(SETTLE, {"org_id": org_id, "case_ids": sorted(case_ids), "is_settled": is_settled})
