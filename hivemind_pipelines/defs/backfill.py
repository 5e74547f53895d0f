"""A backfill of stale orgs: by the daemon where one is alive, in this process otherwise; the same runs."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Literal
from uuid import uuid4

from dagster import AssetKey, DagsterInstance, Definitions
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus

from hivemind_pipelines.core.model import OrgId, Stage
from hivemind_pipelines.defs import erasure_office, policies, tags
from hivemind_pipelines.defs.in_process import QUIET, OrgRun, failure_of, run_alone
from hivemind_pipelines.defs.partitions import PARTITIONS_PER_RUN, add_orgs, partition_key
from hivemind_pipelines.defs.resources import Commons
from hivemind_pipelines.stages.staleness import Staleness, stages_of
from hivemind_pipelines.store import runs
from hivemind_pipelines.store.connection import StoreError

#: Called with (orgs done, orgs in all, what is going on).
OnProgress = Callable[[int, int, str], None]

POLL_S = 1.0

CODE_LOCATION = "hivemind_pipelines.definitions"

#: What a daemon works on; the rest have ended.
_UNDER_WAY = [BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING, BulkActionStatus.FAILING]

_SCORES = "quality_scores"
_RANGE_START, _RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be brought back to fresh, and whether the mass-change breaker is lifted for it."""

    stale: Staleness
    allow_mass_change: bool = False

    @property
    def org_ids(self) -> tuple[OrgId, ...]:
        """The orgs, sorted."""
        return tuple(one.org_id for one in self.stale.orgs)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of all that is stale, and the report that closes each run; none without an org."""
        sections = {section for one in self.stale.orgs for section in one.sections}
        return (*stages_of(sorted(sections)), Stage.DISTILLATION_REPORT) if sections else ()

    def without(self, org_ids: Collection[OrgId]) -> "Request":
        """The same for all other orgs; the scores of all are taken by whoever was asked first."""
        kept = tuple(one for one in self.stale.orgs if one.org_id not in org_ids)
        return replace(self, stale=Staleness(kept, scores=False))

    def tags(self, commons: Commons) -> dict[str, str]:
        """What every run of the backfill carries."""
        return {
            tags.JOB: "distillation",
            tags.POLICY_VERSION: commons.policy.version,
            tags.ALLOW_MASS_CHANGE: str(self.allow_mass_change).lower(),
        }


@dataclass(frozen=True, slots=True)
class Backfilled:
    """What became of a backfill: `failures` by org, `failure` of the whole; None is still under way."""

    backfill_id: str
    by: Literal["daemon", "this process"]
    is_over: bool = True
    failures: Mapping[OrgId, str] = field(default_factory=dict, hash=False)
    failure: str | None = None


def carry_out(
    definitions: Definitions,
    instance: DagsterInstance,
    commons: Commons,
    request: Request,
    *,
    is_detached: bool = False,
    on_progress: OnProgress,
    module: str = CODE_LOCATION,
) -> Backfilled:
    """The whole of it: by the daemon where one is alive, else here; then each org that was held up, alone.

    A backfill of the same policy that is under way is waited for, and only the rest is asked for.
    """
    erasure_office.resume(instance, commons)
    if not is_daemon_alive(instance):
        done = run_here(definitions, instance, commons, request, on_progress)
    else:
        running = under_way(instance, commons)
        backfill_id = running or launch(instance, commons, request, module=module)
        if is_detached:
            return Backfilled(backfill_id, "daemon", is_over=False)
        done = watch(instance, commons, backfill_id, len(request.stale.orgs), on_progress)
        if running and done.is_over:
            rest = request.without(finished_orgs(commons, running))
            return carry_out(
                definitions, instance, commons, rest, on_progress=on_progress, module=module
            ) if rest.stale else done  # fmt: skip
    if not done.is_over or (done.by == "daemon" and done.failure):
        return done
    alone = isolate(definitions, instance, commons, request, done.backfill_id, on_progress)
    return replace(done, failures={org_id: run.failure for org_id, run in alone.items() if run.failure})


def is_daemon_alive(instance: DagsterInstance) -> bool:
    """Whether a daemon that works on backfills has had a heartbeat lately."""
    from dagster._daemon.controller import get_daemon_statuses

    if instance.is_ephemeral:
        return False
    return bool(get_daemon_statuses(instance, ["BACKFILL"], ignore_errors=True)["BACKFILL"].healthy)


def under_way(instance: DagsterInstance, commons: Commons) -> str | None:
    """The id of a daemon's backfill under the same policy that has not ended: asking twice is asking once."""
    wanted = BulkActionsFilter(statuses=_UNDER_WAY, tags={tags.POLICY_VERSION: commons.policy.version})
    found = instance.get_backfills(filters=wanted, limit=1)
    return found[0].backfill_id if found else None


_LAUNCH = """
mutation ($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on Error { message }
  }
}
"""


def launch(
    instance: DagsterInstance,
    commons: Commons,
    request: Request,
    *,
    module: str = CODE_LOCATION,
) -> str:
    """Ask the daemon for an asset backfill, over the webserver's GraphQL in this process; its id.

    Raises StoreError with Dagster's own first line when it is refused.
    """
    add_orgs(instance, request.org_ids)
    policies.observe(instance, commons)
    assets = [*(stage.value for stage in request.stages), *([_SCORES] if request.stale.scores else [])]
    params = {
        "assetSelection": [{"path": [asset]} for asset in assets],
        "partitionNames": [partition_key(org_id) for org_id in request.org_ids],
        "tags": [{"key": key, "value": value} for key, value in sorted(request.tags(commons).items())],
        "title": f"Policy {commons.policy.version}",
    }
    answer = _ask(instance, module, _LAUNCH, {"params": params})["launchPartitionBackfill"]
    if "backfillId" not in answer:
        said = str(answer.get("message", answer["__typename"])).splitlines()[0]
        raise StoreError(f"Dagster refused the backfill: {said}")
    return str(answer["backfillId"])


def _ask(instance: DagsterInstance, module: str, query: str, variables: Mapping[str, object]) -> Any:
    # The webserver and its code server take seconds to start, and only a launch needs them.
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import ModuleTarget
    from dagster_webserver.app import create_app_from_workspace_process_context
    from starlette.testclient import TestClient

    target = ModuleTarget(
        module_name=module, attribute=None, working_directory=None, location_name="hivemind_pipelines"
    )
    with WorkspaceProcessContext(instance, target) as workspace:
        client = TestClient(create_app_from_workspace_process_context(workspace))
        answer = client.post("/graphql", json={"query": query, "variables": variables}).json()
    if answer.get("errors"):
        raise StoreError(f"Dagster refused the backfill: {answer['errors'][0]['message'].splitlines()[0]}")
    return answer["data"]


def watch(
    instance: DagsterInstance, commons: Commons, backfill_id: str, total: int, on_progress: OnProgress
) -> Backfilled:
    """Wait until the daemon is through with a backfill; one that lost its daemon is not over."""
    while True:
        found = instance.get_backfill(backfill_id)
        if found is None or found.status not in _UNDER_WAY:
            break
        if not is_daemon_alive(instance):
            said = "the daemon is gone; start it again and it goes on, or run `backfill` again"
            return Backfilled(backfill_id, "daemon", is_over=False, failure=said)
        on_progress(len(finished_orgs(commons, backfill_id)), total, f"backfill {backfill_id}")
        time.sleep(POLL_S)
    status = "forgotten" if found is None else found.status.value.lower()
    is_over = status in ("completed_success", "completed_failed", "completed")
    failure = None if is_over else f"the backfill was {status}"
    return Backfilled(backfill_id, "daemon", failure=failure)


def finished_orgs(commons: Commons, backfill_id: str) -> frozenset[OrgId]:
    """The orgs that a run of the backfill got through with."""
    with commons.store.read() as conn:
        return runs.read_finished_orgs(conn, backfill_id)


def run_here(
    definitions: Definitions,
    instance: DagsterInstance,
    commons: Commons,
    request: Request,
    on_progress: OnProgress,
) -> Backfilled:
    """The backfill without a daemon: a run for each range of orgs, and one for the scores of all."""
    backfill_id = uuid4().hex[:8]
    run_tags = request.tags(commons) | {tags.BACKFILL: backfill_id}
    add_orgs(instance, request.org_ids)
    policies.observe(instance, commons)
    total, done = len(request.org_ids), 0
    for chunk in _ranges(instance, request.org_ids, PARTITIONS_PER_RUN):
        on_progress(done, total, f"orgs {done + 1:,} to {done + len(chunk):,}")
        _run_range(definitions, instance, request, chunk, run_tags)
        done += len(chunk)
    failure = None
    if request.stale.scores:
        result = definitions.resolve_job_def("quality").execute_in_process(
            run_config=QUIET, instance=instance, raise_on_error=False, tags=run_tags | {tags.JOB: "quality"}
        )
        failure = failure_of(result)
    return Backfilled(backfill_id, "this process", failure=failure)


def _ranges(instance: DagsterInstance, org_ids: Iterable[OrgId], length: int) -> Iterator[tuple[str, ...]]:
    """The orgs' keys as ranges of the partitions' own order, none with another key inside, none too long."""
    wanted = set(map(partition_key, org_ids))
    for is_wanted, group in groupby(instance.get_dynamic_partitions("orgs"), key=lambda key: key in wanted):
        keys = tuple(group) if is_wanted else ()
        for start in range(0, len(keys), length):
            yield keys[start : start + length]


def _run_range(
    definitions: Definitions,
    instance: DagsterInstance,
    request: Request,
    keys: Sequence[str],
    run_tags: Mapping[str, str],
) -> None:
    """One run over a range of orgs; whether it got through is in the commons. Raises KeyboardInterrupt."""
    failure_of(
        definitions.resolve_job_def("distillation").execute_in_process(
            run_config=QUIET, instance=instance, raise_on_error=False,
            asset_selection=[AssetKey(stage.value) for stage in request.stages],
            tags={**run_tags, _RANGE_START: keys[0], _RANGE_END: keys[-1]},
        )
    )  # fmt: skip


def isolate(
    definitions: Definitions,
    instance: DagsterInstance,
    commons: Commons,
    request: Request,
    backfill_id: str,
    on_progress: OnProgress,
) -> dict[OrgId, OrgRun]:
    """Run orgs that shared their run with a failing one again, in halves of it, until only failing ones are left."""
    run_tags = request.tags(commons) | {tags.BACKFILL: backfill_id}
    left, length = _unfinished(commons, request, backfill_id), PARTITIONS_PER_RUN
    while (length := min(length, len(left)) // 2) > 1:
        for chunk in _ranges(instance, left, length):
            on_progress(len(request.org_ids) - len(left), len(request.org_ids), f"{len(left):,} again")
            _run_range(definitions, instance, request, chunk, run_tags)
        left = _unfinished(commons, request, backfill_id)
    alone = {}
    for done, org_id in enumerate(left):
        on_progress(done, len(left), f"alone: {org_id!a}")
        alone[org_id] = run_alone(definitions, instance, org_id, stages=request.stages, run_tags=run_tags)
    return alone


def _unfinished(commons: Commons, request: Request, backfill_id: str) -> list[OrgId]:
    return sorted(set(request.org_ids) - finished_orgs(commons, backfill_id))
