"""Three schedules: distillation as the seed's cadence has it, quality, and the daily sweep."""

from datetime import UTC, datetime

from dagster import (
    DefaultScheduleStatus,
    ResourceParam,
    RunRequest,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SkipReason,
    schedule,
)

from hivemind_pipelines.defs.jobs import distillation, pruning, quality
from hivemind_pipelines.defs.partitions import add_orgs, org_of
from hivemind_pipelines.defs.requests import distillation_requests
from hivemind_pipelines.defs.resources import Commons
from hivemind_pipelines.stages import backlog


def build_schedules(*, running: bool) -> list[ScheduleDefinition]:
    """All schedules; RUNNING from the start only where the deployment asks for automation."""
    status = DefaultScheduleStatus.RUNNING if running else DefaultScheduleStatus.STOPPED
    return [_distillation_schedule(status), _quality_schedule(status), _pruning_schedule(status)]


def _distillation_schedule(status: DefaultScheduleStatus) -> ScheduleDefinition:
    @schedule(
        name="distillation_every_30_minutes",
        job=distillation,
        cron_schedule="*/30 * * * *",
        execution_timezone="UTC",
        default_status=status,
        description=(
            "The cadence that a HiveMind server's readers expect. It asks the same question as the backlog "
            "sensor and requests the same runs; where the sensor runs it usually finds nothing left to ask "
            "for, and where the sensor is off it alone keeps the commons distilled."
        ),
    )
    def distillation_every_30_minutes(
        context: ScheduleEvaluationContext, commons: ResourceParam[Commons]
    ) -> list[RunRequest] | SkipReason:
        policy, now = commons.current_policy(), datetime.now(UTC)
        backlogs = backlog.read(commons.current_store(), policy, now, commons.current_models())
        # Without the sensor nobody comes back for the rest, so all that is due is asked for.
        requested = distillation_requests(
            context.instance, backlogs, policy, now, limit=max(1, len(backlogs.orgs))
        )
        keys = [request.partition_key for request in requested.run_requests if request.partition_key]
        add_orgs(context.instance, map(org_of, keys))
        return requested.run_requests or SkipReason(requested.reason)

    return distillation_every_30_minutes


def _quality_schedule(status: DefaultScheduleStatus) -> ScheduleDefinition:
    return ScheduleDefinition(
        name="quality_every_10_minutes",
        job=quality,
        cron_schedule="*/10 * * * *",
        execution_timezone="UTC",
        default_status=status,
        description="Scores all orgs anew; a run in which no score moved materialises nothing.",
    )


def _pruning_schedule(status: DefaultScheduleStatus) -> ScheduleDefinition:
    return ScheduleDefinition(
        name="pruning_every_night",
        job=pruning,
        cron_schedule="17 3 * * *",
        execution_timezone="UTC",
        default_status=status,
        description="Keeps Dagster's own history small: the event log grows for ever otherwise.",
    )
