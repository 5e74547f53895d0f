"""topic_clusters: related live originals of one category and scope, outside any open case."""

import numpy as np

from hivemind_pipelines.core import topics as planning
from hivemind_pipelines.core.changes import DissolveTopic, PlaceTopic
from hivemind_pipelines.core.model import EMBEDDING_DIMENSION, ItemId, TopicCluster, Vectors
from hivemind_pipelines.core.receipts import TopicsReceipt
from hivemind_pipelines.stages.context import StageContext
from hivemind_pipelines.store import items, topics
from hivemind_pipelines.store.connection import try_lock
from hivemind_pipelines.store.items import TopicCandidate

Plan = tuple[PlaceTopic | DissolveTopic, ...]


def run(ctx: StageContext) -> TopicsReceipt:
    """Read the originals that may be summarised, cluster them, replace the topics that moved."""
    with ctx.store.read() as conn:
        candidates = [one for one in items.read_topic_candidates(conn, ctx.org_id) if _is_eligible(ctx, one)]
        standing = topics.read_topics(conn, ctx.org_id)
        ids, vectors = items.read_vectors(conn, ctx.org_id)
    plan = planning.plan_topics(
        [one.item for one in candidates],
        _aligned([one.item.id for one in candidates], ids, vectors),
        org_id=ctx.org_id,
        current=[cluster.fingerprint for cluster in standing],
        policy=ctx.policy,
        model=ctx.summary_model,
    )
    placed = sum(isinstance(change, PlaceTopic) for change in plan)
    receipt = TopicsReceipt(
        run_id=ctx.run_id,
        outcome="applied" if plan else "nothing_due",
        due=len(plan),
        applied=len(plan),
        stamp=ctx.topic_stamp,
        placed=placed,
        dissolved=len(plan) - placed,
        standing=len(standing) + placed - (len(plan) - placed),
    )
    if ctx.dry_run:
        ctx.planned.topics = _after(standing, plan)
        return receipt
    with ctx.store.begin() as conn:
        if not try_lock(conn, ctx.org_id, "topic_clusters"):
            return receipt.model_copy(update={"outcome": "busy", "applied": 0})
        if plan:
            before = [cluster.fingerprint for cluster in standing]
            applied = topics.apply_topics(conn, ctx.org_id, plan, standing=before, stamp=ctx.topic_stamp)
            if applied.dropped:
                return receipt.model_copy(update={"applied": 0, "dropped": applied.dropped})
        versions = {one.item.id: one.row_version for one in candidates}
        items.stamp_features(conn, ctx.org_id, versions, column="topic_stamp", stamp=ctx.topic_stamp)
    return receipt


def _is_eligible(ctx: StageContext, candidate: TopicCandidate) -> bool:
    """Live now, or after what the earlier stages of a dry run planned."""
    planned, item_id = ctx.planned, candidate.item.id
    is_live = (candidate.is_live and item_id not in planned.expired) or item_id in planned.revived
    return is_live and item_id not in planned.in_case


def _aligned(wanted: list[ItemId], ids: list[ItemId], vectors: Vectors) -> Vectors:
    """Rows in the order of `wanted`, zero where an item has no usable vector."""
    row_of = {item_id: row for row, item_id in enumerate(ids)}
    aligned = np.zeros((len(wanted), EMBEDDING_DIMENSION), dtype=np.float32)
    known = [(index, row_of[item_id]) for index, item_id in enumerate(wanted) if item_id in row_of]
    if known:
        indices, rows = zip(*known, strict=True)
        aligned[list(indices)] = vectors[list(rows)]
    return aligned


def _after(standing: tuple[TopicCluster, ...], plan: Plan) -> dict[str, TopicCluster]:
    clusters = {cluster.fingerprint: cluster for cluster in standing}
    for change in plan:
        match change:
            case DissolveTopic():
                clusters.pop(change.fingerprint, None)
            case PlaceTopic():
                clusters[change.cluster.fingerprint] = change.cluster
    return clusters
