"""Measures against oracles that count one by one."""

from collections.abc import Sequence
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hivemind_pipelines.evaluation.metrics import (
    Confusion,
    adjusted_rand,
    auc,
    confusion,
    pair_confusion,
    pairs_within,
    precision_recall,
    recall_at_precision,
)

SCORED = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.5, 0.9, 1.0]), st.booleans()), max_size=30)
CLUSTERED = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=25)


def auc_by_pairs(scored: Sequence[tuple[float, bool]]) -> float | None:
    ups = [score for score, label in scored if label]
    downs = [score for score, label in scored if not label]
    if not ups or not downs:
        return None
    return sum((up > down) + 0.5 * (up == down) for up in ups for down in downs) / (len(ups) * len(downs))


def recall_by_threshold(scored: Sequence[tuple[float, bool]], precision_min: float) -> float:
    best = 0.0
    for threshold, _ in scored:
        called = [label for score, label in scored if score >= threshold]
        if sum(called) >= precision_min * len(called):
            best = max(best, sum(called) / max(1, sum(label for _, label in scored)))
    return best


def pairs_one_by_one(rows: Sequence[tuple[int, int]]) -> Confusion:
    tp = fp = fn = 0
    for (gold_a, found_a), (gold_b, found_b) in combinations(rows, 2):
        tp += gold_a == gold_b and found_a == found_b
        fp += gold_a != gold_b and found_a == found_b
        fn += gold_a == gold_b and found_a != found_b
    return Confusion(tp, fp, fn)


def rand_from_the_table(rows: Sequence[tuple[int, int]]) -> float:
    """The textbook formula over the contingency table."""

    def chosen(labels: Sequence[object]) -> int:
        return sum(comb(labels.count(label), 2) for label in set(labels))

    joint, gold, found = chosen(rows), chosen([a for a, _ in rows]), chosen([b for _, b in rows])
    expected = gold * found / comb(len(rows), 2)
    most = (gold + found) / 2
    return 1.0 if most == expected else (joint - expected) / (most - expected)


@given(SCORED)
def test_auc_is_the_chance_that_a_positive_stands_above_a_negative(
    scored: list[tuple[float, bool]],
) -> None:
    found = auc([score for score, _ in scored], [label for _, label in scored])
    assert found == pytest.approx(auc_by_pairs(scored))


@given(SCORED, st.sampled_from([0.5, 0.75, 0.99, 1.0]))
def test_recall_at_a_precision_tries_every_threshold(
    scored: list[tuple[float, bool]], precision_min: float
) -> None:
    curve = precision_recall([score for score, _ in scored], [label for _, label in scored])
    assert recall_at_precision(curve, precision_min) == pytest.approx(
        recall_by_threshold(scored, precision_min)
    )


def test_positives_without_a_score_lower_recall_only() -> None:
    curve = precision_recall([0.9, 0.8, 0.1], [True, False, True], positives=4)
    assert curve.recall.tolist() == [0.25, 0.25, 0.5]
    assert curve.precision.tolist() == pytest.approx([1.0, 0.5, 2 / 3])


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.booleans(), st.integers(0, 3)), max_size=12))
def test_counts_stand_for_repeated_entries(entries: list[tuple[float, bool, int]]) -> None:
    scores, labels, counts = zip(*entries, strict=True) if entries else ((), (), ())
    spelled_out = [(score, label) for score, label, count in entries for _ in range(count)]
    counted = precision_recall(scores, labels, counts=counts)
    repeated = precision_recall([score for score, _ in spelled_out], [label for _, label in spelled_out])
    for name in ("thresholds", "precision", "recall"):
        assert getattr(counted, name).tolist() == getattr(repeated, name).tolist()


@given(CLUSTERED)
def test_pairs_of_clusterings_are_counted_as_if_one_by_one(rows: list[tuple[int, int]]) -> None:
    found = pair_confusion([gold for gold, _ in rows], [cluster for _, cluster in rows])
    assert found == pairs_one_by_one(rows)


@given(CLUSTERED)
def test_the_adjusted_rand_index_is_the_textbook_one(rows: list[tuple[int, int]]) -> None:
    found = adjusted_rand([gold for gold, _ in rows], [cluster for _, cluster in rows])
    assert found == pytest.approx(rand_from_the_table(rows))


@settings(max_examples=20)
@given(st.permutations(list(range(6))))
def test_names_of_clusters_do_not_matter(names: list[int]) -> None:
    gold = [0, 0, 1, 1, 2, 3, 4, 5]
    assert adjusted_rand(gold, [names[label] for label in gold]) == 1.0
    assert pair_confusion(gold, [f"{names[label]}" for label in gold]) == Confusion(2, 0, 0)


def test_what_is_not_defined_is_none() -> None:
    nothing = confusion([False, False], [False, False])
    assert nothing.figures() == {"precision": None, "recall": None, "f1": None}
    assert auc([0.3, 0.4], [True, True]) is None
    assert adjusted_rand(["a"], ["a"]) is None
    assert pairs_within([]) == 0
    # labels of several parts are labels, not parts
    assert pairs_within([("f", "a"), ("f", "b"), ("f", "a")]) == 1
    assert recall_at_precision(precision_recall([], []), 0.99) == 0.0


def test_decisions_against_labels() -> None:
    counted = confusion(np.array([1, 1, 0, 0]), np.array([1, 0, 1, 0]))
    assert counted == Confusion(tp=1, fp=1, fn=1)
    assert counted.figures() == {"precision": 0.5, "recall": 0.5, "f1": 0.5}
