"""Quality of all orgs as one asset that is materialised only when a score moved."""

from base64 import b64encode
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetExecutionContext,
    MaterializeResult,
    MetadataValue,
    ResourceParam,
    TableColumn,
    TableRecord,
    TableSchema,
    asset,
    asset_check,
)

from hivemind_pipelines.core.model import RunId
from hivemind_pipelines.core.receipts import QualityReceipt, ScoreMove
from hivemind_pipelines.defs import tags
from hivemind_pipelines.defs.assets import columns
from hivemind_pipelines.defs.glossary import described, receipt_metadata, table_schema
from hivemind_pipelines.defs.org_runs import timed
from hivemind_pipelines.defs.policies import is_outdated, policy_key
from hivemind_pipelines.defs.resources import Commons
from hivemind_pipelines.stages import plots
from hivemind_pipelines.stages import quality_scores as quality_stage


@asset(
    # Every ten minutes for ever: an event that says nothing is not written. The first run under new
    # weights says something even when no score moved: the scores are fresh.
    output_required=False,
    deps=[policy_key("quality")],
    group_name="quality",
    kinds={"postgres"},
    owners=["team:knowledge-operations"],
    metadata=table_schema(columns.QUALITY_SCORES),
    description=described(
        "A row is a live item and its quality score: usefulness from votes, popularity, freshness, less the "
        "share of contradictions, plus a bonus while it is current. Behaviour of merged duplicates counts "
        "for their canonical. One set-based statement for all orgs looks at what changed since the last run "
        "(a signal, a counter, a merge, the policy, a new day for decay); a row is written only when its "
        "score moves by `quality.min_change`, and nothing is materialised when none did and the weights are "
        "those of the last time.",
        QualityReceipt,
    ),
)
def quality_scores(
    context: AssetExecutionContext, commons: ResourceParam[Commons]
) -> Iterator[MaterializeResult[None]]:
    run_id = RunId(UUID(context.run.run_id))
    now = datetime.now(UTC)
    backfill_id = tags.backfill_of(context.run.tags)
    score = partial(quality_stage.run, commons.store, now, commons.policy, run_id, backfill_id=backfill_id)
    receipt = timed(score)
    if receipt.changed or is_outdated(context.instance, context.asset_key, "quality"):
        counts = quality_stage.read_distribution(commons.store)
        yield MaterializeResult(
            metadata=receipt_metadata(receipt)
            | {"distribution": _picture(counts), "largest_moves": _moves(receipt.largest), **_spread(counts)}
        )


def _picture(counts: Sequence[int]) -> MetadataValue:
    """A plot small enough to stay in the event log for ever."""
    png = b64encode(plots.thumbnail(counts, title="quality of live items")).decode()
    return MetadataValue.md(f"![quality of live items](data:image/png;base64,{png})")


def _spread(counts: Sequence[int]) -> dict[str, MetadataValue]:
    """Numbers, of which the UI draws a line over time each."""
    shares = {"score_p10": 0.1, "score_median": 0.5, "score_p90": 0.9}
    return {
        name: MetadataValue.float(round(plots.quantile(counts, share), 4)) for name, share in shares.items()
    }


def _moves(moves: Sequence[ScoreMove]) -> MetadataValue:
    names = ("org_id", "item_id", "before", "after")
    records = [TableRecord(move.model_dump(mode="json")) for move in moves]
    return MetadataValue.table(records, TableSchema([TableColumn(name) for name in names]))


@asset_check(
    asset=quality_scores,
    name="scores_tell_items_apart",
    description=(
        "Warns of orgs in which more than `safety.collapse_share_max` of the items that were ever used score "
        "alike (within 1/40): counters that a server stopped writing look like that, and weights that leave "
        "no difference. Looked at whenever scores moved."
    ),
)
def scores_tell_items_apart(commons: ResourceParam[Commons]) -> AssetCheckResult:
    collapsed = quality_stage.collapsed_orgs(commons.store, commons.policy)
    return AssetCheckResult(
        passed=not collapsed,
        severity=AssetCheckSeverity.WARN,
        metadata={
            "collapsed": MetadataValue.int(len(collapsed)),
            "shares": MetadataValue.json({str(org): share for org, share in collapsed.items()}),
        },
    )
