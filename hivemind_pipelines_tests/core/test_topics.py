import time
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_pipelines.core.changes import DissolveTopic, PlaceTopic
from hivemind_pipelines.core.model import Category, ItemId, OrgId, Scope, TopicCluster, TopicItem, Vectors
from hivemind_pipelines.core.policy import (
    DistillationPolicy,
    PiiPolicy,
    SafetyPolicy,
    SummaryPolicy,
    TopicsPolicy,
)
from hivemind_pipelines.core.topics import clusters, fingerprint, plan_topics

ORG = OrgId("acme")
POLICY = DistillationPolicy()
MODEL = "claude"
NO_SCOPE = Scope()


def topic_item(number: int, category: Category = Category.CONFIG, scope: Scope = NO_SCOPE) -> TopicItem:
    return TopicItem(ItemId(UUID(int=number)), f"{number:064x}", category, scope)


def around(*centres: int, noise: float = 0.02, seed: int = 0) -> Vectors:
    """Unit rows near the axis of each number; equal numbers are related."""
    rows = np.random.default_rng(seed).normal(0, noise, (len(centres), 384)).astype(np.float32)
    rows[np.arange(len(centres)), list(centres)] += 1
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def found(
    items: Sequence[TopicItem], vectors: Vectors, policy: DistillationPolicy = POLICY
) -> tuple[TopicCluster, ...]:
    return clusters(items, vectors, org_id=ORG, policy=policy, model=MODEL)


def sizes(items: Sequence[TopicItem], vectors: Vectors) -> list[int]:
    return sorted(len(cluster.source_ids) for cluster in found(items, vectors))


def test_three_related_items_are_a_topic_and_two_are_not() -> None:
    items = [topic_item(number) for number in range(5)]
    (cluster,) = found(items, around(0, 0, 0, 1, 1))
    assert cluster.source_ids == tuple(item.id for item in items[:3])
    assert cluster.source_hashes == tuple(item.content_hash for item in items[:3])
    assert cluster.medoid_id in cluster.source_ids


def test_categories_do_not_mix() -> None:
    items = [topic_item(0), topic_item(1), topic_item(2, Category.TOOLING)]
    assert found(items, around(0, 0, 0)) == ()


@pytest.mark.parametrize(
    "other", [Scope(version="2"), Scope(framework="django"), Scope(language="go"), Scope()]
)
def test_scopes_do_not_mix_not_even_with_none(other: Scope) -> None:
    scope = Scope("flask", "python", "1")
    items = [topic_item(0, scope=scope), topic_item(1, scope=scope), topic_item(2, scope=other)]
    assert found(items, around(0, 0, 0)) == ()
    assert len(found([replace(item, scope=scope) for item in items], around(0, 0, 0))) == 1


def test_items_without_a_vector_are_in_no_topic() -> None:
    vectors = around(0, 0, 0, 0)
    vectors[3] = 0
    assert sizes([topic_item(number) for number in range(4)], vectors) == [3]


def test_a_large_family_is_split() -> None:
    assert sizes([topic_item(number) for number in range(30)], around(*[0] * 30)) == [6, 12, 12]


def test_rows_that_do_not_align_are_refused() -> None:
    with pytest.raises(ValueError, match="2 items but 1 vectors"):
        found([topic_item(0), topic_item(1)], around(0))


families = st.lists(st.integers(0, 5), max_size=40)


@given(families, st.randoms(use_true_random=False))
def test_the_plan_does_not_depend_on_the_order_of_items(centres: list[int], random) -> None:  # type: ignore[no-untyped-def]
    items = [topic_item(number) for number in range(len(centres))]
    vectors = around(*centres) if centres else np.empty((0, 384), dtype=np.float32)
    order = list(range(len(items)))
    random.shuffle(order)
    shuffled = found([items[row] for row in order], vectors[order])
    assert set(shuffled) == set(found(items, vectors))


@given(families, st.integers(0, 1_000))
def test_an_unrelated_item_moves_no_other_topic(centres: list[int], number: int) -> None:
    items = [topic_item(2 * position) for position in range(len(centres))]
    before = found(items, around(*centres)) if centres else ()
    vectors = np.concatenate([around(*centres), around(99)]) if centres else around(99)
    assert set(found([*items, topic_item(2 * number + 1)], vectors)) == set(before)


@given(families)
def test_planning_against_the_applied_state_gives_nothing(centres: list[int]) -> None:
    items = [topic_item(number) for number in range(len(centres))]
    vectors = around(*centres) if centres else np.empty((0, 384), dtype=np.float32)
    current: set[str] = {"0" * 64}
    for change in plan_topics(items, vectors, org_id=ORG, current=current, policy=POLICY, model=MODEL):
        match change:
            case PlaceTopic(cluster):
                current.add(cluster.fingerprint)
            case DissolveTopic(gone):
                current.remove(gone)
    assert plan_topics(items, vectors, org_id=ORG, current=current, policy=POLICY, model=MODEL) == ()


def test_topics_are_dissolved_before_their_members_are_placed_again() -> None:
    items = [topic_item(number) for number in range(3)]
    plan = plan_topics(items, around(0, 0, 0), org_id=ORG, current=["gone"], policy=POLICY, model=MODEL)
    assert [type(change) for change in plan] == [DissolveTopic, PlaceTopic]


SOURCES = [(ItemId(UUID(int=number)), str(number)) for number in range(3)]
PRINT = fingerprint(ORG, SOURCES, POLICY, MODEL)


def test_a_fingerprint_does_not_depend_on_the_order_of_sources() -> None:
    assert fingerprint(ORG, reversed(SOURCES), POLICY, MODEL) == PRINT
    assert len(PRINT) == 64


@pytest.mark.parametrize(
    "policy",
    [
        DistillationPolicy(summary=SummaryPolicy(method="extractive")),
        DistillationPolicy(summary=SummaryPolicy(prompt_version="summary-2")),
        DistillationPolicy(summary=SummaryPolicy(sentences_max=4)),
        DistillationPolicy(summary=SummaryPolicy(characters_max=1_000)),
        DistillationPolicy(topics=TopicsPolicy(distance_max=0.2)),
    ],
)
def test_what_shapes_the_text_changes_the_fingerprint(policy: DistillationPolicy) -> None:
    assert fingerprint(ORG, SOURCES, policy, MODEL) != PRINT


@pytest.mark.parametrize(
    "policy",
    [
        DistillationPolicy(pii=PiiPolicy(detect_persons=False)),
        DistillationPolicy(safety=SafetyPolicy(llm_calls_per_run_max=1)),
        DistillationPolicy(summary=SummaryPolicy(quality_score=0.5, confidence=0.5, output_tokens_max=99)),
    ],
)
def test_what_does_not_shape_the_text_does_not_change_the_fingerprint(policy: DistillationPolicy) -> None:
    assert fingerprint(ORG, SOURCES, policy, MODEL) == PRINT


def test_another_org_model_source_or_version_of_a_source_is_another_fingerprint() -> None:
    others = {
        fingerprint(OrgId("other"), SOURCES, POLICY, MODEL),
        fingerprint(ORG, SOURCES, POLICY, "other"),
        fingerprint(ORG, SOURCES[:2], POLICY, MODEL),
        fingerprint(ORG, [*SOURCES[:2], (SOURCES[2][0], "edited")], POLICY, MODEL),
    }
    assert len(others | {PRINT}) == 5


def test_five_thousand_items_of_one_category_take_seconds() -> None:
    centres = [number % 380 for number in range(5_000)]
    items = [topic_item(number) for number in range(5_000)]
    vectors = around(*centres)
    started = time.perf_counter()
    placed = found(items, vectors)
    assert time.perf_counter() - started < 20
    assert sum(len(cluster.source_ids) for cluster in placed) > 4_000
