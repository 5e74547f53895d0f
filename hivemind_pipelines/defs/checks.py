"""The invariants as asset checks: each asks the database about the orgs of the run, never the asset."""

from collections.abc import Iterator, Sequence

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckKey,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetCheckSpec,
    MetadataValue,
    ResourceParam,
    multi_asset_check,
)

from hivemind_pipelines.core.model import OrgId
from hivemind_pipelines.defs.partitions import org_of
from hivemind_pipelines.defs.resources import Commons
from hivemind_pipelines.store import invariants
from hivemind_pipelines.store.invariants import Invariant, Violation

#: The asset whose work an invariant speaks of; the others are shown at the report.
ASSETS: dict[str, str] = {
    "I2": "duplicate_merges",
    "I3": "duplicate_merges",
    "I5": "cluster_summaries",
    "I6": "cluster_summaries",
    "I7": "cluster_summaries",
    "I8": "cluster_summaries",
    "I9": "contradiction_cases",
    "I12": "cluster_summaries",
    "I13": "prescreened_contributions",
    "I16": "cluster_summaries",
}
REPORT = "distillation_report"


def _check_specs() -> list[AssetCheckSpec]:
    return [
        AssetCheckSpec(invariant.name, asset=_asset_of(invariant), description=invariant.promise)
        for invariant in invariants.INVARIANTS
        # A promise that no query can see is proved by tests, and is no check here.
        if invariant.sql is not None
    ]


def _asset_of(invariant: Invariant) -> str:
    return ASSETS.get(invariant.name, REPORT)


@multi_asset_check(
    name="invariants",
    specs=_check_specs(),
    can_subset=True,
    description="One query per invariant and org; an empty result holds.",
)
def invariants_hold(
    context: AssetCheckExecutionContext, commons: ResourceParam[Commons]
) -> Iterator[AssetCheckResult]:
    found = [violation for key in context.partition_keys for violation in _violations(commons, org_of(key))]
    for key in sorted(context.selected_asset_check_keys):
        yield _result(context, key, [violation for violation in found if violation.name == key.name])


def _violations(commons: Commons, org_id: OrgId) -> Sequence[Violation]:
    with commons.store.read() as connection:
        return invariants.violations(connection, org_id)


def _result(
    context: AssetCheckExecutionContext, key: AssetCheckKey, violations: Sequence[Violation]
) -> AssetCheckResult:
    samples = [str(sample) for violation in violations for sample in violation.sample_ids]
    if violations:
        # The newest evaluation is what the UI shows, and the next org's may be clean.
        context.log.error("%s is violated, for example by %s", key.name, ", ".join(samples))
    return AssetCheckResult(
        asset_key=key.asset_key,
        check_name=key.name,
        passed=not violations,
        severity=AssetCheckSeverity.ERROR,
        metadata={
            "violations": MetadataValue.int(sum(violation.count for violation in violations)),
            "sample_ids": MetadataValue.json(samples),
        },
    )


invariant_checks: list[AssetChecksDefinition] = [invariants_hold]
