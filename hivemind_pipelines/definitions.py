"""The code location: everything Dagster sees of hivemind_pipelines."""

from collections.abc import Mapping

from dagster import Definitions, in_process_executor

from hivemind_pipelines.defs.assets import distillation, erasure, evaluation, quality, retro_scan
from hivemind_pipelines.defs.checks import invariant_checks
from hivemind_pipelines.defs.io_manager import ReceiptIOManager
from hivemind_pipelines.defs.jobs import all_jobs
from hivemind_pipelines.defs.policies import policy_assets
from hivemind_pipelines.defs.resources import Commons
from hivemind_pipelines.defs.schedules import build_schedules
from hivemind_pipelines.defs.sensors import build_sensors


def build_defs(overrides: Mapping[str, object] | None = None) -> Definitions:
    """All definitions; `overrides` replaces resources by key, `commons` above all, for tests and tools."""
    resources = dict(overrides or {})
    commons = resources.setdefault("commons", Commons())
    assert isinstance(commons, Commons)
    resources.setdefault("io_manager", ReceiptIOManager(commons))
    running = commons.settings.automation
    return Definitions(
        assets=[
            *policy_assets,
            *distillation.assets,
            quality.quality_scores,
            erasure.erasure_propagation,
            retro_scan.pii_retro_scan,
            evaluation.matching_evaluation,
        ],
        asset_checks=[*invariant_checks, quality.scores_tell_items_apart],
        jobs=all_jobs,
        sensors=build_sensors(running=running),
        schedules=build_schedules(running=running),
        resources=resources,
        executor=in_process_executor,
    )


defs = build_defs()
