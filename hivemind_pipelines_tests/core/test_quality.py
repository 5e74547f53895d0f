import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_pipelines.core.policy import QualityPolicy
from hivemind_pipelines.core.quality import QualityInputs, preliminary_score, score

NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)
POLICY = QualityPolicy()
SEED = QualityPolicy(prior_votes=0.0)

counts = st.integers(min_value=0, max_value=10**9)
moments = st.none() | st.datetimes(timezones=st.none() | st.just(UTC))


def seed_formula(
    *, helpful: int, not_helpful: int, retrievals: int, days: float, rate: float, is_current: bool
) -> float:
    votes = helpful + not_helpful
    usefulness = helpful / votes if votes else 0.0
    value = 0.40 * usefulness + 0.25 * math.tanh(retrievals / 50)
    value += 0.20 * math.exp(-math.log(2) * days / 90) - 0.15 * rate + (0.1 if is_current else 0.0)
    return max(0.0, min(1.0, value))


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (QualityInputs(), 0.5),
        (QualityInputs(approved_at=NOW), 0.5),
        (QualityInputs(approved_at=NOW - timedelta(days=90)), 0.4),
        (QualityInputs(invalid_at=NOW), 0.4),
        (QualityInputs(invalid_at=NOW + timedelta(seconds=1)), 0.5),
        (QualityInputs(helpful_count=5), 0.6),
        (QualityInputs(not_helpful_count=5), 0.4),
        (QualityInputs(retrieval_count=50), 0.5 + 0.25 * math.tanh(1)),
        (QualityInputs(signal_count=4, contradiction_count=1), 0.4625),
        (QualityInputs(signal_count=1, contradiction_count=1), 0.35),
        (QualityInputs(last_signal_at=NOW, approved_at=NOW - timedelta(days=900)), 0.5),
        (QualityInputs(helpful_count=10**9, retrieval_count=10**9), 0.95),
    ],
)
def test_golden_table_of_the_shipped_policy(inputs: QualityInputs, expected: float) -> None:
    assert score(inputs, POLICY, NOW) == pytest.approx(expected, abs=1e-9)


def test_untouched_new_item_scores_exactly_one_half() -> None:
    assert score(QualityInputs(approved_at=NOW), POLICY, NOW) == 0.5


@given(
    helpful=counts,
    not_helpful=counts,
    retrievals=counts,
    days=st.floats(0, 20_000),
    contradictions=counts,
    others=counts,
    is_current=st.booleans(),
)
def test_without_a_prior_the_score_is_the_seeds_own(
    helpful: int,
    not_helpful: int,
    retrievals: int,
    days: float,
    contradictions: int,
    others: int,
    is_current: bool,
) -> None:
    accessed_at = NOW - timedelta(days=days)
    inputs = QualityInputs(
        retrieval_count=retrievals,
        helpful_count=helpful,
        not_helpful_count=not_helpful,
        signal_count=contradictions + others,
        contradiction_count=contradictions,
        last_signal_at=accessed_at,
        invalid_at=None if is_current else NOW,
    )
    signals = contradictions + others
    expected = seed_formula(
        helpful=helpful,
        not_helpful=not_helpful,
        retrievals=retrievals,
        days=(NOW - accessed_at).total_seconds() / 86_400,
        rate=contradictions / signals if signals else 0.0,
        is_current=is_current,
    )
    assert abs(score(inputs, SEED, NOW) - expected) <= 1e-12


@given(
    inputs=st.builds(
        QualityInputs,
        retrieval_count=counts,
        helpful_count=counts,
        not_helpful_count=counts,
        signal_count=counts,
        contradiction_count=counts,
        last_signal_at=moments,
        approved_at=moments,
        invalid_at=moments,
    ),
    prior=st.floats(0, 1e6),
    half_life=st.floats(min_value=1e-6, max_value=36_500),
    weights=st.lists(st.floats(0, 1 / 3), min_size=3, max_size=3),
    extremes=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_every_score_is_finite_and_between_zero_and_one(
    inputs: QualityInputs,
    prior: float,
    half_life: float,
    weights: list[float],
    extremes: tuple[float, float],
) -> None:
    policy = QualityPolicy(
        prior_votes=prior,
        half_life_days=half_life,
        usefulness_weight=weights[0],
        popularity_weight=weights[1],
        freshness_weight=weights[2],
        contradiction_weight=extremes[0],
        currency_bonus=extremes[1],
    )
    value = score(inputs, policy, NOW)
    assert math.isfinite(value)
    assert 0.0 <= value <= 1.0


def test_access_in_the_future_counts_as_now() -> None:
    future = QualityInputs(last_signal_at=datetime(9999, 12, 31, tzinfo=UTC))
    assert score(future, POLICY, NOW) == score(QualityInputs(), POLICY, NOW)


def test_naive_times_are_read_as_utc() -> None:
    naive = QualityInputs(last_signal_at=datetime(2025, 5, 1), invalid_at=datetime(2025, 7, 1))  # noqa: DTZ001
    aware = QualityInputs(
        last_signal_at=datetime(2025, 5, 1, tzinfo=UTC), invalid_at=datetime(2025, 7, 1, tzinfo=UTC)
    )
    assert score(naive, POLICY, NOW) == score(aware, POLICY, NOW)


@given(counts, counts)
def test_a_helpful_vote_never_lowers_the_score(helpful: int, not_helpful: int) -> None:
    before = QualityInputs(helpful_count=helpful, not_helpful_count=not_helpful)
    after = QualityInputs(helpful_count=helpful + 1, not_helpful_count=not_helpful)
    assert score(after, POLICY, NOW) >= score(before, POLICY, NOW) - 1e-12


@pytest.mark.parametrize(
    ("confidence", "expected"),
    [(1.0, 0.3), (0.8, 0.27), (1 / 3, 0.2), (0.0, 0.15), (-4.0, 0.15), (7.0, 0.3)],
)
def test_preliminary_score_counts_doubt_as_contradiction(confidence: float, expected: float) -> None:
    assert preliminary_score(confidence, POLICY) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("confidence", [math.nan, math.inf, -math.inf])
def test_confidence_that_is_no_number_counts_as_none(confidence: float) -> None:
    assert preliminary_score(confidence, POLICY) == preliminary_score(0.0, POLICY)
