"""From a Dagster step to stage calls: one call an org, its receipt as metadata of the org's partition."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
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
from hivemind_pipelines.stages.context import Services, StageContext
from hivemind_pipelines.store.connection import StoreError

R = TypeVar("R", bound=Receipt)

#: Failed orgs that a step of many names one by one.
ORGS_NAMED = 20


def for_each_org(
    context: AssetExecutionContext,
    commons: Commons,
    stage: Callable[[StageContext], R],
    *,
    after: Mapping[str, Receipt] | None = None,
) -> dict[str, R]:
    """Run a stage for every org of the step; `after` holds the receipts of the asset before.

    One org's failure stops no other org of the step; the step fails at its end and names the orgs.
    """
    receipts: dict[str, R] = {}
    failed: dict[str, str] = {}
    for key in context.partition_keys:
        try:
            receipts[key] = _run(context, commons, stage, org_of(key))
        except Exception as error:
            if len(context.partition_keys) == 1:
                raise
            failed[key] = str(error) if isinstance(error, StoreError) else type(error).__name__
            continue
        metadata = receipt_metadata(receipts[key])
        if after is not None:
            metadata["upstream"] = MetadataValue.text(after[key].outcome)
        context.add_asset_metadata(metadata, partition_key=key)
    if failed:
        _close(context, commons)
        raise StoreError(_named(failed, len(context.partition_keys)))
    return receipts


def _run(
    context: AssetExecutionContext, commons: Commons, stage: Callable[[StageContext], R], org_id: OrgId
) -> R:
    stage_context = _stage_context(context, commons, org_id)
    try:
        return timed(partial(stage, stage_context))
    except Exception:
        distillation.fail_run(commons.store, stage_context.run_id, datetime.now(UTC))
        raise


def _close(context: AssetExecutionContext, commons: Commons) -> None:
    """The run ends here for every org of it; none of theirs may look as if it went on."""
    for key in context.partition_keys:
        run_id = run_identity(context.run.run_id, org_of(key))
        distillation.fail_run(commons.store, run_id, datetime.now(UTC))


def _named(failed: Mapping[str, str], total: int) -> str:
    named = "; ".join(f"{org_of(key)!a}: {said}" for key, said in list(failed.items())[:ORGS_NAMED])
    more = f"; and {len(failed) - ORGS_NAMED:,} more" if len(failed) > ORGS_NAMED else ""
    return f"{len(failed):,} of {total:,} orgs failed: {named}{more}"


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


def _check_policy(run_tags: Mapping[str, str], commons: Commons) -> None:
    """A daemon may have been started with another policy file than the one a backfill was planned under."""
    wanted = run_tags.get(tags.POLICY_VERSION, commons.policy.version)
    if wanted != commons.policy.version:
        raise StoreError(
            f"this run was asked for under policy {wanted}, but {commons.policy.version} is in force here; "
            "is HIVEMIND_POLICY_FILE the same for the daemon and the command line?"
        )


def _services(context: AssetExecutionContext, commons: Commons) -> Services:
    """Without report files where a run is over many orgs: drawing them takes longer than the run itself."""
    is_alone = len(context.partition_keys) == 1
    return commons.services if is_alone else replace(commons.services, reports_dir=None)


def _stage_context(context: AssetExecutionContext, commons: Commons, org_id: OrgId) -> StageContext:
    run = context.run
    _check_policy(run.tags, commons)
    may_change_much = tags.is_on(run.tags, tags.ALLOW_MASS_CHANGE)
    policy = commons.policy.for_org(org_id)
    opening = distillation.open_run(
        commons.store,
        policy,
        org_id,
        run_id=run_identity(run.run_id, org_id),
        now=datetime.now(UTC),
        dagster_run_id=run.run_id,
        backfill_id=tags.backfill_of(run.tags),
        allowed=("mass_change",) if may_change_much else (),
    )
    return StageContext(
        store=commons.store,
        org_id=org_id,
        run_id=opening.run_id,
        as_of=opening.as_of,
        policy=policy,
        services=_services(context, commons),
        full=tags.is_on(run.tags, tags.FULL),
        allow_mass_change=may_change_much,
        progress=commons.progress or partial(_log_progress, context),
    )
