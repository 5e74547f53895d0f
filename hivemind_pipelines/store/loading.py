"""New rows of the commons, inserted set by set; what is there already stays as it is."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from hivemind_pipelines.core.erasure import Sameness, erased_as
from hivemind_pipelines.core.intake import IntakeRow
from hivemind_pipelines.store.tombstones import read_erased_names

LoadTarget = Literal["items", "pending"]

INCOMING = """
    incoming AS (
        SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS r(
            position int, id uuid, org_id text, content text, content_hash text, category text,
            confidence float8, source_agent_id text, framework text, language text, version text,
            tags jsonb, contributed_at timestamptz, quality_score float8, retrieval_count int,
            helpful_count int, not_helpful_count int, is_public boolean)
    )
"""

# Sorted, so that two loads of the same file wait for each other instead of dead-locking.
INSERT_ITEMS = text(f"""
    -- Items that their org does not have yet.
    WITH {INCOMING}
    INSERT INTO public.knowledge_items (
        id, org_id, is_public, source_agent_id, content, content_hash, category, confidence, framework,
        language, version, tags, contributed_at, approved_at, quality_score, retrieval_count,
        helpful_count, not_helpful_count)
    SELECT id, org_id, is_public, source_agent_id, content, content_hash,
           CAST(category AS public.knowledgecategory), confidence, framework, language, version, tags,
           COALESCE(contributed_at, :now), :now, quality_score, retrieval_count, helpful_count,
           not_helpful_count
    FROM incoming
    ORDER BY org_id, content_hash
    ON CONFLICT DO NOTHING
    RETURNING id
""")

# The review queue has no unique key on (org, hash): loads take turns, and look before they insert.
PENDING_TURN = text("SELECT pg_advisory_xact_lock(hashtextextended('hivemind_pipelines.load.pending', 0))")

# An item that was approved meanwhile is not offered for review again.
INSERT_PENDING = text(f"""
    -- Contributions that their org has neither in the queue nor in its knowledge.
    WITH {INCOMING}
    INSERT INTO public.pending_contributions (
        id, org_id, source_agent_id, content, content_hash, category, confidence, framework, language,
        version, tags, contributed_at, is_sensitive_flagged)
    SELECT id, org_id, source_agent_id, content, content_hash,
           CAST(category AS public.knowledgecategory), confidence, framework, language, version, tags,
           COALESCE(contributed_at, :now), false
    FROM incoming r
    WHERE NOT EXISTS (SELECT FROM public.pending_contributions p
                      WHERE p.org_id = r.org_id AND p.content_hash = r.content_hash)
      AND NOT EXISTS (SELECT FROM public.knowledge_items k
                      WHERE k.org_id = r.org_id AND k.content_hash = r.content_hash)
    ORDER BY org_id, content_hash
    ON CONFLICT DO NOTHING
    RETURNING id
""")

KNOWN_ITEMS = """
    SELECT r.position FROM incoming r
    WHERE EXISTS (SELECT FROM public.knowledge_items k
                  WHERE k.org_id = r.org_id AND k.content_hash = r.content_hash)
"""

KNOWN_PENDING = """
    UNION
    SELECT r.position FROM incoming r
    WHERE EXISTS (SELECT FROM public.pending_contributions p
                  WHERE p.org_id = r.org_id AND p.content_hash = r.content_hash)
"""

FIND_KNOWN_ITEMS = text(f"WITH {INCOMING} {KNOWN_ITEMS}")
FIND_KNOWN_PENDING = text(f"WITH {INCOMING} {KNOWN_ITEMS} {KNOWN_PENDING}")


class RowsRefusedError(Exception):
    """The database refused a batch because of a value in it; `sqlstate` says which kind, no row is stored."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__(f"the database refused the row (SQLSTATE {sqlstate})")
        self.sqlstate = sqlstate


@dataclass(frozen=True, slots=True)
class Placement:
    """Positions in a batch: rows stored now, texts their org had already, ids that name another text."""

    loaded: frozenset[int]
    known: frozenset[int]
    taken: frozenset[int]


def insert_rows(conn: Connection, rows: Sequence[IntakeRow], target: LoadTarget, now: datetime) -> Placement:
    """Insert a batch; a row whose (org, hash) or id exists changes nothing.

    Raises RowsRefusedError when a value is refused; the caller's transaction is lost then.
    """
    try:
        return _insert(conn, rows, target, now)
    except DBAPIError as error:
        sqlstate = getattr(error.orig, "sqlstate", None) or ""
        # 22: a value out of range or not storable, 23: a constraint of the server, 54: too large.
        if sqlstate[:2] in ("22", "23", "54"):
            raise RowsRefusedError(sqlstate) from None
        raise


def _insert(conn: Connection, rows: Sequence[IntakeRow], target: LoadTarget, now: datetime) -> Placement:
    firsts, known, taken = _first_of_each(rows)
    if target == "pending":
        conn.execute(PENDING_TURN)
    insert = INSERT_PENDING if target == "pending" else INSERT_ITEMS
    find_known = FIND_KNOWN_PENDING if target == "pending" else FIND_KNOWN_ITEMS

    stored = set(conn.execute(insert, {"rows": _encode(rows, firsts), "now": now}).scalars())
    loaded = {position for position in firsts if rows[position].id in stored}
    left = [position for position in firsts if position not in loaded]
    if left:
        there = set(conn.execute(find_known, {"rows": _encode(rows, left)}).scalars())
        known |= there
        taken |= set(left) - there
    return Placement(frozenset(loaded), frozenset(known), frozenset(taken))


def find_erased(
    conn: Connection, rows: Sequence[IntakeRow], target: LoadTarget, receipt_key: bytes
) -> dict[int, Sameness]:
    """Positions of texts that their org erased, by how they are the same; none it has now among them.

    Erasures wait from here to the end of the transaction: nothing is erased between look and insert.
    """
    names = read_erased_names(conn, {row.org_id for row in rows}, locked=True)
    found = {
        position: sameness
        for position, row in enumerate(rows)
        if (erased := names.get(row.org_id))
        and (sameness := erased_as(receipt_key, row.org_id, row.content, erased))
    }
    if not found:
        return {}
    find_known = FIND_KNOWN_PENDING if target == "pending" else FIND_KNOWN_ITEMS
    known = set(conn.execute(find_known, {"rows": _encode(rows, sorted(found))}).scalars())
    return {position: sameness for position, sameness in found.items() if position not in known}


def _first_of_each(rows: Sequence[IntakeRow]) -> tuple[list[int], set[int], set[int]]:
    """Positions of rows whose text and id are new in the batch, repeated texts, and reused ids."""
    firsts, known, taken = list[int](), set[int](), set[int]()
    texts, ids = set[tuple[str, str]](), set[object]()
    for position, row in enumerate(rows):
        if (row.org_id, row.content_hash) in texts:
            known.add(position)
        elif row.id in ids:
            taken.add(position)
        else:
            firsts.append(position)
            texts.add((row.org_id, row.content_hash))
            ids.add(row.id)
    return firsts, known, taken


def _encode(rows: Sequence[IntakeRow], positions: Sequence[int]) -> str:
    return json.dumps([_plain(position, rows[position]) for position in positions], ensure_ascii=False)


def _plain(position: int, row: IntakeRow) -> dict[str, object]:
    return {
        "position": position,
        "id": str(row.id),
        "org_id": row.org_id,
        "content": row.content,
        "content_hash": row.content_hash,
        "category": row.category,
        "confidence": row.confidence,
        "source_agent_id": row.source_agent_id,
        "framework": row.framework,
        "language": row.language,
        "version": row.version,
        "tags": row.tags,
        "contributed_at": row.contributed_at.isoformat() if row.contributed_at else None,
        "quality_score": row.quality_score,
        "retrieval_count": row.retrieval_count,
        "helpful_count": row.helpful_count,
        "not_helpful_count": row.not_helpful_count,
        "is_public": row.is_public,
    }
