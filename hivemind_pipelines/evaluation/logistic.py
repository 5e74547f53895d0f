"""Logistic regression whose weights stay within bounds, so that no data set teaches a sign that is absurd."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

STEPS_MAX = 100
STEP_MIN = 1e-6
SWEEPS_MAX = 500
DIGITS = 4


@dataclass(frozen=True, slots=True)
class Model:
    """A bias and a weight for each named term, in order."""

    names: tuple[str, ...]
    bias: float
    weights: Floats

    def probability(self, terms: Floats) -> Floats:
        """The chance of each row of shape (n, k) to be of the class looked for."""
        chance: Floats = 1.0 / (1.0 + np.exp(-np.clip(terms @ self.weights + self.bias, -30.0, 30.0)))
        return chance

    def document(self) -> dict[str, object]:
        """Bias and weights as they are shipped."""
        weights = {
            name: round(float(value), DIGITS) + 0.0
            for name, value in zip(self.names, self.weights, strict=True)
        }
        return {"bias": round(self.bias, DIGITS), "weights": weights}


def fit(
    names: Sequence[str],
    terms: Floats,
    labels: Floats,
    weights: Floats,
    *,
    bounds: tuple[Floats, Floats],
    l2: float,
) -> Model:
    """The model of rows of shape (n, k) with weights that sum to one; the bias is free and not penalised."""
    design = np.column_stack((np.ones(len(terms)), terms))
    lower, upper = (
        np.concatenate(([limit], side)) for limit, side in zip((-np.inf, np.inf), bounds, strict=True)
    )
    found = _solve(design, labels, weights, lower, upper, l2)
    return Model(tuple(names), float(found[0]), found[1:])


def _solve(
    design: Floats, labels: Floats, weights: Floats, lower: Floats, upper: Floats, l2: float
) -> Floats:
    """Projected Newton steps on the penalised log-loss until none moves a weight noticeably."""
    penalty = np.full(design.shape[1], l2)
    penalty[0] = 0.0
    now = np.clip(np.zeros(design.shape[1]), lower, upper)
    loss = _loss(design, labels, weights, penalty, now)
    for _ in range(STEPS_MAX):
        chance = 1.0 / (1.0 + np.exp(-np.clip(design @ now, -30.0, 30.0)))
        gradient = design.T @ (weights * (chance - labels)) + penalty * now
        curvature = (design * (weights * chance * (1.0 - chance))[:, None]).T @ design
        # A term that no pair has would leave its own row empty.
        curvature += np.diag(penalty + 1e-12)
        step = _box_minimum(curvature, gradient, now, lower, upper) - now
        size = 1.0
        while size > STEP_MIN and _loss(design, labels, weights, penalty, now + size * step) > loss:
            size /= 2.0
        now = now + size * step
        loss = _loss(design, labels, weights, penalty, now)
        if float(np.abs(size * step).max()) < STEP_MIN:
            break
    return now


def _loss(design: Floats, labels: Floats, weights: Floats, penalty: Floats, at: Floats) -> float:
    logits = design @ at
    return float(
        (weights * (np.logaddexp(0.0, logits) - labels * logits)).sum() + 0.5 * (penalty * at**2).sum()
    )


def _box_minimum(curvature: Floats, gradient: Floats, now: Floats, lower: Floats, upper: Floats) -> Floats:
    """The minimum of the quadratic model within the bounds, coordinate by coordinate."""
    found = now.copy()
    slope = gradient.copy()
    for _ in range(SWEEPS_MAX):
        largest = 0.0
        for place in range(len(found)):
            wanted = found[place] - slope[place] / curvature[place, place]
            moved = float(np.clip(wanted, lower[place], upper[place])) - found[place]
            if moved:
                found[place] += moved
                slope += moved * curvature[place]
                largest = max(largest, abs(moved))
        if largest < STEP_MIN / 10.0:
            break
    return found
