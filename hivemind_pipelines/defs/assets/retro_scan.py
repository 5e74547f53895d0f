"""The gate held against what contributors wrote: a report for people, one partition an org."""

from datetime import UTC, datetime
from functools import partial

from dagster import AssetExecutionContext, ResourceParam, asset

from hivemind_pipelines.core.receipts import RetroScanReceipt
from hivemind_pipelines.defs.assets import columns
from hivemind_pipelines.defs.glossary import described, receipt_metadata, table_schema
from hivemind_pipelines.defs.org_runs import run_identity, timed
from hivemind_pipelines.defs.partitions import backfill_policy, org_of, orgs
from hivemind_pipelines.defs.policies import policy_key
from hivemind_pipelines.defs.resources import Commons
from hivemind_pipelines.stages import pii_retro_scan as retro_scan_stage


@asset(
    partitions_def=orgs,
    backfill_policy=backfill_policy,
    deps=[policy_key("pii")],
    group_name="erasure",
    kinds={"postgres", "spacy"},
    owners=["team:data-protection"],
    metadata=table_schema(columns.PII_SCANS),
    description=described(
        "A row says what the PII and secrets gate finds in a live original: counts by type, never words. "
        "Nothing is redacted and no row of a contributor is touched; whether an item is erased, people "
        "decide. Only texts that no scan under the current rules and models has seen are scanned; an item "
        "is scanned once it has features.",
        RetroScanReceipt,
    ),
)
def pii_retro_scan(
    context: AssetExecutionContext, commons: ResourceParam[Commons]
) -> dict[str, RetroScanReceipt]:
    receipts: dict[str, RetroScanReceipt] = {}
    for key in context.partition_keys:
        org_id = org_of(key)
        run_id = run_identity(context.run.run_id, org_id)
        scan = partial(
            retro_scan_stage.run,
            commons.store,
            commons.services.scanner,
            org_id,
            datetime.now(UTC),
            run_id,
        )
        receipts[key] = timed(scan)
        context.add_asset_metadata(receipt_metadata(receipts[key]), partition_key=key)
    return receipts
