"""What waits, over all orgs at once: the one grouped query the sensor, `status` and the stages share."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from hivemind_pipelines.core.model import OrgId, Stage
from hivemind_pipelines.store.confirmations import IS_UNCONFIRMED
from hivemind_pipelines.store.conflicts import FOUND, IN_CONFLICT, IS_UNJUDGED, UNEXAMINED, Judge
from hivemind_pipelines.store.items import (
    APPROVED_AT,
    CONTRIBUTED_AT,
    KNOWN_CATEGORIES,
    LIVE,
    ORIGINAL,
    POOL,
    SCOPE_HASH,
)
from hivemind_pipelines.store.pairs import COMPARED
from hivemind_pipelines.store.screening import GONE, HOLDING, IS_UNLABELLED, UNSCREENED_ITEMS
from hivemind_pipelines.store.signals import COUNTS_FOR


@dataclass(frozen=True, slots=True)
class Stamps:
    """The current stamps that due-ness is measured against."""

    features: str
    probes: str
    matching: str
    settled: str
    contradiction: str
    topics: str
    labels: str
    matches: str
    pii: str
    model: str
    prompt_version: str
    rescan: str
    judge: Judge


@dataclass(frozen=True, slots=True)
class OrgCounts:
    """Counts of one org; `waiting_summaries` are topics without a summary, blocked ones included."""

    org_id: OrgId
    live: int
    expired: int
    pending: int
    conflicts: int
    open_cases: int
    due: Mapping[Stage, int]
    waiting_summaries: int
    oldest_due_at: datetime | None
    last_started_at: datetime | None
    watermark: str


#: An item is nobody's backlog before its approval, however old its text is.
DUE_SINCE = f"GREATEST({CONTRIBUTED_AT}, {APPROVED_AT})"

#: Its features are missing, of another extractor, text or scope.
IS_STALE = f"""
    f.stamp IS DISTINCT FROM :features OR f.content_hash <> k.content_hash OR f.scope_hash <> {SCOPE_HASH}
"""

# Deliberately over every org (`= ANY(:org_ids)` narrows it): one statement a sensor tick, however many
# orgs there are. Each CTE counts one thing per org.
BACKLOG = text(f"""
    WITH scope AS (
        SELECT org_id FROM public.knowledge_items GROUP BY org_id
        UNION SELECT org_id FROM public.pending_contributions GROUP BY org_id
    ), orgs AS (
        SELECT org_id FROM scope
        WHERE CAST(:org_ids AS text[]) IS NULL OR org_id = ANY(CAST(:org_ids AS text[]))
    ), pool AS (
        SELECT k.org_id, k.id, k.expired_at IS NULL AS is_live, {DUE_SINCE} AS contributed_at,
               f.class_key, f.probed_stamp,
               NOT ({IS_STALE}) AS is_featured,
               f.embedding IS NOT NULL AND k.embedding IS NULL AND f.content_hash = k.content_hash
                   AS is_unpublished,
               f.content_hash IS NOT NULL AND f.settled_stamp IS DISTINCT FROM :settled AS is_unsettled,
               f.content_hash = k.content_hash AND f.topic_stamp IS DISTINCT FROM :topics
                   AND k.expired_at IS NULL AS is_unplaced
        FROM public.knowledge_items k
        JOIN orgs o ON o.org_id = k.org_id
        LEFT JOIN distillation.item_features f ON f.org_id = k.org_id AND f.item_id = k.id
        WHERE {POOL}
    ), in_open_case AS (
        SELECT ci.org_id, ci.item_id FROM distillation.case_items ci
        JOIN distillation.contradiction_cases c
            ON c.org_id = ci.org_id AND c.case_id = ci.case_id AND c.status = 'open'
    ), pool_counts AS (
        SELECT p.org_id,
               count(*) FILTER (WHERE NOT p.is_featured OR p.is_unpublished) AS unfeatured,
               count(*) FILTER (WHERE p.is_unsettled) AS unsettled,
               md5(string_agg(p.id::text, ',' ORDER BY p.id) FILTER (WHERE p.is_unsettled)) AS unsettled_hash,
               count(*) FILTER (WHERE p.is_unplaced AND c.item_id IS NULL) AS unplaced,
               min(p.contributed_at) FILTER (
                   WHERE NOT p.is_featured OR p.is_unsettled OR (p.is_unplaced AND c.item_id IS NULL)
               ) AS oldest
        FROM pool p LEFT JOIN in_open_case c ON c.org_id = p.org_id AND c.item_id = p.id
        GROUP BY p.org_id
    ), probe_counts AS (
        SELECT org_id, count(*) AS unprobed FROM (
            SELECT org_id FROM pool WHERE is_featured GROUP BY org_id, class_key
            HAVING NOT bool_or(probed_stamp IS NOT DISTINCT FROM :probes)) due
        GROUP BY org_id
    ), stale_pairs AS (
        -- Only pairs that can be decided again: of texts as they are, neither of them deleted.
        SELECT p.org_id, count(*) AS stale FROM distillation.candidate_pairs p
        JOIN orgs o ON o.org_id = p.org_id
        JOIN public.knowledge_items a
            ON a.org_id = p.org_id AND a.id = p.a_id AND a.content_hash = p.a_hash AND a.deleted_at IS NULL
        JOIN public.knowledge_items b
            ON b.org_id = p.org_id AND b.id = p.b_id AND b.content_hash = p.b_hash AND b.deleted_at IS NULL
        WHERE p.stamp <> :matching GROUP BY p.org_id
    ), unconfirmed AS (
        SELECT p.org_id, count(*) AS unconfirmed {COMPARED}
        JOIN orgs o ON o.org_id = p.org_id
        WHERE :can_confirm AND {IS_UNCONFIRMED} GROUP BY p.org_id
    ), broken_merges AS (
        -- The canonical is no longer live, or somebody else changed the expiry of the duplicate.
        SELECT m.org_id, count(*) AS broken FROM distillation.merges m
        JOIN orgs o ON o.org_id = m.org_id
        JOIN public.knowledge_items d ON d.org_id = m.org_id AND d.id = m.duplicate_id
        LEFT JOIN public.knowledge_items c
            ON c.org_id = m.org_id AND c.id = m.canonical_id AND c.deleted_at IS NULL
        WHERE d.expired_at IS DISTINCT FROM m.expired_at
           OR (d.deleted_at IS NULL AND (c.id IS NULL OR (c.expired_at IS NOT NULL AND NOT m.is_legacy)))
        GROUP BY m.org_id
    ), counted AS (
        -- Contradiction signals with the live original that each counts for: its item, or what that was merged
        -- into, as the stage reads them.
        SELECT k.org_id, s.id AS signal_id, k.id AS origin_id, p.id AS item_id
        FROM public.quality_signals s
        JOIN public.knowledge_items k ON k.id = s.knowledge_item_id AND k.deleted_at IS NULL
        JOIN orgs o ON o.org_id = k.org_id
        {COUNTS_FOR}
        JOIN public.knowledge_items p ON p.org_id = k.org_id AND p.id = COALESCE(m.canonical_id, k.id)
            AND p.expired_at IS NULL AND p.deleted_at IS NULL
        WHERE s.signal_type = 'contradiction' AND {ORIGINAL}
    ), conflicts AS (
        SELECT s.org_id, count(*) AS conflicts FROM counted s
        LEFT JOIN distillation.stamped_signals t ON t.org_id = s.org_id AND t.signal_id = s.signal_id
        WHERE t.signal_id IS NULL GROUP BY s.org_id
    ), misplaced_cases AS (
        -- Open cases of signals that another policy grouped, and open cases one of whose signals counts for an
        -- item outside them, or for one party while it was another's: a party was merged, or came back.
        SELECT c.org_id, count(*) AS misplaced FROM distillation.contradiction_cases c
        JOIN orgs o ON o.org_id = c.org_id
        WHERE c.status = 'open' AND ((c.detector = 'signals' AND c.stamp <> :contradiction) OR EXISTS (
            SELECT FROM distillation.stamped_signals t
            JOIN counted s ON s.org_id = t.org_id AND s.signal_id = t.signal_id
            LEFT JOIN distillation.case_items party
                ON party.org_id = c.org_id AND party.case_id = c.case_id AND party.item_id = s.item_id
            LEFT JOIN distillation.case_items was
                ON was.org_id = c.org_id AND was.case_id = c.case_id AND was.item_id = s.origin_id
            WHERE t.org_id = c.org_id AND t.case_id = c.case_id
              AND (party.item_id IS NULL OR (was.item_id IS NOT NULL AND s.origin_id <> s.item_id))))
        GROUP BY c.org_id
    ), unexamined AS (
        SELECT p.org_id, count(*) AS unexamined {UNEXAMINED}
          AND p.org_id IN (SELECT org_id FROM orgs) GROUP BY p.org_id
    ), found AS (
        SELECT * FROM ({FOUND} AND f.org_id IN (SELECT org_id FROM orgs)) found WHERE {IN_CONFLICT}
    ), unjudged AS (
        SELECT org_id, count(*) AS unjudged
        FROM ({FOUND} AND f.org_id IN (SELECT org_id FROM orgs) AND {IS_UNJUDGED}) waiting
        WHERE :can_judge GROUP BY org_id
    ), unsettled_conflicts AS (
        -- Pairs in conflict without a case in force, unless a person decided it for these very texts; and
        -- open cases of pairs no longer in conflict, or of another policy.
        SELECT org_id, count(*) AS unsettled FROM (
            SELECT f.org_id FROM found f
            LEFT JOIN distillation.contradiction_cases c ON c.org_id = f.org_id AND c.case_id = f.case_id
            WHERE c.case_id IS NULL OR (c.status <> 'open' AND (
                NOT f.is_settled OR (c.outcome = 'withdrawn' AND c.decided_by = 'policy')))
            UNION ALL
            SELECT c.org_id FROM distillation.contradiction_cases c
            JOIN orgs o ON o.org_id = c.org_id
            LEFT JOIN found f ON f.org_id = c.org_id AND f.case_id = c.case_id
            WHERE c.status = 'open' AND c.detector = 'rules' AND (c.stamp <> :contradiction OR f.case_id IS NULL)
        ) due GROUP BY org_id
    ), stray_members AS (
        SELECT m.org_id, count(*) AS stray FROM distillation.topic_members m
        JOIN orgs o ON o.org_id = m.org_id
        LEFT JOIN public.knowledge_items k
            ON k.org_id = m.org_id AND k.id = m.item_id AND k.content_hash = m.content_hash AND {LIVE}
        LEFT JOIN in_open_case c ON c.org_id = m.org_id AND c.item_id = m.item_id
        WHERE k.id IS NULL OR c.item_id IS NOT NULL GROUP BY m.org_id
    ), topics AS (
        SELECT t.org_id,
               count(*) FILTER (WHERE s.summary_id IS NULL) AS unsummarised,
               count(*) FILTER (WHERE s.summary_id IS NULL AND j.fingerprint IS NULL) AS actionable,
               count(*) FILTER (WHERE i.expired_at IS NOT NULL AND i.deleted_at IS NULL
                                AND i.content_hash = s.content_hash
                                AND s.retired_reason NOT IN ('pii_found', 'undone')) AS revivable
        FROM distillation.topic_clusters t
        JOIN orgs o ON o.org_id = t.org_id
        LEFT JOIN distillation.summaries s ON s.org_id = t.org_id AND s.fingerprint = t.fingerprint
        LEFT JOIN public.knowledge_items i ON i.org_id = s.org_id AND i.id = s.summary_id
        LEFT JOIN distillation.llm_jobs j ON j.org_id = t.org_id AND j.fingerprint = t.fingerprint
             AND (j.lease_until >= :now OR j.next_attempt_at > :now)
        GROUP BY t.org_id
    ), summary_sources AS (
        SELECT d.org_id, d.derived_id, s.pii_stamp, s.retired_reason,
               count(k.id) FILTER (WHERE k.content_hash = d.source_hash AND {LIVE}) AS live_sources,
               count(*) FILTER (WHERE k.id IS NULL OR k.deleted_at IS NOT NULL
                                OR k.content_hash <> d.source_hash) AS lost_sources
        FROM distillation.derivations d
        JOIN orgs o ON o.org_id = d.org_id
        JOIN public.knowledge_items i ON i.org_id = d.org_id AND i.id = d.derived_id
             AND i.expired_at IS NULL AND i.deleted_at IS NULL
        LEFT JOIN distillation.summaries s ON s.org_id = d.org_id AND s.summary_id = d.derived_id
        LEFT JOIN public.knowledge_items k ON k.org_id = d.org_id AND k.id = d.source_id
        GROUP BY d.org_id, d.derived_id, s.pii_stamp, s.retired_reason
    ), unsound AS (
        SELECT org_id, count(*) FILTER (WHERE live_sources < 3 OR lost_sources > 0
                                        OR retired_reason IS NOT NULL) AS unsupported,
               count(*) FILTER (WHERE pii_stamp <> :pii AND NOT EXISTS (
                   SELECT FROM distillation.llm_jobs j
                   WHERE j.org_id = summary_sources.org_id AND j.fingerprint = :rescan
                     AND j.next_attempt_at > :now)) AS unscanned
        FROM summary_sources GROUP BY org_id
    ), pending AS (
        SELECT p.org_id, count(*) AS pending,
               count(*) FILTER (WHERE p.category::text IN ({KNOWN_CATEGORIES})
                                AND {IS_UNLABELLED}) AS unscreened,
               min(CASE WHEN p.contributed_at BETWEEN '0001-01-02 UTC' AND '9999-12-30 UTC'
                        THEN p.contributed_at END) FILTER (
                   WHERE {IS_UNLABELLED}) AS oldest
        FROM public.pending_contributions p
        JOIN orgs o ON o.org_id = p.org_id
        LEFT JOIN distillation.prescreens s ON s.org_id = p.org_id AND s.pending_id = p.id
        GROUP BY p.org_id
    ), unscreened_items AS (
        -- Only where a row waits to be held against them.
        SELECT u.org_id, count(*) AS items FROM ({UNSCREENED_ITEMS}) u
        JOIN pending p ON p.org_id = u.org_id GROUP BY u.org_id
    ), moved_matches AS (
        SELECT h.org_id, count(DISTINCT h.pending_id) AS moved FROM ({HOLDING}) h
        JOIN orgs o ON o.org_id = h.org_id WHERE h.holds <> h.is_held GROUP BY h.org_id
    ), gone AS (
        SELECT g.org_id, count(*) AS gone FROM ({GONE}) g
        JOIN orgs o ON o.org_id = g.org_id GROUP BY g.org_id
    ), items AS (
        SELECT k.org_id, count(*) FILTER (WHERE {LIVE}) AS live,
               count(*) FILTER (WHERE k.expired_at IS NOT NULL AND k.deleted_at IS NULL) AS expired
        FROM public.knowledge_items k JOIN orgs o ON o.org_id = k.org_id GROUP BY k.org_id
    ), cases AS (
        SELECT c.org_id, count(*) AS open_cases FROM distillation.contradiction_cases c
        JOIN orgs o ON o.org_id = c.org_id WHERE c.status = 'open' GROUP BY c.org_id
    ), last_runs AS (
        SELECT r.org_id, max(r.as_of) AS last_started_at FROM distillation.runs r
        JOIN orgs o ON o.org_id = r.org_id WHERE r.job = 'distillation' GROUP BY r.org_id
    )
    SELECT o.org_id, COALESCE(i.live, 0) AS live, COALESCE(i.expired, 0) AS expired,
           COALESCE(w.pending, 0) AS pending, COALESCE(cf.conflicts, 0) AS conflicts,
           COALESCE(ca.open_cases, 0) AS open_cases,
           COALESCE(pc.unfeatured, 0) AS unfeatured,
           COALESCE(pr.unprobed, 0) + COALESCE(sp.stale, 0) + COALESCE(uc.unconfirmed, 0) AS unpaired,
           CASE WHEN rp.org_id IS NULL THEN COALESCE(pc.unsettled, 0) ELSE 0 END
               + COALESCE(bm.broken, 0) AS unsettled,
           COALESCE(pc.unplaced, 0) + COALESCE(sm.stray, 0) AS unplaced,
           COALESCE(t.unsummarised, 0) AS unsummarised, COALESCE(t.actionable, 0) AS actionable,
           COALESCE(t.revivable, 0) + COALESCE(u.unsupported, 0) + COALESCE(u.unscanned, 0) AS unsound,
           COALESCE(w.unscreened, 0) + COALESCE(ui.items, 0) + COALESCE(mm.moved, 0)
               + COALESCE(go.gone, 0) AS unscreened,
           COALESCE(mc.misplaced, 0) + COALESCE(ue.unexamined, 0) + COALESCE(uj.unjudged, 0)
               + COALESCE(us.unsettled, 0) AS misplaced,
           LEAST(pc.oldest, w.oldest) AS oldest_due_at, lr.last_started_at
    FROM orgs o
    LEFT JOIN items i USING (org_id) LEFT JOIN pending w USING (org_id) LEFT JOIN conflicts cf USING (org_id)
    LEFT JOIN cases ca USING (org_id) LEFT JOIN pool_counts pc USING (org_id)
    LEFT JOIN probe_counts pr USING (org_id) LEFT JOIN stale_pairs sp USING (org_id)
    LEFT JOIN distillation.refused_plans rp
        ON rp.org_id = o.org_id AND rp.stamp = :settled AND rp.inputs_hash = pc.unsettled_hash
    LEFT JOIN unconfirmed uc ON uc.org_id = o.org_id
    LEFT JOIN misplaced_cases mc ON mc.org_id = o.org_id
    LEFT JOIN unexamined ue ON ue.org_id = o.org_id LEFT JOIN unjudged uj ON uj.org_id = o.org_id
    LEFT JOIN unsettled_conflicts us ON us.org_id = o.org_id
    LEFT JOIN broken_merges bm ON bm.org_id = o.org_id LEFT JOIN stray_members sm ON sm.org_id = o.org_id
    LEFT JOIN topics t ON t.org_id = o.org_id LEFT JOIN unsound u ON u.org_id = o.org_id
    LEFT JOIN unscreened_items ui ON ui.org_id = o.org_id
    LEFT JOIN moved_matches mm ON mm.org_id = o.org_id LEFT JOIN gone go ON go.org_id = o.org_id
    LEFT JOIN last_runs lr ON lr.org_id = o.org_id
    ORDER BY o.org_id
""")


def read_counts(
    conn: Connection,
    stamps: Stamps,
    *,
    now: datetime,
    can_summarise: bool,
    can_confirm: bool,
    can_judge: bool,
    org_ids: list[OrgId] | None = None,
) -> tuple[OrgCounts, ...]:
    """Counts of every org (or of those named), in org order; `can_summarise` is false without a method."""
    parameters = {
        **asdict(stamps), **stamps.judge.parameters(),
        "can_confirm": can_confirm, "can_judge": can_judge, "now": now, "org_ids": org_ids,
    }  # fmt: skip
    rows = conn.execute(BACKLOG, parameters).mappings()
    return tuple(_counts(row, can_summarise=can_summarise) for row in rows)


def _counts(row: Mapping[Any, Any], *, can_summarise: bool) -> OrgCounts:
    due = {
        Stage.ITEM_FEATURES: row["unfeatured"],
        Stage.DUPLICATE_PAIRS: row["unpaired"],
        Stage.DUPLICATE_MERGES: row["unsettled"],
        Stage.CONTRADICTION_CASES: row["conflicts"] + row["misplaced"],
        Stage.TOPIC_CLUSTERS: row["unplaced"],
        Stage.CLUSTER_SUMMARIES: row["unsound"] + (row["actionable"] if can_summarise else 0),
        Stage.PRESCREENED_CONTRIBUTIONS: row["unscreened"],
    }
    return OrgCounts(
        org_id=OrgId(row["org_id"]),
        live=row["live"],
        expired=row["expired"],
        pending=row["pending"],
        conflicts=row["conflicts"],
        open_cases=row["open_cases"],
        due=due,
        waiting_summaries=row["unsummarised"],
        oldest_due_at=row["oldest_due_at"],
        last_started_at=row["last_started_at"],
        watermark=":".join(str(count) for count in (*due.values(), row["live"], row["pending"])),
    )
