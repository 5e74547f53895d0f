"""Fitting the duplicate model: a logistic regression whose signs are fixed, with data sets left out in turn."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from hivemind_pipelines.core import calibration, matching
from hivemind_pipelines.core.model import Comparison
from hivemind_pipelines.core.policy import MatchingPolicy
from hivemind_pipelines.evaluation import logistic
from hivemind_pipelines.evaluation.logistic import Flags, Floats, Model
from hivemind_pipelines.evaluation.metrics import Confusion, auc, precision_recall, recall_at_precision

#: No file may teach that such a change weighs less than this: what is rare in one text is common in another.
CEILINGS: Mapping[str, float] = {
    "word": -1.0,
    "word_share": -2.0,
    "word_added": -0.3,
    "word_added_share": -2.0,
    "name_added": -0.5,
    "name_added_share": -2.0,
    "code_added": -1.0,
    "code_added_share": -2.0,
    "number_added": -1.5,
    "quantifier_added": -0.7,
    "flag_added": -3.0,
    "both_sides_lone": -0.3,
    "sentences_moved": -0.3,
    "moved": -0.2,
    "synonym": -0.2,
    "operator": -0.3,
    "spelling": -0.1,
    "inflection": -0.1,
    "placeholder": -0.1,
    "function": -0.05,
}

#: Pairs with hardly a word in common are the many easy ones of a cluster file.
FAR_WEIGHT = 0.2

#: A data set with fewer pairs weighs less in proportion: a handful of verdicts must not turn the model.
FULL_WEIGHT_PAIRS = 200

L2 = 1e-4
PRECISION_MIN = 0.99

SHIPPED_MODEL = "duplicate_model.json"

NOTHING = Confusion(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Sample:
    """One data set: its compared pairs as terms of shape (n, k), and how many pairs are labelled in all.

    `alike` counts the pairs of equal normalised texts: one node of the graph, merged without a comparison, whose
    true ones are among `positives`.
    """

    name: str
    names: tuple[str, ...]
    terms: Floats
    labels: Flags
    is_vetoed: Flags
    is_in_range: Flags
    is_same_normalised: Flags
    cosine: Floats
    positives: int
    alike: Confusion = NOTHING


@dataclass(frozen=True, slots=True)
class LeftOut:
    """How a model fitted without a data set does on it."""

    name: str
    pairs: int
    positives: int
    counted: Confusion
    auc: float | None
    cosine_auc: float | None
    recall_at_precision_99: float

    def figures(self) -> dict[str, object]:
        """For the training report."""
        return {
            "pairs": self.pairs,
            "positives": self.positives,
            "automatic": {"precision": self.counted.precision, "recall": self.counted.recall},
            "auc": self.auc,
            "cosine_auc": self.cosine_auc,
            "recall_at_precision_99": self.recall_at_precision_99,
        }


def sample(
    name: str,
    compared: Iterable[tuple[Comparison, bool]],
    positives: int,
    alike: Confusion = NOTHING,
) -> Sample | None:
    """A data set from comparisons with their labels; None when nothing was compared."""
    terms: list[list[float]] = []
    flags: list[tuple[bool, bool, bool, bool]] = []
    cosine: list[float] = []
    names: tuple[str, ...] = ()
    for comparison, label in compared:
        scores = dict(comparison.scores)
        weighed = calibration.terms(scores)
        names = names or tuple(weighed)
        terms.append(list(weighed.values()))
        cosine.append(scores["cosine"])
        in_range = calibration.is_in_range(scores)
        flags.append((label, bool(comparison.vetoes), in_range, bool(scores["same_normalised"])))
    if not terms:
        return None
    labels, is_vetoed, is_in_range, is_same_normalised = np.array(flags, dtype=bool).T
    return Sample(
        name=name,
        names=names,
        terms=np.array(terms),
        labels=labels,
        is_vetoed=is_vetoed,
        is_in_range=is_in_range,
        is_same_normalised=is_same_normalised,
        cosine=np.array(cosine),
        positives=positives,
        alike=alike,
    )


def fit(samples: Sequence[Sample]) -> Model:
    """The model of the samples, of equal weight but for small ones; vetoed pairs, which never merge, teach nothing."""
    names = samples[0].names
    known = [part for part in samples if not part.is_vetoed.all()]
    rows = np.vstack([part.terms[~part.is_vetoed] for part in known])
    labels = np.concatenate([part.labels[~part.is_vetoed] for part in known]).astype(np.float64)
    weights = np.concatenate([_weights(part) for part in known])
    weights /= weights.sum()
    return logistic.fit(names, rows, labels, weights, bounds=_bounds(names), l2=L2)


def left_out(samples: Sequence[Sample], policy: MatchingPolicy) -> tuple[LeftOut, ...]:
    """Each sample under the model of the others; none when there is only one."""
    if len(samples) < 2:
        return ()
    return tuple(
        judge(fit([other for other in samples if other is not part]), part, policy) for part in samples
    )


def judge(model: Model, part: Sample, policy: MatchingPolicy) -> LeftOut:
    """What matching would decide of a sample with that model in place of the shipped one."""
    chance = model.probability(part.terms)
    is_told_apart = part.is_vetoed & (part.terms[:, part.names.index("far")] == 0.0)
    probability = np.where(is_told_apart, matching.VETOED_SHARE * chance, chance)
    probability = np.where(part.is_same_normalised & ~part.is_vetoed, 1.0, probability)
    merged = part.is_same_normalised | (part.is_in_range & (chance >= policy.duplicate_min))
    merged &= ~part.is_vetoed
    compared = int((merged & part.labels).sum())
    tp = compared + part.alike.tp
    counted = Confusion(tp, int(merged.sum()) - compared + part.alike.fp, part.positives - tp)
    curve = precision_recall(probability, part.labels, positives=part.positives)
    return LeftOut(
        name=part.name,
        pairs=len(part.labels),
        positives=part.positives,
        counted=counted,
        auc=auc(probability, part.labels),
        cosine_auc=auc(part.cosine, part.labels),
        recall_at_precision_99=recall_at_precision(curve, PRECISION_MIN),
    )


def document(model: Model, samples: Sequence[Sample], tried: Sequence[LeftOut]) -> dict[str, object]:
    """The model as it is shipped: the limits in force, and a report of what it was fitted on."""
    return {
        **model.document(),
        "limits": json.loads(shipped_model().read_text("utf-8"))["limits"],
        "training": {
            "fitted_on": {
                part.name: {"pairs": len(part.labels), "positives": part.positives} for part in samples
            },
            "left_out_in_turn": {result.name: result.figures() for result in tried},
        },
    }


def shipped_model() -> Path:
    """The file that matching reads its model from."""
    return Path(str(files("hivemind_pipelines.core").joinpath(SHIPPED_MODEL)))


def _weights(part: Sample) -> Floats:
    """Weights of a sample's pairs without a veto, summing to one unless there are few of them."""
    is_far = part.terms[~part.is_vetoed, part.names.index("far")] > 0.0
    weights = np.where(is_far, FAR_WEIGHT, 1.0)
    scaled: Floats = weights / weights.sum() * min(1.0, len(weights) / FULL_WEIGHT_PAIRS)
    return scaled


def _bounds(names: Sequence[str]) -> tuple[Floats, Floats]:
    """The smallest and largest value of each weight."""
    lower = [0.0 if name in calibration.SIMILARITIES else -np.inf for name in names]
    upper = [np.inf if name in calibration.SIMILARITIES else CEILINGS.get(name, 0.0) for name in names]
    return np.array(lower), np.array(upper)
