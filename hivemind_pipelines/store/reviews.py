"""Verdicts of people over pairs, the queue of what waits for one, and decisions of cases."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Connection, text

from hivemind_pipelines.core.model import CaseId, ItemId, OrgId, RunId
from hivemind_pipelines.core.review import PairVerdict, Verdict, VerdictSource
from hivemind_pipelines.store import conflicts
from hivemind_pipelines.store.items import LIVE, ORIGINAL
from hivemind_pipelines.store.ledger import Entry

#: `core.review.pair_id` in SQL; the two columns are already in order.
PAIR_ID = """
    substr(encode(sha256(convert_to({0}.org_id || ':' || {0}.a_id || ':' || {0}.b_id, 'UTF8')), 'hex'), 1, 32)::uuid
"""

# A verdict holds while both texts are those it was given for.
HOLDING = text("""
    SELECT v.a_id, v.b_id, v.verdict FROM distillation.pair_verdicts v
    JOIN public.knowledge_items a ON a.org_id = v.org_id AND a.id = v.a_id AND a.content_hash = v.a_hash
    JOIN public.knowledge_items b ON b.org_id = v.org_id AND b.id = v.b_id AND b.content_hash = v.b_hash
    WHERE v.org_id = :org_id ORDER BY v.a_id, v.b_id
""")


def read_verdicts(conn: Connection, org_id: OrgId) -> tuple[PairVerdict, ...]:
    """The verdicts of the org that hold, in pair order."""
    return tuple(
        PairVerdict(ItemId(row.a_id), ItemId(row.b_id), row.verdict)
        for row in conn.execute(HOLDING, {"org_id": org_id})
    )


# What an undo implies is not a judgement of both texts.
REVIEWED = text("""
    SELECT v.a_id, v.b_id, v.verdict FROM distillation.pair_verdicts v
    JOIN public.knowledge_items a ON a.org_id = v.org_id AND a.id = v.a_id AND a.content_hash = v.a_hash
    JOIN public.knowledge_items b ON b.org_id = v.org_id AND b.id = v.b_id AND b.content_hash = v.b_hash
    WHERE v.org_id = :org_id AND v.source = 'review' ORDER BY v.a_id, v.b_id
""")


def read_reviewed(conn: Connection, org_id: OrgId) -> tuple[PairVerdict, ...]:
    """The verdicts that a person gave on the two texts as they are, in pair order."""
    return tuple(
        PairVerdict(ItemId(row.a_id), ItemId(row.b_id), row.verdict)
        for row in conn.execute(REVIEWED, {"org_id": org_id})
    )


# The reason code is what the detector says today of the texts as they are.
JUDGE = text(f"""
    WITH wanted AS (
        SELECT CAST(:org_id AS varchar) AS org_id, n.*
        FROM unnest(CAST(:a_ids AS uuid[]), CAST(:b_ids AS uuid[]), CAST(:directs AS boolean[]))
            AS n (a_id, b_id, is_direct)
    ), present AS (
        SELECT w.org_id, w.a_id, w.b_id, {PAIR_ID.format("w")} AS pair_id, a.content_hash AS a_hash,
               b.content_hash AS b_hash, CASE WHEN w.is_direct THEN p.reason END AS reason,
               o.verdict AS verdict_before, o.source AS source_before, o.reason AS reason_before,
               o.decided_by AS by_before, o.decided_at AS at_before,
               o.verdict IS NOT DISTINCT FROM :verdict AND o.a_hash = a.content_hash
                   AND o.b_hash = b.content_hash AS is_known
        FROM wanted w
        JOIN public.knowledge_items a ON a.org_id = w.org_id AND a.id = w.a_id AND a.deleted_at IS NULL
        JOIN public.knowledge_items b ON b.org_id = w.org_id AND b.id = w.b_id AND b.deleted_at IS NULL
        LEFT JOIN distillation.candidate_pairs p
            ON p.org_id = w.org_id AND p.a_id = w.a_id AND p.b_id = w.b_id
           AND p.a_hash = a.content_hash AND p.b_hash = b.content_hash
        LEFT JOIN distillation.pair_verdicts o ON o.org_id = w.org_id AND o.a_id = w.a_id AND o.b_id = w.b_id
    ), written AS (
        INSERT INTO distillation.pair_verdicts AS v
            (org_id, a_id, b_id, pair_id, a_hash, b_hash, verdict, source, reason, decided_by, decided_at, run_id)
        SELECT :org_id, a_id, b_id, pair_id, a_hash, b_hash, :verdict, :source, reason, :by, :at, :run_id
        FROM present WHERE NOT is_known OR is_known IS NULL
        ON CONFLICT (org_id, a_id, b_id) DO UPDATE SET
            a_hash = EXCLUDED.a_hash, b_hash = EXCLUDED.b_hash, verdict = EXCLUDED.verdict,
            source = EXCLUDED.source, reason = EXCLUDED.reason, decided_by = EXCLUDED.decided_by,
            decided_at = EXCLUDED.decided_at, run_id = EXCLUDED.run_id
    )
    SELECT * FROM present WHERE NOT is_known OR is_known IS NULL ORDER BY a_id, b_id
""")


def judge(
    conn: Connection,
    org_id: OrgId,
    pairs: Sequence[tuple[ItemId, ItemId, bool]],
    verdict: Verdict,
    *,
    source: VerdictSource,
    by: str,
    at: datetime,
    run_id: RunId,
) -> tuple[Entry, ...]:
    """Store a verdict over pairs (a < b, whether a person decided that very pair); the ledger entries.

    Both items must be registered. Their components are due again; a verdict that says so already stays.
    """
    parameters = {
        "org_id": org_id, "verdict": verdict, "source": source, "by": by, "at": at, "run_id": run_id,
        "a_ids": [a_id for a_id, _, _ in pairs], "b_ids": [b_id for _, b_id, _ in pairs],
        "directs": [is_direct for _, _, is_direct in pairs],
    }  # fmt: skip
    rows = conn.execute(JUDGE, parameters).all()
    reopen(conn, org_id, {item_id for row in rows for item_id in (row.a_id, row.b_id)})
    return tuple(
        judge_entry(
            row,
            _spoken(row.verdict_before, row.source_before, row.by_before, row.at_before, row.reason_before),
            _spoken(verdict, source, by, at, row.reason),
        )
        for row in rows
    )


def judge_entry(pair: Any, before: Mapping[str, object], after: Mapping[str, object]) -> Entry:
    """The ledger entry of a verdict that came, went or changed; `pair` has a_id, b_id and pair_id."""
    return Entry("judge", pair.pair_id, before, {**after, "a": pair.a_id, "b": pair.b_id})


def _spoken(verdict: object, source: object, by: object, at: object, reason: object) -> dict[str, object]:
    if verdict is None:
        return {"verdict": None}
    return {"verdict": verdict, "source": source, "by": by, "at": at, "reason": reason}


# Written even where nothing was settled: a run beside us that read the row must not settle it.
REOPEN = text("""
    UPDATE distillation.item_features SET settled_stamp = NULL
    WHERE org_id = :org_id AND item_id = ANY(CAST(:ids AS uuid[]))
""")


def reopen(conn: Connection, org_id: OrgId, ids: Iterable[UUID]) -> None:
    """Make the components of these items due again."""
    conn.execute(REOPEN, {"org_id": org_id, "ids": sorted(ids)})


# Every org on purpose when `:org_id` is NULL: a reviewer may look after many.
_POSSIBLE = """
    FROM distillation.candidate_pairs p
    JOIN public.knowledge_items a
        ON a.org_id = p.org_id AND a.id = p.a_id AND a.content_hash = p.a_hash
       AND a.expired_at IS NULL AND a.deleted_at IS NULL
    JOIN public.knowledge_items b
        ON b.org_id = p.org_id AND b.id = p.b_id AND b.content_hash = p.b_hash
       AND b.expired_at IS NULL AND b.deleted_at IS NULL
    LEFT JOIN distillation.llm_verdicts l
        ON l.org_id = p.org_id AND l.model = :model AND l.prompt_version = :prompt_version
       AND l.a_hash = LEAST(p.a_hash COLLATE "C", p.b_hash COLLATE "C")
       AND l.b_hash = GREATEST(p.a_hash COLLATE "C", p.b_hash COLLATE "C")
    WHERE p.decision = 'possible' AND (CAST(:org_id AS text) IS NULL OR p.org_id = :org_id)
      AND NOT EXISTS (SELECT FROM distillation.pair_verdicts v
                      WHERE v.org_id = p.org_id AND v.a_id = p.a_id AND v.b_id = p.b_id
                        AND v.a_hash = p.a_hash AND v.b_hash = p.b_hash)
"""

_HARM = "GREATEST({0}.retrieval_count, 0) * COALESCE(NULLIF({0}.confidence, 'NaN'), 0)"

WAITING = text(f"""
    -- The most harm first: what is retrieved most, and believed most.
    WITH waiting AS (
        SELECT 'pair' AS kind, p.org_id, {PAIR_ID.format("p")} AS id, ARRAY[p.a_id, p.b_id] AS item_ids,
               {_HARM.format("a")} + {_HARM.format("b")} AS harm,
               p.probability, p.reason, p.comparison, l.same AS llm_same, l.confidence AS llm_confidence
        {_POSSIBLE}
        UNION ALL
        SELECT 'case', c.org_id, c.case_id, array_agg(i.item_id ORDER BY i.item_id),
               COALESCE(sum({_HARM.format("k")}), 0), NULL,
               c.detector || COALESCE(':' || (c.evidence ->> 'reason'), ''), NULL, NULL, NULL
        FROM distillation.contradiction_cases c
        JOIN distillation.case_items i ON i.org_id = c.org_id AND i.case_id = c.case_id
        LEFT JOIN public.knowledge_items k ON k.org_id = i.org_id AND k.id = i.item_id
        WHERE c.status = 'open' AND (CAST(:org_id AS text) IS NULL OR c.org_id = :org_id)
        GROUP BY c.org_id, c.case_id
    )
    SELECT w.*, count(*) OVER () AS total FROM waiting w
    ORDER BY harm DESC, probability DESC NULLS FIRST, org_id, id
    LIMIT :limit OFFSET :offset
""")

COUNT_WAITING = text(f"""
    SELECT (SELECT count(*) {_POSSIBLE})
         + (SELECT count(*) FROM distillation.contradiction_cases c
            WHERE c.status = 'open' AND (CAST(:org_id AS text) IS NULL OR c.org_id = :org_id))
""")

Kind = Literal["pair", "case"]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A possible duplicate or an open case; `harm` is the retrievals x confidence of its items, summed.

    `probability` and `scores` are None for a case, whose `reason` is its detector.
    """

    kind: Kind
    org_id: OrgId
    id: UUID
    item_ids: tuple[ItemId, ...]
    harm: float
    reason: str
    probability: float | None
    scores: Mapping[str, float] | None
    vetoes: tuple[str, ...]
    llm_same: bool | None
    llm_confidence: float | None


@dataclass(frozen=True, slots=True)
class Page:
    """Some of what waits for a person, and how much there is in all."""

    waiting: tuple[Waiting, ...]
    total: int


def read_waiting(
    conn: Connection, org_id: OrgId | None, *, model: str, prompt_version: str, limit: int, offset: int
) -> Page:
    """Undecided pairs of live items and open cases, the most harmful first; `org_id` None means all."""
    parameters = {"org_id": org_id, "model": model, "prompt_version": prompt_version}
    rows = conn.execute(WAITING, {**parameters, "limit": limit, "offset": offset}).mappings().all()
    total = rows[0]["total"] if rows else conn.execute(COUNT_WAITING, parameters).scalar_one()
    return Page(tuple(map(_waiting, rows)), int(total))


def _waiting(row: Mapping[Any, Any]) -> Waiting:
    comparison = row["comparison"] or {}
    return Waiting(
        kind=row["kind"],
        org_id=OrgId(row["org_id"]),
        id=row["id"],
        item_ids=tuple(map(ItemId, row["item_ids"])),
        harm=float(row["harm"]),
        reason=row["reason"],
        probability=row["probability"],
        scores=comparison.get("scores"),
        vetoes=tuple(comparison.get("vetoes", ())),
        llm_same=row["llm_same"],
        llm_confidence=row["llm_confidence"],
    )


# Labels of any age count: what was right once says how good the detector was.
DECIDED = text("""
    SELECT v.reason, v.verdict FROM distillation.pair_verdicts v
    WHERE v.reason IS NOT NULL AND (CAST(:org_id AS text) IS NULL OR v.org_id = :org_id)
""")


def read_decided(conn: Connection, org_id: OrgId | None) -> tuple[tuple[str, Verdict], ...]:
    """Reason code and verdict of every pair that a person decided; `org_id` None means all orgs."""
    return tuple((row.reason, row.verdict) for row in conn.execute(DECIDED, {"org_id": org_id}))


# By the detector's own word on the case: what a person called a conflict confirms it. What a policy withdrew,
# an undo took back or an erasure emptied was nobody's verdict.
CASES_DECIDED = text("""
    SELECT c.detector || COALESCE(':' || (c.evidence ->> 'reason'), '') AS reason, c.status, c.outcome
    FROM distillation.contradiction_cases c
    WHERE c.status <> 'open' AND COALESCE(c.outcome, '') NOT IN ('withdrawn', 'undone', 'erased')
      AND (CAST(:org_id AS text) IS NULL OR c.org_id = :org_id)
""")


def read_cases_decided(conn: Connection, org_id: OrgId | None) -> tuple[tuple[str, bool], ...]:
    """Detector with reason code, and whether a person confirmed it, of every decided case."""
    rows = conn.execute(CASES_DECIDED, {"org_id": org_id})
    return tuple((row.reason, row.status == "resolved") for row in rows)


# A person types an id alone, so every org is searched on purpose.
PAIR_BY_ID = text(f"""
    SELECT DISTINCT org_id, a_id, b_id FROM (
        SELECT p.org_id, p.a_id, p.b_id, {PAIR_ID.format("p")} AS pair_id FROM distillation.candidate_pairs p
        UNION ALL
        SELECT v.org_id, v.a_id, v.b_id, v.pair_id FROM distillation.pair_verdicts v) known
    WHERE replace(pair_id::text, '-', '') LIKE :prefix || '%' LIMIT 2
""")
CASE_BY_ID = text("SELECT org_id FROM distillation.contradiction_cases WHERE case_id = :case_id")
ITEM_ORGS = text(f"""
    SELECT k.org_id, k.id, {ORIGINAL} AS is_original
    FROM public.knowledge_items k WHERE k.id = ANY(CAST(:ids AS uuid[])) AND k.deleted_at IS NULL
""")

PairRow = tuple[OrgId, ItemId, ItemId]


def find_pairs(conn: Connection, prefix: str) -> tuple[PairRow, ...]:
    """Up to two known pairs whose id begins with these hexadecimal digits."""
    rows = conn.execute(PAIR_BY_ID, {"prefix": prefix})
    return tuple((OrgId(row.org_id), ItemId(row.a_id), ItemId(row.b_id)) for row in rows)


def find_case(conn: Connection, case_id: CaseId) -> OrgId | None:
    """The org of a case, None when there is no such case."""
    found = conn.execute(CASE_BY_ID, {"case_id": case_id}).scalars().first()
    return None if found is None else OrgId(found)


def read_originals(conn: Connection, ids: Sequence[ItemId]) -> dict[ItemId, OrgId]:
    """The org of each of these items that is an original and not deleted."""
    rows = conn.execute(ITEM_ORGS, {"ids": list(ids)})
    return {ItemId(row.id): OrgId(row.org_id) for row in rows if row.is_original}


@dataclass(frozen=True, slots=True)
class ShownItem:
    """An item as a reviewer sees it."""

    id: ItemId
    content: str
    category: str
    framework: str | None
    language: str | None
    version: str | None
    source_agent_id: str
    is_public: bool
    is_live: bool
    confidence: float
    quality_score: float
    retrieval_count: int


SHOWN = text(f"""
    SELECT k.id, k.content, k.category::text AS category, k.framework, k.language, k.version,
           k.source_agent_id, k.is_public, {LIVE} AS is_live, k.confidence, k.quality_score, k.retrieval_count
    FROM public.knowledge_items k
    WHERE k.org_id = :org_id AND k.id = ANY(CAST(:ids AS uuid[])) AND k.deleted_at IS NULL ORDER BY k.id
""")


def read_shown(conn: Connection, org_id: OrgId, ids: Sequence[ItemId]) -> tuple[ShownItem, ...]:
    """Items with their texts, in id order; deleted and removed ones are left out."""
    rows = conn.execute(SHOWN, {"org_id": org_id, "ids": list(ids)}).mappings()
    return tuple(ShownItem(**{**row, "id": ItemId(row["id"])}) for row in rows)


@dataclass(frozen=True, slots=True)
class PairDetail:
    """What is stored about one pair; everything is None or empty where nothing was said."""

    decision: str | None
    probability: float | None
    reason: str | None
    scores: Mapping[str, float]
    vetoes: tuple[str, ...]
    llm_same: bool | None
    llm_confidence: float | None
    verdict: Verdict | None
    source: VerdictSource | None
    decided_by: str | None
    decided_at: datetime | None
    canonical_ids: Mapping[ItemId, ItemId]


DETAIL = text("""
    SELECT p.decision, p.probability, p.reason, p.comparison, l.same AS llm_same,
           l.confidence AS llm_confidence, v.verdict, v.source, v.decided_by, v.decided_at
    FROM public.knowledge_items a
    JOIN public.knowledge_items b ON b.org_id = a.org_id AND b.id = :b_id
    LEFT JOIN distillation.candidate_pairs p
        ON p.org_id = a.org_id AND p.a_id = a.id AND p.b_id = b.id
       AND p.a_hash = a.content_hash AND p.b_hash = b.content_hash
    LEFT JOIN distillation.llm_verdicts l
        ON l.org_id = p.org_id AND l.model = :model AND l.prompt_version = :prompt_version
       AND l.a_hash = LEAST(p.a_hash COLLATE "C", p.b_hash COLLATE "C")
       AND l.b_hash = GREATEST(p.a_hash COLLATE "C", p.b_hash COLLATE "C")
    LEFT JOIN distillation.pair_verdicts v
        ON v.org_id = a.org_id AND v.a_id = a.id AND v.b_id = b.id
       AND v.a_hash = a.content_hash AND v.b_hash = b.content_hash
    WHERE a.org_id = :org_id AND a.id = :a_id
""")
CANONICALS = text("""
    SELECT duplicate_id, canonical_id FROM distillation.merges
    WHERE org_id = :org_id AND duplicate_id = ANY(CAST(:ids AS uuid[]))
""")


def read_pair(
    conn: Connection, org_id: OrgId, a_id: ItemId, b_id: ItemId, *, model: str, prompt_version: str
) -> PairDetail | None:
    """What is stored about a pair (a < b); None when one of its items is gone."""
    parameters = {
        "org_id": org_id, "a_id": a_id, "b_id": b_id, "model": model, "prompt_version": prompt_version,
    }  # fmt: skip
    row = conn.execute(DETAIL, parameters).mappings().one_or_none()
    if row is None:
        return None
    values = dict(row)
    comparison = values.pop("comparison") or {}
    merges = conn.execute(CANONICALS, {"org_id": org_id, "ids": [a_id, b_id]})
    return PairDetail(
        **values,
        scores=comparison.get("scores", {}),
        vetoes=tuple(comparison.get("vetoes", ())),
        canonical_ids={ItemId(merge.duplicate_id): ItemId(merge.canonical_id) for merge in merges},
    )


@dataclass(frozen=True, slots=True)
class CaseDetail:
    """A contradiction case."""

    category: str
    detector: str
    status: str
    outcome: str | None
    evidence: Mapping[str, object]
    opened_at: datetime
    decided_at: datetime | None
    decided_by: str | None
    item_ids: tuple[ItemId, ...]


CASE = text("""
    SELECT c.category, c.detector, c.status, c.outcome, c.evidence, c.opened_at, c.decided_at, c.decided_by,
           ARRAY(SELECT i.item_id FROM distillation.case_items i
                 WHERE i.org_id = c.org_id AND i.case_id = c.case_id ORDER BY i.item_id) AS item_ids
    FROM distillation.contradiction_cases c WHERE c.org_id = :org_id AND c.case_id = :case_id
""")


def read_case(conn: Connection, org_id: OrgId, case_id: CaseId) -> CaseDetail | None:
    """A case of the org."""
    row = conn.execute(CASE, {"org_id": org_id, "case_id": case_id}).mappings().one_or_none()
    return None if row is None else CaseDetail(**{**row, "item_ids": tuple(map(ItemId, row["item_ids"]))})


# Decided in place, once: what it was before is read under the same lock.
DECIDE_CASE = text("""
    WITH stood AS (
        SELECT case_id, status, outcome, decided_by FROM distillation.contradiction_cases
        WHERE org_id = :org_id AND case_id = :case_id FOR UPDATE
    )
    UPDATE distillation.contradiction_cases c
    SET status = :status, outcome = :outcome, decided_by = :by,
        decided_at = CASE WHEN :status <> 'open' THEN CAST(:at AS timestamptz) END
    FROM stood s
    WHERE c.org_id = :org_id AND c.case_id = s.case_id
      AND (s.status, s.outcome) IS DISTINCT FROM (:status, CAST(:outcome AS text))
    RETURNING s.status, s.outcome, s.decided_by
""")


def decide_case(
    conn: Connection,
    org_id: OrgId,
    case_id: CaseId,
    status: str,
    outcome: str | None,
    *,
    by: str | None,
    at: datetime,
) -> tuple[Entry, ...]:
    """Give a case a status; the ledger entry, none when it has that status and outcome already."""
    parameters = {
        "org_id": org_id, "case_id": case_id, "status": status, "outcome": outcome, "by": by, "at": at,
    }  # fmt: skip
    row = conn.execute(DECIDE_CASE, parameters).one_or_none()
    if row is None:
        return ()
    conflicts.settle(conn, org_id, [case_id], is_settled=status != "open")
    before = {"status": row.status, "outcome": row.outcome, "by": row.decided_by}
    return (Entry("decide_case", case_id, before, {"status": status, "outcome": outcome, "by": by}),)
