"""What pre-screening remembers: features, findings and matches of pending rows, and the items they met."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, text

from hivemind_pipelines.core.injection import Suspicion
from hivemind_pipelines.core.model import ItemId, OrgId, PendingId, Scope, Vectors
from hivemind_pipelines.core.prescreen import Match, TextFindings
from hivemind_pipelines.store.items import KNOWN_CATEGORIES, LIVE, NIL, copied_vectors, vector_literal

#: Reasons of a failed scan that may pass by themselves; such a row is scanned again by every run.
PASSING = "'timeout', 'error:OSError', 'error:MemoryError'"

_FEATURED = "f.content_hash = p.content_hash AND f.stamp = :features"
_FOUND = f"""
    f.content_hash = p.content_hash AND f.text_stamp = :texts
    AND COALESCE(f.findings ->> 'failed', '') NOT IN ({PASSING})
"""

UNREAD = text(f"""
    -- Pending rows whose features or findings are missing or of another text, model or scanner.
    SELECT p.id, p.content, p.content_hash, p.framework, p.language, p.version,
           COALESCE({_FEATURED}, false) AS is_featured
    FROM public.pending_contributions p
    LEFT JOIN distillation.pending_features f ON f.org_id = p.org_id AND f.pending_id = p.id
    WHERE p.org_id = :org_id AND p.category::text IN ({KNOWN_CATEGORIES}) AND p.id > :after
      AND NOT COALESCE({_FEATURED} AND {_FOUND}, false)
    ORDER BY p.id LIMIT :limit
""")


@dataclass(frozen=True, slots=True)
class UnreadRow:
    """A pending row to be read; `is_featured` when only its findings are due."""

    id: PendingId
    content: str
    content_hash: str
    scope: Scope
    is_featured: bool


def read_unread(
    conn: Connection, org_id: OrgId, *, features: str, texts: str, after: UUID = NIL, limit: int
) -> tuple[UnreadRow, ...]:
    """The next rows in id order whose features or findings are due under these stamps."""
    parameters = {"org_id": org_id, "features": features, "texts": texts, "after": after, "limit": limit}
    return tuple(
        UnreadRow(
            PendingId(row.id), row.content, row.content_hash,
            Scope(row.framework, row.language, row.version), row.is_featured,
        )
        for row in conn.execute(UNREAD, parameters)
    )  # fmt: skip


# Only of rows that still wait, with the text that was read. Their labels are due with them.
STORE_READ = text("""
    WITH fresh AS (
        SELECT n.* FROM unnest(CAST(:ids AS uuid[]), CAST(:hashes AS text[]), CAST(:class_keys AS bytea[]),
                               CAST(:signatures AS bytea[]), CAST(:embeddings AS text[]),
                               CAST(:findings AS jsonb[]))
            AS n (pending_id, content_hash, class_key, signature, embedding, findings)
        JOIN public.pending_contributions p
            ON p.org_id = :org_id AND p.id = n.pending_id AND p.content_hash = n.content_hash
    ), stored AS (
        INSERT INTO distillation.pending_features AS f
            (org_id, pending_id, content_hash, class_key, signature, embedding, findings, stamp, text_stamp)
        SELECT :org_id, pending_id, content_hash, class_key, signature, CAST(embedding AS vector), findings,
               :features, :texts
        FROM fresh WHERE class_key IS NOT NULL ORDER BY pending_id
        ON CONFLICT (org_id, pending_id) DO UPDATE SET
            content_hash = EXCLUDED.content_hash, class_key = EXCLUDED.class_key,
            signature = EXCLUDED.signature, embedding = EXCLUDED.embedding, findings = EXCLUDED.findings,
            stamp = EXCLUDED.stamp, text_stamp = EXCLUDED.text_stamp
    ), found AS (
        UPDATE distillation.pending_features f SET findings = n.findings, text_stamp = :texts
        FROM fresh n WHERE f.org_id = :org_id AND f.pending_id = n.pending_id AND n.class_key IS NULL
    )
    UPDATE distillation.prescreens s SET label_stamp = ''
    FROM fresh n JOIN distillation.pending_features f ON f.org_id = :org_id AND f.pending_id = n.pending_id
    WHERE s.org_id = :org_id AND s.pending_id = n.pending_id AND f.findings <> n.findings
""")


@dataclass(frozen=True, slots=True, eq=False)
class ReadRow:
    """What reading a row gave; `class_key` is None when its features were current already."""

    pending_id: PendingId
    content_hash: str
    findings: TextFindings
    class_key: bytes | None
    signature: NDArray[np.uint32] | None
    vector: NDArray[np.float32] | None


def store_read(
    conn: Connection, org_id: OrgId, read: Sequence[ReadRow], *, features: str, texts: str
) -> None:
    """Cache features and findings of rows that still wait."""
    parameters = {
        "org_id": org_id, "features": features, "texts": texts,
        "ids": [row.pending_id for row in read],
        "hashes": [row.content_hash for row in read],
        "class_keys": [row.class_key for row in read],
        "signatures": [None if row.signature is None else row.signature.astype("<u4").tobytes() for row in read],
        "embeddings": [None if row.vector is None else vector_literal(row.vector) for row in read],
        "findings": [json.dumps(_plain(row.findings)) for row in read],
    }  # fmt: skip
    conn.execute(STORE_READ, parameters)


def _plain(found: TextFindings) -> dict[str, object]:
    suspicion = found.suspicion
    return {
        "words": found.words, "noise": found.noise, "parts": dict(found.parts), "secrets": dict(found.secrets),
        "pii": dict(found.pii), "failed": found.failed,
        "suspicion": None if suspicion is None else {"kinds": list(suspicion.kinds), "score": suspicion.score},
    }  # fmt: skip


def _findings(value: Mapping[str, Any]) -> TextFindings:
    suspicion = value["suspicion"]
    return TextFindings(
        words=value["words"], noise=value["noise"], parts=value["parts"], secrets=value["secrets"],
        pii=value["pii"], failed=value["failed"],
        suspicion=None if suspicion is None else Suspicion(tuple(suspicion["kinds"]), suspicion["score"]),
    )  # fmt: skip


FORGET_READ = text("""
    UPDATE distillation.pending_features SET stamp = '', text_stamp = '' WHERE org_id = :org_id
""")

FORGET_LABELS = (
    text("UPDATE distillation.prescreens SET label_stamp = '' WHERE org_id = :org_id"),
    text("UPDATE distillation.screened_items SET stamp = '' WHERE org_id = :org_id"),
)


def forget_stamps(conn: Connection, org_id: OrgId, *, only_caches: bool) -> None:
    """Make the texts of all pending rows due again, and unless `only_caches` their matches and labels."""
    conn.execute(FORGET_READ, {"org_id": org_id})
    for statement in () if only_caches else FORGET_LABELS:
        conn.execute(statement, {"org_id": org_id})


#: Its labels are missing, or of another policy, model, scanner or text.
IS_UNLABELLED = "(s.label_stamp IS DISTINCT FROM :labels OR s.content_hash <> p.content_hash)"

# Live items that not every pending row of their org was held against.
UNSCREENED_ITEMS = f"""
    SELECT k.org_id, k.id, k.content_hash
    FROM distillation.item_features f
    JOIN public.knowledge_items k
        ON k.org_id = f.org_id AND k.id = f.item_id AND k.content_hash = f.content_hash AND {LIVE}
    LEFT JOIN distillation.screened_items i
        ON i.org_id = f.org_id AND i.item_id = f.item_id AND i.content_hash = f.content_hash
       AND i.stamp = :matches
    WHERE f.stamp = :features AND i.item_id IS NULL
"""

# Every match with whether it holds now: both texts as compared, the other one live or still waiting.
HOLDING = """
    SELECT m.org_id, m.pending_id, m.other_id, m.is_held,
           m.pending_hash = p.content_hash AND (k.id IS NOT NULL OR q.id IS NOT NULL) AS holds
    FROM distillation.pending_matches m
    JOIN public.pending_contributions p ON p.org_id = m.org_id AND p.id = m.pending_id
    LEFT JOIN public.knowledge_items k
        ON m.other_kind = 'item' AND k.org_id = m.org_id AND k.id = m.other_id
       AND k.content_hash = m.other_hash AND k.expired_at IS NULL AND k.deleted_at IS NULL
    LEFT JOIN public.pending_contributions q
        ON m.other_kind = 'pending' AND q.org_id = m.org_id AND q.id = m.other_id
       AND q.content_hash = m.other_hash
"""

# A row that was approved or rejected leaves nothing behind: its features are its text in another form.
GONE = """
    SELECT f.org_id, f.pending_id FROM distillation.pending_features f
    LEFT JOIN public.pending_contributions p ON p.org_id = f.org_id AND p.id = f.pending_id
    WHERE p.id IS NULL
"""

ROWS = text(f"""
    -- Every row of the queue that was read, with what stands of its labels.
    SELECT p.id, p.content, p.content_hash, p.confidence, p.framework, p.language, p.version,
           CASE WHEN p.contributed_at BETWEEN '0001-01-02 UTC' AND '9999-12-30 UTC' THEN p.contributed_at END
               AS contributed_at,
           f.class_key, f.signature, f.findings, {IS_UNLABELLED} AS is_due, COALESCE(s.xmin::text, '') AS version_of_row
    FROM public.pending_contributions p
    JOIN distillation.pending_features f ON f.org_id = p.org_id AND f.pending_id = p.id AND {_FEATURED}
    LEFT JOIN distillation.prescreens s ON s.org_id = p.org_id AND s.pending_id = p.id
    WHERE p.org_id = :org_id AND p.category::text IN ({KNOWN_CATEGORIES})
    ORDER BY p.id
""")

COUNT_DUE = text(f"""
    SELECT (SELECT count(*) FROM public.pending_contributions p
            LEFT JOIN distillation.prescreens s ON s.org_id = p.org_id AND s.pending_id = p.id
            WHERE p.org_id = :org_id AND p.category::text IN ({KNOWN_CATEGORIES}) AND {IS_UNLABELLED}) AS rows,
           (SELECT count(*) FROM ({UNSCREENED_ITEMS}) u WHERE u.org_id = :org_id AND EXISTS (
                SELECT FROM public.pending_contributions p WHERE p.org_id = :org_id)) AS items,
           (SELECT count(DISTINCT h.pending_id) FROM ({HOLDING}) h
            WHERE h.org_id = :org_id AND h.holds <> h.is_held) AS moved,
           (SELECT count(*) FROM ({GONE}) g WHERE g.org_id = :org_id) AS gone
""")


@dataclass(frozen=True, slots=True)
class Stamps:
    """The stamps that pre-screening is measured against."""

    quality: str
    features: str
    texts: str
    matches: str

    @property
    def labels(self) -> str:
        """What the labels of a row depend on."""
        return f"{self.texts}|{self.matches}"


@dataclass(frozen=True, slots=True)
class DueCounts:
    """Rows without current labels, items nobody was held against, rows whose matches moved, rows that left."""

    rows: int
    items: int
    moved: int
    gone: int

    @property
    def total(self) -> int:
        """Everything that a run would work on."""
        return self.rows + self.items + self.moved + self.gone


def count_due(conn: Connection, org_id: OrgId, stamps: Stamps) -> DueCounts:
    """What pre-screening has to do in the org."""
    parameters = {
        "org_id": org_id, "labels": stamps.labels, "features": stamps.features, "matches": stamps.matches,
    }  # fmt: skip
    return DueCounts(**conn.execute(COUNT_DUE, parameters).mappings().one())


@dataclass(frozen=True, slots=True, eq=False)
class QueueRow:
    """A row of the queue as pre-screening sees it; `row_version` is that of what stands, or empty."""

    id: PendingId
    content: str
    content_hash: str
    confidence: float
    scope: Scope
    contributed_at: datetime | None
    class_key: bytes
    signature: NDArray[np.uint32]
    findings: TextFindings
    is_due: bool
    row_version: str


def read_queue(conn: Connection, org_id: OrgId, stamps: Stamps) -> dict[PendingId, QueueRow]:
    """Every row of the queue that was read under these stamps, in id order."""
    parameters = {"org_id": org_id, "features": stamps.features, "labels": stamps.labels}
    return {
        PendingId(row.id): QueueRow(
            PendingId(row.id), row.content, row.content_hash, row.confidence,
            Scope(row.framework, row.language, row.version), row.contributed_at, bytes(row.class_key),
            np.frombuffer(row.signature, dtype="<u4").astype(np.uint32), _findings(row.findings),
            bool(row.is_due), row.version_of_row,
        )
        for row in conn.execute(ROWS, parameters)
    }  # fmt: skip


COPY_VECTORS = """
    COPY (
        SELECT f.pending_id, f.embedding FROM distillation.pending_features f
        JOIN public.pending_contributions p
            ON p.org_id = f.org_id AND p.id = f.pending_id AND p.content_hash = f.content_hash
        WHERE f.org_id = %(org_id)s AND f.embedding IS NOT NULL ORDER BY f.pending_id
    ) TO STDOUT (FORMAT BINARY)
"""


def read_queue_vectors(conn: Connection, org_id: OrgId) -> tuple[list[PendingId], Vectors]:
    """Usable vectors of the queue in id order; shape (n, 384)."""
    ids, vectors = copied_vectors(conn, COPY_VECTORS, {"org_id": org_id})
    return [PendingId(one) for one in ids], vectors


READ_UNSCREENED_ITEMS = text(
    f"SELECT id, content_hash FROM ({UNSCREENED_ITEMS}) u WHERE org_id = :org_id ORDER BY id"
)


def read_unscreened_items(conn: Connection, org_id: OrgId, stamps: Stamps) -> dict[ItemId, str]:
    """Live items that not every pending row was held against, with their content hashes."""
    parameters = {"org_id": org_id, "features": stamps.features, "matches": stamps.matches}
    return {ItemId(row.id): row.content_hash for row in conn.execute(READ_UNSCREENED_ITEMS, parameters)}


# A bucket above the cap is boilerplate. Each is looked up once, by its key. Rows have as many bands each, and
# their buckets come in one list: ids and bands beside every bucket would be most of what is sent.
SHARED_BUCKETS = text(f"""
    WITH probes AS MATERIALIZED (
        SELECT (CAST(:ids AS uuid[]))[1 + (n.place - 1) / :bands] AS pending_id,
               CAST((n.place - 1) % :bands AS smallint) AS band, n.bucket
        FROM unnest(CAST(:buckets AS bigint[])) WITH ORDINALITY AS n (bucket, place)
    ), buckets AS MATERIALIZED (
        SELECT w.band, w.bucket, found.members
        FROM (SELECT DISTINCT band, bucket FROM probes) w
        CROSS JOIN LATERAL (
            SELECT array_agg(capped.item_id) AS members FROM (
                SELECT b.item_id FROM distillation.lsh_bands b
                WHERE b.org_id = :org_id AND b.band = w.band AND b.bucket = w.bucket
                LIMIT CAST(:bucket_max AS bigint) + 1) capped) found
        WHERE cardinality(found.members) BETWEEN 1 AND :bucket_max
    ), shared AS (
        SELECT p.pending_id, other.id AS item_id, count(*) AS bands
        FROM probes p JOIN buckets USING (band, bucket) CROSS JOIN LATERAL unnest(members) AS other (id)
        JOIN public.knowledge_items k ON k.org_id = :org_id AND k.id = other.id AND {LIVE}
        GROUP BY p.pending_id, other.id
    ), ranked AS (
        SELECT pending_id, item_id,
               row_number() OVER (PARTITION BY pending_id ORDER BY bands DESC, item_id) AS place
        FROM shared
    )
    SELECT pending_id, item_id FROM ranked WHERE place <= :candidates_max
""")

# The same statement word for word, whatever the buckets say. Looked up by the keys: a join of two tables of
# which the planner knows nothing yet went through one of them once a row.
SAME_CLASS = text(f"""
    SELECT f.class_key, f.item_id FROM distillation.item_features f
    JOIN public.knowledge_items k
        ON k.org_id = f.org_id AND k.id = f.item_id AND k.content_hash = f.content_hash AND {LIVE}
    WHERE f.org_id = :org_id AND f.class_key = ANY(CAST(:keys AS bytea[]))
""")

Pair = tuple[PendingId, UUID]


def read_bucket_mates(
    conn: Connection,
    org_id: OrgId,
    bands: Mapping[PendingId, Sequence[int]],
    *,
    bucket_max: int,
    candidates_max: int,
) -> set[Pair]:
    """Live items that share LSH buckets with these rows, the closest of each; all have as many bands."""
    parameters = {
        "org_id": org_id, "bucket_max": bucket_max, "candidates_max": candidates_max,
        "ids": list(bands), "bands": max(map(len, bands.values()), default=1),
        "buckets": [bucket for own in bands.values() for bucket in own],
    }  # fmt: skip
    return {(PendingId(row.pending_id), row.item_id) for row in conn.execute(SHARED_BUCKETS, parameters)}


def read_same_class(conn: Connection, org_id: OrgId, rows: Iterable[QueueRow]) -> set[Pair]:
    """These rows with the live items of equal normalised text and scope."""
    rows_of: defaultdict[bytes, list[PendingId]] = defaultdict(list)
    for row in rows:
        rows_of[row.class_key].append(row.id)
    found = conn.execute(SAME_CLASS, {"org_id": org_id, "keys": list(rows_of)})
    return {(row_id, one.item_id) for one in found for row_id in rows_of[bytes(one.class_key)]}


ITEM_BANDS = text("""
    SELECT item_id, band, bucket FROM distillation.lsh_bands
    WHERE org_id = :org_id AND item_id = ANY(CAST(:ids AS uuid[]))
""")


def read_item_bands(
    conn: Connection, org_id: OrgId, ids: Sequence[ItemId]
) -> tuple[tuple[ItemId, int, int], ...]:
    """(item, band, bucket) of these items."""
    rows = conn.execute(ITEM_BANDS, {"org_id": org_id, "ids": list(ids)})
    return tuple((ItemId(row.item_id), row.band, row.bucket) for row in rows)


@dataclass(frozen=True, slots=True)
class StoredMatch:
    """A match of a row as stored, and whether it holds now."""

    pending_id: PendingId
    pending_hash: str
    other_hash: str
    match: Match
    holds: bool
    is_held: bool


MATCHES = text(f"""
    SELECT m.*, h.holds FROM distillation.pending_matches m
    JOIN ({HOLDING}) h ON h.org_id = m.org_id AND h.pending_id = m.pending_id AND h.other_id = m.other_id
    WHERE m.org_id = :org_id ORDER BY m.pending_id, m.other_id
""")


def read_matches(conn: Connection, org_id: OrgId) -> tuple[StoredMatch, ...]:
    """Every stored match of the queue, by row."""
    return tuple(
        StoredMatch(
            PendingId(row.pending_id), row.pending_hash, row.other_hash,
            Match(
                row.other_id, row.other_kind, row.similarity, row.probability, row.decision, row.reason,
                row.conflict,
            ),
            row.holds, row.is_held,
        )
        for row in conn.execute(MATCHES, {"org_id": org_id})
    )  # fmt: skip


COUNT_MOVED = text("""
    SELECT count(*) FROM unnest(CAST(:ids AS uuid[]), CAST(:versions AS text[])) AS n (pending_id, row_version)
    LEFT JOIN distillation.prescreens s ON s.org_id = :org_id AND s.pending_id = n.pending_id
    WHERE COALESCE(s.xmin::text, '') <> n.row_version
""")


def have_moved(conn: Connection, org_id: OrgId, versions: Mapping[PendingId, str]) -> bool:
    """Whether somebody else labelled one of these rows since it was read."""
    parameters = {"org_id": org_id, "ids": list(versions), "versions": list(versions.values())}
    return bool(conn.execute(COUNT_MOVED, parameters).scalar_one())


FORGET_MATCHES = text("""
    DELETE FROM distillation.pending_matches
    WHERE org_id = :org_id AND pending_id = ANY(CAST(:ids AS uuid[]))
""")

STORE_MATCHES = text("""
    WITH present AS (
        SELECT f.pending_id FROM distillation.pending_features f
        WHERE f.org_id = :org_id AND f.pending_id = ANY(CAST(:ids AS uuid[]))
        ORDER BY f.pending_id FOR KEY SHARE
    )
    INSERT INTO distillation.pending_matches AS m
        (org_id, pending_id, other_id, other_kind, pending_hash, other_hash, similarity, probability,
         decision, reason, conflict, is_held)
    SELECT :org_id, n.pending_id, n.other_id, n.other_kind, n.pending_hash, n.other_hash, n.similarity,
           n.probability, n.decision, n.reason, n.conflict, n.is_held
    FROM unnest(CAST(:ids AS uuid[]), CAST(:others AS uuid[]), CAST(:kinds AS text[]),
                CAST(:hashes AS text[]), CAST(:other_hashes AS text[]), CAST(:similarities AS float8[]),
                CAST(:probabilities AS float8[]), CAST(:decisions AS text[]), CAST(:reasons AS text[]),
                CAST(:conflicts AS text[]), CAST(:helds AS boolean[]))
        AS n (pending_id, other_id, other_kind, pending_hash, other_hash, similarity, probability, decision,
              reason, conflict, is_held)
    JOIN present USING (pending_id)
    ORDER BY n.pending_id, n.other_id
    -- A row that was approved may be an item under the id that it had in the queue.
    ON CONFLICT (org_id, pending_id, other_id) DO UPDATE SET
        other_kind = EXCLUDED.other_kind, pending_hash = EXCLUDED.pending_hash, other_hash = EXCLUDED.other_hash,
        similarity = EXCLUDED.similarity, probability = EXCLUDED.probability,
        decision = EXCLUDED.decision, reason = EXCLUDED.reason, conflict = EXCLUDED.conflict,
        is_held = EXCLUDED.is_held
""")

STORE_SCREENED = text("""
    INSERT INTO distillation.screened_items AS i (org_id, item_id, content_hash, stamp)
    SELECT :org_id, n.item_id, n.content_hash, :stamp
    FROM unnest(CAST(:ids AS uuid[]), CAST(:hashes AS text[])) AS n (item_id, content_hash)
    ORDER BY n.item_id
    ON CONFLICT (org_id, item_id) DO UPDATE SET content_hash = EXCLUDED.content_hash, stamp = EXCLUDED.stamp
""")


def store_matches(
    conn: Connection,
    org_id: OrgId,
    matches: Sequence[StoredMatch],
    *,
    anew: Sequence[PendingId],
    screened: Mapping[ItemId, str],
    stamps: Stamps,
) -> None:
    """Remember matches, those of the rows `anew` in place of what there was, and the items held against."""
    conn.execute(FORGET_MATCHES, {"org_id": org_id, "ids": list(anew)})
    parameters = {
        "org_id": org_id,
        "ids": [one.pending_id for one in matches],
        "others": [one.match.other_id for one in matches],
        "kinds": [one.match.other_kind for one in matches],
        "hashes": [one.pending_hash for one in matches],
        "other_hashes": [one.other_hash for one in matches],
        "similarities": [one.match.similarity for one in matches],
        "probabilities": [one.match.probability for one in matches],
        "decisions": [one.match.decision for one in matches],
        "reasons": [one.match.reason for one in matches],
        "conflicts": [one.match.conflict for one in matches],
        "helds": [one.holds for one in matches],
    }
    conn.execute(STORE_MATCHES, parameters)
    seen = {"ids": list(screened), "hashes": list(screened.values()), "stamp": stamps.matches}
    conn.execute(STORE_SCREENED, {"org_id": org_id, **seen})


FORGET_GONE = (
    text(f"""
        DELETE FROM distillation.pending_features f USING ({GONE}) g
        WHERE f.org_id = :org_id AND g.org_id = f.org_id AND g.pending_id = f.pending_id
    """),
    text("""
        DELETE FROM distillation.prescreens s
        WHERE s.org_id = :org_id AND NOT EXISTS (
            SELECT FROM public.pending_contributions p WHERE p.org_id = s.org_id AND p.id = s.pending_id)
    """),
    text(f"""
        DELETE FROM distillation.screened_items i
        WHERE i.org_id = :org_id AND NOT EXISTS (
            SELECT FROM public.knowledge_items k WHERE k.org_id = i.org_id AND k.id = i.item_id AND {LIVE})
    """),
)  # fmt: skip


def forget_gone(conn: Connection, org_id: OrgId) -> None:
    """Keep nothing of rows that left the queue, nor of items that are no longer live."""
    for statement in FORGET_GONE:
        conn.execute(statement, {"org_id": org_id})
