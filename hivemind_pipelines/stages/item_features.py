"""item_features: what matching needs of each original's text, and a vector where there is none."""

from collections.abc import Callable
from functools import partial
from uuid import UUID

import numpy as np

from hivemind_pipelines.core import features
from hivemind_pipelines.core.changes import StoreFeatures
from hivemind_pipelines.core.model import EMBEDDING_DIMENSION
from hivemind_pipelines.core.policy import MatchingPolicy
from hivemind_pipelines.core.receipts import FeaturesReceipt
from hivemind_pipelines.services.embedding import Embedder
from hivemind_pipelines.stages.context import StageContext
from hivemind_pipelines.store import items, ledger
from hivemind_pipelines.store.connection import try_lock
from hivemind_pipelines.store.items import NIL, Unfeatured

#: Texts read, embedded and stored at a time: bounds memory, and what a crash can lose.
BATCH = 512


def run(ctx: StageContext) -> FeaturesReceipt:
    """Cache features and vectors of every due original, then publish vectors that rows lack.

    A dry run fills the cache too, and leaves the public rows alone.
    """
    if ctx.full:
        with ctx.store.begin() as conn:
            items.forget_stamps(conn, ctx.org_id, only_caches=ctx.dry_run)
    with ctx.store.read() as conn:
        due = items.count_unfeatured(conn, ctx.org_id, ctx.feature_stamp)
    # What a dry run has cached is published first.
    published = _publish(ctx)
    after, stored, embedded, without = NIL, 0, 0, 0
    while batch := _read(ctx, after):
        after = batch[-1].item.id
        change = plan(batch, ctx.services.embedder, ctx.policy.matching, partial(_show, ctx, stored, due))
        with ctx.store.begin() as conn:
            stored += items.store_features(conn, ctx.org_id, change, stamp=ctx.feature_stamp)
        published += _publish(ctx)
        lacking = sum(row.lacks_embedding for row in batch)
        vectors = int(change.vectors.any(axis=1).sum())
        embedded, without = embedded + vectors, without + lacking - vectors
        ctx.progress("item_features", min(stored, due), due)
    return FeaturesReceipt(
        run_id=ctx.run_id,
        outcome="applied" if stored or published else "nothing_due",
        due=due,
        applied=stored,
        dropped=max(0, due - stored),
        stamp=ctx.feature_stamp,
        items=stored,
        embedded=embedded,
        published=published,
        without_vector=without,
    )


def _read(ctx: StageContext, after: UUID) -> tuple[Unfeatured, ...]:
    with ctx.store.read() as conn:
        return items.read_unfeatured(conn, ctx.org_id, ctx.feature_stamp, after=after, limit=BATCH)


def _show(ctx: StageContext, before: int, due: int, done: int, _of_batch: int) -> None:
    ctx.progress("item_features", before + done, due)


def plan(
    batch: tuple[Unfeatured, ...],
    embedder: Embedder,
    policy: MatchingPolicy,
    on_progress: Callable[[int, int], None] | None = None,
) -> StoreFeatures:
    """Features of the batch; vectors of those without an embedding, zero rows for the others."""
    vectors = np.zeros((len(batch), EMBEDDING_DIMENSION), dtype=np.float32)
    lacking = [index for index, row in enumerate(batch) if row.lacks_embedding]
    if lacking:
        texts = [batch[index].item.content for index in lacking]
        vectors[lacking] = embedder.embed(texts, on_progress)
    return StoreFeatures(features.extract_all([row.item for row in batch], policy), vectors)


def _publish(ctx: StageContext) -> int:
    """Fill public embeddings from the cache; a run that holds the lock does it for us."""
    if ctx.dry_run:
        return 0
    with ctx.store.begin() as conn:
        if not try_lock(conn, ctx.org_id, "item_features"):
            return 0
        model_stamp = ctx.services.embedder.model_stamp
        entries = items.publish_embeddings(conn, ctx.org_id, model_stamp=model_stamp)
        ledger.record(conn, ctx.org_id, ctx.run_id, entries, stamp=ctx.feature_stamp, at=ctx.as_of)
    return len(entries)
