"""Runs, the policies they ran under, the receipts they left and the keys the server reads."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy import Connection, Row, bindparam, text
from sqlalchemy.dialects.postgresql import JSONB

from hivemind_pipelines.core.model import OrgId, RunId
from hivemind_pipelines.core.policy import DistillationPolicy

Job = Literal["distillation", "quality", "erasure", "undo", "review"]
RunStatus = Literal["running", "finished", "failed"]
LastRunKey = Literal["distillation_last_run", "quality_aggregation_last_run"]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one job; `org_id` is None for a job over all orgs, `stamps` the policy's fingerprints.

    `allowed` names what an operator allowed this run by hand, such as `mass_change`. `backfill_id` is
    Dagster's, or of a backfill run without a daemon.
    """

    run_id: RunId
    org_id: OrgId | None
    job: Job
    as_of: datetime
    policy_version: str
    stamps: Mapping[str, str] = field(hash=False)
    dagster_run_id: str | None = None
    allowed: tuple[str, ...] = ()
    status: RunStatus = "running"
    finished_at: datetime | None = None
    counts: Mapping[str, int] = field(default_factory=dict, hash=False)
    backfill_id: str | None = None


_SAVE_POLICY = text("""
INSERT INTO distillation.policies (version, document, first_used_at)
VALUES (:version, :document, :at)
ON CONFLICT (version) DO NOTHING
""").bindparams(bindparam("document", type_=JSONB))

_START = text("""
INSERT INTO distillation.runs
    (run_id, org_id, job, status, as_of, dagster_run_id, policy_version, stamps, allowed, backfill_id)
VALUES (:run_id, :org_id, :job, 'running', :as_of, :dagster_run_id, :policy_version, :stamps, :allowed,
        :backfill_id)
ON CONFLICT (run_id) DO NOTHING
""").bindparams(bindparam("stamps", type_=JSONB), bindparam("allowed", type_=JSONB))

_COLUMNS = """
    run_id, org_id, job, status, as_of, finished_at, dagster_run_id, policy_version, stamps, counts, allowed,
    backfill_id
"""

_READ = text(f"""
-- One run, if it is of this org.
SELECT {_COLUMNS}
FROM distillation.runs
WHERE run_id = :run_id AND org_id IS NOT DISTINCT FROM :org_id
""")


def start(connection: Connection, run: Run, policy: DistillationPolicy) -> Run:
    """Enter a run and its policy, once: a run that exists comes back as stored, `as_of` included.

    Raises ValueError when the id belongs to a run of another org.
    """
    document = policy.model_dump(mode="json")
    connection.execute(_SAVE_POLICY, {"version": policy.version, "document": document, "at": run.as_of})
    connection.execute(
        _START,
        {
            "run_id": run.run_id,
            "org_id": run.org_id,
            "job": run.job,
            "as_of": run.as_of,
            "dagster_run_id": run.dagster_run_id,
            "policy_version": run.policy_version,
            "stamps": dict(run.stamps),
            "allowed": list(run.allowed),
            "backfill_id": run.backfill_id,
        },
    )
    stored = connection.execute(_READ, {"run_id": run.run_id, "org_id": run.org_id}).one_or_none()
    if stored is None:
        raise ValueError(f"run {run.run_id} belongs to another org")
    return _run(stored)


_FINISH = text("""
UPDATE distillation.runs
SET status = :status, counts = :counts, finished_at = :at
WHERE run_id = :run_id AND status = 'running'
""").bindparams(bindparam("counts", type_=JSONB))


def finish(
    connection: Connection,
    run_id: RunId,
    status: Literal["finished", "failed"],
    counts: Mapping[str, int],
    at: datetime,
) -> None:
    """Close a run with its counts; a run that is closed keeps its first end."""
    connection.execute(_FINISH, {"run_id": run_id, "status": status, "counts": dict(counts), "at": at})


_CLOSE_ABANDONED = text("""
UPDATE distillation.runs
SET status = 'failed', finished_at = :before
WHERE org_id = :org_id AND job = 'distillation' AND status = 'running' AND as_of < :before
""")


def close_abandoned(connection: Connection, org_id: OrgId, before: datetime) -> int:
    """Mark the org's distillation runs that began before `before` and never ended as failed; how many."""
    return connection.execute(_CLOSE_ABANDONED, {"org_id": org_id, "before": before}).rowcount


_LAST = text(f"""
-- The newest run of a job.
SELECT {_COLUMNS}
FROM distillation.runs
WHERE org_id IS NOT DISTINCT FROM :org_id AND job = :job
ORDER BY as_of DESC, run_id DESC
LIMIT 1
""")


def last_run(connection: Connection, org_id: OrgId | None, job: Job) -> Run | None:
    """The newest run of a job, whatever became of it; `org_id` None asks for the runs over all orgs."""
    found = connection.execute(_LAST, {"org_id": org_id, "job": job}).one_or_none()
    return None if found is None else _run(found)


_FINISHED_ORGS = text("""
-- Over all orgs on purpose: a backfill is one operator's request for many of them.
SELECT DISTINCT org_id FROM distillation.runs
WHERE backfill_id = :backfill_id AND status = 'finished' AND org_id IS NOT NULL
""")


def read_finished_orgs(connection: Connection, backfill_id: str) -> frozenset[OrgId]:
    """The orgs in which a run of the backfill finished."""
    found = connection.execute(_FINISHED_ORGS, {"backfill_id": backfill_id}).scalars()
    return frozenset(map(OrgId, found))


_WRITE_KEY = text("""
INSERT INTO public.deployment_config AS c (key, value, created_at, updated_at)
VALUES (:key, :value, :at, :at)
ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at
""")


def write_last_run_key(connection: Connection, key: LastRunKey, at: datetime) -> None:
    """Tell the server's readers when a job last finished, ISO 8601 in UTC."""
    connection.execute(_WRITE_KEY, {"key": key, "value": at.astimezone(UTC).isoformat(), "at": at})


_WRITE_RECEIPT = text("""
INSERT INTO distillation.receipts (asset, org_id, payload, updated_at)
VALUES (:asset, :org_id, :payload, :at)
ON CONFLICT (asset, org_id) DO UPDATE SET payload = excluded.payload, updated_at = excluded.updated_at
""").bindparams(bindparam("payload", type_=JSONB))


def write_receipt(
    connection: Connection, asset: str, org_id: OrgId, payload: Mapping[str, object], at: datetime
) -> None:
    """Keep the newest receipt of an asset for one org; `payload` is JSON's own values."""
    values = {"asset": asset, "org_id": org_id, "payload": dict(payload), "at": at}
    connection.execute(_WRITE_RECEIPT, values)


_READ_RECEIPTS = text("""
SELECT org_id, payload
FROM distillation.receipts
WHERE asset = :asset AND org_id = ANY(:org_ids)
ORDER BY org_id
""")


def read_receipts(
    connection: Connection, asset: str, org_ids: Collection[OrgId]
) -> dict[str, dict[str, object]]:
    """The newest receipts of an asset by org; an org without one is absent."""
    found = connection.execute(_READ_RECEIPTS, {"asset": asset, "org_ids": list(org_ids)})
    return {row.org_id: row.payload for row in found}


def _run(row: Row[tuple[object, ...]]) -> Run:
    values = row._asdict()
    return replace(Run(**values), allowed=tuple(values["allowed"]))
