"""The distillation of one org as eight assets, in the order a run calls them."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from dagster import AssetExecutionContext, AssetsDefinition, ResourceParam, asset

from hivemind_pipelines.core.model import Stage
from hivemind_pipelines.core.policy import SectionGroup
from hivemind_pipelines.core.receipts import (
    CasesReceipt,
    FeaturesReceipt,
    MergesReceipt,
    PairsReceipt,
    PrescreenReceipt,
    Receipt,
    ReportReceipt,
    SummariesReceipt,
    TopicsReceipt,
)
from hivemind_pipelines.defs.assets import columns
from hivemind_pipelines.defs.glossary import counts_table, described, stages_table, table_schema
from hivemind_pipelines.defs.org_runs import for_each_org
from hivemind_pipelines.defs.partitions import backfill_policy, orgs, partition_key
from hivemind_pipelines.defs.policies import policy_key
from hivemind_pipelines.defs.resources import Commons
from hivemind_pipelines.stages import cluster_summaries as summaries_stage
from hivemind_pipelines.stages import contradiction_cases as cases_stage
from hivemind_pipelines.stages import distillation_report as report_stage
from hivemind_pipelines.stages import duplicate_merges as merges_stage
from hivemind_pipelines.stages import duplicate_pairs as pairs_stage
from hivemind_pipelines.stages import item_features as features_stage
from hivemind_pipelines.stages import prescreened_contributions as prescreen_stage
from hivemind_pipelines.stages import reporting
from hivemind_pipelines.stages import topic_clusters as topics_stage
from hivemind_pipelines.stages.context import StageContext

OrgAsset = Callable[[Callable[..., Any]], AssetsDefinition]


def _org_asset(
    receipt_type: type[Receipt],
    *,
    group: str,
    kinds: set[str],
    schema: Iterable[tuple[str, str, str]],
    description: str,
    policies: Iterable[SectionGroup] = (),
) -> OrgAsset:
    """An asset with one partition an org, stale when one of `policies` moves."""
    return asset(
        partitions_def=orgs,
        backfill_policy=backfill_policy,
        group_name=group,
        kinds={"postgres", *kinds},
        owners=["team:knowledge-operations"],
        metadata=table_schema(schema),
        deps=[policy_key(section) for section in policies],
        description=described(description, receipt_type),
    )


@_org_asset(
    FeaturesReceipt,
    group="matching",
    kinds={"onnx"},
    schema=columns.ITEM_FEATURES,
    policies=["matching"],
    description=(
        "A row is what matching needs to know of one original: its embedding where the item had none, the "
        "hash of its normalised text, a MinHash signature with its LSH bands, and the small tokens that "
        "change a meaning (numbers, versions, flags, code tokens, negations). Summaries have no row: they "
        "are searchable, but never a candidate. Due: originals without a row, with another content hash, "
        "or with an older stamp."
    ),
)
def item_features(
    context: AssetExecutionContext, commons: ResourceParam[Commons]
) -> dict[str, FeaturesReceipt]:
    return for_each_org(context, commons, features_stage.run)


@_org_asset(
    PairsReceipt,
    group="matching",
    kinds={"numpy"},
    schema=columns.CANDIDATE_PAIRS,
    policies=["matching"],
    description=(
        "A row is two originals of one org that were near enough to be compared (equal normalised text, a "
        "shared LSH band, or neighbouring vectors), what the comparison measured, and whether they are "
        "`duplicate`, `possible` or `distinct`, with the reason. A veto (another version, number, flag, "
        "negation) beats every similarity. Only changed items look for candidates; a new policy decides "
        "stored comparisons again without reading a text. With a key, the LLM is asked about `possible` "
        "pairs, once."
    ),
)
def duplicate_pairs(
    context: AssetExecutionContext,
    commons: ResourceParam[Commons],
    item_features: dict[str, FeaturesReceipt],
) -> dict[str, PairsReceipt]:
    return for_each_org(context, commons, pairs_stage.run, after=item_features)


@_org_asset(
    MergesReceipt,
    group="matching",
    kinds={"python"},
    schema=columns.MERGES,
    policies=["matching"],
    description=(
        "A row is a merge in force: a duplicate that is expired (never deleted) in favour of its canonical, "
        "which it matches directly; there is no chaining. The canonical's `tags.provenance_links` lists the "
        "merged ids. A merge that the pairs no longer support is taken back. A plan that would expire more "
        "than `safety.mass_change_share_max` of the org is refused whole; the run tag "
        "`hivemind/allow_mass_change=true` allows it once. Undo: `hivemind-pipelines undo --merge ID`."
    ),
)
def duplicate_merges(
    context: AssetExecutionContext,
    commons: ResourceParam[Commons],
    duplicate_pairs: dict[str, PairsReceipt],
) -> dict[str, MergesReceipt]:
    return for_each_org(context, commons, merges_stage.run, after=duplicate_pairs)


@_org_asset(
    CasesReceipt,
    group="contradictions",
    kinds={"python"},
    schema=columns.CONTRADICTION_CASES,
    policies=["contradiction"],
    description=(
        "A row is a case: originals of one category that are said to conflict, recorded once, as one "
        "`contradiction_cluster` signal as well. A case expires nothing; it waits for a reviewer "
        "(`hivemind-pipelines review`). A signal without a counterpart is remembered as a lone suspect."
    ),
)
def contradiction_cases(
    context: AssetExecutionContext,
    commons: ResourceParam[Commons],
    duplicate_merges: dict[str, MergesReceipt],
) -> dict[str, CasesReceipt]:
    return for_each_org(context, commons, cases_stage.run, after=duplicate_merges)


@_org_asset(
    TopicsReceipt,
    group="summaries",
    kinds={"numpy"},
    schema=columns.TOPIC_CLUSTERS,
    policies=["summary"],
    description=(
        "A row is a topic: at least three related live originals of one category and scope, with no open "
        "contradiction case among them. Its fingerprint names exactly what a summary of it would be written "
        "from, so a known fingerprint never costs a second call."
    ),
)
def topic_clusters(
    context: AssetExecutionContext,
    commons: ResourceParam[Commons],
    contradiction_cases: dict[str, CasesReceipt],
) -> dict[str, TopicsReceipt]:
    return for_each_org(context, commons, topics_stage.run, after=contradiction_cases)


@_org_asset(
    SummariesReceipt,
    group="summaries",
    kinds={"anthropic"},
    schema=columns.SUMMARIES,
    policies=["summary", "pii"],
    description=(
        "A row is a summary that was ever published: short, grounded sentence by sentence in its sources, "
        "and scanned for personal data before it was stored. The text itself is a private row of "
        "`public.knowledge_items` (source agent `distillation`). It is retired when a source changes, goes, "
        "or fewer than three are left, and revived without a call when its fingerprint returns. No key or a "
        "failing call: the topic is skipped and stays due."
    ),
)
def cluster_summaries(
    context: AssetExecutionContext,
    commons: ResourceParam[Commons],
    topic_clusters: dict[str, TopicsReceipt],
) -> dict[str, SummariesReceipt]:
    return for_each_org(context, commons, summaries_stage.run, after=topic_clusters)


@_org_asset(
    PrescreenReceipt,
    group="review_queue",
    kinds={"onnx"},
    schema=columns.PRESCREENS,
    policies=["quality", "matching", "contradiction", "pii"],
    description=(
        "A row is a pending contribution with its preliminary score (the quality formula without any "
        "behaviour, from confidence alone), its labels and what a look at it is worth. Below "
        "`prescreen.low_quality_below` it gets `tags.low_quality_prescreened`. Labels stand under "
        "`tags.prescreen`: near-duplicate of a live item or of another pending row, contradiction of a live "
        "item, secrets and personal data by type, planted instructions, gibberish, spam, too short. A label "
        "goes when it no longer holds. Value = quality x sense x novelty x care, each in [0, 1]; "
        "`hivemind-pipelines review list` sorts the queue by it. The row stays in the queue, the decision is "
        "the reviewer's."
    ),
)
def prescreened_contributions(
    context: AssetExecutionContext, commons: ResourceParam[Commons]
) -> dict[str, PrescreenReceipt]:
    return for_each_org(context, commons, prescreen_stage.run)


@_org_asset(
    ReportReceipt,
    group="report",
    kinds={"pandas", "matplotlib"},
    schema=columns.RUNS,
    description=(
        "A row is one run of one org: its counts by stage, its policy, and how it ended. When something "
        "changed, a report with plots is written. Last, `deployment_config.distillation_last_run` is set "
        "for the server's readers."
    ),
)
def distillation_report(
    context: AssetExecutionContext,
    commons: ResourceParam[Commons],
    item_features: dict[str, FeaturesReceipt],
    duplicate_pairs: dict[str, PairsReceipt],
    duplicate_merges: dict[str, MergesReceipt],
    contradiction_cases: dict[str, CasesReceipt],
    topic_clusters: dict[str, TopicsReceipt],
    cluster_summaries: dict[str, SummariesReceipt],
    prescreened_contributions: dict[str, PrescreenReceipt],
) -> dict[str, ReportReceipt]:
    by_stage: dict[Stage, Mapping[str, Receipt]] = {
        Stage.ITEM_FEATURES: item_features,
        Stage.DUPLICATE_PAIRS: duplicate_pairs,
        Stage.DUPLICATE_MERGES: duplicate_merges,
        Stage.CONTRADICTION_CASES: contradiction_cases,
        Stage.TOPIC_CLUSTERS: topic_clusters,
        Stage.CLUSTER_SUMMARIES: cluster_summaries,
        Stage.PRESCREENED_CONTRIBUTIONS: prescreened_contributions,
    }
    return for_each_org(context, commons, partial(_report, context, by_stage))


def _report(
    context: AssetExecutionContext, by_stage: Mapping[Stage, Mapping[str, Receipt]], stage: StageContext
) -> ReportReceipt:
    """Report what this very run did; the receipt of a stage that was no part of it is an older run's."""
    key = partition_key(stage.org_id)
    receipts = {name: of_orgs[key] for name, of_orgs in by_stage.items()}
    of_this_run = {name: one for name, one in receipts.items() if one.run_id == stage.run_id}
    ages, labels = reporting.read_waiting(stage.store, stage.org_id, stage.as_of)
    waiting = {"cases_by_age": counts_table(ages), "queue_by_label": counts_table(labels)}
    context.add_asset_metadata({"stages": stages_table(of_this_run), **waiting}, partition_key=key)
    return report_stage.run(stage, of_this_run)


assets: list[AssetsDefinition] = [
    item_features,
    duplicate_pairs,
    duplicate_merges,
    contradiction_cases,
    topic_clusters,
    cluster_summaries,
    prescreened_contributions,
    distillation_report,
]
