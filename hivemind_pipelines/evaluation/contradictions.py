"""contradictions: what the rules make of labelled pairs, each with its two embeddings."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hivemind_pipelines.core.conflict import Conflict
from hivemind_pipelines.core.policy import ContradictionPolicy
from hivemind_pipelines.evaluation.labelled import ContrastedPair
from hivemind_pipelines.evaluation.metrics import confusion, share
from hivemind_pipelines.evaluation.report import Evaluation, Figures, Prediction
from hivemind_pipelines.stages import readings
from hivemind_pipelines.stages.context import Progress, Services
from hivemind_pipelines.stages.readings import Beside

#: Pairs judged between two reports of progress.
BATCH = 500

#: The labels of the contract that have a figure of their own.
CONTRADICTION = "contradiction"
VERSION_FORK = "version_fork"

#: Two statements of which the newer holds conflict too, until somebody says which it is.
FLAGGED: frozenset[str] = frozenset({"contradiction", "update"})


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """A labelled pair with what the rules say of it."""

    file: str
    pair: ContrastedPair
    found: Conflict

    @property
    def is_flagged(self) -> bool:
        """Whether it would become a case of two statements that cannot both hold."""
        return self.found.outcome in FLAGGED


def judge(
    files: Mapping[str, Sequence[ContrastedPair]],
    services: Services,
    policy: ContradictionPolicy,
    progress: Progress,
) -> tuple[JudgedPair, ...]:
    """Every pair as production judges it, in order."""
    texts = tuple(
        dict.fromkeys(
            text for pairs in files.values() for pair in pairs for text in (pair.text_a, pair.text_b)
        )
    )
    vector_of = dict(zip(texts, services.embedder.embed(texts), strict=True))
    total = sum(map(len, files.values()))
    judged: list[JudgedPair] = []
    for name, pairs in files.items():
        for start in range(0, len(pairs), BATCH):
            batch = pairs[start : start + BATCH]
            beside = [
                Beside(
                    pair.text_a,
                    pair.text_b,
                    pair.scope_a,
                    pair.scope_b,
                    float(np.dot(vector_of[pair.text_a], vector_of[pair.text_b])),
                )
                for pair in batch
            ]
            read = readings.read(beside, services.cross_encoder, policy)
            for pair, both, reading in zip(batch, beside, read, strict=True):
                found = both.judge(reading, policy.score_min)
                judged.append(JudgedPair(name, pair, found))
            progress("conflict", len(judged), total)
    return tuple(judged)


def report(judged: Sequence[JudgedPair]) -> Evaluation:
    """The figures of all files together, of each by itself, and of each part where rows name one."""
    files = tuple(dict.fromkeys(pair.file for pair in judged))
    splits = sorted({pair.pair.split for pair in judged if pair.pair.split is not None})
    return Evaluation(
        task="contradictions",
        files=files,
        rows=len(judged),
        counted=confusion([pair.is_flagged for pair in judged], [_is_contradiction(pair) for pair in judged]),
        details={
            **figures(judged),
            "by_split": {
                name: _with_counts([pair for pair in judged if pair.pair.split == name]) for name in splits
            },
            "by_file": {name: _with_counts([pair for pair in judged if pair.file == name]) for name in files},
        },
        predictions=_predictions(judged),
    )


def _is_contradiction(pair: JudgedPair) -> bool:
    return pair.pair.label == CONTRADICTION


def _with_counts(judged: Sequence[JudgedPair]) -> Figures:
    counted = confusion([pair.is_flagged for pair in judged], [_is_contradiction(pair) for pair in judged])
    return {"rows": len(judged), **counted.figures(), **figures(judged)}


def figures(judged: Sequence[JudgedPair]) -> Figures:
    """Shares by label; of forks that were noticed at all, how many were told from contradictions."""
    labels = sorted({pair.pair.label for pair in judged})
    by_label = {label: [pair for pair in judged if pair.pair.label == label] for label in labels}
    forks = Counter[str](pair.found.outcome for pair in by_label.get(VERSION_FORK, ()))
    noticed = forks["version_fork"] + sum(forks[outcome] for outcome in FLAGGED)
    return {
        "flagged_by_label": {
            label: share(sum(pair.is_flagged for pair in pairs), len(pairs))
            for label, pairs in by_label.items()
        },
        "outcomes_by_label": {
            label: dict(sorted(Counter(pair.found.outcome for pair in pairs).items()))
            for label, pairs in by_label.items()
        },
        "forks_told_apart": share(forks["version_fork"], noticed),
    }


def _predictions(judged: Sequence[JudgedPair]) -> Iterator[Prediction]:
    for pair in judged:
        found = pair.found
        yield {
            "file": pair.file,
            "id": pair.pair.id,
            "label": pair.pair.label,
            "outcome": found.outcome,
            "flagged": pair.is_flagged,
            "reason": found.reason,
            "score": round(found.score, 6),
            "spans_a": [list(span) for span in found.spans_a],
            "spans_b": [list(span) for span in found.spans_b],
        }
