"""Topics: groups of related originals of one category and scope that a summary may be written from."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np

from hivemind_pipelines.core.changes import DissolveTopic, PlaceTopic
from hivemind_pipelines.core.model import Category, ItemId, OrgId, Scope, TopicCluster, TopicItem, Vectors
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.core.stars import star_groups

#: Distances at the very limit differ in their last bits from machine to machine: they stay outside.
_DISTANCE_MARGIN = 1e-6


def plan_topics(
    items: Sequence[TopicItem],
    vectors: Vectors,
    *,
    org_id: OrgId,
    current: Collection[str],
    policy: DistillationPolicy,
    model: str,
) -> tuple[PlaceTopic | DissolveTopic, ...]:
    """Make the topics of the whole commons the standing ones; dissolve before placing, each sorted.

    `items` are all live originals of the org that may be summarised, rows of `vectors` aligned to
    them; `current` are the fingerprints that stand. Planning against the applied state gives nothing.
    """
    planned = {
        cluster.fingerprint: cluster
        for cluster in clusters(items, vectors, org_id=org_id, policy=policy, model=model)
    }
    standing = set(current)
    dissolved = tuple(DissolveTopic(fingerprint) for fingerprint in sorted(standing - planned.keys()))
    placed = tuple(PlaceTopic(planned[fingerprint]) for fingerprint in sorted(planned.keys() - standing))
    return dissolved + placed


def clusters(
    items: Sequence[TopicItem], vectors: Vectors, *, org_id: OrgId, policy: DistillationPolicy, model: str
) -> tuple[TopicCluster, ...]:
    """All topics of the items, whatever order they come in; raises ValueError when rows do not align."""
    if len(items) != len(vectors):
        raise ValueError(f"{len(items)} items but {len(vectors)} vectors")
    topics = policy.topics
    found = []
    for rows in _by_category_and_scope(items):
        stars = star_groups(
            vectors[rows],
            cosine_min=1.0 - topics.distance_max + _DISTANCE_MARGIN,
            size_min=topics.size_min,
            size_max=topics.size_max,
        )
        for star in stars:
            members = [items[rows[index]] for index in star.members]
            found.append(_cluster(members, items[rows[star.medoid]], org_id, policy, model))
    return tuple(found)


def fingerprint(
    org_id: OrgId, sources: Iterable[tuple[ItemId, str]], policy: DistillationPolicy, model: str
) -> str:
    """64 hex digits over everything that shapes a summary's text: (id, content hash) of each source,
    method, prompt version, model, limits and topics; nothing of PII or budget."""
    summary = policy.summary
    shape = {
        "org": org_id,
        "sources": sorted((str(item_id), content_hash) for item_id, content_hash in sources),
        "model": model,
        "method": summary.method,
        "prompt_version": summary.prompt_version,
        "sentences_max": summary.sentences_max,
        "characters_max": summary.characters_max,
        "topics": policy.topics.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()


def _by_category_and_scope(items: Sequence[TopicItem]) -> Iterator[np.ndarray[tuple[int], np.dtype[np.intp]]]:
    groups: defaultdict[tuple[Category, Scope], list[int]] = defaultdict(list)
    for row in sorted(range(len(items)), key=lambda row: items[row].id):
        groups[items[row].category, items[row].scope].append(row)
    for rows in groups.values():
        yield np.asarray(rows, dtype=np.intp)


def _cluster(
    members: Sequence[TopicItem], medoid: TopicItem, org_id: OrgId, policy: DistillationPolicy, model: str
) -> TopicCluster:
    return TopicCluster(
        fingerprint=fingerprint(org_id, ((item.id, item.content_hash) for item in members), policy, model),
        category=medoid.category,
        scope=medoid.scope,
        source_ids=tuple(item.id for item in members),
        source_hashes=tuple(item.content_hash for item in members),
        medoid_id=medoid.id,
    )
