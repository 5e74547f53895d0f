"""distillation: the stages of one run in their order, in process, for any number of orgs."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from time import perf_counter
from uuid import uuid4

from hivemind_pipelines.core.model import OrgId, RunId, Stage
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.core.receipts import Receipt
from hivemind_pipelines.stages import (
    cluster_summaries,
    contradiction_cases,
    distillation_report,
    duplicate_merges,
    duplicate_pairs,
    erasure_propagation,
    item_features,
    prescreened_contributions,
    topic_clusters,
)
from hivemind_pipelines.stages.context import Progress, Services, StageContext
from hivemind_pipelines.store import runs
from hivemind_pipelines.store.connection import Store

#: The stages before the report, in the order a run calls them.
STAGES: Mapping[Stage, Callable[[StageContext], Receipt]] = {
    Stage.ITEM_FEATURES: item_features.run,
    Stage.DUPLICATE_PAIRS: duplicate_pairs.run,
    Stage.DUPLICATE_MERGES: duplicate_merges.run,
    Stage.CONTRADICTION_CASES: contradiction_cases.run,
    Stage.TOPIC_CLUSTERS: topic_clusters.run,
    Stage.CLUSTER_SUMMARIES: cluster_summaries.run,
    Stage.PRESCREENED_CONTRIBUTIONS: prescreened_contributions.run,
}

#: A run of an org that began longer ago and never ended was killed; its work is due again anyway.
ABANDONED_AFTER = timedelta(hours=2)

OnStage = Callable[[OrgId, Stage, Receipt], None]


@dataclass(frozen=True, slots=True)
class RunOpening:
    """The identity of a run and the one instant all its stages refer to."""

    run_id: RunId
    as_of: datetime


def open_run(
    store: Store,
    policy: DistillationPolicy,
    org_id: OrgId,
    *,
    run_id: RunId,
    now: datetime,
    dagster_run_id: str | None = None,
    backfill_id: str | None = None,
    allowed: Collection[str] = (),
) -> RunOpening:
    """Enter the run of an org, once: a later stage of the same run gets the same instant back.

    The first opening carries deletes through before anything else of the run looks at the org.
    """
    wanted = runs.Run(
        run_id,
        org_id,
        "distillation",
        now,
        policy.version,
        policy.stamps(),
        dagster_run_id,
        tuple(sorted(allowed)),
        backfill_id=backfill_id,
    )
    with store.begin() as conn:
        runs.close_abandoned(conn, org_id, now - ABANDONED_AFTER)
        stored = runs.start(conn, wanted, policy)
    if stored.as_of == now:
        erasure_propagation.run(store, now, policy, RunId(uuid4()), org_id)
    return RunOpening(run_id, stored.as_of)


def fail_run(store: Store, run_id: RunId, at: datetime) -> None:
    """Close a run that an exception ended; what it left undone is due again."""
    with store.begin() as conn:
        runs.finish(conn, run_id, "failed", {}, at)


def distill(
    store: Store,
    services: Services,
    policy: DistillationPolicy,
    orgs: Sequence[OrgId],
    *,
    now: datetime,
    stages: Collection[Stage] | None = None,
    full: bool = False,
    dry_run: bool = False,
    allow_mass_change: bool = False,
    on_stage: OnStage | None = None,
    progress: Progress | None = None,
) -> dict[OrgId, dict[Stage, Receipt]]:
    """Run the stages (all, or those named) for each org in turn; the receipts by org and stage.

    A dry run writes features and pairs, which are caches, and plans the rest on the planned state.
    """
    wanted = [stage for stage in STAGES if stages is None or stage in stages]
    done: dict[OrgId, dict[Stage, Receipt]] = {}
    for org_id in orgs:
        own = policy.for_org(org_id)
        run_id = RunId(uuid4())
        allowed = ("mass_change",) if allow_mass_change else ()
        opening = (
            RunOpening(run_id, now)
            if dry_run
            else open_run(store, own, org_id, run_id=run_id, now=now, allowed=allowed)
        )
        ctx = StageContext(
            store=store, org_id=org_id, run_id=opening.run_id, as_of=opening.as_of, policy=own,
            services=services, dry_run=dry_run, full=full, allow_mass_change=allow_mass_change,
        )  # fmt: skip
        try:
            done[org_id] = _run_stages(replace(ctx, progress=progress) if progress else ctx, wanted, on_stage)
        except Exception:
            if not dry_run:
                fail_run(store, run_id, ctx.clock())
            raise
    return done


def _run_stages(ctx: StageContext, wanted: Sequence[Stage], on_stage: OnStage | None) -> dict[Stage, Receipt]:
    receipts: dict[Stage, Receipt] = {}

    def note(stage: Stage, receipt: Receipt, started: float) -> None:
        receipts[stage] = receipt.model_copy(update={"seconds": round(perf_counter() - started, 3)})
        if on_stage is not None:
            on_stage(ctx.org_id, stage, receipts[stage])

    for stage in wanted:
        started = perf_counter()
        note(stage, STAGES[stage](ctx), started)
    started = perf_counter()
    note(Stage.DISTILLATION_REPORT, distillation_report.run(ctx, receipts), started)
    return receipts
