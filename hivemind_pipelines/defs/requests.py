"""Run requests for orgs that have work: fair between orgs, capped, and patient with an org that fails."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from dagster import DagsterInstance, DagsterRunStatus, RunRequest, RunsFilter

from hivemind_pipelines.core import due
from hivemind_pipelines.core.due import Due
from hivemind_pipelines.core.model import OrgId
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.defs import tags
from hivemind_pipelines.defs.partitions import partition_key
from hivemind_pipelines.stages.backlog import Backlogs

#: Runs asked for by one tick; the next tick goes on behind the last org asked for.
REQUESTS_PER_TICK = 25
#: A tick is cut off after 60 s; what does not fit waits for the next.
BUDGET_S = 40.0
#: An org whose runs keep failing is tried again after min_interval, twice that, and so on up to this.
BACKOFF_MAX = timedelta(hours=6)
#: An erasure must reach everything within a minute: one that failed is soon tried again.
ERASURE_BACKOFF = timedelta(minutes=1)
ERASURE_BACKOFF_MAX = timedelta(minutes=10)

#: How long an org waits after so many failures in a row.
Backoff = Callable[[OrgId, int], timedelta]

_RECENT_RUNS = 8
_IN_PROGRESS = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]


@dataclass(frozen=True, slots=True)
class Requested:
    """The requests of one tick, where the next one goes on, and what to say when there are none."""

    run_requests: list[RunRequest]
    cursor: str
    reason: str


def distillation_requests(
    instance: DagsterInstance,
    backlogs: Backlogs,
    policy: DistillationPolicy,
    now: datetime,
    *,
    cursor: str = "",
    limit: int = REQUESTS_PER_TICK,
    clock: Callable[[], float] = time.monotonic,
) -> Requested:
    """One request for each due org that is neither queued nor running nor in backoff."""
    decisions = due.decide_all(backlogs.gate, backlogs.orgs, policy, now)
    watermarks = {backlog.org_id: backlog.watermark for backlog in backlogs.orgs}
    reasons = {decision.org_id: decision.reason for decision in decisions if isinstance(decision, Due)}
    backoff = partial(_distillation_backoff, policy)
    chosen = _choose(instance, tags.DISTILLATION_ORG, reasons, backoff, now, cursor, limit, clock)
    run_requests = [
        distillation_request(
            org_id,
            run_key=due.run_key(
                org_id, watermarks[org_id], due.attempt_bucket(now, policy.for_org(org_id).gate)
            ),
        )
        for org_id in chosen
    ]
    return Requested(run_requests, _next_cursor(chosen, cursor), _reason(backlogs, reasons, chosen))


def distillation_request(org_id: OrgId, *, run_key: str | None = None) -> RunRequest:
    """A distillation run of one org, with the tag that keeps it the only one in progress."""
    key = partition_key(org_id)
    return RunRequest(
        run_key=run_key, partition_key=key, tags={tags.DISTILLATION_ORG: key}, job_name="distillation"
    )


def erasure_requests(
    instance: DagsterInstance,
    org_ids: Sequence[OrgId],
    now: datetime,
    *,
    cursor: str = "",
    limit: int = REQUESTS_PER_TICK,
    clock: Callable[[], float] = time.monotonic,
) -> Requested:
    """One request for each org with something to erase; they go ahead of everything in the queue."""
    chosen = _choose(instance, tags.ERASURE_ORG, org_ids, _erasure_backoff, now, cursor, limit, clock)
    run_requests = [
        RunRequest(
            run_key=due.run_key(org_id, "erasure", int(now.timestamp() // 30)),
            partition_key=partition_key(org_id),
            tags={tags.ERASURE_ORG: partition_key(org_id), tags.PRIORITY: "10"},
            job_name="erasure",
        )
        for org_id in chosen
    ]
    reason = f"{len(org_ids)} orgs have something to erase; none can be requested now"
    return Requested(
        run_requests, _next_cursor(chosen, cursor), reason if org_ids else "nothing was deleted or restored"
    )


def _choose(
    instance: DagsterInstance,
    org_tag: str,
    candidates: Iterable[OrgId],
    backoff: Backoff,
    now: datetime,
    cursor: str,
    limit: int,
    clock: Callable[[], float],
) -> list[OrgId]:
    deadline = clock() + BUDGET_S
    busy = _orgs_in_progress(instance, org_tag)
    waiting = [org_id for org_id in _rotated(candidates, cursor) if partition_key(org_id) not in busy]
    chosen: list[OrgId] = []
    for org_id in waiting:
        if len(chosen) == limit or clock() > deadline:
            break
        if not _in_backoff(instance, org_tag, org_id, backoff, now):
            chosen.append(org_id)
    return chosen


def _rotated(org_ids: Iterable[OrgId], cursor: str) -> list[OrgId]:
    ordered = sorted(org_ids)
    behind = [org_id for org_id in ordered if org_id > cursor]
    return behind + ordered[: len(ordered) - len(behind)]


def _next_cursor(chosen: Sequence[OrgId], cursor: str) -> str:
    return chosen[-1] if chosen else cursor


def _orgs_in_progress(instance: DagsterInstance, org_tag: str) -> set[str]:
    records = instance.get_run_records(RunsFilter(statuses=_IN_PROGRESS))
    return {record.dagster_run.tags.get(org_tag, "") for record in records}


def _in_backoff(
    instance: DagsterInstance, org_tag: str, org_id: OrgId, backoff: Backoff, now: datetime
) -> bool:
    """Whether the org's newest runs failed in a row, and the last one too recently to try again."""
    records = instance.get_run_records(RunsFilter(tags={org_tag: partition_key(org_id)}), limit=_RECENT_RUNS)
    failures = 0
    while failures < len(records) and records[failures].dagster_run.status is DagsterRunStatus.FAILURE:
        failures += 1
    if not failures:
        return False
    wait = backoff(org_id, failures)
    ended_at = datetime.fromtimestamp(records[0].end_time or records[0].create_timestamp.timestamp(), UTC)
    return now - ended_at < wait


def _distillation_backoff(policy: DistillationPolicy, org_id: OrgId, failures: int) -> timedelta:
    return min(policy.for_org(org_id).gate.min_interval * (1 << failures - 1), BACKOFF_MAX)


def _erasure_backoff(_org_id: OrgId, failures: int) -> timedelta:
    return min(ERASURE_BACKOFF * (1 << failures - 1), ERASURE_BACKOFF_MAX)


def _reason(backlogs: Backlogs, due_orgs: Iterable[OrgId], chosen: Sequence[OrgId]) -> str:
    waiting = len(list(due_orgs)) - len(chosen)
    with_backlog = sum(1 for backlog in backlogs.orgs if backlog.due_count)
    return f"{backlogs.gate}; {with_backlog} orgs with due rows, {waiting} of them running or in backoff"
