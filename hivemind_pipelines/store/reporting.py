"""What the report and the demo show of an org: read-only, one statement for each picture."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, TextClause, text

from hivemind_pipelines.core.model import Decision, ItemId, OrgId

ClusterKind = Literal["duplicates", "topic"]


@dataclass(frozen=True, slots=True)
class Standing:
    """How many rows of each kind an org holds now."""

    live: int
    merged: int
    summaries: int
    topics: int
    open_cases: int
    pending: int
    low_quality: int


@dataclass(frozen=True, slots=True)
class ClusterSize:
    """How many clusters of a kind have `size` members, the canonical counted in."""

    kind: ClusterKind
    size: int
    count: int


@dataclass(frozen=True, slots=True)
class SimilarityBin:
    """Compared pairs by cosine similarity in [lower, lower + bin width)."""

    lower: float
    merged: int
    unmerged: int


@dataclass(frozen=True, slots=True)
class QualityBin:
    """Live items by quality score in [lower, lower + bin width); the last bin includes 1."""

    lower: float
    count: int


@dataclass(frozen=True, slots=True)
class Count:
    """How many there are under one name."""

    name: str
    count: int


@dataclass(frozen=True, slots=True)
class MergedText:
    """A merge in force with both texts and the agents that wrote them."""

    duplicate_id: ItemId
    canonical_id: ItemId
    duplicate_agent: str
    canonical_agent: str
    duplicate: str
    canonical: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class CitedSource:
    """A source of a summary as people see it."""

    item_id: ItemId
    agent: str
    content: str


@dataclass(frozen=True, slots=True)
class LiveSummary:
    """A live summary with its method and sources, in the order of their ids."""

    summary_id: ItemId
    content: str
    method: str
    sources: tuple[CitedSource, ...]


STANDING = text("""
    -- One row of counts: what is live, what was merged away, what waits.
    SELECT
        (SELECT count(*) FROM public.knowledge_items k
         WHERE k.org_id = :org_id AND k.expired_at IS NULL AND k.deleted_at IS NULL) AS live,
        (SELECT count(*) FROM distillation.merges m WHERE m.org_id = :org_id) AS merged,
        (SELECT count(*) FROM distillation.summaries s
         JOIN public.knowledge_items k ON k.org_id = s.org_id AND k.id = s.summary_id
         WHERE s.org_id = :org_id AND k.expired_at IS NULL AND k.deleted_at IS NULL) AS summaries,
        (SELECT count(*) FROM distillation.topic_clusters t WHERE t.org_id = :org_id) AS topics,
        (SELECT count(*) FROM distillation.contradiction_cases c
         WHERE c.org_id = :org_id AND c.status = 'open') AS open_cases,
        (SELECT count(*) FROM public.pending_contributions p WHERE p.org_id = :org_id) AS pending,
        (SELECT count(*) FROM distillation.prescreens q
         JOIN public.pending_contributions p ON p.org_id = q.org_id AND p.id = q.pending_id
         WHERE q.org_id = :org_id AND q.is_low_quality) AS low_quality
""")

CLUSTER_SIZES = text("""
    -- Sizes of duplicate clusters (canonical included) and of topics.
    WITH duplicate_sizes AS (
        SELECT count(*) + 1 AS size FROM distillation.merges m
        WHERE m.org_id = :org_id GROUP BY m.canonical_id
    ), topic_sizes AS (
        SELECT count(*) AS size FROM distillation.topic_members t
        WHERE t.org_id = :org_id GROUP BY t.fingerprint
    )
    SELECT 'duplicates' AS kind, size, count(*) FROM duplicate_sizes GROUP BY size
    UNION ALL
    SELECT 'topic', size, count(*) FROM topic_sizes GROUP BY size
    ORDER BY 1, 2
""")

SIMILARITIES = text("""
    -- Compared pairs by cosine, apart for those that ended under one canonical.
    WITH pairs AS (
        SELECT CAST(p.comparison -> 'scores' ->> 'cosine' AS double precision) AS cosine,
               coalesce(a.canonical_id, p.a_id) = coalesce(b.canonical_id, p.b_id) AS is_merged
        FROM distillation.candidate_pairs p
        LEFT JOIN distillation.merges a ON a.org_id = p.org_id AND a.duplicate_id = p.a_id
        LEFT JOIN distillation.merges b ON b.org_id = p.org_id AND b.duplicate_id = p.b_id
        WHERE p.org_id = :org_id
    )
    SELECT least(greatest(floor(cosine * :bins), 0), :bins - 1) / :bins AS lower,
           count(*) FILTER (WHERE is_merged), count(*) FILTER (WHERE NOT is_merged)
    FROM pairs WHERE cosine IS NOT NULL
    GROUP BY 1 ORDER BY 1
""")

QUALITY = text("""
    -- Live items by quality score.
    SELECT least(floor(k.quality_score * :bins), :bins - 1) / :bins AS lower, count(*)
    FROM public.knowledge_items k
    WHERE k.org_id = :org_id AND k.expired_at IS NULL AND k.deleted_at IS NULL
      AND k.quality_score BETWEEN 0 AND 1
    GROUP BY 1 ORDER BY 1
""")

CASES_BY_AGE = text("""
    -- Open cases by how long they wait, the youngest first.
    WITH aged AS (
        SELECT CAST(:as_of AS timestamptz) - c.opened_at AS age FROM distillation.contradiction_cases c
        WHERE c.org_id = :org_id AND c.status = 'open'
    )
    SELECT 'up to a day' AS name, count(*) FILTER (WHERE age <= '1 day') AS count FROM aged
    UNION ALL
    SELECT 'up to a week', count(*) FILTER (WHERE age > '1 day' AND age <= '7 days') FROM aged
    UNION ALL
    SELECT 'up to a month', count(*) FILTER (WHERE age > '7 days' AND age <= '30 days') FROM aged
    UNION ALL
    SELECT 'longer', count(*) FILTER (WHERE age > '30 days') FROM aged
""")

QUEUE_BY_LABEL = text("""
    -- Pending rows by label; a row with several counts under each.
    WITH screened AS (
        SELECT p.id, s.pending_id IS NOT NULL AS is_screened, s.is_low_quality, s.document
        FROM public.pending_contributions p
        LEFT JOIN distillation.prescreens s
            ON s.org_id = p.org_id AND s.pending_id = p.id AND s.content_hash = p.content_hash
        WHERE p.org_id = :org_id
    ), named AS (
        SELECT DISTINCT q.id, label.value ->> 'label' AS name
        FROM screened q CROSS JOIN LATERAL jsonb_array_elements(q.document -> 'labels') AS label
        UNION ALL
        SELECT id, 'low_quality' FROM screened WHERE is_low_quality
        UNION ALL
        SELECT id, 'no label' FROM screened WHERE is_screened AND NOT is_low_quality AND document IS NULL
        UNION ALL
        SELECT id, 'not screened yet' FROM screened WHERE NOT is_screened
    )
    SELECT name, count(*) AS count FROM named GROUP BY name ORDER BY count(*) DESC, name
""")

FOLLOWERS = text("""
    -- Every merged item with its canonical.
    SELECT m.duplicate_id, m.canonical_id FROM distillation.merges m
    WHERE m.org_id = :org_id ORDER BY m.duplicate_id
""")

DECISIONS = text("""
    -- Compared pairs that are not distinct.
    SELECT p.a_id, p.b_id, p.decision FROM distillation.candidate_pairs p
    WHERE p.org_id = :org_id AND p.decision <> 'distinct'
    ORDER BY p.a_id, p.b_id
""")

MERGED_TEXTS = text("""
    -- Merges in force with both texts; the ones between two agents first.
    SELECT m.duplicate_id, m.canonical_id, d.source_agent_id AS duplicate_agent,
           c.source_agent_id AS canonical_agent, d.content AS duplicate, c.content AS canonical, p.reason
    FROM distillation.merges m
    JOIN public.knowledge_items d ON d.org_id = m.org_id AND d.id = m.duplicate_id
    JOIN public.knowledge_items c ON c.org_id = m.org_id AND c.id = m.canonical_id
    LEFT JOIN distillation.candidate_pairs p
           ON p.org_id = m.org_id AND p.a_id = least(m.duplicate_id, m.canonical_id)
          AND p.b_id = greatest(m.duplicate_id, m.canonical_id)
    WHERE m.org_id = :org_id
    ORDER BY d.source_agent_id = c.source_agent_id, length(d.content) + length(c.content), m.duplicate_id
    LIMIT :limit
""")

LIVE_SUMMARIES = text("""
    -- Live summaries and the sources they rest on, one row a source.
    SELECT s.summary_id, k.content, s.method, o.id AS source_id, o.source_agent_id AS agent,
           o.content AS source
    FROM distillation.summaries s
    JOIN public.knowledge_items k ON k.org_id = s.org_id AND k.id = s.summary_id
    JOIN distillation.derivations d ON d.org_id = s.org_id AND d.derived_id = s.summary_id
    JOIN public.knowledge_items o ON o.org_id = d.org_id AND o.id = d.source_id
    WHERE s.org_id = :org_id AND k.expired_at IS NULL AND k.deleted_at IS NULL
    ORDER BY s.summary_id, o.id
""")


def read_standing(conn: Connection, org_id: OrgId) -> Standing:
    """What the org holds now."""
    return Standing(**conn.execute(STANDING, {"org_id": org_id}).mappings().one())


def read_cluster_sizes(conn: Connection, org_id: OrgId) -> tuple[ClusterSize, ...]:
    """Clusters by kind and size."""
    return tuple(ClusterSize(*row) for row in conn.execute(CLUSTER_SIZES, {"org_id": org_id}))


def read_similarities(conn: Connection, org_id: OrgId, *, bins: int) -> tuple[SimilarityBin, ...]:
    """Compared pairs by cosine similarity in `bins` equal parts of [0, 1]; empty bins are left out."""
    return tuple(
        SimilarityBin(float(lower), merged, unmerged)
        for lower, merged, unmerged in conn.execute(SIMILARITIES, {"org_id": org_id, "bins": bins})
    )


def read_quality(conn: Connection, org_id: OrgId, *, bins: int) -> tuple[QualityBin, ...]:
    """Live items by quality score in `bins` equal parts of [0, 1]; empty bins are left out."""
    return tuple(
        QualityBin(float(lower), count)
        for lower, count in conn.execute(QUALITY, {"org_id": org_id, "bins": bins})
    )


def read_case_ages(conn: Connection, org_id: OrgId, as_of: datetime) -> tuple[Count, ...]:
    """Open cases by how long they wait, the youngest first; ages without any are left out."""
    counted = _counts(conn, CASES_BY_AGE, {"org_id": org_id, "as_of": as_of})
    return tuple(one for one in counted if one.count)


def read_queue_labels(conn: Connection, org_id: OrgId) -> tuple[Count, ...]:
    """Pending rows by label, the most frequent first."""
    return _counts(conn, QUEUE_BY_LABEL, {"org_id": org_id})


def _counts(conn: Connection, statement: TextClause, parameters: dict[str, object]) -> tuple[Count, ...]:
    return tuple(Count(name, count) for name, count in conn.execute(statement, parameters))


def read_followers(conn: Connection, org_id: OrgId) -> dict[ItemId, ItemId]:
    """Each merged item's canonical."""
    return {ItemId(duplicate): ItemId(canonical) for duplicate, canonical in _rows(conn, FOLLOWERS, org_id)}


def read_near_decisions(conn: Connection, org_id: OrgId) -> dict[tuple[ItemId, ItemId], Decision]:
    """The decision of every compared pair that is duplicate or possible, smaller id first."""
    return {(ItemId(a), ItemId(b)): decision for a, b, decision in _rows(conn, DECISIONS, org_id)}


def read_merged_texts(conn: Connection, org_id: OrgId, *, limit: int) -> tuple[MergedText, ...]:
    """Up to `limit` merges with their texts, those between two agents first, then the short ones."""
    rows = conn.execute(MERGED_TEXTS, {"org_id": org_id, "limit": limit})
    return tuple(MergedText(*row) for row in rows)


def read_live_summaries(conn: Connection, org_id: OrgId) -> tuple[LiveSummary, ...]:
    """The org's live summaries with their sources, in order of id."""
    summaries: dict[ItemId, LiveSummary] = {}
    for summary_id, content, method, source_id, agent, source in _rows(conn, LIVE_SUMMARIES, org_id):
        known = summaries.get(summary_id)
        cited = (*(known.sources if known else ()), CitedSource(source_id, agent, source))
        summaries[summary_id] = LiveSummary(summary_id, content, method, cited)
    return tuple(summaries.values())


def _rows(conn: Connection, statement: TextClause, org_id: OrgId) -> Iterable[Any]:
    return conn.execute(statement, {"org_id": org_id})
