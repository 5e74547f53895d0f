"""Two sensors: what waits to be distilled, and, ahead of everything, what waits to be erased."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from dagster import (
    AssetMaterialization,
    DefaultSensorStatus,
    ResourceParam,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    sensor,
)

from hivemind_pipelines.defs import policies
from hivemind_pipelines.defs.jobs import distillation, erasure
from hivemind_pipelines.defs.lost_runs import fail_lost_runs
from hivemind_pipelines.defs.partitions import missing_keys, orgs
from hivemind_pipelines.defs.requests import Requested, distillation_requests, erasure_requests
from hivemind_pipelines.defs.resources import Commons
from hivemind_pipelines.stages import backlog, erasing

INTERVAL_S = 30
#: Partitions added by one tick; a deployment with more orgs is complete after a few ticks.
NEW_ORGS_PER_TICK = 1_000


def build_sensors(*, running: bool) -> list[SensorDefinition]:
    """Both sensors; RUNNING from the start only where the deployment asks for automation."""
    status = DefaultSensorStatus.RUNNING if running else DefaultSensorStatus.STOPPED
    return [_backlog_sensor(status), _erasure_sensor(status)]


def _backlog_sensor(status: DefaultSensorStatus) -> SensorDefinition:
    @sensor(
        name="distillation_backlog",
        job=distillation,
        minimum_interval_seconds=INTERVAL_S,
        default_status=status,
        description=(
            "Reads every org's backlog in one grouped query and asks for one run per due org: the gate is "
            "open (enough pending rows, or enough contradiction signals that no run has stamped), or the "
            "oldest due row waits longer than `gate.max_staleness`. A skip says both counts and both "
            "thresholds. It also registers new orgs as partitions, materialises policies that moved, and "
            "reports runs as failed whose process is gone."
        ),
    )
    def distillation_backlog(
        context: SensorEvaluationContext, commons: ResourceParam[Commons]
    ) -> SensorResult:
        policy, now = commons.current_policy(), datetime.now(UTC)
        for run_id in fail_lost_runs(context.instance, now):
            context.log.warning("run %s lost its process and was reported as failed", run_id)
        models = commons.current_models()
        backlogs = backlog.read(commons.current_store(), policy, now, models)
        requested = distillation_requests(
            context.instance, backlogs, policy, now, cursor=context.cursor or ""
        )
        moved = policies.moved_groups(context.instance, policy, models.scanner)
        known = [reading.org_id for reading in backlogs.orgs]
        events = policies.current_events(policy, moved, models.scanner)
        return _result(context, requested, known, events)

    return distillation_backlog


def _erasure_sensor(status: DefaultSensorStatus) -> SensorDefinition:
    @sensor(
        name="erasure_backlog",
        job=erasure,
        minimum_interval_seconds=INTERVAL_S,
        default_status=status,
        description=(
            "Asks for an erasure run for every org in which an item was deleted, hard-deleted or restored "
            "since we last looked, or in which an `erase` lost its process. These runs carry a high priority "
            "and no concurrency tag: they never wait for a distillation."
        ),
    )
    def erasure_backlog(context: SensorEvaluationContext, commons: ResourceParam[Commons]) -> SensorResult:
        store, key = commons.current_store(), commons.settings.receipt_key
        org_ids = sorted({*backlog.erasure_orgs(store), *erasing.unfinished_orgs(store, key)})
        requested = erasure_requests(
            context.instance, org_ids, datetime.now(UTC), cursor=context.cursor or ""
        )
        return _result(context, requested, org_ids)

    return erasure_backlog


def _result(
    context: SensorEvaluationContext,
    requested: Requested,
    org_ids: Iterable[str],
    events: Sequence[AssetMaterialization] = (),
) -> SensorResult:
    missing = missing_keys(context.instance, org_ids)
    asked_for = {request.partition_key for request in requested.run_requests}
    new_orgs = sorted({*missing[:NEW_ORGS_PER_TICK], *(key for key in missing if key in asked_for)})
    return SensorResult(
        run_requests=requested.run_requests or None,
        skip_reason=None if requested.run_requests else requested.reason,
        cursor=requested.cursor,
        dynamic_partitions_requests=[orgs.build_add_request(new_orgs)] if new_orgs else None,
        asset_events=events,
    )
