"""The distillation job without a daemon: the same assets, run here, one run an org."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dagster import (
    AssetKey,
    DagsterEvent,
    DagsterExecutionInterruptedError,
    DagsterInstance,
    Definitions,
    ExecuteInProcessResult,
)
from dagster_shared.error import SerializableErrorInfo

from hivemind_pipelines.core.model import OrgId, Stage
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.core.receipts import Receipt
from hivemind_pipelines.defs import erasure_office, policies, tags
from hivemind_pipelines.defs.development import write_instance
from hivemind_pipelines.defs.partitions import add_orgs, partition_key
from hivemind_pipelines.defs.resources import Commons
from hivemind_pipelines.settings import Settings
from hivemind_pipelines.stages.context import Progress, Services
from hivemind_pipelines.store.connection import Store, StoreError

#: Called with (org, orgs done, orgs in all) before each org's run.
OnOrg = Callable[[OrgId, int, int], None]

# A failed step is reported by us, in one line; Dagster's own log would repeat it with a traceback.
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True, slots=True)
class OrgRun:
    """What one org's run did; `failure` names the step and the kind of error, never its message."""

    receipts: Mapping[Stage, Receipt] = field(hash=False)
    failure: str | None = None
    failed_checks: tuple[str, ...] = ()


def distill_in_process(
    definitions: Definitions,
    commons: Commons,
    org_ids: Sequence[OrgId],
    *,
    stages: Sequence[Stage] | None = None,
    full: bool = False,
    allow_mass_change: bool = False,
    on_org: OnOrg | None = None,
) -> dict[OrgId, OrgRun]:
    """Run the distillation job for each org in turn; one org's failure stops no other.

    With `stages`, only those and the report, which closes the run. The runs appear in the UI of `dev`
    where it has been used with the same home.
    """
    run_tags = {tags.FULL: str(full).lower(), tags.ALLOW_MASS_CHANGE: str(allow_mass_change).lower()}
    runs: dict[OrgId, OrgRun] = {}
    with opened_instance(commons.settings.home) as instance:
        erasure_office.resume(instance, commons)
        policies.observe(instance, commons)
        add_orgs(instance, org_ids)
        for done, org_id in enumerate(org_ids):
            if on_org is not None:
                on_org(org_id, done, len(org_ids))
            runs[org_id] = run_alone(definitions, instance, org_id, stages=stages, run_tags=run_tags)
    return runs


def run_alone(
    definitions: Definitions,
    instance: DagsterInstance,
    org_id: OrgId,
    *,
    stages: Sequence[Stage] | None,
    run_tags: Mapping[str, str],
) -> OrgRun:
    """One distillation run of one org, whose partition exists."""
    result = definitions.resolve_job_def("distillation").execute_in_process(
        run_config=QUIET,
        instance=instance,
        partition_key=partition_key(org_id),
        asset_selection=_selection(stages),
        tags=dict(run_tags),
        raise_on_error=False,
    )
    return _org_run(result, org_id)


def distill_beside_dev(
    build_defs: Callable[[Mapping[str, object]], Definitions],
    settings: Settings,
    store: Store,
    services: Services,
    policy: DistillationPolicy,
    orgs: Sequence[OrgId],
    *,
    progress: Progress | None,
) -> Mapping[OrgId, Mapping[Stage, Receipt]]:
    """Distil with the breaker lifted, in the instance that `dev` opens: its UI shows what was done.

    Raises StoreError with one line when a run fails.
    """
    write_instance(settings.home / "dagster")
    commons = Commons(settings=settings, policy=policy, store=store, services=services, progress=progress)
    definitions = build_defs({"commons": commons})
    runs = distill_in_process(definitions, commons, orgs, allow_mass_change=True)
    failures = [f"org {org_id!a}: {run.failure}" for org_id, run in runs.items() if run.failure]
    if failures:
        raise StoreError("; ".join(failures))
    return {org_id: run.receipts for org_id, run in runs.items()}


def _selection(stages: Sequence[Stage] | None) -> list[AssetKey] | None:
    if stages is None:
        return None
    return [AssetKey(stage.value) for stage in Stage if stage in (*stages, Stage.DISTILLATION_REPORT)]


@contextmanager
def opened_instance(home: Path) -> Iterator[DagsterInstance]:
    """The instance that is configured or that `dev` made below the home; else one that is forgotten."""
    if os.environ.get("DAGSTER_HOME"):
        opened = DagsterInstance.get()
    elif (home / "dagster" / "dagster.yaml").exists():
        opened = DagsterInstance.from_config(str(home / "dagster"))
    else:
        opened = DagsterInstance.ephemeral()
    with opened as instance:
        yield instance


def _org_run(result: ExecuteInProcessResult, org_id: OrgId) -> OrgRun:
    succeeded = {event.step_key for event in result.all_events if event.is_step_success}
    receipts = {
        stage: result.asset_value(stage.value)[partition_key(org_id)]
        for stage in Stage
        if stage.value in succeeded
    }
    checks = tuple(check.check_name for check in result.get_asset_check_evaluations() if not check.passed)
    return OrgRun(receipts, failure_of(result), checks)


def failure_of(result: ExecuteInProcessResult) -> str | None:
    """The steps that failed and why, in one line; None when the run succeeded."""
    causes = [(event.step_key, _cause(event)) for event in result.all_events if event.is_step_failure]
    if any(cause.cls_name == DagsterExecutionInterruptedError.__name__ for _, cause in causes):
        # Dagster turns Ctrl-C into a failed step; the orgs after this one must not run.
        raise KeyboardInterrupt
    failures = [f"{step} failed: {_said(cause)}" for step, cause in causes]
    return "; ".join(failures) or (None if result.success else "the run failed")


def _cause(event: DagsterEvent) -> SerializableErrorInfo:
    error = event.step_failure_data.error
    if error is None:
        return SerializableErrorInfo("no error was recorded", [], None)
    return error.cause or error


def _said(cause: SerializableErrorInfo) -> str:
    """A StoreError in its own words, which are for operators; of others the kind: they may quote a row."""
    if cause.cls_name == StoreError.__name__:
        return cause.message.partition(":")[2].strip()
    return cause.cls_name or "unknown error"
