"""Quality scores: the formula of `core.quality` as one set-based statement over whole orgs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, text

from hivemind_pipelines.core.model import ItemId, OrgId, RunId
from hivemind_pipelines.core.policy import QualityPolicy
from hivemind_pipelines.store.items import LIVE

#: A summary nobody has used keeps the score it was published with; everything else live is scored.
#: Infinite times are brought inside [year 1, as_of] before they are subtracted.
SCORED = f"""
    WITH signal_totals AS (
        SELECT s.knowledge_item_id,
               count(*) FILTER (WHERE s.signal_type <> 'contradiction_cluster') AS signals,
               count(*) FILTER (WHERE s.signal_type = 'contradiction') AS contradictions,
               max(s.created_at) FILTER (
                   WHERE s.signal_type IN ('retrieval', 'outcome_solved', 'outcome_not_helpful')) AS last_access
        FROM public.quality_signals s
        JOIN public.knowledge_items k ON k.id = s.knowledge_item_id
        WHERE k.org_id = ANY(CAST(:org_ids AS text[])) AND {LIVE}
        GROUP BY s.knowledge_item_id
    ), merged_totals AS (
        SELECT m.org_id, m.canonical_id, sum(d.retrieval_count) AS retrievals,
               sum(d.helpful_count) AS helpful, sum(d.not_helpful_count) AS not_helpful
        FROM distillation.merges m
        JOIN public.knowledge_items d ON d.org_id = m.org_id AND d.id = m.duplicate_id
        WHERE m.org_id = ANY(CAST(:org_ids AS text[]))
        GROUP BY m.org_id, m.canonical_id
    ), inputs AS (
        SELECT k.org_id, k.id, k.quality_score AS score_before,
               GREATEST(k.retrieval_count + COALESCE(m.retrievals, 0), 0)::float8 AS retrievals,
               GREATEST(k.helpful_count + COALESCE(m.helpful, 0), 0)::float8 AS helpful,
               GREATEST(k.not_helpful_count + COALESCE(m.not_helpful, 0), 0)::float8 AS not_helpful,
               COALESCE(s.contradictions::float8 / NULLIF(s.signals, 0), 0) AS contradiction_rate,
               EXTRACT(epoch FROM CAST(:as_of AS timestamptz) - GREATEST(
                   LEAST(COALESCE(s.last_access, k.approved_at), CAST(:as_of AS timestamptz)),
                   '0001-01-01 UTC'::timestamptz))::float8 / 86400 AS days_since_access,
               k.invalid_at IS NULL OR k.invalid_at > CAST(:as_of AS timestamptz) AS is_current
        FROM public.knowledge_items k
        LEFT JOIN signal_totals s ON s.knowledge_item_id = k.id
        LEFT JOIN merged_totals m ON m.org_id = k.org_id AND m.canonical_id = k.id
        WHERE k.org_id = ANY(CAST(:org_ids AS text[])) AND {LIVE}
          AND NOT (s.signals IS NULL AND k.retrieval_count = 0 AND k.helpful_count = 0
                   AND k.not_helpful_count = 0 AND EXISTS (
                       SELECT FROM distillation.registered_items r
                       WHERE r.org_id = k.org_id AND r.item_id = k.id AND r.kind = 'summary'))
    ), scored AS (
        SELECT org_id, id, score_before,
               LEAST(GREATEST(
                   :usefulness_weight * CASE WHEN helpful + not_helpful + :prior = 0 THEN 0
                       ELSE (helpful + :prior * 0.5) / (helpful + not_helpful + :prior) END
                   + :popularity_weight * tanh(retrievals / :popularity_scale)
                   + :freshness_weight * exp(GREATEST(-ln(2.0::float8) * days_since_access / :half_life, -700))
                   - :contradiction_weight * contradiction_rate
                   + CASE WHEN is_current THEN :currency_bonus ELSE 0 END, 0), 1) AS score
        FROM inputs
    ), moved AS (
        -- NaN is equal to NaN and larger than all else here: a score that is no number is replaced.
        SELECT * FROM scored
        WHERE score_before IS NULL OR NOT score_before BETWEEN 0 AND 1
           OR abs(score - score_before) >= GREATEST(:min_change, 1e-12)
    )
"""

RESCORE = text(f"""
    {SCORED}, locked AS (
        SELECT k.id FROM public.knowledge_items k JOIN moved ON moved.org_id = k.org_id AND moved.id = k.id
        WHERE k.org_id = ANY(CAST(:org_ids AS text[]))
        ORDER BY k.id FOR NO KEY UPDATE OF k
    ), written AS (
        UPDATE public.knowledge_items k SET quality_score = m.score
        FROM moved m JOIN locked l ON l.id = m.id
        WHERE k.org_id = ANY(CAST(:org_ids AS text[])) AND k.org_id = m.org_id AND k.id = m.id AND {LIVE}
        RETURNING k.org_id, k.id, m.score_before, m.score
    ), recorded AS (
        INSERT INTO distillation.ledger (org_id, run_id, change, subject_id, before, after, stamp, at)
        SELECT org_id, :run_id, 'rescore', id,
               jsonb_build_object('quality_score',
                   CASE WHEN score_before = 'NaN' THEN NULL ELSE score_before END),
               jsonb_build_object('quality_score', score), :stamp, :as_of
        FROM written ORDER BY org_id, id
    )
    SELECT (SELECT count(*) FROM scored) AS scored, (SELECT count(*) FROM written) AS changed
""")


# The score that stands may be no number at all; it counts in the lowest bin then.
PREVIEW = text(f"""
    {SCORED}, bins AS (
        SELECT LEAST(GREATEST(floor(CASE WHEN score_before BETWEEN 0 AND 1 THEN score_before ELSE 0 END
                                    * :bins), 0), :bins - 1)::int AS before_bin,
               LEAST(floor(score * :bins), :bins - 1)::int AS after_bin
        FROM scored
    )
    SELECT (SELECT count(*) FROM scored) AS scored, (SELECT count(*) FROM moved) AS changed,
           ARRAY(SELECT (SELECT count(*) FROM bins WHERE before_bin = n)
                 FROM generate_series(0, :bins - 1) AS n ORDER BY n) AS before,
           ARRAY(SELECT (SELECT count(*) FROM bins WHERE after_bin = n)
                 FROM generate_series(0, :bins - 1) AS n ORDER BY n) AS after,
           COALESCE((SELECT jsonb_agg(jsonb_build_array(id, score - score_before)) FROM (
               SELECT id, score, score_before FROM moved WHERE score_before BETWEEN 0 AND 1
               ORDER BY abs(score - score_before) DESC, id LIMIT :named) AS most), '[]') AS largest
""")


@dataclass(frozen=True, slots=True)
class Preview:
    """What a re-scoring would write: counts by equal parts of [0, 1], and the largest changes by item."""

    scored: int
    changed: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    largest: tuple[tuple[ItemId, float], ...]


@dataclass(frozen=True, slots=True)
class Rescored:
    """How many live items were looked at and how many scores moved."""

    scored: int
    changed: int


def rescore(
    conn: Connection,
    org_ids: Sequence[OrgId],
    policy: QualityPolicy,
    *,
    as_of: datetime,
    run_id: RunId,
    stamp: str,
) -> Rescored:
    """Score every live item of the orgs and write the scores that moved by at least `min_change`."""
    parameters = {**_inputs(org_ids, policy, as_of), "run_id": run_id, "stamp": stamp}
    row = conn.execute(RESCORE, parameters).one()
    return Rescored(row.scored, row.changed)


def preview(
    conn: Connection,
    org_ids: Sequence[OrgId],
    policy: QualityPolicy,
    *,
    as_of: datetime,
    bins: int,
    named: int,
) -> Preview:
    """The same statement without its writing, over the merges in force; `named` changes are listed."""
    parameters = {**_inputs(org_ids, policy, as_of), "bins": bins, "named": named}
    row = conn.execute(PREVIEW, parameters).one()
    changes = tuple((ItemId(UUID(item_id)), change) for item_id, change in row.largest)
    return Preview(row.scored, row.changed, tuple(row.before), tuple(row.after), changes)


def _inputs(org_ids: Sequence[OrgId], policy: QualityPolicy, as_of: datetime) -> dict[str, object]:
    return {
        "org_ids": sorted(org_ids),
        "as_of": as_of,
        "usefulness_weight": policy.usefulness_weight,
        "popularity_weight": policy.popularity_weight,
        "freshness_weight": policy.freshness_weight,
        "contradiction_weight": policy.contradiction_weight,
        "currency_bonus": policy.currency_bonus,
        "prior": policy.prior_votes,
        "popularity_scale": policy.popularity_scale,
        "half_life": policy.half_life_days,
        "min_change": policy.min_change,
    }
