"""Matching of the review queue: each pending row against the live items near it, and against the other rows."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import compress, islice
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from hivemind_pipelines.core import blocking, conflict, likeness, matching, prescreen
from hivemind_pipelines.core.likeness import Sketch
from hivemind_pipelines.core.matching import Prepared
from hivemind_pipelines.core.model import (
    EMBEDDING_DIMENSION,
    Comparison,
    Discriminators,
    ItemId,
    MatchInput,
    PairDecision,
    PendingId,
    Vectors,
)
from hivemind_pipelines.core.prescreen import Match, OtherKind
from hivemind_pipelines.stages.context import StageContext
from hivemind_pipelines.store import items, screening
from hivemind_pipelines.store.screening import Pair, QueueRow, StoredMatch

#: A light edit keeps more shingles than this, a rewording lies nearer: what has neither is not compared,
#: for that is half of a run's time.
ALIKE_LETTERS, ALIKE_COSINE = 0.15, 0.8

VectorOf = Mapping[UUID, NDArray[np.float32]]


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
    ready = _Ready(ctx, read.queue, read.waiting.vector_of, inputs)
    found = [*_compared(ctx, ready, pairs, "item"), *_compared(ctx, ready, beside, "pending")]
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


class _Ready:
    """Texts prepared for comparison, and pairs compared, each once and only when it is needed."""

    def __init__(
        self,
        ctx: StageContext,
        queue: Mapping[PendingId, QueueRow],
        vector_of: VectorOf,
        inputs: Mapping[ItemId, MatchInput],
    ) -> None:
        self._policy = ctx.policy
        self._texts: dict[UUID, MatchInput] = {one.item_id: one for one in inputs.values()}
        self._texts |= {row.id: _as_input(row, vector_of.get(row.id)) for row in queue.values()}
        self._sketches: dict[UUID, Sketch] = {}
        self._found: dict[frozenset[UUID], _Found | None] = {}

    def alike(self, pairs: Iterable[Pair]) -> Iterator[Pair]:
        """The pairs near enough in meaning or in letters to be worth a comparison, in order.

        An item whose features are of another text by now is like nothing.
        """
        known = (pair for pair in sorted(pairs) if all(one in self._texts for one in pair))
        while chunk := tuple(islice(known, ALIKE_TOGETHER)):
            one, other = ([self._texts[pair[side]] for pair in chunk] for side in (0, 1))
            is_alike = _letters(one, other) >= ALIKE_LETTERS
            is_alike |= _cosines(one, other) >= ALIKE_COSINE
            yield from compress(chunk, is_alike)

    def get(self, text_id: UUID) -> Sketch:
        """A text prepared."""
        if text_id not in self._sketches:
            prepared = matching.prepare(self._texts[text_id], self._policy.matching)
            self._sketches[text_id] = likeness.sketch(prepared)
        return self._sketches[text_id]

    def compare(self, one_id: UUID, other_id: UUID) -> "_Found | None":
        """A pair compared and decided; None when that can only find that the two are not near."""
        key = frozenset((one_id, other_id))
        if key not in self._found:
            self._found[key] = self._compare(self.get(one_id), self.get(other_id))
        return self._found[key]

    def compare_fully(self, one: Prepared, other: Prepared) -> "_Found":
        """A pair compared and decided, whether near or not."""
        comparison = matching.compare(one, other, self._policy.matching)
        return comparison, matching.decide(comparison, self._policy.matching)

    def _compare(self, one: Sketch, other: Sketch) -> "_Found | None":
        shown_min = min(self._policy.prescreen.near_duplicate_min, self._policy.matching.duplicate_min)
        if shown_min > likeness.FAR_PROBABILITY_MAX and not likeness.may_be_near(one, other):
            return None
        return self.compare_fully(one.text, other.text)


#: Pairs whose signatures and vectors are held beside one another at a time.
ALIKE_TOGETHER = 4096

_Found = tuple[Comparison, PairDecision]


def _as_input(row: QueueRow, vector: NDArray[np.float32] | None) -> MatchInput:
    return MatchInput(
        ItemId(row.id), row.content_hash, row.content, row.scope, Discriminators(), row.signature, vector
    )


def _letters(one: Sequence[MatchInput], other: Sequence[MatchInput]) -> NDArray[np.float64]:
    """The share of the signature that each pair has in common."""
    equal = np.stack([text.signature for text in one]) == np.stack([text.signature for text in other])
    return np.asarray(equal.mean(axis=1))


def _cosines(one: Sequence[MatchInput], other: Sequence[MatchInput]) -> NDArray[np.float32]:
    """The cosine of each pair, 0 where a text has no vector."""
    return np.asarray(np.einsum("ij,ij->i", _vectors(one), _vectors(other)))


def _vectors(texts: Sequence[MatchInput]) -> Vectors:
    none = np.zeros(EMBEDDING_DIMENSION, dtype=np.float32)
    return np.stack([none if text.vector is None else text.vector for text in texts])


@dataclass(frozen=True, slots=True)
class _Pair:
    """A pending row beside another text; `found` is None for two that cannot be near."""

    row: Prepared
    other: Prepared
    found: _Found | None

    @property
    def may_conflict(self) -> bool:
        """Whether the two share words and are no duplicates."""
        if self.found is None:
            return likeness.shares_words(self.row, self.other)
        comparison, decided = self.found
        return decided.decision != "duplicate" and bool(comparison.score("is_near"))

    @property
    def cosine(self) -> float:
        """How near the two lie."""
        return matching.cosine(self.row.item, self.other.item)


def _compared(
    ctx: StageContext, ready: _Ready, pairs: Iterable[Pair], kind: OtherKind
) -> Iterator[StoredMatch]:
    """The pairs that are near-duplicates; with an item, those too that cannot both be true."""
    by_row: defaultdict[PendingId, list[_Pair]] = defaultdict(list)
    for pending_id, other_id in ready.alike(pairs):
        found = ready.compare(pending_id, other_id)
        if found is not None or kind == "item":
            by_row[pending_id].append(_Pair(ready.get(pending_id).text, ready.get(other_id).text, found))
    for pending_id, own in by_row.items():
        conflicts = _conflicts(ctx, own) if kind == "item" else {}
        for pair in own:
            reason = conflicts.get(pair.other.item.item_id)
            if reason or (pair.found is not None and prescreen.is_near(*pair.found, ctx.policy.prescreen)):
                found = pair.found or ready.compare_fully(pair.row, pair.other)
                yield _match(pending_id, pair, found, kind, reason)


def _conflicts(ctx: StageContext, pairs: Sequence[_Pair]) -> dict[ItemId, str]:
    """Of the nearest items that are no duplicates, those that cannot be true beside the row, with the reason."""
    policy = ctx.policy.contradiction
    near = [one for one in pairs if one.cosine >= policy.cosine_min and one.may_conflict]
    nearest = sorted(near, key=lambda one: (-one.cosine, one.other.item.item_id))
    found = {}
    for pair in nearest[: ctx.policy.prescreen.conflicts_max]:
        row, other = pair.row.item, pair.other.item
        said = conflict.find(
            row.content, other.content, scope_a=row.scope, scope_b=other.scope, cosine=pair.cosine,
            score_min=policy.score_min,
        )  # fmt: skip
        if said.outcome == "contradiction":
            found[other.item_id] = said.reason
    return found


def _match(
    pending_id: PendingId, pair: _Pair, found: _Found, kind: OtherKind, reason: str | None
) -> StoredMatch:
    comparison, decided = found
    scores, other = dict(comparison.scores), pair.other.item
    similarity = max(scores["cosine"], scores["same_normalised"]) or scores["shingle_jaccard"]
    match = Match(
        other.item_id, kind, similarity, decided.probability, decided.decision, decided.reason, reason
    )
    return StoredMatch(
        pending_id, pair.row.item.content_hash, other.content_hash, match, holds=True, is_held=True
    )
