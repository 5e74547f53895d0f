"""The jobs: distillation of an org, its erasures, its scan, quality of all, the measure of matching, old runs swept."""

from dagster import AssetSelection, JobDefinition, define_asset_job, job
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from hivemind_pipelines.core.model import Stage
from hivemind_pipelines.defs import tags
from hivemind_pipelines.defs.pruning import prune_runs

distillation = define_asset_job(
    "distillation",
    selection=AssetSelection.assets(*[stage.value for stage in Stage]),
    tags={tags.JOB: "distillation"},
    description=(
        "One org, eight assets: features, pairs, merges, contradiction cases, topics, summaries, the labels of "
        "the review queue, and the report. Every step takes only what is due; a run with nothing due "
        "changes nothing. One run per org at a time."
    ),
)

erasure = define_asset_job(
    "erasure",
    selection=AssetSelection.assets("erasure_propagation"),
    tags={tags.JOB: "erasure"},
    description="Carries deletions of one org through to everything derived; never waits for another run.",
)

retro_scan = define_asset_job(
    "retro_scan",
    selection=AssetSelection.assets("pii_retro_scan"),
    tags={tags.JOB: "retro_scan"},
    description=(
        "Holds the PII and secrets gate against the live originals of one org and reports counts and ids. "
        "It changes none of them; run it after a change of the gate, or before an audit."
    ),
)

quality = define_asset_job(
    "quality",
    selection=AssetSelection.assets("quality_scores"),
    tags={tags.JOB: "quality"},
    description="Scores every live item of every org from behaviour, in one set-based run.",
)

policy = define_asset_job(
    "policy",
    selection=AssetSelection.groups("policy"),
    tags={tags.JOB: "policy"},
    description="Materialises the fingerprints of the policy in force, so that the UI shows what is stale.",
)


evaluation = define_asset_job(
    "evaluation",
    selection=AssetSelection.assets("matching_evaluation"),
    tags={tags.JOB: "evaluation"},
    description=(
        "Measures matching under the policy in force on the golden set that ships with the package; reads "
        "and writes no row of the commons. Run it after a change of the matching policy."
    ),
)


@job(
    name="pruning",
    tags={tags.JOB: "pruning"},
    description=(
        "Deletes old runs with their events and logs, in batches. The run that holds the newest "
        "materialisation of a partition stays, whatever its age. Nothing of the commons is touched."
    ),
)
def pruning() -> None:
    prune_runs()


all_jobs: list[JobDefinition | UnresolvedAssetJobDefinition] = [
    distillation,
    erasure,
    retro_scan,
    quality,
    policy,
    evaluation,
    pruning,
]
