"""Cells: an index of vectors around centres, for pools too large to be multiplied whole."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hivemind_pipelines.core.model import Vectors

Rows = NDArray[np.int64]

#: Rows that one centre is fitted on, and how often the centres move: more of either gains no recall.
FITTED_ROWS = 48
ROUNDS = 6

#: Cells in which the neighbours of a row are looked for. Of 60,000 vectors of notes 32 find 96 % of the exact
#: 30 nearest and 99.8 % of those at a cosine of 0.8 or more; 16 find 91 and 98, 48 find 98 and 100.
PROBED_CELLS = 32

#: Rows looked up at once, by cell, so that they share most of the cells they look into.
PROBE_ROWS = 64
#: Rows placed at once: bounds memory.
ASSIGN_ROWS = 4_096


@dataclass(frozen=True, slots=True)
class Cells:
    """Unit rows of a pool by the centre they lie nearest to: an inverted file (Sivic and Zisserman 2003)."""

    vectors: Vectors
    centres: Vectors
    members: tuple[Rows, ...]


def index(vectors: Vectors) -> Cells:
    """Place float32 rows of shape (n, d) that are unit length or zero; zero rows belong to no cell.

    The same rows in the same order give the same cells. Two square roots of n cells.
    """
    usable = np.flatnonzero(np.abs(vectors).max(axis=1) > 0.0)
    if not len(usable):
        return Cells(vectors, vectors[:0], ())
    count = min(len(usable), round(2 * len(usable) ** 0.5))
    centres = _centres(vectors, usable, count)
    nearest = _nearest_centre(vectors[usable], centres)
    by_cell = np.argsort(nearest, kind="stable")
    ends = np.cumsum(np.bincount(nearest, minlength=len(centres)))
    return Cells(vectors, centres, tuple(np.split(usable[by_cell], ends[:-1])))


def nearest(cells: Cells, probe: Vectors, own: Rows, *, top_k: int) -> Iterator[tuple[Rows, Rows, Vectors]]:
    """For some probes at a time: their rows, and of each the columns and cosines of its `top_k` neighbours.

    Both of shape (rows, k) in no order, k at most `top_k`. `own` is the column of each probe itself, -1
    when it is not in the pool. Probes that lie together are multiplied at once with the cells near any of them.
    """
    usable = np.flatnonzero(np.abs(probe).max(axis=1) > 0.0)
    if not len(usable) or not cells.members:
        return
    order = usable[np.argsort(_nearest_centre(probe[usable], cells.centres), kind="stable")]
    for start in range(0, len(order), PROBE_ROWS):
        rows = order[start : start + PROBE_ROWS]
        around = _around(cells, probe[rows])
        product = probe[rows] @ cells.vectors[around].T
        product[around[None, :] == own[rows, None]] = -2.0
        kept = min(top_k, len(around))
        best = np.argpartition(-product, kept - 1, axis=1)[:, :kept]
        yield rows, around[best], np.take_along_axis(product, best, axis=1)


def _around(cells: Cells, probe: Vectors) -> Rows:
    """The members of every cell that is among the nearest of some row."""
    likeness = probe @ cells.centres.T
    probed = min(PROBED_CELLS, likeness.shape[1])
    near = np.unique(np.argpartition(-likeness, probed - 1, axis=1)[:, :probed])
    return np.concatenate([cells.members[cell] for cell in near])


def _centres(vectors: Vectors, usable: Rows, count: int) -> Vectors:
    """Spherical k-means on rows that are evenly spread over the pool."""
    taken = usable[np.linspace(0, len(usable) - 1, min(len(usable), FITTED_ROWS * count), dtype=np.int64)]
    rows = vectors[taken]
    centres = rows[np.linspace(0, len(rows) - 1, count, dtype=np.int64)].copy()
    for _ in range(ROUNDS):
        nearest = _nearest_centre(rows, centres)
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, rows)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        # A centre that no row lies nearest to stays where it is.
        centres = np.divide(sums, norms, out=centres, where=norms > 0.0)
    return centres


def _nearest_centre(rows: Vectors, centres: Vectors) -> Rows:
    found = [
        np.argmax(rows[start : start + ASSIGN_ROWS] @ centres.T, axis=1)
        for start in range(0, len(rows), ASSIGN_ROWS)
    ]
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)
