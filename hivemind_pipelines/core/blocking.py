"""Blocking: which pairs are worth comparing, by LSH buckets and by exact vector neighbours."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from hivemind_pipelines.core import cells
from hivemind_pipelines.core.model import ItemId, Vectors
from hivemind_pipelines.core.policy import MatchingPolicy

#: Pairs at policy.jaccard_min collide in at least one band with at least this probability.
COLLISION_MIN = 0.97
#: Below this cosine only the very nearest neighbours of an item are worth a comparison.
FAR_COSINE = 0.6
#: How many neighbours an item may have for far ones still to count among them.
FAR_RANK_MAX = 12
#: Up to so many products (100,000 items against each other) an exact search is fast enough; what changed of
#: a larger pool is mostly far below it too. Beyond, an index looks where neighbours are likely.
EXACT_PRODUCTS_MAX = 10_000_000_000
#: Probes that are searched for exactly as well, to know the share of neighbours that the index finds.
MEASURED_PROBES = 256
PROBE_TILE = 512
POOL_TILE = 8192


def band_shape(policy: MatchingPolicy) -> tuple[int, int]:
    """The number of bands and rows a band: the longest rows that still catch pairs at `jaccard_min`."""
    return _band_shape(policy.num_perm, policy.jaccard_min)


def collision_probability(jaccard: float, bands_count: int, rows: int) -> float:
    """The share of pairs at a Jaccard similarity that meet in a bucket: 1 - (1 - s^r)^b."""
    return float(1.0 - (1.0 - jaccard**rows) ** bands_count)


@lru_cache(maxsize=64)
def _band_shape(num_perm: int, jaccard_min: float) -> tuple[int, int]:
    for rows in range(num_perm, 1, -1):
        if collision_probability(jaccard_min, num_perm // rows, rows) >= COLLISION_MIN:
            return num_perm // rows, rows
    return num_perm, 1


def bands(signature: NDArray[np.uint32], policy: MatchingPolicy) -> tuple[int, ...]:
    """One signed 64-bit bucket a band, in the order of the bands; `signature` has shape (num_perm,)."""
    count, rows = band_shape(policy)
    rows_of = np.ascontiguousarray(signature, dtype="<u4")[: count * rows].reshape(count, rows)
    return tuple(_bucket(row.tobytes()) for row in rows_of)


def _bucket(row: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(row, digest_size=8).digest(), "little", signed=True)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Pairs (a < b, cosine); `recall` is the measured share of the exact ones, None where all are exact."""

    pairs: list[tuple[ItemId, ItemId, float]]
    recall: float | None = None


def neighbours(
    probe_ids: Sequence[ItemId],
    probe: Vectors,
    pool_ids: Sequence[ItemId],
    pool: Vectors,
    *,
    cosine_min: float,
    top_k: int,
) -> Neighbours:
    """The pairs of `vector_neighbours`, by an index where an exact search would take minutes."""
    exactly = partial(vector_neighbours, cosine_min=cosine_min, top_k=top_k)
    if len(probe_ids) * len(pool_ids) <= EXACT_PRODUCTS_MAX or top_k < 1:
        return Neighbours(exactly(probe_ids, probe, pool_ids, pool))
    known_pool = _Pool(pool_ids, pool)
    found = _by_index(probe_ids, _usable(probe), known_pool, pool_ids, cosine_min=cosine_min, top_k=top_k)
    sample = np.linspace(0, len(probe_ids) - 1, min(len(probe_ids), MEASURED_PROBES), dtype=np.int64)
    exact = exactly([probe_ids[row] for row in sample], probe[sample], pool_ids, pool)
    known = sum((a_id, b_id) in found for a_id, b_id, _ in exact)
    return Neighbours(_sorted(found), known / len(exact) if exact else 1.0)


def _by_index(
    probe_ids: Sequence[ItemId],
    probe: Vectors,
    pool: "_Pool",
    pool_ids: Sequence[ItemId],
    *,
    cosine_min: float,
    top_k: int,
) -> dict[tuple[ItemId, ItemId], float]:
    own = np.array([pool.column_of.get(item_id, -1) for item_id in probe_ids], dtype=np.int64)
    found: dict[tuple[ItemId, ItemId], float] = {}
    for rows, columns, cosines in cells.nearest(cells.index(pool.vectors), probe, own, top_k=top_k):
        of_row = np.repeat(np.arange(len(rows)), columns.shape[1])
        near = cosines.ravel() >= np.float32(cosine_min)
        hits = _merged(_NO_HITS, of_row[near], columns.ravel()[near], cosines.ravel()[near], pool.rank, top_k)
        _collect(found, _without_far(hits), [probe_ids[row] for row in rows], pool_ids)
    return found


def vector_neighbours(
    probe_ids: Sequence[ItemId],
    probe: Vectors,
    pool_ids: Sequence[ItemId],
    pool: Vectors,
    *,
    cosine_min: float,
    top_k: int,
) -> list[tuple[ItemId, ItemId, float]]:
    """The pairs (a < b, cosine) of each probe with its `top_k` nearest pool items at `cosine_min` or above.

    Beyond the first 12 neighbours of a probe only cosines of 0.6 and above count: rewordings lie far apart
    but next to each other, and templates lie near.

    Exact: a blocked float32 product of shapes (n, d) and (m, d) whose rows are unit length; a row that
    is zero or not finite matches nothing. Memory is bounded by one tile of 512 by 8192.
    """
    if len(probe_ids) == 0 or len(pool_ids) == 0 or top_k < 1:
        return []
    known = _Pool(pool_ids, pool)
    found: dict[tuple[ItemId, ItemId], float] = {}
    for start in range(0, len(probe_ids), PROBE_TILE):
        ids = probe_ids[start : start + PROBE_TILE]
        hits = _nearest(ids, _usable(probe[start : start + PROBE_TILE]), known, cosine_min, top_k)
        _collect(found, hits, ids, pool_ids)
    return _sorted(found)


def _collect(
    found: dict[tuple[ItemId, ItemId], float],
    hits: "_Hits",
    ids: Sequence[ItemId],
    pool_ids: Sequence[ItemId],
) -> None:
    for row, column, cosine in zip(
        hits.rows.tolist(), hits.columns.tolist(), hits.cosines.tolist(), strict=True
    ):
        a_id, b_id = ids[row], pool_ids[column]
        pair = (a_id, b_id) if a_id < b_id else (b_id, a_id)
        found[pair] = max(min(cosine, 1.0), found.get(pair, -1.0))


def _sorted(found: dict[tuple[ItemId, ItemId], float]) -> list[tuple[ItemId, ItemId, float]]:
    return [(a_id, b_id, cosine) for (a_id, b_id), cosine in sorted(found.items())]


class _Pool:
    """The pool's usable rows with the column and the rank of each id."""

    def __init__(self, ids: Sequence[ItemId], vectors: Vectors) -> None:
        self.vectors = _usable(vectors)
        self.is_zero = np.abs(self.vectors).max(axis=1) == 0.0
        self.column_of = {item_id: column for column, item_id in enumerate(ids)}
        self.rank = np.empty(len(ids), dtype=np.int64)
        self.rank[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))


@dataclass(frozen=True, slots=True)
class _Hits:
    """Neighbours of the rows of a tile, nearest first within a row; `places` count them from 0."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    cosines: NDArray[np.float32]
    places: NDArray[np.int64]

    def where(self, kept: NDArray[np.bool_]) -> "_Hits":
        """Those of the hits that are marked."""
        return _Hits(self.rows[kept], self.columns[kept], self.cosines[kept], self.places[kept])


_NO_INDICES = np.empty(0, dtype=np.int64)
_NO_HITS = _Hits(_NO_INDICES, _NO_INDICES, np.empty(0, dtype=np.float32), _NO_INDICES)


def _usable(vectors: Vectors) -> Vectors:
    """The same rows as float32 with those that are not finite set to zero."""
    rows = np.ascontiguousarray(vectors, dtype=np.float32)
    is_finite = np.isfinite(rows.sum(axis=1, dtype=np.float64))
    return rows if is_finite.all() else np.where(is_finite[:, None], rows, np.float32(0.0))


def _nearest(ids: Sequence[ItemId], tile: Vectors, pool: _Pool, cosine_min: float, top_k: int) -> _Hits:
    """The best `top_k` hits of each row, ties by the smaller id, and far ones among the first only."""
    best = _NO_HITS
    floor = np.full(len(ids), cosine_min, dtype=np.float32)
    for start in range(0, len(pool.vectors), POOL_TILE):
        product = _cosines(ids, tile, pool, start)
        rows, columns = np.nonzero(product >= floor[:, None])
        best = _merged(best, rows, columns + start, product[rows, columns], pool.rank, top_k)
        # Nothing below a row's last hit can enter any more.
        last = best.where(best.places == top_k - 1)
        floor[last.rows] = last.cosines
    return _without_far(best)


def _without_far(hits: _Hits) -> _Hits:
    """Far neighbours only among the first of a row."""
    return hits.where((hits.cosines >= np.float32(FAR_COSINE)) | (hits.places < FAR_RANK_MAX))


def _cosines(ids: Sequence[ItemId], tile: Vectors, pool: _Pool, start: int) -> Vectors:
    """The product of a tile with the pool rows from `start` on; what may not match is below any cosine."""
    end = start + POOL_TILE
    product: Vectors = tile @ pool.vectors[start:end].T
    product[np.abs(tile).max(axis=1) == 0.0] = -2.0
    product[:, pool.is_zero[start:end]] = -2.0
    for row, item_id in enumerate(ids):
        own = pool.column_of.get(item_id, -1)
        if start <= own < end:
            product[row, own - start] = -2.0
    return product


def _merged(
    best: _Hits,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    cosines: NDArray[np.float32],
    rank: NDArray[np.int64],
    top_k: int,
) -> _Hits:
    """The first `top_k` of each row among the best so far and new hits."""
    rows, columns = np.concatenate((best.rows, rows)), np.concatenate((best.columns, columns))
    cosines = np.concatenate((best.cosines, cosines))
    by_row = np.lexsort((rank[columns], -cosines, rows))
    rows, columns, cosines = rows[by_row], columns[by_row], cosines[by_row]
    places = np.arange(len(rows)) - np.searchsorted(rows, rows)
    return _Hits(rows, columns, cosines, places).where(places < top_k)
