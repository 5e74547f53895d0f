"""suspicions: which originals give a model instructions; reviewers see them, topics leave them out."""

from collections.abc import Sequence
from dataclasses import replace

from hivemind_pipelines.core.injection import Suspicion, suspicion, suspicion_stamp
from hivemind_pipelines.core.model import ItemId
from hivemind_pipelines.stages.context import StageContext
from hivemind_pipelines.store import suspicions
from hivemind_pipelines.store.items import TopicCandidate

#: Texts read and judged at a time.
BATCH = 512

Judged = dict[tuple[ItemId, str], Suspicion | None]


def judge(ctx: StageContext, candidates: Sequence[TopicCandidate]) -> Judged:
    """What the detector makes of those that it has not judged; of a text that just changed, as it is now."""
    unjudged = [one for one in candidates if one.is_suspicious is None]
    judged: Judged = {}
    for start in range(0, len(unjudged), BATCH):
        batch = unjudged[start : start + BATCH]
        with ctx.store.read() as conn:
            texts = suspicions.read_texts(conn, ctx.org_id, [one.item.id for one in batch])
        judged |= {key: suspicion(content) for key, content in texts.items()}
        ctx.progress("topic_clusters", start + len(batch), len(unjudged))
    return judged


def keep(ctx: StageContext, judged: Judged) -> None:
    """Label them for reviewers, and judge none of them again until its text or the detector changes."""
    if judged:
        with ctx.store.begin() as conn:
            suspicions.store(conn, ctx.org_id, judged, stamp=suspicion_stamp())


def with_judgements(candidates: Sequence[TopicCandidate], judged: Judged) -> list[TopicCandidate]:
    """The candidates as they stand after a judgement."""
    return [
        replace(one, is_suspicious=judged[key] is not None)
        if (key := (one.item.id, one.item.content_hash)) in judged
        else one
        for one in candidates
    ]
