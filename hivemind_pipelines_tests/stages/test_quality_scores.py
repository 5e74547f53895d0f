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


def test_only_items_whose_inputs_changed_are_computed(store: Store) -> None:
    first, second, third = insert_items(store, ["One note", "Another note", "A third note"])
    assert rescore(store).scored == 3
    assert rescore(store, as_of=NOW + timedelta(hours=1)).scored == 0
    insert_signal(store, first, "retrieval", created_at=NOW)
    set_item(store, second, helpful_count=3)
    assert rescore(store).scored == 2
    set_item(store, third, expired_at=NOW)
    assert rescore(store).scored == 0
    set_item(store, third, expired_at=None)
    assert rescore(store).scored == 1


def test_a_signal_that_commits_late_or_goes_is_seen(store: Store) -> None:
    item = insert_item(store, "A note", approved_at=NOW)
    rescore(store)
    late = insert_signal(store, item, "contradiction", created_at=NOW - timedelta(days=40))
    assert rescore(store).changed == 1
    assert score_of(store, item) == pytest.approx(0.35)
    execute(store, "DELETE FROM public.quality_signals WHERE id = :id", id=late)
    assert rescore(store).changed == 1
    assert score_of(store, item) == 0.5


def test_a_new_day_a_new_policy_and_a_passed_validity_make_items_due(store: Store) -> None:
    insert_item(store, "A note", approved_at=NOW)
    ending = insert_item(store, "An ending note", approved_at=NOW, invalid_at=NOW + timedelta(hours=2))
    rescore(store)
    assert rescore(store, as_of=NOW + timedelta(hours=3)).scored == 1
    assert score_of(store, ending) == pytest.approx(0.4, abs=0.001)
    assert rescore(store, as_of=NOW + timedelta(days=1)).scored == 2
    assert rescore(store, policy(quality={"half_life_days": 30.0}), NOW + timedelta(days=1)).scored == 2


def test_a_score_that_somebody_else_wrote_is_computed_again(store: Store) -> None:
    item = insert_item(store, "A note", approved_at=NOW)
    rescore(store)
    set_item(store, item, quality_score=0.9)
    assert (rescore(store).changed, score_of(store, item)) == (1, 0.5)


def test_the_inputs_of_items_that_are_no_longer_live_are_forgotten(store: Store) -> None:
    item = insert_item(store, "A note")
    rescore(store)
    set_item(store, item, deleted_at=NOW)
    rescore(store)
    assert rows(store, "SELECT * FROM distillation.quality_inputs") == []


def test_a_thousand_signals_on_one_item_count_each_once(store: Store) -> None:
    item = insert_item(store, "A note", approved_at=NOW - timedelta(days=300))
    execute(
        store,
        "INSERT INTO public.quality_signals (knowledge_item_id, signal_type, created_at)"
        " SELECT :id, CASE WHEN n % 4 = 0 THEN 'contradiction' ELSE 'retrieval' END,"
        " CAST(:at AS timestamptz) - n * interval '1 minute' FROM generate_series(1, 1000) AS n",
        id=item,
        at=NOW,
    )
    rescore(store)
    inputs = QualityInputs(
        signal_count=1000, contradiction_count=250, last_signal_at=NOW - timedelta(minutes=1)
    )
    assert score_of(store, item) == pytest.approx(quality.score(inputs, policy().quality, NOW), abs=1e-12)


def test_times_written_as_local_ones_are_at_most_now(store: Store) -> None:
    """A server that stores local time as UTC is hours ahead; its signals are fresh, not fresher."""
    item = insert_item(store, "A note", approved_at=NOW + timedelta(hours=14), quality_score=0.9)
    insert_signal(store, item, "outcome_solved", created_at=NOW + timedelta(hours=9))
    rescore(store)
    assert score_of(store, item) == 0.5


EXTREMES = [
    {"usefulness_weight": 0.0, "popularity_weight": 0.0, "freshness_weight": 0.0},
    {"usefulness_weight": 1.0, "popularity_weight": 0.0, "freshness_weight": 0.0},
    {"usefulness_weight": 0.0, "popularity_weight": 1.0, "freshness_weight": 0.0},
    {"usefulness_weight": 0.0, "popularity_weight": 0.0, "freshness_weight": 1.0},
    {"contradiction_weight": 1.0, "currency_bonus": 0.0},
    {"contradiction_weight": 0.0, "currency_bonus": 1.0},
    {"half_life_days": 1e-6, "popularity_scale": 1e-6},
    {"half_life_days": 36_500.0, "popularity_scale": 1e9, "prior_votes": 1e6},
    {"prior_votes": 0.0},
]


@pytest.mark.parametrize("section", EXTREMES)
def test_the_statement_is_the_reference_formula_at_the_extremes(
    store: Store, section: dict[str, float]
) -> None:
    """A table of items in one database: every row of it against `core.quality.score`."""
    ages = (0, 1, 90, 3650)
    expected: dict[ItemId, QualityInputs] = {}
    for number, (retrievals, helpful, not_helpful) in enumerate(
        [(0, 0, 0), (1, 1, 0), (50, 0, 1), (2**31 - 1, 2**31 - 1, 0), (0, 0, 2**31 - 1), (7, 3, 2)]
    ):
        for age in ages:
            item = insert_item(
                store, f"Note {number} of {age}", approved_at=NOW - timedelta(days=age),
                retrieval_count=retrievals, helpful_count=helpful, not_helpful_count=not_helpful,
                invalid_at=NOW if age == 90 else None,
            )  # fmt: skip
            kinds = ["contradiction"] * (number % 3) + ["contradiction_cluster"] * (age % 2)
            for kind in kinds:
                insert_signal(store, item, kind, created_at=NOW)
            expected[item] = QualityInputs(
                retrieval_count=retrievals, helpful_count=helpful, not_helpful_count=not_helpful,
                signal_count=number % 3, contradiction_count=number % 3,
                approved_at=NOW - timedelta(days=age), invalid_at=NOW if age == 90 else None,
            )  # fmt: skip
    chosen = policy(quality={"min_change": 0.0, **section})
    rescore(store, chosen)
    for item, inputs in expected.items():
        assert score_of(store, item) == pytest.approx(quality.score(inputs, chosen.quality, NOW), abs=1e-12)


def test_the_largest_moves_are_named_and_the_day_is_kept(store: Store) -> None:
    near = insert_item(store, "A near note", approved_at=NOW, quality_score=0.45)
    far = insert_item(store, "A far note", approved_at=NOW, quality_score=0.1)
    receipt = rescore(store)
    assert [(move.item_id, move.before, move.after) for move in receipt.largest] == [
        (far, 0.1, 0.5),
        (near, 0.45, 0.5),
    ]
    [day] = rows(store, "SELECT day, counts FROM distillation.quality_history")
    assert (day.day, day.counts[10], sum(day.counts)) == (NOW.date(), 2, 2)
    set_item(store, far, helpful_count=100)
    rescore(store)
    [day] = rows(store, "SELECT counts FROM distillation.quality_history")
    assert sum(day.counts[11:]) == 1


def test_a_collapse_is_seen_among_used_items_only(store: Store) -> None:
    items = insert_items(store, [f"Note {number}" for number in range(60)], approved_at=NOW)
    rescore(store)
    assert quality_scores.collapsed_orgs(store, policy()) == {}
    for item in items:
        set_item(store, item, retrieval_count=1)
    rescore(store)
    assert quality_scores.collapsed_orgs(store, policy()) == {"acme": 1.0}
    for number, item in enumerate(items):
        set_item(store, item, retrieval_count=number * 3)
    rescore(store)
    assert quality_scores.collapsed_orgs(store, policy()) == {}
