"""From a Dagster step to stage calls: one call an org, its receipt as metadata of the org's partition."""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar
from uuid import UUID, uuid5

from dagster import AssetExecutionContext, MetadataValue

from hivemind_pipelines.core.model import OrgId, RunId
from hivemind_pipelines.core.receipts import Receipt
from hivemind_pipelines.defs import tags
from hivemind_pipelines.defs.glossary import receipt_metadata
from hivemind_pipelines.defs.partitions import org_of
from hivemind_pipelines.defs.resources import Commons
from hivemind_pipelines.stages import distillation
from hivemind_pipelines.stages.context import StageContext

R = TypeVar("R", bound=Receipt)


def for_each_org(
    context: AssetExecutionContext,
    commons: Commons,
    stage: Callable[[StageContext], R],
    *,
    after: Mapping[str, Receipt] | None = None,
) -> dict[str, R]:
    """Run a stage for every org of the step; `after` holds the receipts of the asset before."""
    receipts: dict[str, R] = {}
    for key in context.partition_keys:
        stage_context = _stage_context(context, commons, org_of(key))
        try:
            receipts[key] = timed(partial(stage, stage_context))
        except Exception:
            distillation.fail_run(commons.store, stage_context.run_id, datetime.now(UTC))
            raise
        metadata = receipt_metadata(receipts[key])
        if after is not None:
            metadata["upstream"] = MetadataValue.text(after[key].outcome)
        context.add_asset_metadata(metadata, partition_key=key)
    return receipts


def timed(stage: Callable[[], R]) -> R:
    """The stage's receipt with the wall-clock seconds it took."""
    started = time.perf_counter()
    receipt = stage()
    return receipt.model_copy(update={"seconds": round(time.perf_counter() - started, 3)})


def run_identity(dagster_run_id: str, org_id: str) -> RunId:
    """The id of one org's part of a Dagster run: the same for every step of it, whatever the process."""
    return RunId(uuid5(UUID(dagster_run_id), org_id))


def _log_progress(context: AssetExecutionContext, stage: str, done: int, total: int) -> None:
    context.log.info("%s: %d of %d", stage, done, total)


def _stage_context(context: AssetExecutionContext, commons: Commons, org_id: OrgId) -> StageContext:
    run = context.run
    may_change_much = tags.is_on(run.tags, tags.ALLOW_MASS_CHANGE)
    policy = commons.policy.for_org(org_id)
    opening = distillation.open_run(
        commons.store,
        policy,
        org_id,
        run_id=run_identity(run.run_id, org_id),
        now=datetime.now(UTC),
        dagster_run_id=run.run_id,
        allowed=("mass_change",) if may_change_much else (),
    )
    return StageContext(
        store=commons.store,
        org_id=org_id,
        run_id=opening.run_id,
        as_of=opening.as_of,
        policy=policy,
        services=commons.services,
        full=tags.is_on(run.tags, tags.FULL),
        allow_mass_change=may_change_much,
        progress=commons.progress or partial(_log_progress, context),
    )
