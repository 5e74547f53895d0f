"""quality_scores: the set-based statement against the reference formula, on a real Postgres."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from hivemind_pipelines.core import quality
from hivemind_pipelines.core.model import ItemId, RunId
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.core.quality import QualityInputs
from hivemind_pipelines.core.receipts import QualityReceipt
from hivemind_pipelines.stages import quality_scores
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import (
    execute,
    insert_item,
    insert_items,
    insert_signal,
    public_dump,
    read_item,
    rows,
    scalar,
    set_item,
)
from hivemind_pipelines_tests.stages.commons import NOW, distil, policy

FIX = "Set the pool timeout to avoid stale connections after a database failover"


def rescore(store: Store, under: DistillationPolicy | None = None, as_of: datetime = NOW) -> QualityReceipt:
    """One run over all orgs."""
    return quality_scores.run(store, as_of, under or policy(), RunId(uuid4()))


def score_of(store: Store, item_id: ItemId) -> float:
    """The stored score."""
    return float(read_item(store, item_id)["quality_score"])


def test_an_untouched_new_item_scores_exactly_one_half(store: Store) -> None:
    item = insert_item(store, "A note", approved_at=NOW, quality_score=0.1)
    rescore(store)
    assert score_of(store, item) == 0.5


@pytest.mark.parametrize("prior", [0.0, 5.0])
@pytest.mark.parametrize(
    (
        "retrievals",
        "helpful",
        "not_helpful",
        "contradictions",
        "cluster_signals",
        "accessed_days_ago",
        "is_current",
    ),
    [
        (0, 0, 0, 0, 0, None, True),
        (50, 3, 1, 0, 0, 10, True),
        (500, 40, 2, 2, 3, 90, False),
        (1, 0, 9, 5, 0, 400, True),
        (10, 1, 0, 1, 1, 0, False),
    ],
)
def test_the_statement_agrees_with_the_reference_formula(
    store: Store,
    prior: float,
    retrievals: int,
    helpful: int,
    not_helpful: int,
    contradictions: int,
    cluster_signals: int,
    accessed_days_ago: int | None,
    is_current: bool,
) -> None:
    approved = NOW - timedelta(days=30)
    item = insert_item(
        store,
        "A note",
        approved_at=approved,
        retrieval_count=retrievals,
        helpful_count=helpful,
        not_helpful_count=not_helpful,
        quality_score=0.99,
        invalid_at=None if is_current else NOW,
    )
    for _ in range(contradictions):
        insert_signal(store, item, "contradiction", created_at=NOW)
    for _ in range(cluster_signals):
        insert_signal(store, item, "contradiction_cluster", created_at=NOW)
    accesses = (
        [] if accessed_days_ago is None else [NOW - timedelta(days=accessed_days_ago + age) for age in (0, 5)]
    )
    for kind, at in zip(("retrieval", "outcome_solved"), accesses, strict=False):
        insert_signal(store, item, kind, created_at=at)
    chosen = policy(quality={"prior_votes": prior, "min_change": 0.0})
    rescore(store, chosen)
    inputs = QualityInputs(
        retrieval_count=retrievals,
        helpful_count=helpful,
        not_helpful_count=not_helpful,
        contradiction_count=contradictions,
        signal_count=contradictions + len(accesses),
        last_signal_at=accesses[0] if accesses else None,
        approved_at=approved,
        invalid_at=None if is_current else NOW,
    )
    assert score_of(store, item) == pytest.approx(quality.score(inputs, chosen.quality, NOW), abs=1e-12)


def test_counters_of_merged_items_count_for_their_canonical(store: Store) -> None:
    kept = insert_item(store, FIX, quality_score=0.9, helpful_count=2, retrieval_count=10, approved_at=NOW)
    insert_item(store, f"{FIX}.", helpful_count=3, retrieval_count=40, not_helpful_count=1, approved_at=NOW)
    distil(store)
    rescore(store)
    inputs = QualityInputs(
        retrieval_count=50,
        helpful_count=5,
        not_helpful_count=1,
        approved_at=NOW,
        contradiction_count=0,
        signal_count=0,
        invalid_at=None,
    )
    assert score_of(store, kept) == pytest.approx(quality.score(inputs, policy().quality, NOW), abs=1e-12)


def test_a_second_run_writes_no_item(store: Store) -> None:
    insert_items(store, ["One note", "Another note"])
    rescore(store)
    before = public_dump(store)["knowledge_items"]
    receipt = rescore(store)
    assert (receipt.changed, receipt.outcome) == (0, "nothing_due")
    assert public_dump(store)["knowledge_items"] == before


def test_a_score_that_moves_less_than_the_minimum_stays(store: Store) -> None:
    item = insert_item(store, "A note", approved_at=NOW, quality_score=0.5005)
    assert rescore(store).changed == 0
    assert score_of(store, item) == 0.5005


@pytest.mark.parametrize("score", [float("nan"), 7.0, -1.0])
def test_a_score_that_is_none_is_replaced(store: Store, score: float) -> None:
    item = insert_item(store, "A note", approved_at=NOW, quality_score=score)
    rescore(store)
    assert score_of(store, item) == 0.5


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "20000-01-01 UTC"])
def test_times_beyond_all_bounds_harm_nothing(store: Store, moment: str) -> None:
    odd = insert_item(store, "An odd note", approved_at=NOW)
    other = insert_item(store, "A note", approved_at=NOW, quality_score=0.1)
    execute(
        store,
        "UPDATE public.knowledge_items SET approved_at = CAST(:at AS timestamptz) WHERE id = :id",
        at=moment,
        id=odd,
    )
    rescore(store)
    assert score_of(store, other) == 0.5
    score = scalar(store, "SELECT quality_score FROM public.knowledge_items WHERE id = :id", id=odd)
    assert 0.0 <= score <= 1.0


def test_a_future_access_counts_as_now(store: Store) -> None:
    item = insert_item(store, "A note", approved_at=NOW - timedelta(days=300), quality_score=0.9)
    insert_signal(store, item, "retrieval", created_at=datetime(2030, 1, 1, tzinfo=UTC))
    rescore(store)
    assert score_of(store, item) == pytest.approx(0.5)


def test_expired_and_deleted_items_keep_their_score(store: Store) -> None:
    expired = insert_item(store, "One", expired_at=NOW, quality_score=0.9)
    deleted = insert_item(store, "Two", deleted_at=NOW, quality_score=0.9)
    rescore(store)
    assert (score_of(store, expired), score_of(store, deleted)) == (0.9, 0.9)


def test_every_score_that_moved_is_in_the_ledger_and_the_key_is_written(store: Store) -> None:
    item = insert_item(store, "A note", approved_at=NOW, quality_score=0.1)
    rescore(store)
    [entry] = rows(store, "SELECT change, subject_id, before, after FROM distillation.ledger")
    assert (entry.change, entry.subject_id) == ("rescore", item)
    assert (entry.before, entry.after) == ({"quality_score": 0.1}, {"quality_score": 0.5})
    value = scalar(
        store, "SELECT value FROM public.deployment_config WHERE key = 'quality_aggregation_last_run'"
    )
    assert datetime.fromisoformat(value) == NOW


def test_other_weights_reach_their_extremes(store: Store) -> None:
    item = insert_item(store, "A note", approved_at=NOW, helpful_count=1_000_000)
    only_votes = {
        "usefulness_weight": 1.0,
        "popularity_weight": 0.0,
        "freshness_weight": 0.0,
        "prior_votes": 0.0,
    }
    rescore(store, policy(quality=only_votes | {"contradiction_weight": 1.0, "currency_bonus": 1.0}))
    assert score_of(store, item) == 1.0
    set_item(store, item, helpful_count=0, not_helpful_count=1)
    insert_signal(store, item, "contradiction", created_at=NOW)
    rescore(store, policy(quality=only_votes | {"contradiction_weight": 1.0, "currency_bonus": 0.0}))
    assert score_of(store, item) == 0.0
