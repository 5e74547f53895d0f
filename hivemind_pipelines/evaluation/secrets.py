"""secrets: whether the gate finds the labelled secrets, and what it takes for one that is none."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hivemind_pipelines.core.model import Finding
from hivemind_pipelines.core.policy import PiiPolicy
from hivemind_pipelines.evaluation.labelled import SecretText
from hivemind_pipelines.evaluation.metrics import Confusion, share
from hivemind_pipelines.evaluation.pii import overlaps, scan_texts
from hivemind_pipelines.evaluation.report import Evaluation, Figures, Prediction
from hivemind_pipelines.services.pii import SECRET_TYPES, ScanFailed
from hivemind_pipelines.stages.context import Progress

HARD_NEGATIVE = "hard_negative"
#: Another detector's word that a text holds no secret is no label: it stays out of precision.
UNSURE_NEGATIVE = "detector_negative"


@dataclass(frozen=True, slots=True)
class ScannedSecret:
    """A labelled text with the secrets that the gate found in it."""

    file: str
    labelled: SecretText
    findings: tuple[Finding, ...]
    failed: str | None = None

    @property
    def spans_found(self) -> tuple[bool, ...]:
        """Of each span that the label names, whether a finding meets it.

        Some data sets mark the login name of a credential and not its password.
        """
        return tuple(
            any(overlaps(finding, span) for finding in self.findings)
            for span in self.labelled.spans
            if self.labelled.is_secret
        )


def scan(
    files: Mapping[str, Sequence[SecretText]], policy: PiiPolicy, progress: Progress
) -> tuple[ScannedSecret, ...]:
    """Every text through the gate without its names of people; other findings than secrets are left out."""
    rows = [(name, row) for name, labelled in files.items() for row in labelled]
    structured = policy.model_copy(update={"detect_persons": False})
    scans = scan_texts([row.text for _, row in rows], structured, progress)
    return tuple(
        ScannedSecret(name, row, (), scan.reason)
        if isinstance(scan, ScanFailed)
        else ScannedSecret(name, row, tuple(finding for finding in scan if finding.type in SECRET_TYPES))
        for (name, row), scan in zip(rows, scans, strict=True)
    )


def report(scanned: Sequence[ScannedSecret]) -> Evaluation:
    """The figures of all files together, and of each by itself."""
    files = tuple(dict.fromkeys(text.file for text in scanned))
    return Evaluation(
        task="secrets",
        files=files,
        rows=len(scanned),
        counted=count(scanned),
        details={
            **figures(scanned),
            "by_file": {name: figures([text for text in scanned if text.file == name]) for name in files},
        },
        predictions=_predictions(scanned),
    )


def figures(scanned: Sequence[ScannedSecret]) -> Figures:
    """What the contract asks of secrets."""
    negatives = [text for text in scanned if not text.labelled.is_secret]
    spans = [is_found for text in scanned for is_found in text.spans_found]
    hard = [text for text in negatives if text.labelled.negative_kind == HARD_NEGATIVE]
    return {
        "rows": len(scanned),
        "secrets": sum(text.labelled.is_secret for text in scanned),
        "recall": count(scanned).recall,
        "spans": len(spans),
        "recall_spans": share(sum(spans), len(spans)),
        "false_positive_rate": _flagged_share(negatives),
        "false_positive_rate_hard_negative": _flagged_share(hard),
        "found_by_type": dict(
            sorted(Counter(finding.type for text in scanned for finding in text.findings).items())
        ),
        "characters": sum(len(text.labelled.text) for text in scanned),
        "failed": sum(text.failed is not None for text in scanned),
    }


def count(scanned: Sequence[ScannedSecret]) -> Confusion:
    """Texts with a secret that were flagged or not, against flagged ones that surely hold none."""
    found = [bool(text.findings) for text in scanned if text.labelled.is_secret]
    false_alarms = sum(
        bool(text.findings)
        for text in scanned
        if not text.labelled.is_secret and text.labelled.negative_kind != UNSURE_NEGATIVE
    )
    return Confusion(tp=sum(found), fp=false_alarms, fn=len(found) - sum(found))


def _flagged_share(texts: Sequence[ScannedSecret]) -> float | None:
    return share(sum(bool(text.findings) for text in texts), len(texts))


def _predictions(scanned: Sequence[ScannedSecret]) -> Iterator[Prediction]:
    """Places and types alone: a file of found secrets would be one more place to leak from."""
    for text in scanned:
        yield {
            "file": text.file,
            "id": text.labelled.id,
            "label": int(text.labelled.is_secret),
            "neg_kind": text.labelled.negative_kind,
            "decision": "secret" if text.findings else "clean",
            "spans_found": list(text.spans_found),
            "findings": [[finding.start, finding.end, finding.type] for finding in text.findings],
            "failed": text.failed,
        }
