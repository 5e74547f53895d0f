"""Clustering: stars without chains, one canonical each, and plans that end in nothing left to do."""

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import networkx as nx
from hypothesis import given, settings
from hypothesis import strategies as st

from hivemind_pipelines.core.changes import Merge, Unmerge
from hivemind_pipelines.core.clustering import CANONICAL_GONE, UNSUPPORTED, duplicate_clusters, plan_merges
from hivemind_pipelines.core.model import ItemId, PairEdge, PoolItem
from hivemind_pipelines.core.policy import MatchingPolicy
from hivemind_pipelines.core.survivorship import order_key

POLICY = MatchingPolicy()


def item(number: int, *, key: int | None = None, quality: float = 0.5, **rest: object) -> PoolItem:
    fields = {
        "id": ItemId(UUID(int=number)),
        "class_key": (number if key is None else key).to_bytes(32, "big"),
        "content_hash": f"hash-{number}",
        "is_public": False,
        "quality_score": quality,
        "confidence": 0.8,
        "contributed_at": datetime(2024, 1, 1, tzinfo=UTC),
    }
    return PoolItem(**(fields | rest))  # type: ignore[arg-type]


def edge(a: int, b: int, *, decision: str = "duplicate", vetoed: bool = False) -> PairEdge:
    a, b = sorted((a, b))
    return PairEdge(ItemId(UUID(int=a)), ItemId(UUID(int=b)), decision, 0.99, vetoed)  # type: ignore[arg-type]


def applied(pool: Sequence[PoolItem], plan: Sequence[Merge | Unmerge], *, settled: bool) -> list[PoolItem]:
    today = {one.id: one for one in pool}
    for change in plan:
        canonical_id = change.canonical_id if isinstance(change, Merge) else None
        today[change.duplicate_id] = replace(today[change.duplicate_id], canonical_id=canonical_id)
    return [replace(one, settled=settled) for one in today.values()]


def canonical_numbers(pool: Sequence[PoolItem], plan: Sequence[Merge | Unmerge]) -> dict[int, int | None]:
    return {
        one.id.int: one.canonical_id.int if one.canonical_id else None
        for one in applied(pool, plan, settled=True)
    }


def test_equal_classes_merge_into_the_best_item() -> None:
    pool = [item(1, key=9), item(2, key=9, quality=0.9), item(3, key=9), item(4)]

    assert canonical_numbers(pool, plan_merges(pool, [], POLICY)) == {1: 2, 2: None, 3: 2, 4: None}


def test_a_chain_does_not_merge_its_ends() -> None:
    pool = [item(1, quality=0.9), item(2), item(3, quality=0.1)]

    plan = plan_merges(pool, [edge(1, 2), edge(2, 3)], POLICY)

    assert canonical_numbers(pool, plan) == {1: None, 2: 1, 3: None}


def test_a_merge_carries_both_hashes() -> None:
    (merge,) = plan_merges([item(1, quality=0.9), item(2)], [edge(1, 2)], POLICY)

    assert merge == Merge(ItemId(UUID(int=2)), "hash-2", ItemId(UUID(int=1)), "hash-1")


def test_only_duplicate_edges_tie() -> None:
    pool = [item(1), item(2), item(3)]

    assert plan_merges(pool, [edge(1, 2, decision="possible"), edge(2, 3, decision="distinct")], POLICY) == ()


def test_a_veto_inside_a_star_keeps_the_lower_class_out() -> None:
    pool = [item(1, quality=0.9), item(2, quality=0.8), item(3, quality=0.7)]

    plan = plan_merges(pool, [edge(1, 2), edge(1, 3), edge(2, 3, vetoed=True)], POLICY)

    assert canonical_numbers(pool, plan) == {1: None, 2: 1, 3: None}


def test_a_veto_beats_a_duplicate_edge_between_the_same_classes() -> None:
    pool = [item(1, key=7), item(2, key=7), item(3, key=8), item(4, key=8)]

    plan = plan_merges(pool, [edge(1, 3), edge(2, 4, vetoed=True)], POLICY)

    assert canonical_numbers(pool, plan) == {1: None, 2: 1, 3: None, 4: 3}


def test_a_veto_parts_two_items_of_one_class_only() -> None:
    pool = [item(1, key=7), item(2, key=7), item(3, key=7)]

    plan = plan_merges(pool, [edge(1, 2, vetoed=True)], POLICY)

    assert canonical_numbers(pool, plan) == {1: None, 2: None, 3: 1}


def test_an_edge_between_items_lifts_to_their_classes() -> None:
    pool = [item(1, key=7, quality=0.9), item(2, key=7), item(3, key=8), item(4, key=8)]

    assert canonical_numbers(pool, plan_merges(pool, [edge(2, 3)], POLICY)) == {1: None, 2: 1, 3: 1, 4: 1}


def test_a_star_stops_at_the_largest_size() -> None:
    pool = [item(number, key=1) for number in range(1, 8)]

    clusters = duplicate_clusters(pool, [], POLICY.model_copy(update={"cluster_max": 3}))

    assert [1 + len(cluster.duplicate_ids) for cluster in clusters] == [3, 3]


def test_followers_are_pointed_to_the_new_canonical() -> None:
    two, one = item(2, key=9), item(1, key=9, canonical_id=ItemId(UUID(int=2)))
    newcomer = item(3, key=9, quality=0.9)

    plan = plan_merges([one, two, newcomer], [], POLICY)

    assert canonical_numbers([one, two, newcomer], plan) == {1: 3, 2: 3, 3: None}
    assert {
        change.duplicate_id.int: change.previous_canonical_id for change in plan if isinstance(change, Merge)
    } == {
        1: ItemId(UUID(int=2)),
        2: None,
    }


def test_a_merge_without_support_is_undone_with_its_reason() -> None:
    pool = [item(1), item(2, canonical_id=ItemId(UUID(int=1)))]

    assert plan_merges(pool, [edge(1, 2, decision="possible")], POLICY) == (
        Unmerge(ItemId(UUID(int=2)), ItemId(UUID(int=1)), UNSUPPORTED),
    )


def test_followers_of_a_deleted_canonical_come_back_under_a_new_one() -> None:
    gone = ItemId(UUID(int=99))
    pool = [item(number, key=5, canonical_id=gone, settled=True) for number in (1, 2, 3)]

    plan = plan_merges(pool, [], POLICY)

    assert canonical_numbers(pool, plan) == {1: None, 2: 1, 3: 1}
    assert plan[0] == Unmerge(ItemId(UUID(int=1)), gone, CANONICAL_GONE)


def test_scores_that_moved_do_not_choose_again_in_a_settled_component() -> None:
    pool = [
        item(1, key=5, settled=True),
        item(2, key=5, quality=0.99, canonical_id=ItemId(UUID(int=1)), settled=True),
    ]

    assert plan_merges(pool, [], POLICY) == ()


def test_one_unsettled_item_plans_its_whole_component_again() -> None:
    pool = [item(1, key=5), item(2, key=5, quality=0.99, canonical_id=ItemId(UUID(int=1)), settled=True)]

    assert canonical_numbers(pool, plan_merges(pool, [], POLICY)) == {1: 2, 2: None}


def test_a_canonical_that_follows_another_is_planned_again_though_settled() -> None:
    pool = [
        item(1, key=5, settled=True),
        item(2, key=5, canonical_id=ItemId(UUID(int=1)), settled=True),
        item(3, key=5, canonical_id=ItemId(UUID(int=2)), settled=True),
    ]

    assert canonical_numbers(pool, plan_merges(pool, [], POLICY)) == {1: None, 2: 1, 3: 1}


def test_ten_thousand_equal_items_merge_in_less_than_two_seconds() -> None:
    pool = [item(number, key=1) for number in range(1, 10_001)]
    started = time.perf_counter()

    plan = plan_merges(pool, [], POLICY)

    assert time.perf_counter() - started < 2.0
    assert len(plan) == 9_999
    assert {change.canonical_id.int for change in plan} == {1}


def test_a_long_path_of_classes_is_clustered_in_less_than_two_seconds() -> None:
    pool = [item(number) for number in range(1, 10_001)]
    started = time.perf_counter()

    plan_merges(pool, [edge(number, number + 1) for number in range(1, 10_000)], POLICY)

    assert time.perf_counter() - started < 2.0


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[PoolItem], list[PairEdge]]:
    """A small pool in any state with any pairs, canonicals that are gone or follow others included."""
    count = draw(st.integers(1, 10))
    pool = [
        item(
            number,
            key=draw(st.integers(0, 5)),
            quality=draw(st.sampled_from([0.1, 0.5, 0.9, float("nan")])),
            is_public=draw(st.booleans()),
            settled=draw(st.booleans()),
            canonical_id=draw(
                st.sampled_from(
                    [None, *(ItemId(UUID(int=other)) for other in range(1, count + 2) if other != number)]
                )
            ),
        )
        for number in range(1, count + 1)
    ]
    numbers = st.integers(1, count + 1)
    pairs = draw(st.lists(st.tuples(numbers, numbers).filter(lambda pair: pair[0] != pair[1]), max_size=14))
    kinds = st.tuples(st.sampled_from(["duplicate", "duplicate", "possible", "distinct"]), st.booleans())
    edges = {}
    for pair in pairs:
        decision, vetoed = draw(kinds)
        edges[tuple(sorted(pair))] = edge(*pair, decision=decision, vetoed=vetoed and draw(st.booleans()))
    return pool, list(edges.values())


def item_graph(pool: Sequence[PoolItem], edges: Sequence[PairEdge]) -> tuple[nx.Graph, nx.Graph]:
    """The oracle's graphs over items: who may merge directly, and who must stay apart."""
    by_id = {one.id: one for one in pool}
    near, apart = nx.Graph(), nx.Graph()
    near.add_nodes_from(by_id)
    apart.add_nodes_from(by_id)
    for a in pool:
        near.add_edges_from((a.id, b.id) for b in pool if a.class_key == b.class_key and a.id != b.id)
    for one in edges:
        if one.a_id not in by_id or one.b_id not in by_id:
            continue
        if by_id[one.a_id].class_key == by_id[one.b_id].class_key:
            pairs = [(one.a_id, one.b_id)]
        else:
            a_class, b_class = by_id[one.a_id].class_key, by_id[one.b_id].class_key
            pairs = [
                (a.id, b.id) for a in pool for b in pool if (a.class_key, b.class_key) == (a_class, b_class)
            ]
        if one.vetoed:
            apart.add_edges_from(pairs)
        elif one.decision == "duplicate":
            near.add_edges_from(pairs)
    return near, apart


def oracle(pool: Sequence[PoolItem], edges: Sequence[PairEdge]) -> dict[ItemId, ItemId | None]:
    """Greedy stars item by item, component by component."""
    near, apart = item_graph(pool, edges)
    rank = {one.id: order_key(one) for one in pool}
    canonical_of: dict[ItemId, ItemId | None] = {}
    for component in nx.connected_components(near):
        waiting = sorted(component, key=rank.__getitem__)
        while waiting:
            star = [waiting[0]]
            for candidate in waiting[1:]:
                is_near = near.has_edge(star[0], candidate)
                if is_near and not any(apart.has_edge(candidate, member) for member in star):
                    star.append(candidate)
            canonical_of |= dict.fromkeys(star[1:], star[0]) | {star[0]: None}
            waiting = [one for one in waiting if one not in star]
    return canonical_of


@given(worlds())
@settings(max_examples=300, deadline=None)
def test_an_unsettled_pool_ends_in_the_stars_of_the_oracle(
    world: tuple[list[PoolItem], list[PairEdge]],
) -> None:
    pool, edges = world
    pool = [replace(one, settled=False) for one in pool]

    after = applied(pool, plan_merges(pool, edges, POLICY), settled=True)

    assert {one.id: one.canonical_id for one in after} == oracle(pool, edges)


@given(worlds(), st.booleans())
@settings(max_examples=300, deadline=None)
def test_planning_against_the_applied_plan_gives_nothing(
    world: tuple[list[PoolItem], list[PairEdge]], settled: bool
) -> None:
    pool, edges = world
    plan = plan_merges(pool, edges, POLICY)

    assert plan_merges(applied(pool, plan, settled=True), edges, POLICY) == ()
    kept = {one.id: one.settled for one in pool}
    mixed = [replace(one, settled=settled or kept[one.id]) for one in applied(pool, plan, settled=False)]
    assert plan_merges(mixed, edges, POLICY) == ()


@given(worlds(), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_the_order_of_items_and_pairs_does_not_matter(
    world: tuple[list[PoolItem], list[PairEdge]], chance: random.Random
) -> None:
    pool, edges = world
    shuffled_pool, shuffled_edges = chance.sample(pool, len(pool)), chance.sample(edges, len(edges))

    assert plan_merges(shuffled_pool, shuffled_edges, POLICY) == plan_merges(pool, edges, POLICY)


@given(worlds(), st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_arriving_in_batches_ends_like_arriving_at_once(
    world: tuple[list[PoolItem], list[PairEdge]], batch: int
) -> None:
    pool, edges = world
    fresh = [replace(one, settled=False, canonical_id=None) for one in pool]
    at_once = applied(fresh, plan_merges(fresh, edges, POLICY), settled=True)

    arrived: list[PoolItem] = []
    for start in range(0, len(fresh), batch):
        arrived += fresh[start : start + batch]
        arrived = applied(arrived, plan_merges(arrived, _seen(edges, arrived), POLICY), settled=True)
        arrived = _unsettle_neighbours(arrived, edges, fresh[start + batch : start + 2 * batch])

    assert {one.id: one.canonical_id for one in arrived} == {one.id: one.canonical_id for one in at_once}


def _seen(edges: Sequence[PairEdge], pool: Sequence[PoolItem]) -> list[PairEdge]:
    known = {one.id for one in pool}
    return [one for one in edges if one.a_id in known and one.b_id in known]


def _unsettle_neighbours(
    arrived: Sequence[PoolItem], edges: Sequence[PairEdge], coming: Sequence[PoolItem]
) -> list[PoolItem]:
    """What storing new pairs does: the older end of each loses its settled stamp."""
    ids = {one.id for one in coming}
    touched = {end for one in edges if {one.a_id, one.b_id} & ids for end in (one.a_id, one.b_id)}
    return [replace(one, settled=one.settled and one.id not in touched) for one in arrived]


@given(worlds())
@settings(max_examples=200, deadline=None)
def test_clusters_are_flat_and_each_duplicate_matches_its_canonical(
    world: tuple[list[PoolItem], list[PairEdge]],
) -> None:
    pool, edges = world
    near, apart = item_graph(pool, edges)
    rank = {one.id: order_key(one) for one in pool}
    clusters = duplicate_clusters(pool, edges, POLICY)

    members = [member for cluster in clusters for member in (cluster.canonical_id, *cluster.duplicate_ids)]
    assert len(members) == len(set(members))
    for cluster in clusters:
        assert all(rank[cluster.canonical_id] < rank[duplicate] for duplicate in cluster.duplicate_ids)
        assert all(near.has_edge(cluster.canonical_id, duplicate) for duplicate in cluster.duplicate_ids)
        everyone = (cluster.canonical_id, *cluster.duplicate_ids)
        assert not any(apart.has_edge(a, b) for a in everyone for b in everyone)
