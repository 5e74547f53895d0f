"""duplicate_pairs: blocking, comparison and decision for what changed, and the model's second look."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hivemind_pipelines.core import blocking, matching
from hivemind_pipelines.core.model import CandidatePair, ItemId
from hivemind_pipelines.core.policy import MatchingPolicy
from hivemind_pipelines.core.receipts import PairsReceipt
from hivemind_pipelines.stages import confirmation
from hivemind_pipelines.stages.context import StageContext
from hivemind_pipelines.store import candidates, items, pairs
from hivemind_pipelines.store.connection import refresh_statistics, try_lock
from hivemind_pipelines.store.pairs import PairKey, StoredPair

#: Pairs compared and stored at a time.
BATCH = 5_000

#: From so many probes on the tables have changed enough for the planner to be told.
BULK = 500

VectorOf = Mapping[ItemId, NDArray[np.float32]]


def run(ctx: StageContext) -> PairsReceipt:
    """Compare what changed, decide again what another policy decided, and ask the model about the rest.

    Pairs are a cache, so a dry run stores them too; it forecasts the model's calls instead of making them.
    """
    with ctx.store.read() as conn:
        probes = candidates.read_due_probes(
            conn, ctx.org_id, feature_stamp=ctx.feature_stamp, probe_stamp=ctx.probe_stamp
        )
    done = _probe(ctx, probes) if probes else _Probed(Counter())
    if done is None:
        return PairsReceipt(run_id=ctx.run_id, outcome="busy", due=len(probes), stamp=ctx.probe_stamp)
    redecided = _decide_again(ctx)
    confirmed = confirmation.run(ctx)
    decided = done.decided
    compared = decided["duplicate"] + decided["possible"] + decided["distinct"]
    applied = compared + redecided + confirmed.verdicts
    return PairsReceipt(
        run_id=ctx.run_id,
        outcome="applied" if applied or probes else "nothing_due",
        due=len(probes),
        applied=applied,
        stamp=ctx.probe_stamp,
        note=", ".join(filter(None, (done.note, confirmed.note))),
        probed=len(probes),
        compared=compared,
        redecided=redecided,
        duplicate=decided["duplicate"],
        possible=decided["possible"],
        distinct=decided["distinct"],
        vetoed=decided["vetoed"],
        llm_calls=confirmed.calls,
        llm_confirmed=confirmed.same,
    )


@dataclass(frozen=True, slots=True)
class _Probed:
    """How the pairs found were decided, and the share of exact neighbours among them where it is not all."""

    decided: Counter[str]
    recall: float | None = None

    @property
    def note(self) -> str:
        return "" if self.recall is None else f"neighbours by index: recall {self.recall:.3f} against exact"


def _probe(ctx: StageContext, probes: Sequence[ItemId]) -> _Probed | None:
    with ctx.store.begin() as conn:
        if not try_lock(conn, ctx.org_id, "duplicate_pairs"):
            return None
        signatures = candidates.read_signatures(conn, ctx.org_id, probes)
        bands = {
            item_id: blocking.bands(np.frombuffer(signature, dtype="<u4"), ctx.policy.matching)
            for item_id, signature in signatures.items()
        }
        candidates.store_bands(conn, ctx.org_id, bands, probe_stamp=ctx.probe_stamp)
    if len(probes) >= BULK:
        refresh_statistics(ctx.store)
    seen = _candidates(ctx, probes)
    decided: Counter[str] = Counter()
    ordered = sorted(seen.found)
    for start in range(0, len(ordered), BATCH):
        decided += _compare_batch(ctx, ordered[start : start + BATCH], seen.vectors)
        ctx.progress("duplicate_pairs", min(start + BATCH, len(ordered)), len(ordered))
    if len(probes) >= BULK:
        refresh_statistics(ctx.store)
    with ctx.store.begin() as conn:
        # One finisher at a time: each must see what the other has probed.
        if not try_lock(conn, ctx.org_id, "duplicate_pairs"):
            return None
        is_done = candidates.finish_probes(
            conn, ctx.org_id, probes, seen.obsolete, seen.considered,
            feature_stamp=ctx.feature_stamp, probe_stamp=ctx.probe_stamp,
        )  # fmt: skip
    return _Probed(decided, seen.recall) if is_done else None


@dataclass(frozen=True, slots=True)
class _Seen:
    """One snapshot's view: the pairs found, those stored and no longer found, and whom they were held against."""

    found: set[PairKey]
    obsolete: Mapping[PairKey, str]
    considered: set[ItemId]
    vectors: VectorOf
    recall: float | None = None


def _candidates(ctx: StageContext, probes: Sequence[ItemId]) -> _Seen:
    """Pairs that share a bucket or lie near each other, one item a class on either side."""
    policy = ctx.policy.matching
    with ctx.store.read() as conn:
        found = candidates.read_band_candidates(
            conn, ctx.org_id, probes, bucket_max=policy.bucket_max, max_candidates=policy.max_candidates
        )
        others = candidates.read_probed(conn, ctx.org_id, probe_stamp=ctx.probe_stamp)
        stored = pairs.read_pairs_of(conn, ctx.org_id, probes)
        ids, vectors = items.read_vectors(conn, ctx.org_id, sorted({*probes, *others}))
    row_of = {item_id: row for row, item_id in enumerate(ids)}
    probing = [item_id for item_id in probes if item_id in row_of]
    near = blocking.neighbours(
        probing, vectors[[row_of[item_id] for item_id in probing]], ids, vectors,
        cosine_min=policy.cosine_min, top_k=policy.max_candidates,
    )  # fmt: skip
    found |= {(a_id, b_id) for a_id, b_id, _ in near.pairs}
    return _Seen(
        found,
        {key: version for key, version in stored.items() if key not in found},
        {*probes, *others},
        {item_id: vectors[row] for item_id, row in row_of.items()},
        near.recall,
    )


def _compare_batch(ctx: StageContext, keys: Sequence[PairKey], vectors: VectorOf) -> Counter[str]:
    with ctx.store.read() as conn:
        involved = sorted({item_id for key in keys for item_id in key})
        inputs = items.read_match_inputs(conn, ctx.org_id, involved, vectors)
    policy = ctx.policy.matching
    prepared = {item_id: matching.prepare(item, policy) for item_id, item in inputs.items()}
    compared = tuple(_compared(keys, prepared, policy))
    with ctx.store.begin() as conn:
        pairs.store_pairs(conn, ctx.org_id, compared, stamp=ctx.policy.fingerprint("matching"))
    counts = Counter(str(pair.decided.decision) for pair in compared)
    counts["vetoed"] = sum(bool(pair.comparison.vetoes) for pair in compared)
    return counts


def _compared(
    keys: Sequence[PairKey], prepared: Mapping[ItemId, matching.Prepared], policy: MatchingPolicy
) -> Iterator[CandidatePair]:
    """Compared pairs in order; a pair whose text changed meanwhile is left to the next run."""
    for a_id, b_id in keys:
        if a_id in prepared and b_id in prepared:
            a, b = prepared[a_id], prepared[b_id]
            comparison = matching.compare(a, b, policy)
            decided = matching.decide(comparison, policy)
            yield CandidatePair(a_id, b_id, a.item.content_hash, b.item.content_hash, comparison, decided)


def _decide_again(ctx: StageContext) -> int:
    """Decide stored comparisons under the current policy; texts and features are not needed."""
    stamp = ctx.policy.fingerprint("matching")
    total = 0
    while stale := _stale(ctx, stamp):
        again = [_decided_again(pair, ctx.policy.matching) for pair in stale]
        moved = {
            item_id
            for old, new in zip(stale, again, strict=True)
            if old.decided.decision != new.decided.decision
            for item_id in (new.a_id, new.b_id)
        }
        with ctx.store.begin() as conn:
            pairs.store_pairs(conn, ctx.org_id, again, stamp=stamp)
            pairs.unsettle(conn, ctx.org_id, moved)
        total += len(again)
    return total


def _stale(ctx: StageContext, stamp: str) -> tuple[StoredPair, ...]:
    with ctx.store.read() as conn:
        return pairs.read_stale_pairs(conn, ctx.org_id, stamp=stamp, limit=BATCH)


def _decided_again(pair: StoredPair, policy: MatchingPolicy) -> CandidatePair:
    decided = matching.decide(pair.comparison, policy)
    return CandidatePair(pair.a_id, pair.b_id, pair.a_hash, pair.b_hash, pair.comparison, decided)
