"""Blocking: which pairs are worth comparing, by LSH buckets and by exact vector neighbours."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hivemind_pipelines.core.model import ItemId, Vectors
from hivemind_pipelines.core.policy import MatchingPolicy

#: Pairs at policy.jaccard_min collide in at least one band with at least this probability.
COLLISION_MIN = 0.97
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

    Exact: a blocked float32 product of shapes (n, d) and (m, d) whose rows are unit length; a row that
    is zero or not finite matches nothing. Memory is bounded by one tile of 512 by 8192.
    """
    if len(probe_ids) == 0 or len(pool_ids) == 0 or top_k < 1:
        return []
    pool = _usable(pool)
    found: dict[tuple[ItemId, ItemId], float] = {}
    for start in range(0, len(probe_ids), PROBE_TILE):
        ids = probe_ids[start : start + PROBE_TILE]
        tile = _usable(probe[start : start + PROBE_TILE])
        for row, column, cosine in _nearest(ids, tile, pool_ids, pool, cosine_min, top_k):
            a_id, b_id = ids[row], pool_ids[column]
            pair = (a_id, b_id) if a_id < b_id else (b_id, a_id)
            found[pair] = max(cosine, found.get(pair, -1.0))
    return [(a_id, b_id, cosine) for (a_id, b_id), cosine in sorted(found.items())]


def _usable(vectors: Vectors) -> Vectors:
    """The same rows as float32 with those that are not finite set to zero."""
    rows = np.ascontiguousarray(vectors, dtype=np.float32)
    is_finite = np.isfinite(rows.sum(axis=1, dtype=np.float64))
    return rows if is_finite.all() else np.where(is_finite[:, None], rows, np.float32(0.0))


def _nearest(
    ids: Sequence[ItemId],
    tile: Vectors,
    pool_ids: Sequence[ItemId],
    pool: Vectors,
    cosine_min: float,
    top_k: int,
) -> list[tuple[int, int, float]]:
    """Row, pool column and cosine of the best `top_k` hits of each row, ties by the smaller id."""
    is_zero = np.abs(tile).max(axis=1) == 0.0
    pool_is_zero = np.abs(pool).max(axis=1) == 0.0
    hits: list[list[tuple[float, ItemId, int]]] = [[] for _ in ids]
    for start in range(0, len(pool), POOL_TILE):
        product = tile @ pool[start : start + POOL_TILE].T
        product[is_zero] = -2.0
        product[:, pool_is_zero[start : start + POOL_TILE]] = -2.0
        rows, columns = np.nonzero(product >= np.float32(cosine_min))
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            other = pool_ids[start + column]
            if other != ids[row]:
                hits[row].append((-float(product[row, column]), other, start + column))
        for row, found in enumerate(hits):
            if len(found) > top_k:
                hits[row] = sorted(found)[:top_k]
    return [
        (row, column, min(-negated, 1.0)) for row, found in enumerate(hits) for negated, _, column in found
    ]
