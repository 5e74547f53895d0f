"""How right matching is under the policy in force: the golden set through production code, with its plot."""

from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    MaterializeResult,
    MetadataValue,
    ResourceParam,
    TableColumn,
    TableMetadataValue,
    TableRecord,
    TableSchema,
    asset,
)

from hivemind_pipelines.defs.assets import columns
from hivemind_pipelines.defs.glossary import Metadata, table_schema
from hivemind_pipelines.defs.policies import policy_key
from hivemind_pipelines.defs.resources import Commons
from hivemind_pipelines.evaluation import duplicate_pairs, golden, plots
from hivemind_pipelines.evaluation.duplicate_pairs import Judged, JudgedPair
from hivemind_pipelines.evaluation.golden import KindFigures
from hivemind_pipelines.evaluation.metrics import Confusion
from hivemind_pipelines.evaluation.report import Evaluation

NAME = "matching_evaluation"
CHECK = "no_wrong_merge"

_MEANINGS: dict[str, str] = {
    "pairs": "labelled pairs in the golden set",
    "precision": "share of the automatic merges that are right; anything below 1 fails the check",
    "recall": "share of the pairs of one statement that are merged without a question",
    "triage_recall": "share of them that are merged or kept as possible for the LLM or a reviewer",
    "auc": "chance that a pair of one statement gets a higher probability than one of two",
    "auc_cosine": "the same for plain cosine similarity, the baseline",
    "wrong": "automatic merges of two statements; none is expected",
    "by_kind": "the same by what was changed between the two notes",
    "plot": "precision against recall over all thresholds, the automatic merges as a point",
    "policy": "fingerprint of the matching policy that was measured",
    "model": "the embedding model",
}

_ABOUT = (
    "A row is one kind of change (another version, a negation, a rewording, ...) and what matching makes of "
    "the golden pairs that differ in it: notes written for this package, more than half of them look-alikes "
    "that must never merge. They run through the comparison and decision of production, under the policy in "
    "force and without the LLM, so that the effect of a new threshold is seen before it meets the commons. "
    "Stale when the matching policy moves.\n\n**Metadata of a materialisation**\n\n| key | meaning |\n|---|---|\n"
)


@asset(
    name=NAME,
    deps=[policy_key("matching")],
    group_name="matching",
    kinds={"numpy", "matplotlib"},
    owners=["team:knowledge-operations"],
    metadata=table_schema(columns.MATCHING_EVALUATION),
    check_specs=[
        AssetCheckSpec(
            CHECK,
            asset=NAME,
            description="Under this policy no golden pair of two statements merges automatically.",
        )
    ],
    description=_ABOUT + "\n".join(f"| `{key}` | {meaning} |" for key, meaning in _MEANINGS.items()),
)
def matching_evaluation(
    context: AssetExecutionContext, commons: ResourceParam[Commons]
) -> Iterator[MaterializeResult[None]]:
    pairs = golden.judge(commons.services, commons.policy, _quiet)
    evaluation = duplicate_pairs.report(Judged(pairs))
    context.log.info("%d golden pairs, %d wrong", len(pairs), evaluation.counted.fp)
    yield MaterializeResult(
        metadata=_metadata(commons, pairs, evaluation), check_results=[_checked(pairs, evaluation.counted)]
    )


def _quiet(_stage: str, _done: int, _total: int) -> None:
    """A few seconds of work need no progress in the event log."""


def _metadata(commons: Commons, pairs: Sequence[JudgedPair], evaluation: Evaluation) -> Metadata:
    figures = duplicate_pairs.figures(pairs)
    cosine = figures["cosine"]
    shares = {
        **{name: getattr(evaluation.counted, name) for name in ("precision", "recall")},
        **{name: figures[name] for name in ("triage_recall", "auc")},
        "auc_cosine": cosine["auc"] if isinstance(cosine, dict) else None,
    }
    return {
        "pairs": MetadataValue.int(len(pairs)),
        **{name: MetadataValue.float(share) for name, share in shares.items() if isinstance(share, float)},
        "wrong": MetadataValue.int(evaluation.counted.fp),
        "by_kind": _table(golden.figures_by_kind(pairs)),
        "plot": MetadataValue.md(_picture(plots.precision_recall_png(evaluation))),
        "policy": MetadataValue.text(commons.policy.fingerprint("matching")),
        "model": MetadataValue.text(commons.services.embedder.model_stamp),
    }


def _table(kinds: Sequence[KindFigures]) -> TableMetadataValue:
    schema = TableSchema([TableColumn(field.name) for field in fields(KindFigures)])
    return MetadataValue.table([TableRecord(asdict(kind)) for kind in kinds], schema)


def _picture(png: bytes) -> str:
    return f"![precision and recall](data:image/png;base64,{b64encode(png).decode()})"


def _checked(pairs: Sequence[JudgedPair], counted: Confusion) -> AssetCheckResult:
    wrong = [pair for pair in pairs if pair.decision == "duplicate" and not pair.pair.is_same]
    return AssetCheckResult(
        check_name=CHECK,
        passed=not wrong,
        severity=AssetCheckSeverity.ERROR,
        metadata={
            "wrong": MetadataValue.int(counted.fp),
            "kinds": MetadataValue.json(sorted({pair.pair.kind or "" for pair in wrong})),
            "lines": MetadataValue.json([pair.pair.id for pair in wrong]),
        },
    )
