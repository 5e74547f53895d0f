"""Measures: from decisions, scores and clusterings to figures; None where a figure is not defined."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Confusion:
    """True positives, false positives and false negatives."""

    tp: int
    fp: int
    fn: int

    @property
    def precision(self) -> float | None:
        """tp / (tp + fp); None when nothing was called positive."""
        return share(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float | None:
        """tp / (tp + fn); None when nothing is positive."""
        return share(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float | None:
        """2 tp / (2 tp + fp + fn); None when there is nothing to count."""
        return share(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    def __add__(self, other: "Confusion") -> "Confusion":
        return Confusion(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    def figures(self) -> dict[str, float | None]:
        """The three by name."""
        return {"precision": self.precision, "recall": self.recall, "f1": self.f1}


def share(part: float, whole: float) -> float | None:
    """part / whole; None of nothing."""
    return part / whole if whole else None


def confusion(found: ArrayLike, labels: ArrayLike) -> Confusion:
    """Decisions against labels, both boolean of shape (n,)."""
    called, true = np.asarray(found, dtype=bool), np.asarray(labels, dtype=bool)
    return Confusion(
        tp=int(np.sum(called & true)), fp=int(np.sum(called & ~true)), fn=int(np.sum(~called & true))
    )


def auc(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """The chance that a positive scores above a negative, ties counting half; None without both."""
    values, true = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    positives = int(true.sum())
    negatives = len(true) - positives
    if not positives or not negatives:
        return None
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(sizes) - (sizes - 1) / 2.0
    rank_sum = float(mean_rank[group][true].sum())
    return (rank_sum - positives * (positives + 1) / 2.0) / (positives * negatives)


@dataclass(frozen=True, slots=True)
class Curve:
    """Precision and recall of calling everything at or above each distinct score, highest score first."""

    thresholds: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]


def precision_recall(
    scores: ArrayLike, labels: ArrayLike, *, counts: ArrayLike | None = None, positives: int | None = None
) -> Curve:
    """The curve over all thresholds, shape (n,) each.

    `counts` says how many times an entry stands there; `positives` counts those too that got no score.
    """
    values, true = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    times = np.ones(len(values), np.int64) if counts is None else np.asarray(counts, dtype=np.int64)
    values, true, times = values[times > 0], true[times > 0], times[times > 0]
    order = np.argsort(-values, kind="stable")
    ordered, called, hits = values[order], np.cumsum(times[order]), np.cumsum((times * true)[order])
    # Equal scores stand or fall together: only the last of each run is a threshold.
    is_last = np.append(ordered[1:] != ordered[:-1], True) if len(ordered) else np.empty(0, dtype=bool)
    whole = max(int((times * true).sum()) if positives is None else positives, 1)
    return Curve(ordered[is_last], hits[is_last] / called[is_last], hits[is_last] / whole)


def recall_at_precision(curve: Curve, precision_min: float) -> float:
    """The highest recall of any threshold at which precision reaches `precision_min`; 0 when none does."""
    reached = curve.recall[curve.precision >= precision_min]
    return float(reached.max()) if len(reached) else 0.0


def codes(labels: Sequence[Hashable]) -> Counts:
    """Labels as integers in order of first appearance."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(label, len(known)) for label in labels], dtype=np.int64)


def pairs_within(labels: Sequence[Hashable] | Counts) -> int:
    """How many pairs share a label."""
    coded = labels if isinstance(labels, np.ndarray) else codes(labels)
    sizes = np.unique(coded, return_counts=True)[1]
    return int((sizes * (sizes - 1) // 2).sum())


def pair_confusion(gold: Sequence[Hashable], found: Sequence[Hashable]) -> Confusion:
    """Two clusterings of the same rows, compared pair of rows by pair of rows."""
    gold_codes, found_codes = codes(gold), codes(found)
    together = pairs_within(_joint(gold_codes, found_codes))
    return Confusion(
        tp=together, fp=pairs_within(found_codes) - together, fn=pairs_within(gold_codes) - together
    )


def adjusted_rand(gold: Sequence[Hashable], found: Sequence[Hashable]) -> float | None:
    """The Rand index adjusted for chance (Hubert and Arabie 1985); None below two rows."""
    if len(gold) < 2:
        return None
    counted = pair_confusion(gold, found)
    in_gold, in_found = counted.tp + counted.fn, counted.tp + counted.fp
    expected = in_gold * in_found / (len(gold) * (len(gold) - 1) / 2)
    most = (in_gold + in_found) / 2
    # Both all singletons, or both one cluster: they agree and chance could not do otherwise.
    return 1.0 if most == expected else (counted.tp - expected) / (most - expected)


def _joint(a: Counts, b: Counts) -> Counts:
    return a * (int(b.max(initial=0)) + 1) + b
