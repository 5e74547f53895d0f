"""Quality of all orgs as one asset that is materialised only when a score moved."""

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

from dagster import AssetExecutionContext, MaterializeResult, ResourceParam, asset

from hivemind_pipelines.core.model import RunId
from hivemind_pipelines.core.receipts import QualityReceipt
from hivemind_pipelines.defs.assets import columns
from hivemind_pipelines.defs.glossary import described, receipt_metadata, table_schema
from hivemind_pipelines.defs.org_runs import timed
from hivemind_pipelines.defs.policies import policy_key
from hivemind_pipelines.defs.resources import Commons
from hivemind_pipelines.stages import quality_scores as quality_stage


@asset(
    # Every ten minutes for ever: an event that says nothing is not written.
    output_required=False,
    deps=[policy_key("quality")],
    group_name="quality",
    kinds={"postgres"},
    owners=["team:knowledge-operations"],
    metadata=table_schema(columns.QUALITY_SCORES),
    description=described(
        "A row is a live item and its quality score: usefulness from votes, popularity, freshness, less the "
        "share of contradictions, plus a bonus while it is current. Behaviour of merged duplicates counts "
        "for their canonical. Computed for all orgs in one set-based statement; a row is written only when "
        "its score moves by `quality.min_change`, and nothing is materialised when none did.",
        QualityReceipt,
    ),
)
def quality_scores(
    context: AssetExecutionContext, commons: ResourceParam[Commons]
) -> Iterator[MaterializeResult[None]]:
    run_id = RunId(UUID(context.run.run_id))
    now = datetime.now(UTC)
    receipt = timed(partial(quality_stage.run, commons.store, now, commons.policy, run_id))
    if receipt.changed:
        yield MaterializeResult(metadata=receipt_metadata(receipt))
