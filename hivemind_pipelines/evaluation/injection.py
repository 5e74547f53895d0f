"""injection: whether planted instructions are found suspicious, and what knowledge is suspected wrongly."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hivemind_pipelines.core.injection import Suspicion, suspicion
from hivemind_pipelines.evaluation.labelled import InjectedTexts
from hivemind_pipelines.evaluation.metrics import confusion, share
from hivemind_pipelines.evaluation.report import Evaluation, Figures, Prediction
from hivemind_pipelines.stages.context import Progress

BATCH = 100


@dataclass(frozen=True, slots=True)
class JudgedTexts:
    """A labelled text or group with what is suspicious in each text; a group is what its texts are."""

    file: str
    labelled: InjectedTexts
    suspicions: tuple[Suspicion | None, ...]

    @property
    def is_suspicious(self) -> bool:
        """Whether any of the texts is."""
        return any(self.suspicions)


def judge(files: Mapping[str, Sequence[InjectedTexts]], progress: Progress) -> tuple[JudgedTexts, ...]:
    """Every text by itself, as the stages judge them."""
    rows = [(name, row) for name, labelled in files.items() for row in labelled]
    judged = []
    for done, (name, row) in enumerate(rows, start=1):
        judged.append(JudgedTexts(name, row, tuple(map(suspicion, row.texts))))
        if done % BATCH == 0:
            progress("judge", done, len(rows))
    return tuple(judged)


def report(judged: Sequence[JudgedTexts]) -> Evaluation:
    """The figures of all files together, and of each by itself."""
    files = tuple(dict.fromkeys(texts.file for texts in judged))
    return Evaluation(
        task="injection",
        files=files,
        rows=len(judged),
        counted=confusion(
            [texts.is_suspicious for texts in judged], [texts.labelled.is_injected for texts in judged]
        ),
        details={
            **figures(judged),
            "by_file": {name: figures([texts for texts in judged if texts.file == name]) for name in files},
        },
        predictions=_predictions(judged),
    )


def figures(judged: Sequence[JudgedTexts]) -> Figures:
    """What the contract asks of injection; `category` is there for rows that name one."""
    injected = [texts for texts in judged if texts.labelled.is_injected]
    benign = [texts for texts in judged if not texts.labelled.is_injected]
    categories = sorted({texts.labelled.category for texts in injected if texts.labelled.category})
    kinds = Counter(kind for texts in judged for one in texts.suspicions if one for kind in one.kinds)
    by_category = {
        name: _caught([texts for texts in injected if texts.labelled.category == name]) for name in categories
    }
    return {
        "rows": len(judged),
        "injected": len(injected),
        "recall": _caught(injected)["recall"],
        "false_positive_rate": share(sum(texts.is_suspicious for texts in benign), len(benign)),
        "kinds": dict(sorted(kinds.items())),
        **({"category": by_category} if by_category else {}),
    }


def _caught(injected: Sequence[JudgedTexts]) -> Figures:
    caught = sum(texts.is_suspicious for texts in injected)
    return {"rows": len(injected), "recall": share(caught, len(injected))}


def _predictions(judged: Sequence[JudgedTexts]) -> Iterator[Prediction]:
    for texts in judged:
        yield {
            "file": texts.file,
            "id": texts.labelled.id,
            "label": int(texts.labelled.is_injected),
            "category": texts.labelled.category,
            "decision": "suspicious" if texts.is_suspicious else "clean",
            "texts": [
                None if one is None else {"kinds": list(one.kinds), "score": one.score}
                for one in texts.suspicions
            ],
        }
