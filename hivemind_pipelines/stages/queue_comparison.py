"""Comparison of pending rows with the texts that matching found for each: near-duplicates and conflicts."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, islice
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from hivemind_pipelines.core import conflict, likeness, matching, prescreen
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
from hivemind_pipelines.store.screening import Pair, QueueRow, StoredMatch

#: A light edit keeps more shingles than this, a rewording lies nearer: what has neither is not compared,
#: for that is half of a run's time.
ALIKE_LETTERS, ALIKE_COSINE = 0.15, 0.8

VectorOf = Mapping[UUID, NDArray[np.float32]]


def compared(
    ctx: StageContext, texts: "Texts", pairs: Iterable[Pair], kind: OtherKind
) -> Iterator[StoredMatch]:
    """The pairs that are near-duplicates; with an item, those too that cannot both be true."""
    by_row: defaultdict[PendingId, list[_Pair]] = defaultdict(list)
    for pending_id, other_id in texts.alike(pairs):
        found = texts.compare(pending_id, other_id)
        if found is not None or kind == "item":
            by_row[pending_id].append(_Pair(texts.get(pending_id).text, texts.get(other_id).text, found))
    for pending_id, own in by_row.items():
        conflicts = _conflicts(ctx, own) if kind == "item" else {}
        for pair in own:
            reason = conflicts.get(pair.other.item.item_id)
            if reason or (pair.found is not None and prescreen.is_near(*pair.found, ctx.policy.prescreen)):
                found = pair.found or texts.compare_fully(pair.row, pair.other)
                yield _match(pending_id, pair, found, kind, reason)


class Texts:
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
