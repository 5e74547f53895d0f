"""Erasure carried through to everything derived, one partition an org."""

from datetime import UTC, datetime
from functools import partial

from dagster import AssetExecutionContext, ResourceParam, asset

from hivemind_pipelines.core.model import OrgId
from hivemind_pipelines.core.receipts import ErasureReceipt
from hivemind_pipelines.defs import erasure_office
from hivemind_pipelines.defs.assets import columns
from hivemind_pipelines.defs.glossary import described, receipt_metadata, table_schema
from hivemind_pipelines.defs.org_runs import run_identity, timed
from hivemind_pipelines.defs.partitions import backfill_policy, org_of, orgs
from hivemind_pipelines.defs.resources import Commons
from hivemind_pipelines.stages import erasure_propagation as erasure_stage


@asset(
    partitions_def=orgs,
    backfill_policy=backfill_policy,
    group_name="erasure",
    kinds={"postgres"},
    owners=["team:data-protection"],
    metadata=table_schema(columns.TOMBSTONES),
    description=described(
        "A row is a tombstone: an item that its owner deleted, or that the server removed, and whose absence "
        "was carried through. Summaries made from it are retired in the same transaction, duplicates that "
        "followed it come back, and what is left of its topics is due again. An `erase` whose process died "
        "is finished first. No policy can switch it off.",
        ErasureReceipt,
    ),
)
def erasure_propagation(
    context: AssetExecutionContext, commons: ResourceParam[Commons]
) -> dict[str, ErasureReceipt]:
    receipts: dict[str, ErasureReceipt] = {}
    for key in context.partition_keys:
        receipts[key] = timed(partial(_erase, context, commons, org_of(key)))
        context.add_asset_metadata(receipt_metadata(receipts[key]), partition_key=key)
    return receipts


def _erase(context: AssetExecutionContext, commons: Commons, org_id: OrgId) -> ErasureReceipt:
    finished = erasure_office.resume(context.instance, commons, org_id)
    run_id = run_identity(context.run.run_id, org_id)
    receipt = erasure_stage.run(commons.store, datetime.now(UTC), commons.policy, run_id, org_id)
    if not finished:
        return receipt
    residue = sum(len(issued.residue) for issued in finished)
    return receipt.model_copy(update={"outcome": "applied", "finished": len(finished), "residue": residue})
