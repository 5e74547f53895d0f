"""How the commons stands beyond its backlog: each picture is one read-only statement, grouped by org."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from sqlalchemy import Connection, text

from hivemind_pipelines.core.model import OrgId
from hivemind_pipelines.core.policy import SectionGroup

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

# Rows in force that were derived under another version of the section they depend on.
STALE_COUNTS = text("""
    SELECT org_id, 'matching' AS section, count(*) AS stale FROM distillation.candidate_pairs
    WHERE stamp <> :matching GROUP BY org_id
    UNION ALL
    SELECT org_id, 'contradiction', count(*) FROM distillation.contradiction_cases
    WHERE status = 'open' AND stamp <> :contradiction GROUP BY org_id
    UNION ALL
    SELECT s.org_id, 'summary', count(*) FROM distillation.summaries s
    JOIN public.knowledge_items k ON k.org_id = s.org_id AND k.id = s.summary_id
    WHERE k.expired_at IS NULL AND k.deleted_at IS NULL AND s.stamp <> :summary GROUP BY s.org_id
    UNION ALL
    SELECT s.org_id, 'pii', count(*) FROM distillation.summaries s
    JOIN public.knowledge_items k ON k.org_id = s.org_id AND k.id = s.summary_id
    WHERE k.expired_at IS NULL AND k.deleted_at IS NULL AND s.pii_stamp <> :scanner GROUP BY s.org_id
    UNION ALL
    SELECT p.org_id, 'quality', count(*) FROM distillation.prescreens p
    JOIN public.pending_contributions c ON c.org_id = p.org_id AND c.id = p.pending_id
    WHERE p.stamp <> :quality GROUP BY p.org_id
""")

SPEND = text("""
    SELECT org_id, sum(usd) AS usd, sum(calls) AS calls FROM distillation.llm_spend
    WHERE at >= :since GROUP BY org_id
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


def read_org_ids(conn: Connection) -> tuple[OrgId, ...]:
    """Every org with an item or a pending row, sorted by the database."""
    return tuple(OrgId(org_id) for org_id in conn.execute(ORG_IDS).scalars())


def read_summary_counts(conn: Connection) -> dict[OrgId, int]:
    """Live summaries of each org that has any."""
    return {OrgId(row.org_id): row.summaries for row in conn.execute(SUMMARY_COUNTS)}


def read_stale_counts(
    conn: Connection, stamps: Mapping[str, str], *, scanner_stamp: str
) -> dict[OrgId, dict[SectionGroup, int]]:
    """Rows of another stamp than these, by org and section; sections without any are left out."""
    current = {**stamps, "scanner": scanner_stamp}
    stale: dict[OrgId, dict[SectionGroup, int]] = {}
    for row in conn.execute(STALE_COUNTS, current):
        stale.setdefault(OrgId(row.org_id), {})[row.section] = row.stale
    return stale


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
