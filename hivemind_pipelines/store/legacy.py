"""What a HiveMind server did before us, read from its tags and entered into our own tables."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from sqlalchemy import Connection, Row, text

from hivemind_pipelines.core.model import ItemId, OrgId, RunId
from hivemind_pipelines.core.provenance import (
    MERGED_KEY,
    SOURCES_KEY,
    LegacyDerivation,
    LegacyMerge,
    LegacyProvenance,
    LegacyRow,
    linked_ids,
    read_provenance,
)
from hivemind_pipelines.store import ledger
from hivemind_pipelines.store.connection import Store

LEGACY_STAMP = "legacy"

#: All imports count as one run of the ledger; it has no policy and no row in `runs`.
IMPORT_RUN_ID = RunId(uuid5(NAMESPACE_URL, "hivemind_pipelines:import_provenance"))


@dataclass(frozen=True, slots=True)
class Imported:
    """How many legacy merges, derivations and summaries were entered."""

    merges: int = 0
    derivations: int = 0
    summaries: int = 0

    def __add__(self, other: "Imported") -> "Imported":
        return Imported(
            self.merges + other.merges,
            self.derivations + other.derivations,
            self.summaries + other.summaries,
        )


def import_provenance(store: Store, *, at: datetime) -> Imported:
    """Enter every org's legacy provenance that is not entered yet, one transaction an org.

    What we merged, undid or published ourselves is ours and stays as it is. A source that no row
    stands for any more is entered all the same, so that the erasure stage finds it gone.
    """
    with store.read() as connection:
        org_ids = [OrgId(row.org_id) for row in connection.execute(_ORGS)]
    return sum((_import_org(store, org_id, at) for org_id in org_ids), Imported())


def _import_org(store: Store, org_id: OrgId, at: datetime) -> Imported:
    with store.begin() as connection:
        found = read_provenance(_read_rows(connection, org_id))
        summary_count = _register(connection, org_id, found)
        merges = _enter_merges(connection, org_id, found.merges)
        derivations = _enter_derivations(connection, org_id, found.derivations)
        entries = [*_merge_entries(merges), *_derivation_entries(derivations)]
        ledger.record(connection, org_id, IMPORT_RUN_ID, entries, stamp=LEGACY_STAMP, at=at)
    return Imported(len(merges), len(derivations), summary_count)


_IS_SUMMARY = """(
    k.source_agent_id = 'distillation'
    AND CASE WHEN jsonb_typeof(k.tags) = 'object' THEN k.tags -> 'distilled' = 'true' ELSE false END
)"""

_IS_OURS = """
    EXISTS (SELECT FROM distillation.summaries s WHERE s.org_id = k.org_id AND s.summary_id = k.id)
"""

_HAS_PROVENANCE = f"""(
    ({_IS_SUMMARY} AND NOT {_IS_OURS})
    OR CASE WHEN jsonb_typeof(k.tags) = 'object' THEN k.tags ? '{MERGED_KEY}' ELSE false END
)"""

_ORGS = text(f"""
-- Orgs in which there is anything to import.
SELECT DISTINCT k.org_id FROM public.knowledge_items k WHERE {_HAS_PROVENANCE} ORDER BY k.org_id
""")

# Only that a row is expired matters here; the exact moment, infinity included, is copied in SQL.
_ROW = """
    k.id, k.expired_at IS NULL AND k.deleted_at IS NULL AS is_live,
    CASE WHEN k.expired_at BETWEEN '0001-01-02' AND '9999-12-30' THEN k.expired_at
         WHEN k.expired_at IS NOT NULL THEN '9999-12-30' END AS expired_at
"""

_TAGGED = text(f"""
-- Anyone may write `source_item_ids` into the tags of a contribution; only a summary's are believed.
SELECT {_ROW},
       CASE WHEN {_IS_SUMMARY} AND NOT {_IS_OURS} THEN k.tags
            ELSE jsonb_build_object('{MERGED_KEY}', k.tags -> '{MERGED_KEY}') END AS tags
FROM public.knowledge_items k
WHERE k.org_id = :org_id AND {_HAS_PROVENANCE}
ORDER BY k.id
""")

_MENTIONED = text(f"""
-- Rows of the org that the tags name.
SELECT {_ROW}, NULL::jsonb AS tags
FROM public.knowledge_items k
WHERE k.org_id = :org_id AND k.id = ANY(:ids)
ORDER BY k.id
""")

_GONE = text("""
SELECT mentioned.id
FROM unnest(CAST(:ids AS uuid[])) AS mentioned (id)
WHERE NOT EXISTS (SELECT FROM public.knowledge_items k WHERE k.id = mentioned.id)
  AND NOT EXISTS (SELECT FROM distillation.registered_items r
                  WHERE r.item_id = mentioned.id AND r.org_id <> :org_id)
ORDER BY mentioned.id
""")


def _read_rows(connection: Connection, org_id: OrgId) -> tuple[LegacyRow, ...]:
    """The org's rows that carry provenance, those they mention, and a stand-in for each source gone."""
    tagged = connection.execute(_TAGGED, {"org_id": org_id}).all()
    sources = _linked(tagged, SOURCES_KEY)
    mentioned = (sources | _linked(tagged, MERGED_KEY)) - {row.id for row in tagged}
    named = connection.execute(_MENTIONED, {"org_id": org_id, "ids": sorted(mentioned)}).all()
    missing = (sources & mentioned) - {row.id for row in named}
    gone = connection.execute(_GONE, {"org_id": org_id, "ids": sorted(missing)}).all()
    return (
        *(LegacyRow(row.id, row.is_live, row.expired_at, row.tags) for row in [*tagged, *named]),
        *(LegacyRow(row.id, is_live=False, expired_at=None) for row in gone),
    )


def _linked(rows: Iterable[Row[Any]], key: str) -> set[ItemId]:
    return {item_id for row in rows for item_id in linked_ids(row.tags, key)[0]}


_REGISTER = text("""
INSERT INTO distillation.registered_items (org_id, item_id, kind)
SELECT :org_id, item_id, :kind
FROM unnest(CAST(:ids AS uuid[])) AS n (item_id)
ORDER BY item_id
ON CONFLICT DO NOTHING
""")


def _register(connection: Connection, org_id: OrgId, found: LegacyProvenance) -> int:
    """Enter every item concerned into the registry; the number of new summaries."""
    originals = {item_id for merge in found.merges for item_id in (merge.duplicate_id, merge.canonical_id)}
    originals |= {edge.source_id for edge in found.derivations}
    connection.execute(_REGISTER, {"org_id": org_id, "kind": "original", "ids": sorted(originals)})
    summaries = list(found.summary_ids)
    return connection.execute(_REGISTER, {"org_id": org_id, "kind": "summary", "ids": summaries}).rowcount


# A duplicate that our ledger knows was merged, or brought back, by us since.
_ENTER_MERGES = text("""
INSERT INTO distillation.merges (org_id, duplicate_id, canonical_id, expired_at, is_legacy, stamp)
SELECT k.org_id, k.id, canonical.item_id, k.expired_at, true, :stamp
FROM unnest(CAST(:duplicates AS uuid[]), CAST(:canonicals AS uuid[])) AS n (duplicate_id, canonical_id)
JOIN public.knowledge_items k ON k.org_id = :org_id AND k.id = n.duplicate_id
JOIN distillation.registered_items duplicate
    ON duplicate.org_id = k.org_id AND duplicate.item_id = k.id AND duplicate.kind = 'original'
JOIN distillation.registered_items canonical
    ON canonical.org_id = k.org_id AND canonical.item_id = n.canonical_id AND canonical.kind = 'original'
WHERE k.expired_at IS NOT NULL
  AND NOT EXISTS (SELECT FROM distillation.ledger l
                  WHERE l.org_id = k.org_id AND l.subject_id = k.id
                    AND l.change IN ('merge', 'repoint', 'unmerge', 'import_merge'))
ON CONFLICT (org_id, duplicate_id) DO NOTHING
RETURNING duplicate_id, canonical_id, to_jsonb(expired_at) AS expired_at
""")


def _enter_merges(connection: Connection, org_id: OrgId, merges: Sequence[LegacyMerge]) -> Sequence[Row[Any]]:
    values = {
        "org_id": org_id,
        "stamp": LEGACY_STAMP,
        "duplicates": [merge.duplicate_id for merge in merges],
        "canonicals": [merge.canonical_id for merge in merges],
    }
    return sorted(connection.execute(_ENTER_MERGES, values).all())


def _merge_entries(merges: Iterable[Row[Any]]) -> list[ledger.Entry]:
    return [
        ledger.Entry(
            "import_merge",
            row.duplicate_id,
            after={"expired_at": row.expired_at, "canonical": row.canonical_id},
        )
        for row in merges
    ]


# The version that a source had is not known any more: today's counts. A source that is gone has none.
_ENTER_DERIVATIONS = text("""
INSERT INTO distillation.derivations (org_id, derived_id, source_id, source_hash, is_legacy)
SELECT derived.org_id, derived.item_id, source.item_id, COALESCE(k.content_hash, ''), true
FROM unnest(CAST(:derived AS uuid[]), CAST(:sources AS uuid[])) AS n (derived_id, source_id)
JOIN distillation.registered_items derived
    ON derived.org_id = :org_id AND derived.item_id = n.derived_id AND derived.kind = 'summary'
JOIN distillation.registered_items source
    ON source.org_id = :org_id AND source.item_id = n.source_id AND source.kind = 'original'
LEFT JOIN public.knowledge_items k ON k.org_id = :org_id AND k.id = n.source_id
ON CONFLICT (org_id, derived_id, source_id) DO NOTHING
RETURNING derived_id, source_id
""")


def _enter_derivations(
    connection: Connection, org_id: OrgId, derivations: Sequence[LegacyDerivation]
) -> Sequence[Row[Any]]:
    values = {
        "org_id": org_id,
        "derived": [edge.derived_id for edge in derivations],
        "sources": [edge.source_id for edge in derivations],
    }
    return sorted(connection.execute(_ENTER_DERIVATIONS, values).all())


def _derivation_entries(derivations: Iterable[Row[Any]]) -> list[ledger.Entry]:
    return [
        ledger.Entry(
            "import_derivation", derived_id, after={"sources": [str(row.source_id) for row in edges]}
        )
        for derived_id, edges in groupby(derivations, key=lambda row: row.derived_id)
    ]
