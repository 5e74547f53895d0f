"""Items, their features and their vectors, read as core records."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, text

from hivemind_pipelines.core.changes import StoreFeatures
from hivemind_pipelines.core.model import (
    EMBEDDING_DIMENSION,
    Category,
    Discriminators,
    Item,
    ItemId,
    MatchInput,
    OrgId,
    PoolItem,
    Scope,
    TopicItem,
    Vectors,
)
from hivemind_pipelines.store.connection import raw_cursor
from hivemind_pipelines.store.ledger import Entry

LIVE = "k.expired_at IS NULL AND k.deleted_at IS NULL"

#: A server may know categories that we do not: their items are left alone until we learn them.
KNOWN_CATEGORIES = ", ".join(f"'{category.value}'" for category in Category)

#: A summary is what we registered as one, or what a server's own distillation marked as one; an erased
#: item is neither, whatever the server does with its row. A scalar subquery, because right after a bulk
#: load the planner answers NOT EXISTS with a quadratic join; and its truth value rather than a comparison,
#: because of a comparison the planner expects one row in 200 to pass, of two a single row of the org, for
#: which it reads all features once an item.
ORIGINAL = f"""
    -- What we know of an item that was moved to another org belongs to the first: it is left alone.
    (SELECT r.kind = 'original' AND r.org_id = k.org_id
     FROM distillation.registered_items r WHERE r.item_id = k.id) IS NOT FALSE
    AND NOT (k.source_agent_id = 'distillation' AND jsonb_typeof(k.tags) = 'object'
             AND k.tags -> 'distilled' = 'true'::jsonb)
    AND k.category::text IN ({KNOWN_CATEGORIES})
"""

#: What matching may place: live originals, and those that a merge of ours, and nobody since, expired.
POOL = f"""
    k.deleted_at IS NULL
    AND (k.expired_at IS NULL OR EXISTS (
        SELECT FROM distillation.merges own
        WHERE own.org_id = k.org_id AND own.duplicate_id = k.id
          AND NOT own.is_legacy AND own.expired_at = k.expired_at))
    AND {ORIGINAL}
"""

#: Timestamps the driver cannot carry (infinity, years beyond 9999) read as NULL.
CONTRIBUTED_AT = (
    "CASE WHEN k.contributed_at BETWEEN '0001-01-02 UTC' AND '9999-12-30 UTC' THEN k.contributed_at END"
)
APPROVED_AT = "CASE WHEN k.approved_at BETWEEN '0001-01-02 UTC' AND '9999-12-30 UTC' THEN k.approved_at END"

#: What an item's statement is about; another scope makes its features due, like another text.
SCOPE_HASH = """md5(concat_ws(chr(31), coalesce(k.framework, chr(30)), coalesce(k.language, chr(30)),
                              coalesce(k.version, chr(30))))"""

LOCK_ITEMS = text("""
    SELECT k.id FROM public.knowledge_items k
    WHERE k.org_id = :org_id AND k.id = ANY(CAST(:ids AS uuid[]))
    ORDER BY k.id FOR NO KEY UPDATE
""")

IS_DUE = f"""
    (f.stamp IS DISTINCT FROM :stamp OR f.content_hash <> k.content_hash OR f.scope_hash <> {SCOPE_HASH})
"""

UNFEATURED = text(f"""
    -- Pool items whose features are missing, of an older extractor or of another content.
    SELECT k.id, k.content, k.content_hash, k.category::text AS category, k.framework, k.language,
           k.version, k.is_public, k.confidence, k.quality_score, {CONTRIBUTED_AT} AS contributed_at,
           k.embedding IS NULL AS lacks_embedding
    FROM public.knowledge_items k
    LEFT JOIN distillation.item_features f ON f.org_id = k.org_id AND f.item_id = k.id
    WHERE k.org_id = :org_id AND {POOL}
      AND {IS_DUE}
      AND k.id > :after
    ORDER BY k.id
    LIMIT :limit
""")

COUNT_UNFEATURED = text(f"""
    SELECT count(*)
    FROM public.knowledge_items k
    LEFT JOIN distillation.item_features f ON f.org_id = k.org_id AND f.item_id = k.id
    WHERE k.org_id = :org_id AND {POOL}
      AND {IS_DUE}
""")

NIL = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Unfeatured:
    """An item whose features are due, and whether it needs an embedding too."""

    item: Item
    lacks_embedding: bool


def count_unfeatured(conn: Connection, org_id: OrgId, stamp: str) -> int:
    """How many items of the org need features under `stamp`."""
    return int(conn.execute(COUNT_UNFEATURED, {"org_id": org_id, "stamp": stamp}).scalar_one())


def read_unfeatured(
    conn: Connection, org_id: OrgId, stamp: str, *, after: UUID = NIL, limit: int
) -> tuple[Unfeatured, ...]:
    """The next items in id order that need features under `stamp`."""
    parameters = {"org_id": org_id, "stamp": stamp, "after": after, "limit": limit}
    return tuple(
        Unfeatured(_item(row, org_id), row["lacks_embedding"])
        for row in conn.execute(UNFEATURED, parameters).mappings()
    )


def _item(row: Mapping[Any, Any], org_id: OrgId) -> Item:
    return Item(
        id=ItemId(row["id"]),
        org_id=org_id,
        content=row["content"],
        content_hash=row["content_hash"],
        category=Category(row["category"]),
        scope=_scope(row),
        is_public=row["is_public"],
        confidence=row["confidence"],
        quality_score=row["quality_score"],
        contributed_at=row["contributed_at"],
    )


def _scope(row: Mapping[Any, Any]) -> Scope:
    return Scope(row["framework"], row["language"], row["version"])


FORGET_CACHES = text("""
    UPDATE distillation.item_features SET stamp = '', probed_stamp = NULL WHERE org_id = :org_id
""")

FORGET_PLACES = text("""
    UPDATE distillation.item_features SET settled_stamp = NULL, topic_stamp = NULL WHERE org_id = :org_id
""")


def forget_stamps(conn: Connection, org_id: OrgId, *, only_caches: bool) -> None:
    """Make the features and pairs of every item due again, and unless `only_caches` its merges and topics."""
    conn.execute(FORGET_CACHES, {"org_id": org_id})
    if not only_caches:
        conn.execute(FORGET_PLACES, {"org_id": org_id})


REGISTER = text("""
    INSERT INTO distillation.registered_items (org_id, item_id, kind)
    SELECT k.org_id, k.id, 'original' FROM public.knowledge_items k
    WHERE k.org_id = :org_id AND k.id = ANY(CAST(:ids AS uuid[]))
    ORDER BY k.id
    ON CONFLICT DO NOTHING
""")

# Before anything of ours is written about them, in the order in which an erasure takes them: a text that
# is being erased beside us must not leave its features behind.
HOLD_TEXTS = text("""
    SELECT k.id FROM public.knowledge_items k
    WHERE k.org_id = :org_id AND k.id = ANY(CAST(:ids AS uuid[]))
    ORDER BY k.id FOR KEY SHARE
""")

# Joined to the registry: an item that is no original of this org, or whose text changed, stores nothing.
# The same text in the same scope keeps its place: what a preview caches makes nothing due.
UPSERT_FEATURES = text(f"""
    INSERT INTO distillation.item_features AS f
        (org_id, item_id, content_hash, scope_hash, class_key, signature, discriminators, embedding, stamp)
    SELECT r.org_id, r.item_id, n.content_hash, {SCOPE_HASH}, n.class_key, n.signature, n.discriminators,
           CASE WHEN k.embedding IS NULL THEN CAST(n.embedding AS vector) END, :stamp
    FROM unnest(CAST(:ids AS uuid[]), CAST(:hashes AS text[]), CAST(:class_keys AS bytea[]),
                CAST(:signatures AS bytea[]), CAST(:discriminators AS jsonb[]), CAST(:embeddings AS text[]))
         AS n (item_id, content_hash, class_key, signature, discriminators, embedding)
    JOIN distillation.registered_items r
        ON r.org_id = :org_id AND r.item_id = n.item_id AND r.kind = 'original'
    JOIN public.knowledge_items k
        ON k.org_id = r.org_id AND k.id = r.item_id AND k.content_hash = n.content_hash
    ORDER BY r.item_id
    ON CONFLICT (org_id, item_id) DO UPDATE SET
        content_hash = EXCLUDED.content_hash, scope_hash = EXCLUDED.scope_hash,
        class_key = EXCLUDED.class_key,
        signature = EXCLUDED.signature, discriminators = EXCLUDED.discriminators,
        embedding = EXCLUDED.embedding, stamp = EXCLUDED.stamp,
        probed_stamp = NULL,
        settled_stamp = CASE WHEN f.content_hash = EXCLUDED.content_hash AND f.class_key = EXCLUDED.class_key
                             THEN f.settled_stamp END,
        topic_stamp = CASE WHEN f.content_hash = EXCLUDED.content_hash AND f.scope_hash = EXCLUDED.scope_hash
                           THEN f.topic_stamp END
""")


def register_originals(conn: Connection, org_id: OrgId, ids: Sequence[ItemId]) -> None:
    """Anchor items of the org, so that rows of ours may refer to them; ids of other orgs are left out."""
    conn.execute(REGISTER, {"org_id": org_id, "ids": list(ids)})


def store_features(conn: Connection, org_id: OrgId, change: StoreFeatures, *, stamp: str) -> int:
    """Cache features and, beside them, vectors not yet published; returns the rows stored."""
    features = change.features
    ids = [feature.item_id for feature in features]
    conn.execute(HOLD_TEXTS, {"org_id": org_id, "ids": ids})
    register_originals(conn, org_id, ids)
    parameters = {
        "org_id": org_id,
        "stamp": stamp,
        "ids": ids,
        "hashes": [feature.content_hash for feature in features],
        "class_keys": [feature.class_key for feature in features],
        "signatures": [feature.signature.astype("<u4").tobytes() for feature in features],
        "discriminators": [_discriminators_json(feature.discriminators) for feature in features],
        "embeddings": [vector_literal(row) for row in change.vectors],
    }
    return conn.execute(UPSERT_FEATURES, parameters).rowcount


#: Nine digits tell all single-precision numbers apart; every digit more is only sent, quoted and parsed.
_VECTOR_TEXT = f"[{','.join(['%.9g'] * EMBEDDING_DIMENSION)}]"


def vector_literal(row: NDArray[np.float32]) -> str | None:
    """pgvector's text form of a usable vector of shape (384,), None of an all-zero row."""
    return _VECTOR_TEXT % tuple(row.tolist()) if row.any() else None


def _discriminators_json(value: Discriminators) -> str:
    return json.dumps({name: getattr(value, name) for name in Discriminators.__dataclass_fields__})


# A vector goes to the public row only while that has none and its text is the one embedded.
PUBLISH_EMBEDDINGS = text("""
    WITH lacking AS (
        SELECT k.id, f.embedding
        FROM public.knowledge_items k
        JOIN distillation.item_features f ON f.org_id = k.org_id AND f.item_id = k.id
        WHERE k.org_id = :org_id AND f.embedding IS NOT NULL
          AND k.embedding IS NULL AND f.content_hash = k.content_hash
        ORDER BY k.id FOR NO KEY UPDATE OF k
    )
    UPDATE public.knowledge_items k SET embedding = l.embedding
    FROM lacking l WHERE k.org_id = :org_id AND k.id = l.id
    RETURNING k.id
""")

CLEAR_PUBLISHED = text("""
    UPDATE distillation.item_features f SET embedding = NULL
    FROM public.knowledge_items k
    WHERE f.org_id = :org_id AND k.org_id = f.org_id AND k.id = f.item_id
      AND f.embedding IS NOT NULL AND k.embedding IS NOT NULL
""")


def publish_embeddings(conn: Connection, org_id: OrgId, *, model_stamp: str) -> tuple[Entry, ...]:
    """Fill public embeddings that are NULL from our cache; returns the ledger entries of the effect."""
    ids = conn.execute(PUBLISH_EMBEDDINGS, {"org_id": org_id}).scalars().all()
    conn.execute(CLEAR_PUBLISHED, {"org_id": org_id})
    return tuple(
        Entry("embed", item_id, {"embedding": None}, {"embedding": model_stamp}) for item_id in sorted(ids)
    )


# NULLs are left out so that every row of the binary stream has the same length.
COPY_VECTORS = f"""
    COPY (
        SELECT k.id, COALESCE(k.embedding, f.embedding)
        FROM public.knowledge_items k
        LEFT JOIN distillation.item_features f
            ON f.org_id = k.org_id AND f.item_id = k.id AND f.content_hash = k.content_hash
        WHERE k.org_id = %(org_id)s AND {POOL}
          AND COALESCE(k.embedding, f.embedding) IS NOT NULL
          AND (%(ids)s::uuid[] IS NULL OR k.id = ANY(%(ids)s::uuid[]))
          AND (k.expired_at IS NULL OR NOT %(only_live)s)
        ORDER BY k.id
    ) TO STDOUT (FORMAT BINARY)
"""

_COPY_HEADER_BYTES = 19
_COPY_TRAILER_BYTES = 2
_COPY_ROW = np.dtype(
    [
        ("fields", ">i2"),
        ("id_length", ">i4"),
        ("id", "V16"),
        ("vector_length", ">i4"),
        ("dimension", ">i2"),
        ("unused", ">i2"),
        ("vector", ">f4", (EMBEDDING_DIMENSION,)),
    ]
)
#: Lengths outside these bounds overflow or vanish in single precision: such a vector counts as none.
_NORM_MIN, _NORM_MAX = 1e-3, 1e3


def read_vectors(
    conn: Connection, org_id: OrgId, ids: Sequence[ItemId] | None = None, *, only_live: bool = False
) -> tuple[list[ItemId], Vectors]:
    """Usable vectors of pool items in id order, scaled to unit length; shape (n, 384)."""
    wanted = None if ids is None else [str(item_id) for item_id in ids]
    parameters = {"org_id": org_id, "ids": wanted, "only_live": only_live}
    found, vectors = copied_vectors(conn, COPY_VECTORS, parameters)
    return [ItemId(item_id) for item_id in found], vectors


def copied_vectors(
    conn: Connection, statement: LiteralString, parameters: Mapping[str, object]
) -> tuple[list[UUID], Vectors]:
    """Usable vectors by a binary COPY of rows (id, vector), none of them NULL, scaled to unit length."""
    with raw_cursor(conn) as cursor, cursor.copy(statement, dict(parameters)) as copy:
        buffer = b"".join(copy)
    count = (len(buffer) - _COPY_HEADER_BYTES - _COPY_TRAILER_BYTES) // _COPY_ROW.itemsize
    rows = np.frombuffer(buffer, dtype=_COPY_ROW, count=count, offset=_COPY_HEADER_BYTES)
    vectors = rows["vector"].astype(np.float32)
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    usable = np.isfinite(norms) & (norms > _NORM_MIN) & (norms < _NORM_MAX)
    unit = (vectors[usable] / norms[usable, None]).astype(np.float32)
    return [UUID(bytes=raw.tobytes()) for raw in rows["id"][usable]], unit


MATCH_INPUTS = text("""
    SELECT k.id, k.content, k.content_hash, k.framework, k.language, k.version, f.discriminators, f.signature
    FROM public.knowledge_items k
    JOIN distillation.item_features f
        ON f.org_id = k.org_id AND f.item_id = k.id AND f.content_hash = k.content_hash
    WHERE k.org_id = :org_id AND k.id = ANY(CAST(:ids AS uuid[]))
""")


def read_match_inputs(
    conn: Connection, org_id: OrgId, ids: Sequence[ItemId], vectors: Mapping[ItemId, NDArray[np.float32]]
) -> dict[ItemId, MatchInput]:
    """Texts and features for comparison; items whose text changed since their features are left out."""
    rows = conn.execute(MATCH_INPUTS, {"org_id": org_id, "ids": list(ids)}).mappings()
    return {
        ItemId(row["id"]): MatchInput(
            item_id=ItemId(row["id"]),
            content_hash=row["content_hash"],
            content=row["content"],
            scope=_scope(row),
            discriminators=_discriminators(row["discriminators"]),
            signature=np.frombuffer(row["signature"], dtype="<u4").astype(np.uint32),
            vector=vectors.get(ItemId(row["id"])),
        )
        for row in rows
    }


def _discriminators(value: dict[str, list[str]]) -> Discriminators:
    return Discriminators(**{name: tuple(entries) for name, entries in value.items()})


# An item whose text is newer than its features is a class of its own until it is looked at again.
POOL_ITEMS = text(f"""
    SELECT k.id, k.content_hash, k.is_public, k.quality_score, k.confidence,
           {CONTRIBUTED_AT} AS contributed_at,
           CASE WHEN f.content_hash = k.content_hash THEN f.class_key
                ELSE sha256(uuid_send(k.id)) END AS class_key,
           m.canonical_id,
           COALESCE(f.settled_stamp = :stamp AND f.content_hash = k.content_hash, false) AS settled,
           f.xmin::text AS row_version
    FROM public.knowledge_items k
    LEFT JOIN distillation.item_features f ON f.org_id = k.org_id AND f.item_id = k.id
    LEFT JOIN distillation.merges m
        ON m.org_id = k.org_id AND m.duplicate_id = k.id AND k.expired_at IS NOT NULL
    WHERE k.org_id = :org_id AND {POOL}
    ORDER BY k.id
""")


@dataclass(frozen=True, slots=True)
class Pool:
    """The items that clustering may place and, per item, the version of its feature row as read."""

    items: tuple[PoolItem, ...]
    row_versions: Mapping[ItemId, str]


def read_pool(conn: Connection, org_id: OrgId, *, stamp: str) -> Pool:
    """The matching pool; `settled` is relative to `stamp`."""
    rows = conn.execute(POOL_ITEMS, {"org_id": org_id, "stamp": stamp}).mappings().all()
    items = tuple(
        PoolItem(
            id=ItemId(row["id"]),
            class_key=bytes(row["class_key"]),
            content_hash=row["content_hash"],
            is_public=row["is_public"],
            quality_score=row["quality_score"],
            confidence=row["confidence"],
            contributed_at=row["contributed_at"],
            canonical_id=None if row["canonical_id"] is None else ItemId(row["canonical_id"]),
            settled=row["settled"],
        )
        for row in rows
    )
    return Pool(items, {ItemId(row["id"]): row["row_version"] for row in rows if row["row_version"]})


TOPIC_ITEMS = text(f"""
    -- Originals that may be summarised: featured, of current text. Those in an open case are told apart.
    SELECT k.id, k.content_hash, k.category::text AS category, k.framework, k.language, k.version,
           f.xmin::text AS row_version, k.expired_at IS NULL AS is_live,
           f.topic_stamp IS NOT DISTINCT FROM :stamp AS is_placed, s.kinds <> '{{}}' AS is_suspicious,
           EXISTS (
               SELECT FROM distillation.case_items ci
               JOIN distillation.contradiction_cases c
                   ON c.org_id = ci.org_id AND c.case_id = ci.case_id AND c.status = 'open'
               WHERE ci.org_id = k.org_id AND ci.item_id = k.id) AS is_in_case
    FROM public.knowledge_items k
    JOIN distillation.item_features f
        ON f.org_id = k.org_id AND f.item_id = k.id AND f.content_hash = k.content_hash
    LEFT JOIN distillation.suspicions s
        ON s.org_id = k.org_id AND s.item_id = k.id AND s.content_hash = k.content_hash
       AND s.stamp = :judged_under
    WHERE k.org_id = :org_id AND {POOL}
    ORDER BY k.id
""")


@dataclass(frozen=True, slots=True)
class TopicCandidate:
    """An item for topics; `is_live` is false for a duplicate that a dry run may bring back.

    `is_placed` says that topics have taken it into account under the stamp it was read with.
    `is_suspicious` is None until the current detector of injections has judged it.
    """

    item: TopicItem
    is_live: bool
    is_in_case: bool
    is_placed: bool
    is_suspicious: bool | None
    row_version: str


def read_topic_candidates(
    conn: Connection, org_id: OrgId, *, stamp: str, judged_under: str
) -> tuple[TopicCandidate, ...]:
    """The pool's featured items, in id order."""
    parameters = {"org_id": org_id, "stamp": stamp, "judged_under": judged_under}
    rows = conn.execute(TOPIC_ITEMS, parameters).mappings()
    return tuple(
        TopicCandidate(
            TopicItem(ItemId(row["id"]), row["content_hash"], Category(row["category"]), _scope(row)),
            row["is_live"],
            row["is_in_case"],
            row["is_placed"],
            row["is_suspicious"],
            row["row_version"],
        )
        for row in rows
    )


STAMP_FEATURES = """
    UPDATE distillation.item_features f SET {column} = :stamp
    FROM unnest(CAST(:ids AS uuid[]), CAST(:versions AS text[])) AS n (item_id, row_version)
    WHERE f.org_id = :org_id AND f.item_id = n.item_id AND f.xmin::text = n.row_version
      AND f.{column} IS DISTINCT FROM :stamp
"""
_STAMP_STATEMENTS = {
    column: text(STAMP_FEATURES.format(column=column)) for column in ("settled_stamp", "topic_stamp")
}


def stamp_features(
    conn: Connection, org_id: OrgId, versions: Mapping[ItemId, str], *, column: str, stamp: str | None
) -> None:
    """Mark items as done in `settled_stamp` or `topic_stamp`; None makes them due.

    A feature row that another transaction touched since it was read (its xmin moved) stays due.
    """
    ids = sorted(versions)
    parameters = {
        "org_id": org_id,
        "stamp": stamp,
        "ids": ids,
        "versions": [versions[item_id] for item_id in ids],
    }
    conn.execute(_STAMP_STATEMENTS[column], parameters)


COUNT_LIVE = text(f"""
    SELECT count(*) FILTER (WHERE {LIVE}) AS live,
           count(*) FILTER (WHERE k.expired_at IS NOT NULL AND k.deleted_at IS NULL) AS expired
    FROM public.knowledge_items k WHERE k.org_id = :org_id
""")


def count_items(conn: Connection, org_id: OrgId) -> tuple[int, int]:
    """(live, expired) items of the org, summaries included."""
    row = conn.execute(COUNT_LIVE, {"org_id": org_id}).one()
    return row.live, row.expired


ORGS = text("""
    SELECT org_id FROM public.knowledge_items GROUP BY org_id
    UNION SELECT org_id FROM public.pending_contributions GROUP BY org_id
    ORDER BY org_id
""")


def read_orgs(conn: Connection) -> list[OrgId]:
    """Every org that has an item or a pending row."""
    return [OrgId(org_id) for org_id in conn.execute(ORGS).scalars()]
