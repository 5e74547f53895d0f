"""Matching of the review queue: each pending row against the live items near it, and against the other rows."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from hivemind_pipelines.core import blocking
from hivemind_pipelines.core.model import (
    ItemId,
    PendingId,
    Vectors,
)
from hivemind_pipelines.core.prescreen import Match
from hivemind_pipelines.stages.context import StageContext
from hivemind_pipelines.stages.queue_comparison import Texts, compared
from hivemind_pipelines.store import items, screening
from hivemind_pipelines.store.screening import Pair, QueueRow, StoredMatch


@dataclass(frozen=True, slots=True)
class Matched:
    """The queue as read, its matches old and new, and what they were held against.

    `anew` are the rows compared with everything; `screened` the items all rows have been held against.
    `moved` are rows with a match that is new, or that holds now and did not, or the other way round.
    """

    queue: Mapping[PendingId, QueueRow]
    matches: Mapping[PendingId, tuple[StoredMatch, ...]]
    anew: tuple[PendingId, ...]
    screened: Mapping[ItemId, str]
    moved: frozenset[PendingId]
    compared: int

    def holding(self, pending_id: PendingId) -> tuple[Match, ...]:
        """The matches of a row that hold."""
        return tuple(one.match for one in self.matches.get(pending_id, ()) if one.holds)

    def to_store(self, labelled: set[PendingId]) -> list[StoredMatch]:
        """The matches of the rows that are labelled now."""
        return [one for pending_id in sorted(labelled) for one in self.matches.get(pending_id, ())]


def match(ctx: StageContext) -> Matched:
    """Compare rows that are due with everything, and the others with what is new.

    Everything is read in one snapshot: a row or an item that appears meanwhile is due itself.
    """
    read = _read(ctx)
    pairs = {*read.mates, *_near_items(ctx, read)}
    beside = _with_queue(ctx, read)
    involved = sorted({ItemId(other) for _, other in pairs})
    with ctx.store.read() as conn:
        vector_of = {ItemId(one): vector for one, vector in read.live.vector_of.items()}
        inputs = items.read_match_inputs(conn, ctx.org_id, involved, vector_of)
    texts = Texts(ctx, read.queue, read.waiting.vector_of, inputs)
    found = [*compared(ctx, texts, pairs, "item"), *compared(ctx, texts, beside, "pending")]
    return _matched(read, found, compared=len(pairs) + len(beside))


class _Side:
    """Texts of one side with their vectors."""

    def __init__(self, ids: Sequence[UUID], vectors: Vectors) -> None:
        self.ids = list(ids)
        self.vectors = vectors
        self.vector_of: dict[UUID, NDArray[np.float32]] = dict(zip(self.ids, vectors, strict=True))

    def only(self, wanted: Iterable[UUID]) -> "_Side":
        """The same texts, those of them that are wanted."""
        kept = [one for one in wanted if one in self.vector_of]
        row_of = {one: row for row, one in enumerate(self.ids)}
        return _Side(kept, self.vectors[[row_of[one] for one in kept]])


@dataclass(frozen=True, slots=True)
class _Read:
    """One snapshot: the queue and what stands of it, the live items, and who shares a bucket or a class.

    `anew` are the rows that are due; `new_items` those that not every other row was held against.
    """

    queue: Mapping[PendingId, QueueRow]
    stored: tuple[StoredMatch, ...]
    anew: tuple[PendingId, ...]
    new_items: Mapping[ItemId, str]
    bands: Mapping[PendingId, Sequence[int]]
    waiting: _Side
    live: _Side
    mates: set[Pair]

    @property
    def others(self) -> tuple[PendingId, ...]:
        """Rows that only have to be held against what is new."""
        again = set(self.anew)
        return tuple(pending_id for pending_id in self.queue if pending_id not in again)


def _read(ctx: StageContext) -> _Read:
    stamps, policy = ctx.screening_stamps, ctx.policy
    with ctx.store.read() as conn:
        queue = screening.read_queue(conn, ctx.org_id, stamps)
        anew = tuple(row.id for row in queue.values() if row.is_due)
        new_items = screening.read_unscreened_items(conn, ctx.org_id, stamps)
        bands = {row.id: blocking.bands(row.signature, policy.matching) for row in queue.values()}
        waiting = _Side(*screening.read_queue_vectors(conn, ctx.org_id)).only(queue)
        live = _Side(
            *items.read_vectors(conn, ctx.org_id, None if anew else sorted(new_items), only_live=True)
        )
        mates = screening.read_bucket_mates(
            conn, ctx.org_id, {one: bands[one] for one in anew},
            bucket_max=policy.matching.bucket_max, candidates_max=policy.prescreen.candidates_max,
        )  # fmt: skip
        same = screening.read_same_class(conn, ctx.org_id, queue.values())
        item_bands = screening.read_item_bands(conn, ctx.org_id, sorted(new_items))
        stored = screening.read_matches(conn, ctx.org_id)
    again = set(anew)
    mates |= {(row, item) for row, item in same if row in again or item in new_items}
    mates |= _bucket_mates(ctx, {row: own for row, own in bands.items() if row not in again}, item_bands)
    return _Read(queue, stored, anew, new_items, bands, waiting, live, mates)


def _bucket_mates(
    ctx: StageContext,
    bands: Mapping[PendingId, Sequence[int]],
    item_bands: Iterable[tuple[ItemId, int, int]],
) -> set[Pair]:
    """Rows that share a bucket with one of these items."""
    buckets = _buckets(bands)
    found = ((item_id, buckets.get((band, bucket), ())) for item_id, band, bucket in item_bands)
    return {
        (row, item_id)
        for item_id, mates in found
        if len(mates) <= ctx.policy.matching.bucket_max
        for row in mates
    }


def _matched(read: _Read, found: Sequence[StoredMatch], *, compared: int) -> Matched:
    again = set(read.anew)
    by_pair = {
        (one.pending_id, one.match.other_id): one for one in read.stored if one.pending_id not in again
    }
    moved = {one.pending_id for one in by_pair.values() if one.holds != one.is_held}
    moved |= {one.pending_id for one in found}
    by_pair |= {(one.pending_id, one.match.other_id): one for one in found}
    matches: defaultdict[PendingId, list[StoredMatch]] = defaultdict(list)
    for _, one in sorted(by_pair.items()):
        matches[one.pending_id].append(_placed(one, read.queue))
    held = {row: tuple(own) for row, own in matches.items()}
    return Matched(read.queue, held, read.anew, read.new_items, frozenset(moved), compared)


def _placed(one: StoredMatch, queue: Mapping[PendingId, QueueRow]) -> StoredMatch:
    """The match with who of two pending rows waits longer."""
    other = queue.get(PendingId(one.match.other_id))
    own = queue.get(one.pending_id)
    if one.match.other_kind == "item" or other is None or own is None:
        return one
    return replace(one, match=replace(one.match, is_first=_since(other) < _since(own)))


_NEVER = datetime.max.replace(tzinfo=UTC)


def _since(row: QueueRow) -> tuple[datetime, PendingId]:
    return row.contributed_at or _NEVER, row.id


def _near_items(ctx: StageContext, read: _Read) -> set[Pair]:
    """Rows and items whose vectors lie near, at least one of them new."""
    found = (
        *_near(ctx, read.waiting.only(read.anew), read.live),
        *_near(ctx, read.waiting.only(read.others), read.live.only(read.new_items)),
    )
    return {(PendingId(a), b) if a in read.queue else (PendingId(b), a) for a, b in found}


def _near(ctx: StageContext, probes: _Side, pool: _Side) -> list[tuple[UUID, UUID]]:
    prescreening = ctx.policy.prescreen
    near = blocking.vector_neighbours(
        list(map(ItemId, probes.ids)), probes.vectors, list(map(ItemId, pool.ids)), pool.vectors,
        cosine_min=prescreening.cosine_min, top_k=prescreening.candidates_max,
    )  # fmt: skip
    return [(a, b) for a, b, _ in near]


def _buckets(bands: Mapping[PendingId, Sequence[int]]) -> Mapping[tuple[int, int], Sequence[PendingId]]:
    buckets: defaultdict[tuple[int, int], list[PendingId]] = defaultdict(list)
    for pending_id, own in bands.items():
        for band, bucket in enumerate(own):
            buckets[band, bucket].append(pending_id)
    return buckets


def _with_queue(ctx: StageContext, read: _Read) -> set[Pair]:
    """Two rows near each other, at least one of them new, in either order."""
    near = _near(ctx, read.waiting.only(read.anew), read.waiting)
    both = {*_sharing_buckets(ctx, read), *_same_class(read.queue, read.anew), *near}
    return {
        pair
        for one, other in both
        if one != other
        for pair in ((PendingId(one), other), (PendingId(other), one))
    }


def _sharing_buckets(ctx: StageContext, read: _Read) -> set[Pair]:
    shared: defaultdict[PendingId, Counter[PendingId]] = defaultdict(Counter)
    again = set(read.anew)
    for mates in _buckets(read.bands).values() if again else ():
        if 2 <= len(mates) <= ctx.policy.matching.bucket_max:
            for row in again.intersection(mates):
                shared[row].update(mates)
    limit = ctx.policy.prescreen.candidates_max
    return {(row, other) for row, counts in shared.items() for other in _most(counts, row, limit)}


def _most(counts: Mapping[PendingId, int], row: PendingId, limit: int) -> list[PendingId]:
    ranked = sorted((one for one in counts if one != row), key=lambda one: (-counts[one], one))
    return ranked[:limit]


def _same_class(queue: Mapping[PendingId, QueueRow], anew: Iterable[PendingId]) -> set[Pair]:
    """Each new row with the row of its class that waits longest, so that many copies are no many pairs."""
    first: dict[bytes, PendingId] = {}
    for row in sorted(queue.values(), key=_since):
        first.setdefault(row.class_key, row.id)
    return {(one, first[queue[one].class_key]) for one in anew}
