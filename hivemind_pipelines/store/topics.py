"""Topic clusters as the commons stands."""

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import Connection, text

from hivemind_pipelines.core.changes import DissolveTopic, PlaceTopic
from hivemind_pipelines.core.model import Category, ItemId, OrgId, Scope, TopicCluster
from hivemind_pipelines.store.ledger import Applied

TOPICS = text("""
    SELECT t.fingerprint, t.category, t.framework, t.language, t.version, t.medoid_id,
           array_agg(m.item_id ORDER BY m.item_id) AS source_ids,
           array_agg(m.content_hash ORDER BY m.item_id) AS source_hashes
    FROM distillation.topic_clusters t
    JOIN distillation.topic_members m ON m.org_id = t.org_id AND m.fingerprint = t.fingerprint
    WHERE t.org_id = :org_id
    GROUP BY t.org_id, t.fingerprint
    ORDER BY t.fingerprint
""")


def read_topics(conn: Connection, org_id: OrgId) -> tuple[TopicCluster, ...]:
    """The standing topics of the org by fingerprint."""
    return tuple(
        TopicCluster(
            fingerprint=row.fingerprint,
            category=Category(row.category),
            scope=Scope(row.framework, row.language, row.version),
            source_ids=tuple(map(ItemId, row.source_ids)),
            source_hashes=tuple(row.source_hashes),
            medoid_id=ItemId(row.medoid_id),
        )
        for row in conn.execute(TOPICS, {"org_id": org_id})
    )


FINGERPRINTS = text("SELECT DISTINCT fingerprint FROM distillation.topic_members WHERE org_id = :org_id")

# A topic whose last member was removed goes too.
DISSOLVE = text("""
    DELETE FROM distillation.topic_clusters t
    WHERE t.org_id = :org_id AND (
        t.fingerprint = ANY(CAST(:fingerprints AS text[]))
        OR NOT EXISTS (SELECT FROM distillation.topic_members m
                       WHERE m.org_id = t.org_id AND m.fingerprint = t.fingerprint))
""")

INSERT_TOPICS = text("""
    INSERT INTO distillation.topic_clusters
        (org_id, fingerprint, category, framework, language, version, medoid_id, stamp)
    SELECT :org_id, n.*, :stamp
    FROM unnest(CAST(:fingerprints AS text[]), CAST(:categories AS text[]), CAST(:frameworks AS text[]),
                CAST(:languages AS text[]), CAST(:versions AS text[]), CAST(:medoids AS uuid[])) AS n
    ON CONFLICT DO NOTHING
""")

# Features are locked first: an erasure beside us may remove them.
INSERT_MEMBERS = text("""
    WITH present AS (
        SELECT f.item_id FROM distillation.item_features f
        WHERE f.org_id = :org_id AND f.item_id = ANY(CAST(:ids AS uuid[]))
        ORDER BY f.item_id FOR KEY SHARE
    )
    INSERT INTO distillation.topic_members (org_id, fingerprint, item_id, content_hash)
    SELECT :org_id, n.fingerprint, n.item_id, n.content_hash
    FROM unnest(CAST(:fingerprints AS text[]), CAST(:ids AS uuid[]), CAST(:hashes AS text[]))
         AS n (fingerprint, item_id, content_hash)
    JOIN present p ON p.item_id = n.item_id
    ORDER BY n.item_id
    ON CONFLICT DO NOTHING
""")


def apply_topics(
    conn: Connection,
    org_id: OrgId,
    plan: Sequence[PlaceTopic | DissolveTopic],
    *,
    standing: Collection[str],
    stamp: str,
) -> Applied:
    """Replace dissolved topics by placed ones; dissolving goes first, a member has one topic.

    A plan made against other topics than those that stand now is dropped whole: half of it would leave
    topics with half their members.
    """
    if set(conn.execute(FINGERPRINTS, {"org_id": org_id}).scalars()) != set(standing):
        return Applied(0, len(plan), ())
    gone = [change.fingerprint for change in plan if isinstance(change, DissolveTopic)]
    conn.execute(DISSOLVE, {"org_id": org_id, "fingerprints": gone})
    placed = [change.cluster for change in plan if isinstance(change, PlaceTopic)]
    conn.execute(INSERT_TOPICS, {"org_id": org_id, "stamp": stamp, **_columns(placed)})
    members = [
        (cluster.fingerprint, item_id, content_hash)
        for cluster in placed
        for item_id, content_hash in zip(cluster.source_ids, cluster.source_hashes, strict=True)
    ]
    parameters = {
        "org_id": org_id,
        "fingerprints": [member[0] for member in members],
        "ids": [member[1] for member in members],
        "hashes": [member[2] for member in members],
    }
    conn.execute(INSERT_MEMBERS, parameters)
    return Applied(len(plan), 0, ())


# What a policy changed without another text: the topic stands, and so does its summary.
RESTAMP_TOPICS = text("""
    UPDATE distillation.topic_clusters SET stamp = :stamp WHERE org_id = :org_id AND stamp <> :stamp
""")
RESTAMP_SUMMARIES = text("""
    UPDATE distillation.summaries s SET stamp = :summary_stamp
    FROM distillation.topic_clusters t
    WHERE s.org_id = :org_id AND t.org_id = s.org_id AND t.fingerprint = s.fingerprint
      AND s.stamp <> :summary_stamp
""")


def restamp(conn: Connection, org_id: OrgId, *, stamp: str, summary_stamp: str) -> None:
    """Remember that the standing topics, and the summaries written of them, are what the policy asks for."""
    conn.execute(RESTAMP_TOPICS, {"org_id": org_id, "stamp": stamp})
    conn.execute(RESTAMP_SUMMARIES, {"org_id": org_id, "summary_stamp": summary_stamp})


def _columns(placed: Sequence[TopicCluster]) -> Mapping[str, list[object]]:
    return {
        "fingerprints": [cluster.fingerprint for cluster in placed],
        "categories": [cluster.category.value for cluster in placed],
        "frameworks": [cluster.scope.framework for cluster in placed],
        "languages": [cluster.scope.language for cluster in placed],
        "versions": [cluster.scope.version for cluster in placed],
        "medoids": [cluster.medoid_id for cluster in placed],
    }
