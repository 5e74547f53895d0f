import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hivemind_pipelines.core import stars
from hivemind_pipelines.core.stars import star_groups


def arc(*degrees: float) -> np.ndarray:
    angles = np.radians(np.asarray(degrees, dtype=np.float64))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def members(vectors: np.ndarray, **limits: float) -> list[tuple[int, ...]]:
    found = star_groups(vectors, **({"cosine_min": 0.9, "size_min": 2, "size_max": 10} | limits))  # type: ignore[arg-type]
    return [star.members for star in found]


def test_near_rows_form_a_group_and_far_rows_stay_alone() -> None:
    assert members(arc(0, 2, 4, 90, 180, 182)) == [(0, 1, 2), (4, 5)]


def test_a_chain_is_not_a_group() -> None:
    # 20 degrees apart each: neighbours are near (0.94), the ends are not (0.17).
    groups = members(arc(0, 20, 40, 60, 80), cosine_min=0.93)
    assert groups == [(0, 1, 2), (3, 4)]


def test_rows_that_are_zero_or_not_finite_join_nothing() -> None:
    vectors = np.array([[0, 0], [0, 0], [np.nan, 1], [np.inf, 1], [1e30, 1e30], [1, 0], [1, 0]], np.float32)
    assert members(vectors, cosine_min=-1.0) == [(5, 6)]


def test_a_large_group_is_split_into_groups_of_at_most_the_maximum() -> None:
    groups = members(arc(*[0] * 30), size_min=3, size_max=12)
    assert [len(group) for group in groups] == [12, 12, 6]


def test_a_remainder_too_small_to_stand_alone_gets_company() -> None:
    assert [len(group) for group in members(arc(*[0] * 13), size_min=3, size_max=12)] == [10, 3]


def test_no_rows_give_no_groups() -> None:
    assert members(np.empty((0, 2), dtype=np.float32)) == []


vectors_of_rows = st.lists(st.integers(0, 359), max_size=40).map(lambda degrees: arc(*degrees))


@given(vectors_of_rows, st.sampled_from([0.5, 0.9, 0.99]), st.integers(2, 4), st.integers(4, 8))
def test_groups_are_disjoint_bounded_and_lie_around_their_true_medoid(
    vectors: np.ndarray, cosine_min: float, size_min: int, size_max: int
) -> None:
    found = star_groups(vectors, cosine_min=cosine_min, size_min=size_min, size_max=size_max)
    rows = [row for star in found for row in star.members]
    assert len(rows) == len(set(rows))
    for star in found:
        similarities = vectors[list(star.members)] @ vectors[list(star.members)].T
        medoid = star.members.index(star.medoid)
        assert size_min <= len(star.members) <= size_max
        assert similarities[medoid].min() >= cosine_min - 1e-6
        assert similarities.sum(axis=1)[medoid] >= similarities.sum(axis=1).max() - 1e-3


@given(vectors_of_rows)
def test_tiles_change_nothing(vectors: np.ndarray) -> None:
    whole = members(vectors)
    before = stars.TILE_ELEMENTS
    try:
        stars.TILE_ELEMENTS = 1
        assert members(vectors) == whole
    finally:
        stars.TILE_ELEMENTS = before
