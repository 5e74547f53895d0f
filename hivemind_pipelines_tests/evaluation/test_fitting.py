"""Fitting: the signs hold, the optimum is one, the same data gives the same model."""

from dataclasses import replace
from uuid import uuid4

import numpy as np
import pytest

from hivemind_pipelines.core import calibration, matching
from hivemind_pipelines.core.calibration import SIMILARITIES
from hivemind_pipelines.core.model import Comparison, Discriminators, ItemId, MatchInput, Scope
from hivemind_pipelines.core.policy import MatchingPolicy
from hivemind_pipelines.evaluation import fitting
from hivemind_pipelines.evaluation.fitting import CEILINGS, Sample
from hivemind_pipelines.evaluation.metrics import Confusion
from hivemind_pipelines_tests.builders import unit_vector


def compared(a: str, b: str) -> Comparison:
    made = [
        MatchInput(
            item_id=ItemId(uuid4()), content_hash="", content=text, scope=Scope(), discriminators=Discriminators(),
            signature=np.zeros(8, dtype=np.uint32), vector=unit_vector(1),
        )
        for text in (a, b)
    ]  # fmt: skip
    return matching.compare(*made, MatchingPolicy())


SAME = compared("List all files: `ls -a`.", "List every file: `ls -a`.")
OTHER = compared("List all files: `ls -a`.", "List all files: `ls -A`.")


PER_PAIR = ("terms", "labels", "is_vetoed", "is_in_range", "is_same_normalised", "cosine")


def made_up(name: str, seed: int, count: int = 400) -> Sample:
    """Pairs whose cosine and number of replaced words decide, with some noise."""
    random = np.random.default_rng(seed)
    names = ("cosine", "far", "word", "helpful_noise")
    cosine, far = random.uniform(0.2, 1.0, count), (random.random(count) < 0.2).astype(float)
    words, noise = random.poisson(1.0, count).astype(float), random.normal(size=count)
    logits = 8.0 * cosine - 2.0 * words - 3.0 + 0.5 * noise
    labels = random.random(count) < 1.0 / (1.0 + np.exp(-logits))
    none = np.zeros(count, dtype=bool)
    return Sample(
        name=name,
        names=names,
        terms=np.column_stack((cosine, far, words, noise)),
        labels=labels,
        is_vetoed=random.random(count) < 0.1,
        is_in_range=~none,
        is_same_normalised=none,
        cosine=cosine,
        positives=int(labels.sum()),
    )


def test_no_weight_has_the_wrong_sign_whatever_the_data_say() -> None:
    model = fitting.fit([made_up("a", 1), made_up("b", 2)])
    weights = dict(zip(model.names, model.weights, strict=True))
    assert weights["cosine"] > 0.0
    assert weights["word"] <= CEILINGS["word"]
    # it speaks for duplicates in the data, and no term outside the similarities may
    assert weights["helpful_noise"] == 0.0


def test_the_fit_is_the_best_within_its_bounds() -> None:
    samples = [made_up("a", 3), made_up("b", 4)]
    model = fitting.fit(samples)

    def loss(bias: float, weights: np.ndarray) -> float:
        total = 0.5 * fitting.L2 * float(weights @ weights)
        for part in samples:
            keep = ~part.is_vetoed
            weigh = np.where(part.terms[keep, 1] > 0.0, fitting.FAR_WEIGHT, 1.0)
            logits = part.terms[keep] @ weights + bias
            errors = np.logaddexp(0.0, logits) - part.labels[keep] * logits
            total += float((weigh / weigh.sum() * errors).sum()) / len(samples)
        return total

    best = loss(model.bias, model.weights)
    random = np.random.default_rng(5)
    for _ in range(200):
        nudge = random.normal(scale=0.05, size=5)
        weights = model.weights + nudge[1:]
        weights = np.where([name in SIMILARITIES for name in model.names], np.maximum(weights, 0.0), weights)
        limits = [np.inf if name in SIMILARITIES else CEILINGS.get(name, 0.0) for name in model.names]
        assert loss(model.bias + nudge[0], np.minimum(weights, limits)) >= best - 1e-9


def test_a_handful_of_pairs_moves_the_model_less_than_a_full_data_set() -> None:
    large, against = made_up("a", 12), made_up("b", 13, count=1000)
    turned = replace(against, labels=~against.labels)
    few = fitting.FULL_WEIGHT_PAIRS // 20
    part = replace(turned, **{name: getattr(turned, name)[:few] for name in PER_PAIR})
    alone, with_few, with_many = (fitting.fit([large, *more]).weights[0] for more in ((), (part,), (turned,)))
    assert abs(with_few - alone) < abs(with_many - alone) / 4


def test_the_same_data_give_the_same_model() -> None:
    first, second = (fitting.fit([made_up("a", 6), made_up("b", 7)]) for _ in range(2))
    assert first.bias == second.bias
    assert np.array_equal(first.weights, second.weights)


def test_each_data_set_is_judged_by_the_model_of_the_others() -> None:
    samples = [made_up(name, seed) for name, seed in (("a", 8), ("b", 9), ("c", 10))]
    results = fitting.left_out(samples, MatchingPolicy())
    assert [result.name for result in results] == ["a", "b", "c"]
    alone = fitting.judge(fitting.fit(samples[1:]), samples[0], MatchingPolicy())
    assert results[0] == alone
    assert alone.auc is not None
    assert alone.cosine_auc is not None
    assert alone.auc > alone.cosine_auc
    assert fitting.left_out(samples[:1], MatchingPolicy()) == ()


def test_a_vetoed_pair_is_merged_by_no_model() -> None:
    part = made_up("a", 11)
    vetoed = Sample(
        **{name: getattr(part, name) for name in Sample.__slots__} | {"is_vetoed": np.ones(400, bool)}
    )
    judged = fitting.judge(fitting.fit([part]), vetoed, MatchingPolicy())
    assert (judged.counted.tp, judged.counted.fp, judged.counted.fn) == (0, 0, part.positives)


def test_the_document_is_what_calibration_reads() -> None:
    made = fitting.sample("a", [(SAME, True), (OTHER, False)], 1)
    assert made is not None
    assert made.is_vetoed.tolist() == [False, True]
    document = fitting.document(fitting.fit([made]), [made], ())
    assert list(document) == ["bias", "weights", "limits", "training"]
    assert set(document["weights"]) == set(calibration.terms(dict(SAME.scores)))  # type: ignore[call-overload]


def test_nothing_compared_is_no_sample() -> None:
    assert fitting.sample("a", [], 0) is None


@pytest.mark.parametrize("name", sorted(SIMILARITIES | CEILINGS.keys()))
def test_every_bound_is_of_a_term_that_exists(name: str) -> None:
    assert name in calibration.terms(dict(SAME.scores))


def test_pairs_of_one_class_count_without_having_been_compared() -> None:
    part = made_up("a", 7)
    alike = Confusion(tp=30, fp=2, fn=0)
    known = replace(part, alike=alike, positives=part.positives + 30)
    model = fitting.fit([part])
    alone, with_class = (fitting.judge(model, one, MatchingPolicy()).counted for one in (part, known))
    assert (with_class.tp, with_class.fp, with_class.fn) == (alone.tp + 30, alone.fp + 2, alone.fn)
