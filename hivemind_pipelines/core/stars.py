"""Stars: groups of vectors that all lie within reach of one centre, so that nothing is chained."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hivemind_pipelines.core.model import Vectors

#: Similarities held at once: 4 million float32, 16 MB.
TILE_ELEMENTS = 4_000_000

#: Decimals of a similarity that decide an order; the last bits depend on where a row lies in memory.
_ORDER_DECIMALS = 4


@dataclass(frozen=True, slots=True)
class Star:
    """Row numbers of a group, ascending, every member near its medoid."""

    medoid: int
    members: tuple[int, ...]


def star_groups(vectors: Vectors, *, cosine_min: float, size_min: int, size_max: int) -> tuple[Star, ...]:
    """Disjoint groups of `size_min` to `size_max` rows with cosine ≥ `cosine_min` to their medoid.

    The densest row is a centre first and takes its nearest free neighbours; ties go to the lower row.
    A group depends only on rows that similarities connect it with. Rows that are zero or not finite
    join nothing. Two blocked products of shape (n, n), one tile of them in memory.
    """
    rows, unit = _usable(vectors)
    degrees = _degrees(unit, cosine_min)
    dense = np.flatnonzero(degrees >= size_min)
    centres = dense[np.lexsort((dense, -degrees[dense]))]
    is_free = np.ones(len(unit), dtype=bool)
    stars = []
    for centre, similarities in _similarity_rows(unit, centres):
        if not is_free[centre]:
            continue
        near = np.flatnonzero(is_free & (similarities >= cosine_min))
        chosen = _nearest(near, similarities, size_min, size_max)
        star = _around_medoid(unit, chosen, cosine_min) if len(chosen) >= size_min else None
        if star is not None and len(star.members) >= size_min:
            is_free[list(star.members)] = False
            stars.append(Star(int(rows[star.medoid]), tuple(int(rows[row]) for row in star.members)))
    return tuple(sorted(stars, key=lambda star: star.members))


def _usable(vectors: Vectors) -> tuple[NDArray[np.intp], Vectors]:
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.linalg.norm(vectors, axis=1)
    rows = np.flatnonzero(np.isfinite(norms) & (norms > 0))
    return rows, np.asarray(vectors[rows] / norms[rows, None], dtype=np.float32)


def _degrees(unit: Vectors, cosine_min: float) -> NDArray[np.int64]:
    counts = [np.count_nonzero(tile >= cosine_min, axis=1) for _, tile in _tiles(unit, np.arange(len(unit)))]
    return np.concatenate(counts) if counts else np.empty(0, dtype=np.int64)


def _similarity_rows(unit: Vectors, rows: NDArray[np.intp]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    for tile_rows, tile in _tiles(unit, rows):
        yield from zip(tile_rows.tolist(), tile, strict=True)


def _tiles(unit: Vectors, rows: NDArray[np.intp]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
    height = max(1, TILE_ELEMENTS // max(1, len(unit)))
    for start in range(0, len(rows), height):
        tile_rows = rows[start : start + height]
        yield tile_rows, unit[tile_rows] @ unit.T


def _nearest(
    near: NDArray[np.intp], similarities: NDArray[np.float32], size_min: int, size_max: int
) -> NDArray[np.intp]:
    order = np.lexsort((near, -np.round(similarities[near], _ORDER_DECIMALS)))
    left_over = len(near) - size_max
    # A remainder too small to stand alone keeps a few more, so that it can.
    take = max(size_min, len(near) - size_min) if 0 < left_over < size_min else size_max
    return np.sort(near[order[: min(take, size_max)]])


def _around_medoid(unit: Vectors, rows: NDArray[np.intp], cosine_min: float) -> Star | None:
    while len(rows):
        similarities = unit[rows] @ unit[rows].T
        totals = np.round(similarities.astype(np.float64).sum(axis=1), _ORDER_DECIMALS)
        medoid = int(np.argmax(totals))
        is_near = similarities[medoid] >= cosine_min
        is_near[medoid] = True
        if is_near.all():
            return Star(int(rows[medoid]), tuple(rows.tolist()))
        rows = rows[is_near]
    return None
