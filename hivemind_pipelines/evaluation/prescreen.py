"""prescreen: whether noise scores above what people kept, and which of its parts tell them apart."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hivemind_pipelines.core.noise import WEIGHTS, Noise, noise
from hivemind_pipelines.core.policy import PrescreenPolicy
from hivemind_pipelines.core.prescreen import TextFindings, sense_labels
from hivemind_pipelines.evaluation.labelled import TriagedText
from hivemind_pipelines.evaluation.metrics import auc, confusion, share
from hivemind_pipelines.evaluation.report import Evaluation, Figures, Prediction
from hivemind_pipelines.stages.context import Progress

BATCH = 100


@dataclass(frozen=True, slots=True)
class Triaged:
    """A labelled text with its noise and the labels that say it makes no sense."""

    file: str
    labelled: TriagedText
    noise: Noise
    labels: tuple[str, ...]


def judge(
    files: Mapping[str, Sequence[TriagedText]], policy: PrescreenPolicy, progress: Progress
) -> tuple[Triaged, ...]:
    """Every text by itself, as the stage looks at a pending row."""
    rows = [(name, row) for name, labelled in files.items() for row in labelled]
    judged = []
    for done, (name, row) in enumerate(rows, start=1):
        found = noise(row.text)
        labels = sense_labels(TextFindings(found.words, found.score, dict(found.parts)), policy)
        judged.append(Triaged(name, row, found, tuple(str(one["label"]) for one in labels)))
        if done % BATCH == 0:
            progress("judge", done, len(rows))
    return tuple(judged)


def report(judged: Sequence[Triaged]) -> Evaluation:
    """The figures of all files together, and of each by itself; a positive is what people did not keep."""
    files = tuple(dict.fromkeys(text.file for text in judged))
    return Evaluation(
        task="prescreen",
        files=files,
        rows=len(judged),
        counted=confusion(
            [bool(text.labels) for text in judged], [text.labelled.is_noise for text in judged]
        ),
        details={
            **figures(judged),
            "by_file": {name: figures([text for text in judged if text.file == name]) for name in files},
        },
        predictions=_predictions(judged),
    )


def figures(judged: Sequence[Triaged]) -> Figures:
    """What the contract asks of pre-screening, and the same of each part alone."""
    is_noise = [text.labelled.is_noise for text in judged]
    kept = [text for text in judged if not text.labelled.is_noise]
    return {
        "rows": len(judged),
        "noise": sum(is_noise),
        "auc": auc([text.noise.score for text in judged], is_noise),
        "auc_by_part": {part: auc([text.noise.part(part) for text in judged], is_noise) for part in WEIGHTS},
        "kept_and_labelled": share(sum(bool(text.labels) for text in kept), len(kept)),
    }


def _predictions(judged: Sequence[Triaged]) -> Iterator[Prediction]:
    for text in judged:
        yield {
            "file": text.file,
            "id": text.labelled.id,
            "label": int(text.labelled.is_noise),
            "score": text.noise.score,
            "parts": dict(text.noise.parts),
            "labels": list(text.labels),
        }
