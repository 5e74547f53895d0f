"""How the commons stands beyond its backlog: each picture is one read-only statement, grouped by org."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from sqlalchemy import Connection, text

from hivemind_pipelines.core.model import OrgId
from hivemind_pipelines.core.policy import SectionGroup
from hivemind_pipelines.store.items import LIVE, POOL

RunStatus = Literal["running", "finished", "failed"]

ORG_IDS = text("""
    SELECT org_id FROM public.knowledge_items
    UNION
    SELECT org_id FROM public.pending_contributions
    ORDER BY org_id
""")

# Ours by their registration, a HiveMind server's own by their mark.
SUMMARY_COUNTS = text("""
    SELECT k.org_id, count(*) AS summaries
    FROM public.knowledge_items k
    LEFT JOIN distillation.registered_items r
        ON r.org_id = k.org_id AND r.item_id = k.id AND r.kind = 'summary'
    WHERE k.expired_at IS NULL AND k.deleted_at IS NULL
      AND (r.item_id IS NOT NULL
           OR (k.source_agent_id = 'distillation' AND jsonb_typeof(k.tags) = 'object'
               AND k.tags -> 'distilled' = 'true'::jsonb))
    GROUP BY k.org_id
""")

CASE_ITEM_COUNTS = text(f"""
    SELECT i.org_id, count(DISTINCT i.item_id) AS items
    FROM distillation.contradiction_cases c
    JOIN distillation.case_items i ON i.org_id = c.org_id AND i.case_id = c.case_id
    JOIN public.knowledge_items k ON k.org_id = i.org_id AND k.id = i.item_id AND {LIVE}
    WHERE c.status = 'open' GROUP BY i.org_id
""")

# Rows in force that were derived under another version of the section they depend on: of pairs those
# that can be decided again, of items those that were clustered or placed before. What was never
# derived is due, but not stale.
STALE_COUNTS = text(f"""
    WITH stale AS (
        SELECT p.org_id, 'matching' AS section FROM distillation.candidate_pairs p
        JOIN public.knowledge_items a
            ON a.org_id = p.org_id AND a.id = p.a_id AND a.content_hash = p.a_hash AND a.deleted_at IS NULL
        JOIN public.knowledge_items b
            ON b.org_id = p.org_id AND b.id = p.b_id AND b.content_hash = p.b_hash AND b.deleted_at IS NULL
        WHERE p.stamp <> :matching
        UNION ALL
        SELECT k.org_id, moved.section FROM public.knowledge_items k
        JOIN distillation.item_features f
            ON f.org_id = k.org_id AND f.item_id = k.id AND f.content_hash = k.content_hash
        CROSS JOIN LATERAL (VALUES
            ('matching', f.settled_stamp <> :settled),
            ('summary', f.topic_stamp <> :topics AND k.expired_at IS NULL)) AS moved (section, is_stale)
        WHERE moved.is_stale AND {POOL}
        UNION ALL
        SELECT org_id, 'contradiction' FROM distillation.contradiction_cases
        WHERE status = 'open' AND detector = 'signals' AND stamp <> :contradiction
        UNION ALL
        SELECT s.org_id, moved.section FROM distillation.summaries s
        JOIN public.knowledge_items k ON k.org_id = s.org_id AND k.id = s.summary_id
        CROSS JOIN LATERAL (VALUES
            ('summary', s.stamp <> :summary), ('pii', s.pii_stamp <> :scanner)) AS moved (section, is_stale)
        WHERE moved.is_stale AND k.expired_at IS NULL AND k.deleted_at IS NULL
        UNION ALL
        SELECT p.org_id, 'quality' FROM distillation.prescreens p
        JOIN public.pending_contributions c ON c.org_id = p.org_id AND c.id = p.pending_id
        WHERE p.stamp <> :quality
        UNION ALL
        SELECT q.org_id, 'scores' FROM distillation.quality_inputs q
        JOIN public.knowledge_items k ON k.org_id = q.org_id AND k.id = q.item_id AND {LIVE}
        WHERE q.stamp <> :quality
    )
    SELECT org_id, section, count(*) AS stale FROM stale GROUP BY org_id, section
""")

# What the newest run of each stage was stamped with. A plan that was refused or met a lock left its
# rows as they were, whatever it was stamped with.
STALE_RECEIPTS = text("""
    WITH current AS (
        SELECT * FROM unnest(CAST(:assets AS text[]), CAST(:fields AS text[]), CAST(:sections AS text[]),
                             CAST(:stamps AS text[])) AS c (asset, field, section, stamp)
    )
    SELECT DISTINCT r.org_id, c.section FROM distillation.receipts r
    JOIN current c ON c.asset = r.asset
    WHERE r.payload ->> c.field <> '' AND (
        r.payload ->> c.field <> c.stamp OR r.payload ->> 'outcome' IN ('refused', 'busy'))
""")

# The newest distillation run failed, and belonged to a backfill: what stands is half of it.
HALF_BACKFILLED = text("""
    SELECT org_id FROM (
        SELECT DISTINCT ON (org_id) org_id, status, backfill_id FROM distillation.runs
        WHERE job = 'distillation' AND org_id IS NOT NULL ORDER BY org_id, as_of DESC, run_id) newest
    WHERE status = 'failed' AND backfill_id IS NOT NULL
""")

SPEND = text("""
    SELECT org_id, sum(usd) AS usd, sum(calls) AS calls FROM distillation.llm_spend
    WHERE at >= :since GROUP BY org_id
""")

# A job without a topic that stands is another stage's, or over.
DELAYS = text("""
    SELECT j.org_id, j.last_reason AS reason, count(*) AS topics, max(j.attempts) AS attempts,
           min(j.next_attempt_at) AS next_attempt_at
    FROM distillation.llm_jobs j
    JOIN distillation.topic_clusters t ON t.org_id = j.org_id AND t.fingerprint = j.fingerprint
    WHERE j.last_reason IS NOT NULL
    GROUP BY j.org_id, j.last_reason ORDER BY j.org_id, j.last_reason
""")

LAST_RUNS = text("""
    SELECT DISTINCT ON (org_id) org_id, run_id, status, as_of, finished_at FROM distillation.runs
    WHERE job = 'distillation' AND org_id IS NOT NULL ORDER BY org_id, as_of DESC, run_id
""")

LAST_RUN_KEYS = text("""
    SELECT key, value FROM public.deployment_config
    WHERE key IN ('distillation_last_run', 'quality_aggregation_last_run') ORDER BY key
""")


@dataclass(frozen=True, slots=True)
class Spend:
    """What calls of the model have cost, in US dollars, and how many there were."""

    usd: float = 0.0
    calls: int = 0


@dataclass(frozen=True, slots=True)
class LastRun:
    """The newest distillation run of an org."""

    run_id: UUID
    status: RunStatus
    as_of: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Delay:
    """Topics whose last attempt at a summary ended with this reason code, and when one is tried again."""

    reason: str
    topics: int
    attempts: int
    next_attempt_at: datetime | None


def read_delays(conn: Connection) -> dict[OrgId, tuple[Delay, ...]]:
    """Why topics wait for a summary, by org and reason."""
    delays: dict[OrgId, tuple[Delay, ...]] = {}
    for row in conn.execute(DELAYS):
        delay = Delay(row.reason, row.topics, row.attempts, row.next_attempt_at)
        delays[OrgId(row.org_id)] = (*delays.get(OrgId(row.org_id), ()), delay)
    return delays


def read_org_ids(conn: Connection) -> tuple[OrgId, ...]:
    """Every org with an item or a pending row, sorted by the database."""
    return tuple(OrgId(org_id) for org_id in conn.execute(ORG_IDS).scalars())


def read_summary_counts(conn: Connection) -> dict[OrgId, int]:
    """Live summaries of each org that has any."""
    return {OrgId(row.org_id): row.summaries for row in conn.execute(SUMMARY_COUNTS)}


def read_case_item_counts(conn: Connection) -> dict[OrgId, int]:
    """Live items that are party to an open case, of each org that has any."""
    return {OrgId(row.org_id): row.items for row in conn.execute(CASE_ITEM_COUNTS)}


@dataclass(frozen=True, slots=True)
class StageStamp:
    """Which field of a stage's receipts holds the stamp of a section, and what it is today."""

    asset: str
    field: str
    section: SectionGroup
    stamp: str


StaleRows = SectionGroup | Literal["scores"]


def read_stale_counts(conn: Connection, stamps: Mapping[str, str]) -> dict[OrgId, dict[StaleRows, int]]:
    """Rows of another stamp than these, by org and section, scores apart; what has none is left out.

    `stamps` are the policy's fingerprints, and those of a current clustering (`settled`), placement
    (`topics`) and scan (`scanner`).
    """
    stale: dict[OrgId, dict[StaleRows, int]] = {}
    for row in conn.execute(STALE_COUNTS, dict(stamps)):
        stale.setdefault(OrgId(row.org_id), {})[row.section] = row.stale
    return stale


def read_stale_receipts(conn: Connection, current: Sequence[StageStamp]) -> dict[OrgId, set[SectionGroup]]:
    """The sections whose stages last ran under another stamp, or did not get through, by org."""
    parameters = {
        "assets": [one.asset for one in current],
        "fields": [one.field for one in current],
        "sections": [one.section for one in current],
        "stamps": [one.stamp for one in current],
    }
    stale: dict[OrgId, set[SectionGroup]] = {}
    for row in conn.execute(STALE_RECEIPTS, parameters):
        stale.setdefault(OrgId(row.org_id), set()).add(row.section)
    return stale


def read_half_backfilled(conn: Connection) -> frozenset[OrgId]:
    """Orgs in which the last run was a backfill's and failed, whatever their stamps say."""
    return frozenset(map(OrgId, conn.execute(HALF_BACKFILLED).scalars()))


def read_spend(conn: Connection, *, since: datetime) -> dict[OrgId, Spend]:
    """What each org has spent since then."""
    rows = conn.execute(SPEND, {"since": since})
    return {OrgId(row.org_id): Spend(float(row.usd), int(row.calls)) for row in rows}


def read_last_runs(conn: Connection) -> dict[OrgId, LastRun]:
    """The newest distillation run of each org that had one."""
    rows = conn.execute(LAST_RUNS)
    return {OrgId(row.org_id): LastRun(row.run_id, row.status, row.as_of, row.finished_at) for row in rows}


def read_last_run_keys(conn: Connection) -> dict[str, str]:
    """The last-run keys as a HiveMind server reads them."""
    return {row.key: row.value for row in conn.execute(LAST_RUN_KEYS)}
