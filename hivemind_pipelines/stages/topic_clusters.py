"""topic_clusters: related live originals of one category and scope, outside any open case, none suspicious."""

from collections.abc import Sequence

import numpy as np

from hivemind_pipelines.core import topics as planning
from hivemind_pipelines.core.changes import DissolveTopic, PlaceTopic
from hivemind_pipelines.core.injection import suspicion_stamp
from hivemind_pipelines.core.model import EMBEDDING_DIMENSION, ItemId, TopicCluster, Vectors
from hivemind_pipelines.core.receipts import TopicsReceipt
from hivemind_pipelines.stages import suspicions
from hivemind_pipelines.stages.context import StageContext
from hivemind_pipelines.store import items, topics
from hivemind_pipelines.store.connection import try_lock
from hivemind_pipelines.store.items import TopicCandidate

Plan = tuple[PlaceTopic | DissolveTopic, ...]


def run(ctx: StageContext) -> TopicsReceipt:
    """Read the originals that may be summarised, judge and cluster them, replace the topics that moved."""
    read_items, standing = read(ctx)
    eligible = [one for one in read_items if is_eligible(ctx, one)]
    judged = suspicions.judge(ctx, eligible)
    suspicions.keep(ctx, judged)
    eligible = suspicions.with_judgements(eligible, judged)
    candidates = [one for one in eligible if one.is_suspicious is False]
    suspicious = sum(one.is_suspicious is True for one in eligible)
    if not ctx.full and _stands(eligible, candidates, standing):
        return TopicsReceipt(
            run_id=ctx.run_id, stamp=ctx.topic_stamp, standing=len(standing), suspicious=suspicious
        )
    plan = plan_anew(ctx, candidates, standing)
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
        suspicious=suspicious,
    )
    if ctx.dry_run:
        ctx.planned.topics = after(standing, plan)
        return receipt
    with ctx.store.begin() as conn:
        if not try_lock(conn, ctx.org_id, "topic_clusters"):
            return receipt.model_copy(update={"outcome": "busy", "applied": 0})
        if plan:
            before = [cluster.fingerprint for cluster in standing]
            applied = topics.apply_topics(conn, ctx.org_id, plan, standing=before, stamp=ctx.topic_stamp)
            if applied.dropped:
                return receipt.model_copy(update={"applied": 0, "dropped": applied.dropped})
        topics.restamp(
            conn, ctx.org_id, stamp=ctx.topic_stamp, summary_stamp=ctx.policy.fingerprint("summary")
        )
        # Those judged were taken into account; the others are due as soon as they may be placed again.
        done = {one.item.id: one.row_version for one in eligible if one.is_suspicious is not None}
        waiting = {one.item.id: one.row_version for one in read_items if one.item.id not in done}
        items.stamp_features(conn, ctx.org_id, done, column="topic_stamp", stamp=ctx.topic_stamp)
        items.stamp_features(conn, ctx.org_id, waiting, column="topic_stamp", stamp=None)
    return receipt


def _stands(
    eligible: Sequence[TopicCandidate],
    candidates: Sequence[TopicCandidate],
    standing: Sequence[TopicCluster],
) -> bool:
    """Whether every item has been taken into account and no topic has lost a member: nothing can move."""
    known = {(one.item.id, one.item.content_hash) for one in candidates}
    members = (
        member
        for cluster in standing
        for member in zip(cluster.source_ids, cluster.source_hashes, strict=True)
    )
    return all(one.is_placed for one in eligible) and known.issuperset(members)


def read(ctx: StageContext) -> tuple[list[TopicCandidate], tuple[TopicCluster, ...]]:
    """The originals that may be placed now or later, and the topics that stand."""
    with ctx.store.read() as conn:
        candidates = items.read_topic_candidates(
            conn, ctx.org_id, stamp=ctx.topic_stamp, judged_under=suspicion_stamp()
        )
        standing = topics.read_topics(conn, ctx.org_id)
    return list(candidates), standing


def plan_anew(
    ctx: StageContext, candidates: Sequence[TopicCandidate], standing: Sequence[TopicCluster]
) -> Plan:
    """What turns the standing topics into those of the candidates; reads their vectors."""
    wanted = [one.item.id for one in candidates]
    with ctx.store.read() as conn:
        ids, vectors = items.read_vectors(conn, ctx.org_id)
    return planning.plan_topics(
        [one.item for one in candidates],
        _aligned(wanted, ids, vectors),
        org_id=ctx.org_id,
        current=[cluster.fingerprint for cluster in standing],
        policy=ctx.policy,
        model=ctx.summary_model,
    )


def is_eligible(ctx: StageContext, candidate: TopicCandidate) -> bool:
    """Live and in no open case, now or after what the earlier stages of a dry run planned."""
    planned, item_id = ctx.planned, candidate.item.id
    is_live = (candidate.is_live and item_id not in planned.expired) or item_id in planned.revived
    is_in_case = (candidate.is_in_case and item_id not in planned.out_of_case) or item_id in planned.in_case
    return is_live and not is_in_case


def _aligned(wanted: list[ItemId], ids: list[ItemId], vectors: Vectors) -> Vectors:
    """Rows in the order of `wanted`, zero where an item has no usable vector."""
    row_of = {item_id: row for row, item_id in enumerate(ids)}
    aligned = np.zeros((len(wanted), EMBEDDING_DIMENSION), dtype=np.float32)
    known = [(index, row_of[item_id]) for index, item_id in enumerate(wanted) if item_id in row_of]
    if known:
        indices, rows = zip(*known, strict=True)
        aligned[list(indices)] = vectors[list(rows)]
    return aligned


def after(standing: Sequence[TopicCluster], plan: Plan) -> dict[str, TopicCluster]:
    """The topics by fingerprint once the plan is applied."""
    clusters = {cluster.fingerprint: cluster for cluster in standing}
    for change in plan:
        match change:
            case DissolveTopic():
                clusters.pop(change.fingerprint, None)
            case PlaceTopic():
                clusters[change.cluster.fingerprint] = change.cluster
    return clusters
