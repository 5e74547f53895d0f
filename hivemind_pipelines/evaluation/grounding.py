"""grounding: whether the gate in front of summaries lets pass what a document supports, and nothing else."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from hivemind_pipelines.core.grounding import check_draft
from hivemind_pipelines.core.model import ItemId, SourceText, SummaryDraft, SummarySentence
from hivemind_pipelines.core.policy import SummaryPolicy
from hivemind_pipelines.core.text import content_hash
from hivemind_pipelines.evaluation.labelled import GROUNDING_LABELS, ClaimedText
from hivemind_pipelines.evaluation.metrics import confusion, share
from hivemind_pipelines.evaluation.report import Evaluation, Figures, Prediction
from hivemind_pipelines.stages.context import Progress

BATCH = 50

_DOCUMENT = ItemId(UUID(int=0))


@dataclass(frozen=True, slots=True)
class CheckedClaim:
    """A claim with the reasons that the gate has against it; it passes without any."""

    file: str
    labelled: ClaimedText
    reasons: tuple[str, ...]

    @property
    def passes(self) -> bool:
        """Whether a summary of this one sentence would be stored."""
        return not self.reasons

    @property
    def is_supported(self) -> bool:
        """Whether the label says that the document supports the whole claim."""
        return self.labelled.label == "supported"


def check(
    files: Mapping[str, Sequence[ClaimedText]], policy: SummaryPolicy, progress: Progress
) -> tuple[CheckedClaim, ...]:
    """Each claim as a summary of one sentence that cites its document as the only source."""
    total = sum(map(len, files.values()))
    checked: list[CheckedClaim] = []
    for name, claims in files.items():
        for claim in claims:
            checked.append(CheckedClaim(name, claim, _reasons(claim, policy)))
            if len(checked) % BATCH == 0:
                progress("check", len(checked), total)
    return tuple(checked)


def _reasons(claim: ClaimedText, policy: SummaryPolicy) -> tuple[str, ...]:
    source = SourceText(1, _DOCUMENT, content_hash(claim.document), claim.document)
    return check_draft(SummaryDraft((SummarySentence(claim.claim, (1,)),)), (source,), policy)


def report(checked: Sequence[CheckedClaim]) -> Evaluation:
    """The figures of all files together, and of each by itself."""
    files = tuple(dict.fromkeys(claim.file for claim in checked))
    return Evaluation(
        task="grounding",
        files=files,
        rows=len(checked),
        counted=confusion([claim.passes for claim in checked], [claim.is_supported for claim in checked]),
        details={
            **figures(checked),
            "by_file": {name: figures([claim for claim in checked if claim.file == name]) for name in files},
        },
        predictions=_predictions(checked),
    )


def figures(checked: Sequence[CheckedClaim]) -> Figures:
    """The share of claims refused by label, and how often each reason spoke against one."""
    by_label = {
        label: [claim for claim in checked if claim.labelled.label == label] for label in GROUNDING_LABELS
    }
    return {
        "rows": len(checked),
        "rows_by_label": {label: len(claims) for label, claims in by_label.items()},
        "refused_by_label": {
            label: share(sum(not claim.passes for claim in claims), len(claims))
            for label, claims in by_label.items()
        },
        "reasons_by_label": {
            label: dict(sorted(Counter(reason for claim in claims for reason in claim.reasons).items()))
            for label, claims in by_label.items()
        },
    }


def _predictions(checked: Sequence[CheckedClaim]) -> Iterator[Prediction]:
    for claim in checked:
        yield {
            "file": claim.file,
            "id": claim.labelled.id,
            "label": claim.labelled.label,
            "decision": "supported" if claim.passes else "refused",
            "reasons": list(claim.reasons),
        }
