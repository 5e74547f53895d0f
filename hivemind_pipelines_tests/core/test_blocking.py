"""Blocking: LSH bands by their probability curve and exact neighbours against brute force."""

from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hivemind_pipelines.core import blocking
from hivemind_pipelines.core.features import signatures
from hivemind_pipelines.core.model import ItemId
from hivemind_pipelines.core.policy import MatchingPolicy

POLICY = MatchingPolicy()


def ids(count: int, start: int = 0) -> list[ItemId]:
    return [ItemId(UUID(int=number)) for number in range(start, start + count)]


def unit_rows(count: int, seed: int, size: int = 16) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)
    unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def brute_force(
    probe_ids: list[ItemId],
    probe: np.ndarray,
    pool_ids: list[ItemId],
    pool: np.ndarray,
    cosine_min: float,
    top_k: int,
) -> set[tuple[ItemId, ItemId]]:
    pairs = set()
    for probe_id, row in zip(probe_ids, probe, strict=True):
        hits = [
            (-float(row @ other), other_id)
            for other_id, other in zip(pool_ids, pool, strict=True)
            if other_id != probe_id and float(row @ other) >= cosine_min
        ]
        pairs |= {(min(probe_id, other_id), max(probe_id, other_id)) for _, other_id in sorted(hits)[:top_k]}
    return pairs


@pytest.mark.parametrize("jaccard_min", [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
@pytest.mark.parametrize("num_perm", [64, 128, 256])
def test_pairs_at_the_threshold_collide_almost_surely(jaccard_min: float, num_perm: int) -> None:
    policy = POLICY.model_copy(update={"jaccard_min": jaccard_min, "num_perm": num_perm})
    count, rows = blocking.band_shape(policy)

    assert count * rows <= num_perm
    assert blocking.collision_probability(jaccard_min, count, rows) >= blocking.COLLISION_MIN
    longer = rows + 1
    assert blocking.collision_probability(jaccard_min, num_perm // longer, longer) < blocking.COLLISION_MIN


@pytest.mark.parametrize("jaccard_min", [0.0, 1.0])
def test_odd_thresholds_still_give_bands(jaccard_min: float) -> None:
    count, rows = blocking.band_shape(POLICY.model_copy(update={"jaccard_min": jaccard_min}))

    assert count >= 1
    assert rows >= 1


def test_similar_texts_share_a_band_and_bands_fit_a_bigint() -> None:
    rows = signatures(
        ["Remove all stopped containers at once", "Remove all stopped containers at once!", "Quit"], POLICY
    )
    first, second, third = (blocking.bands(row, POLICY) for row in rows)

    assert len(first) == blocking.band_shape(POLICY)[0]
    assert any(a == b for a, b in zip(first, second, strict=True))
    assert not any(a == b for a, b in zip(first, third, strict=True))
    assert all(-(2**63) <= bucket < 2**63 for bucket in first + third)


@given(st.integers(1, 30), st.integers(0, 30), st.integers(1, 5), st.floats(-0.2, 0.9), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_neighbours_are_those_of_brute_force(
    probes: int, others: int, top_k: int, cosine_min: float, seed: int
) -> None:
    pool, pool_ids = unit_rows(probes + others, seed), ids(probes + others)
    found = blocking.vector_neighbours(
        pool_ids[:probes], pool[:probes], pool_ids, pool, cosine_min=cosine_min, top_k=top_k
    )

    pairs = [(a, b) for a, b, _ in found]
    assert pairs == sorted(set(pairs))
    assert all(a < b for a, b in pairs)
    assert set(pairs) == brute_force(pool_ids[:probes], pool[:probes], pool_ids, pool, cosine_min, top_k)
    for a, b, cosine in found:
        assert cosine == pytest.approx(float(pool[a.int] @ pool[b.int]), abs=1e-5)


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, pool_ids = unit_rows(50, 1), ids(50)
    whole = blocking.vector_neighbours(pool_ids, pool, pool_ids, pool, cosine_min=0.1, top_k=4)
    monkeypatch.setattr(blocking, "PROBE_TILE", 7)
    monkeypatch.setattr(blocking, "POOL_TILE", 3)

    tiled = blocking.vector_neighbours(pool_ids, pool, pool_ids, pool, cosine_min=0.1, top_k=4)

    assert [pair[:2] for pair in tiled] == [pair[:2] for pair in whole]


def test_rows_that_are_zero_or_not_finite_match_nothing() -> None:
    pool, pool_ids = unit_rows(4, 2), ids(4)
    pool[3] = pool[2]
    pool[0] = 0.0
    pool[1] = np.nan

    found = blocking.vector_neighbours(pool_ids, pool, pool_ids, pool, cosine_min=0.0, top_k=9)

    assert [(a.int, b.int) for a, b, _ in found] == [(2, 3)]
    assert np.isnan(pool[1]).all()


def test_many_equal_rows_keep_the_smallest_ids() -> None:
    pool, pool_ids = np.repeat(unit_rows(1, 3), 9, axis=0), ids(9)

    found = blocking.vector_neighbours([pool_ids[8]], pool[:1], pool_ids, pool, cosine_min=0.9, top_k=2)

    assert [(a.int, b.int) for a, b, _ in found] == [(0, 8), (1, 8)]
    assert all(cosine <= 1.0 for _, _, cosine in found)


def test_nothing_to_probe_finds_nothing() -> None:
    empty = np.empty((0, 16), dtype=np.float32)

    assert blocking.vector_neighbours([], empty, ids(3), unit_rows(3, 4), cosine_min=0.1, top_k=3) == []
    assert blocking.vector_neighbours(ids(3), unit_rows(3, 4), [], empty, cosine_min=0.1, top_k=3) == []


def clustered_rows(count: int, seed: int, size: int = 48) -> np.ndarray:
    """Unit rows as texts have them: a few topics, and about every seventh row near another one."""
    random = np.random.default_rng(seed)
    topics = random.normal(size=(max(1, count // 40), size))
    rows = topics[random.integers(0, len(topics), count)] + random.normal(scale=0.8, size=(count, size))
    copies = random.integers(1, count, count // 7)
    rows[copies] = rows[copies - 1] + random.normal(scale=0.1, size=(len(copies), size))
    unit: np.ndarray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def test_a_small_pool_is_searched_exactly() -> None:
    pool, pool_ids = unit_rows(40, 5), ids(40)
    found = blocking.neighbours(pool_ids, pool, pool_ids, pool, cosine_min=0.1, top_k=4)

    assert found.recall is None
    assert found.pairs == blocking.vector_neighbours(pool_ids, pool, pool_ids, pool, cosine_min=0.1, top_k=4)


def test_the_index_of_a_large_pool_finds_nearly_all_and_measures_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "EXACT_PRODUCTS_MAX", 1_000)
    pool, pool_ids = clustered_rows(2_000, 6), ids(2_000)
    pool[17] = 0.0
    found = blocking.neighbours(pool_ids, pool, pool_ids, pool, cosine_min=0.5, top_k=10)
    exact = blocking.vector_neighbours(pool_ids, pool, pool_ids, pool, cosine_min=0.5, top_k=10)

    pairs, known = {pair[:2] for pair in found.pairs}, {pair[:2] for pair in exact}
    recall = len(pairs & known) / len(known)
    assert recall > 0.95
    assert found.recall == pytest.approx(recall, abs=0.05)
    assert found.pairs == sorted(found.pairs)
    assert not any(17 in (a.int, b.int) or a == b for a, b, _ in found.pairs)
    near = {pair[:2] for pair in exact if pair[2] > 0.9}
    assert len(near & pairs) / len(near) > 0.99


def test_the_index_finds_for_probes_that_are_not_in_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "EXACT_PRODUCTS_MAX", 10)
    pool = clustered_rows(300, 7)
    found = blocking.neighbours(ids(20, 1_000), pool[:20], ids(300), pool, cosine_min=0.99, top_k=3)

    assert {(a.int, b.int) for a, b, _ in found.pairs} >= {(row, 1_000 + row) for row in range(20)}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_index_of_hardly_any_rows_is_no_trap(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(blocking, "EXACT_PRODUCTS_MAX", 0)
    pool = np.repeat(unit_rows(1, 8), count, axis=0)
    found = blocking.neighbours(ids(count), pool, ids(count), pool, cosine_min=0.5, top_k=5)

    assert len(found.pairs) == count * (count - 1) // 2
    empty = np.zeros_like(pool)
    assert blocking.neighbours(ids(count), empty, ids(count), empty, cosine_min=0.5, top_k=5).pairs == []
