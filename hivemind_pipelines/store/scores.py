"""Quality scores: the formula of `core.quality` as one set-based statement over what changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from uuid import UUID

from sqlalchemy import Connection, TextClause, text

from hivemind_pipelines.core.model import ItemId, OrgId, RunId
from hivemind_pipelines.core.policy import QualityPolicy
from hivemind_pipelines.store.items import LIVE

# What signals prove to be repeats of one agent's vote; the counters know nothing of agents. Of the votes
# of one agent in one run on one item the newest counts. A signal that does not say whose it is counts.
DISCOUNTS = """
    votes AS (
        SELECT k.org_id, k.id, s.signal_type, s.agent_id,
               :dedupe AND s.agent_id IS NOT NULL AND s.run_id IS NOT NULL AND row_number() OVER (
                   PARTITION BY k.id, s.signal_type = 'contradiction', s.agent_id, s.run_id
                   ORDER BY s.created_at DESC, s.id) > 1 AS is_repeat
        FROM public.quality_signals s
        JOIN public.knowledge_items k ON k.id = s.knowledge_item_id
        WHERE k.org_id = ANY(CAST(:org_ids AS text[])) AND k.deleted_at IS NULL
          AND s.signal_type IN ('outcome_solved', 'outcome_not_helpful', 'contradiction')
    ), votes_by_agent AS (
        SELECT org_id, id, signal_type, count(*) FILTER (WHERE is_repeat) AS repeats,
               CASE WHEN agent_id IS NULL THEN 0
                    ELSE GREATEST(count(*) FILTER (WHERE NOT is_repeat) - CAST(:votes_max AS bigint), 0) END AS excess
        FROM votes GROUP BY org_id, id, signal_type, agent_id
    ), discounts AS (
        SELECT org_id, id,
               sum(CASE WHEN signal_type = 'outcome_solved' THEN repeats + excess ELSE 0 END) AS helpful,
               sum(CASE WHEN signal_type = 'outcome_not_helpful' THEN repeats + excess ELSE 0 END) AS not_helpful,
               sum(CASE WHEN signal_type = 'contradiction' THEN repeats + excess ELSE 0 END) AS contradictions
        FROM votes_by_agent GROUP BY org_id, id
    )
"""

# While the policy counts every vote, no signal is looked at one by one.
NO_DISCOUNTS = """
    discounts AS (
        SELECT NULL::varchar AS org_id, NULL::uuid AS id, 0 AS helpful, 0 AS not_helpful, 0 AS contradictions
        WHERE false
    )
"""

#: Behaviour of every live item, sums taken over the items merged into it. A summary nobody has used keeps
#: the score it was published with; everything else live is scored.
INPUTS = f"""
    WITH {{discounts}}, signal_totals AS (
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
               sum(GREATEST(d.helpful_count - COALESCE(x.helpful, 0), 0)) AS helpful,
               sum(GREATEST(d.not_helpful_count - COALESCE(x.not_helpful, 0), 0)) AS not_helpful
        FROM distillation.merges m
        JOIN public.knowledge_items d ON d.org_id = m.org_id AND d.id = m.duplicate_id
        LEFT JOIN discounts x ON x.org_id = d.org_id AND x.id = d.id
        WHERE m.org_id = ANY(CAST(:org_ids AS text[]))
        GROUP BY m.org_id, m.canonical_id
    ), inputs AS (
        SELECT k.org_id, k.id, k.quality_score AS score_before,
               GREATEST(k.retrieval_count + COALESCE(m.retrievals, 0), 0)::float8 AS retrievals,
               GREATEST(GREATEST(k.helpful_count - COALESCE(x.helpful, 0), 0)
                        + COALESCE(m.helpful, 0), 0)::float8 AS helpful,
               GREATEST(GREATEST(k.not_helpful_count - COALESCE(x.not_helpful, 0), 0)
                        + COALESCE(m.not_helpful, 0), 0)::float8 AS not_helpful,
               GREATEST(COALESCE(s.signals - COALESCE(x.helpful + x.not_helpful + x.contradictions, 0), 0), 0)
                   AS signals,
               GREATEST(COALESCE(s.contradictions - COALESCE(x.contradictions, 0), 0), 0) AS contradictions,
               COALESCE(s.last_access, k.approved_at) AS accessed_at,
               k.invalid_at IS NULL OR k.invalid_at > CAST(:as_of AS timestamptz) AS is_current
        FROM public.knowledge_items k
        LEFT JOIN signal_totals s ON s.knowledge_item_id = k.id
        LEFT JOIN merged_totals m ON m.org_id = k.org_id AND m.canonical_id = k.id
        LEFT JOIN discounts x ON x.org_id = k.org_id AND x.id = k.id
        WHERE k.org_id = ANY(CAST(:org_ids AS text[])) AND {LIVE}
          AND NOT (s.signals IS NULL AND k.retrieval_count = 0 AND k.helpful_count = 0
                   AND k.not_helpful_count = 0 AND EXISTS (
                       SELECT FROM distillation.registered_items r
                       WHERE r.org_id = k.org_id AND r.item_id = k.id AND r.kind = 'summary'))
    )
"""

#: The formula over the rows of `{rows}`. Infinite times are brought inside [year 1, as_of] before they
#: are subtracted.
SCORED = """
    scored AS (
        SELECT *,
               LEAST(GREATEST(
                   :usefulness_weight * CASE WHEN helpful + not_helpful + :prior = 0 THEN 0
                       ELSE (helpful + :prior * 0.5) / (helpful + not_helpful + :prior) END
                   + :popularity_weight * tanh(retrievals / :popularity_scale)
                   + :freshness_weight * exp(GREATEST(-ln(2.0::float8) * days_since_access / :half_life, -700))
                   - :contradiction_weight * COALESCE(contradictions::float8 / NULLIF(signals, 0), 0)
                   + CASE WHEN is_current THEN :currency_bonus ELSE 0 END, 0), 1) AS score
        FROM (
            SELECT *, EXTRACT(epoch FROM CAST(:as_of AS timestamptz) - GREATEST(
                       LEAST(accessed_at, CAST(:as_of AS timestamptz)),
                       '0001-01-01 UTC'::timestamptz))::float8 / 86400 AS days_since_access
            FROM {rows}) aged
    ), moved AS (
        -- NaN is equal to NaN and larger than all else here: a score that is no number is replaced.
        SELECT * FROM scored
        WHERE score_before IS NULL OR NOT score_before BETWEEN 0 AND 1
           OR abs(score - score_before) >= GREATEST(:min_change, 1e-12)
    )
"""

# Due is what differs from what the last run saw: a signal that commits late, or goes, is one more or one
# less, whenever it says it was made. A score that somebody else wrote is another one than we left.
DUE = """
    due AS (
        SELECT i.* FROM inputs i
        LEFT JOIN distillation.quality_inputs q ON q.org_id = i.org_id AND q.item_id = i.id
        WHERE (q.stamp, q.day, q.retrievals, q.helpful, q.not_helpful, q.signals, q.contradictions,
               q.accessed_at, q.is_current, q.score) IS DISTINCT FROM
              (CAST(:stamp AS text), CAST(:day AS date), i.retrievals, i.helpful, i.not_helpful, i.signals,
               i.contradictions, i.accessed_at, i.is_current, i.score_before)
    )
"""

RESCORE = f"""
    {INPUTS}, {DUE}, {SCORED.format(rows="due")}, locked AS (
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
    ), remembered AS (
        -- Of a row that could not be written the score is another one: it is due again.
        INSERT INTO distillation.quality_inputs AS q
            (org_id, item_id, retrievals, helpful, not_helpful, signals, contradictions, accessed_at,
             is_current, score, day, stamp)
        SELECT s.org_id, s.id, s.retrievals, s.helpful, s.not_helpful, s.signals, s.contradictions,
               s.accessed_at, s.is_current, COALESCE(w.score, s.score_before), CAST(:day AS date), :stamp
        FROM scored s LEFT JOIN written w ON w.org_id = s.org_id AND w.id = s.id
        ORDER BY s.org_id, s.id
        ON CONFLICT (org_id, item_id) DO UPDATE SET
            retrievals = EXCLUDED.retrievals, helpful = EXCLUDED.helpful,
            not_helpful = EXCLUDED.not_helpful, signals = EXCLUDED.signals,
            contradictions = EXCLUDED.contradictions, accessed_at = EXCLUDED.accessed_at,
            is_current = EXCLUDED.is_current, score = EXCLUDED.score, day = EXCLUDED.day,
            stamp = EXCLUDED.stamp
    )
    SELECT (SELECT count(*) FROM scored) AS scored, (SELECT count(*) FROM written) AS changed,
           COALESCE((SELECT jsonb_agg(jsonb_build_array(org_id, id, score_before, score)) FROM (
               SELECT * FROM written WHERE score_before BETWEEN 0 AND 1
               ORDER BY abs(score - score_before) DESC, id LIMIT :named) AS most), '[]') AS largest
"""

# What is no longer live is forgotten; it is scored anew should it come back.
FORGET_DEAD = text(f"""
    DELETE FROM distillation.quality_inputs q
    WHERE q.org_id = ANY(CAST(:org_ids AS text[])) AND NOT EXISTS (
        SELECT FROM public.knowledge_items k WHERE k.org_id = q.org_id AND k.id = q.item_id AND {LIVE})
""")


# The score that stands may be no number at all; it counts in the lowest bin then. One that moves by
# less than `min_change` stays where it is.
PREVIEW = f"""
    {INPUTS}, {SCORED.format(rows="inputs")}, readers_see AS (
        SELECT CASE WHEN s.score_before BETWEEN 0 AND 1 THEN s.score_before ELSE 0 END AS before,
               CASE WHEN m.id IS NULL THEN s.score_before ELSE s.score END AS after
        FROM scored s LEFT JOIN moved m ON m.org_id = s.org_id AND m.id = s.id
    ), bins AS (
        SELECT LEAST(floor(before * :bins), :bins - 1)::int AS before_bin,
               LEAST(floor(after * :bins), :bins - 1)::int AS after_bin
        FROM readers_see
    )
    SELECT (SELECT count(*) FROM scored) AS scored, (SELECT count(*) FROM moved) AS changed,
           ARRAY(SELECT (SELECT count(*) FROM bins WHERE before_bin = n)
                 FROM generate_series(0, :bins - 1) AS n ORDER BY n) AS before,
           ARRAY(SELECT (SELECT count(*) FROM bins WHERE after_bin = n)
                 FROM generate_series(0, :bins - 1) AS n ORDER BY n) AS after,
           COALESCE((SELECT jsonb_agg(jsonb_build_array(id, score - score_before)) FROM (
               SELECT id, score, score_before FROM moved WHERE score_before BETWEEN 0 AND 1
               ORDER BY abs(score - score_before) DESC, id LIMIT :named) AS most), '[]') AS largest
"""

#: By whether the policy discounts votes: the same statement with and without a look at each signal.
_STATEMENTS = {
    (name, discounts): text(statement.format(discounts=DISCOUNTS if discounts else NO_DISCOUNTS))
    for name, statement in (("rescore", RESCORE), ("preview", PREVIEW))
    for discounts in (False, True)
}


@dataclass(frozen=True, slots=True)
class Preview:
    """What a re-scoring would write: counts by equal parts of [0, 1], and the largest changes by item."""

    scored: int
    changed: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    largest: tuple[tuple[ItemId, float], ...]


@dataclass(frozen=True, slots=True)
class Move:
    """A score that was written over another one."""

    org_id: OrgId
    item_id: ItemId
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Rescored:
    """How many live items were due and scored, how many scores moved, and the largest moves in order."""

    scored: int
    changed: int
    largest: tuple[Move, ...] = ()


def rescore(
    conn: Connection,
    org_ids: Sequence[OrgId],
    policy: QualityPolicy,
    *,
    as_of: datetime,
    run_id: RunId,
    stamp: str,
    named: int = 0,
) -> Rescored:
    """Score the live items whose inputs, policy or day changed; write what moved by at least `min_change`."""
    parameters = {**_inputs(org_ids, policy, as_of), "run_id": run_id, "stamp": stamp, "named": named}
    parameters["day"] = as_of.astimezone(UTC).date()
    row = conn.execute(_statement("rescore", policy), parameters).one()
    conn.execute(FORGET_DEAD, {"org_ids": sorted(org_ids)})
    moves = tuple(
        Move(OrgId(org_id), ItemId(UUID(item_id)), before, after)
        for org_id, item_id, before, after in row.largest
    )
    return Rescored(row.scored, row.changed, moves)


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
    row = conn.execute(_statement("preview", policy), parameters).one()
    changes = tuple((ItemId(UUID(item_id)), change) for item_id, change in row.largest)
    return Preview(row.scored, row.changed, tuple(row.before), tuple(row.after), changes)


def _statement(name: str, policy: QualityPolicy) -> TextClause:
    return _STATEMENTS[name, _has_discounts(policy)]


def _has_discounts(policy: QualityPolicy) -> bool:
    return policy.one_vote_per_run or policy.votes_per_agent_max is not None


def _inputs(org_ids: Sequence[OrgId], policy: QualityPolicy, as_of: datetime) -> dict[str, object]:
    votes = {"dedupe": policy.one_vote_per_run, "votes_max": policy.votes_per_agent_max}
    return {
        **(votes if _has_discounts(policy) else {}),
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


#: Equal parts of [0, 1] that a day's distribution is kept in, and the days that are kept.
HISTORY_BINS = 20
HISTORY_DAYS = 400

# One row an org and day, its last state; a day on which nothing is different writes nothing twice.
NOTE_DISTRIBUTION = text(f"""
    WITH scores AS (
        SELECT k.org_id, LEAST(floor(k.quality_score * :bins), :bins - 1)::int AS bin, count(*) AS items
        FROM public.knowledge_items k
        WHERE k.org_id = ANY(CAST(:org_ids AS text[])) AND {LIVE} AND k.quality_score BETWEEN 0 AND 1
        GROUP BY 1, 2
    )
    INSERT INTO distillation.quality_history AS h (org_id, day, counts)
    SELECT o.org_id, CAST(:day AS date), ARRAY(
        SELECT COALESCE((SELECT s.items FROM scores s WHERE s.org_id = o.org_id AND s.bin = n), 0)::int
        FROM generate_series(0, :bins - 1) AS n ORDER BY n)
    FROM (SELECT DISTINCT org_id FROM scores) o
    ORDER BY o.org_id
    ON CONFLICT (org_id, day) DO UPDATE SET counts = EXCLUDED.counts WHERE h.counts <> EXCLUDED.counts
""")

FORGET_HISTORY = text("""
    DELETE FROM distillation.quality_history
    WHERE org_id = ANY(CAST(:org_ids AS text[])) AND day < CAST(:day AS date) - CAST(:days AS int)
""")

HISTORY = text("""
    SELECT day, counts FROM distillation.quality_history WHERE org_id = :org_id ORDER BY day
""")


@dataclass(frozen=True, slots=True)
class DayOfScores:
    """Live items by quality score in equal parts of [0, 1], as a day left them."""

    day: date
    counts: tuple[int, ...]


def note_distribution(conn: Connection, org_ids: Sequence[OrgId], as_of: datetime) -> None:
    """Keep how the scores of each org are distributed on the day of `as_of`."""
    parameters = {"org_ids": sorted(org_ids), "day": as_of.astimezone(UTC).date()}
    conn.execute(NOTE_DISTRIBUTION, {**parameters, "bins": HISTORY_BINS})
    conn.execute(FORGET_HISTORY, {**parameters, "days": HISTORY_DAYS})


def read_history(conn: Connection, org_id: OrgId) -> tuple[DayOfScores, ...]:
    """The days of one org, oldest first."""
    rows = conn.execute(HISTORY, {"org_id": org_id})
    return tuple(DayOfScores(row.day, tuple(row.counts)) for row in rows)


# Deliberately over every org: one picture of the whole deployment.
DISTRIBUTION = text(f"""
    SELECT LEAST(floor(k.quality_score * :bins), :bins - 1)::int AS bin, count(*) AS items
    FROM public.knowledge_items k WHERE {LIVE} AND k.quality_score BETWEEN 0 AND 1 GROUP BY 1
""")


def read_distribution(conn: Connection) -> tuple[int, ...]:
    """Live items of all orgs by quality score, in `HISTORY_BINS` equal parts of [0, 1]."""
    found = {row.bin: row.items for row in conn.execute(DISTRIBUTION, {"bins": HISTORY_BINS})}
    return tuple(found.get(part, 0) for part in range(HISTORY_BINS))


# Only items that somebody used: untouched ones are meant to score alike.
SPREAD = text("""
    SELECT org_id, LEAST(floor(score * :bins), :bins - 1)::int AS bin, count(*) AS items
    FROM distillation.quality_inputs
    WHERE score BETWEEN 0 AND 1 AND retrievals + helpful + not_helpful + signals > 0
    GROUP BY 1, 2 ORDER BY 1, 2
""")


def read_spread(conn: Connection, *, bins: int) -> dict[OrgId, dict[int, int]]:
    """Of every org, how many of the live items that have any behaviour score in which part of [0, 1]."""
    spread: dict[OrgId, dict[int, int]] = {}
    for row in conn.execute(SPREAD, {"bins": bins}):
        spread.setdefault(OrgId(row.org_id), {})[row.bin] = row.items
    return spread
