"""Resolutions of cases: expiring what is outdated, dating versions, and turning both back."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, text

from hivemind_pipelines.core.model import CaseId, ItemId, OrgId, RunId
from hivemind_pipelines.core.resolution import Party, Resolving, SetValidity, Supersede
from hivemind_pipelines.core.undo import RestoreSuperseded, RestoreValidity
from hivemind_pipelines.store.items import CONTRIBUTED_AT, LIVE, LOCK_ITEMS
from hivemind_pipelines.store.ledger import Entry


def _moment(column: str) -> str:
    return f"CASE WHEN {column} BETWEEN '0001-01-02 UTC' AND '9999-12-30 UTC' THEN {column} END"


PARTIES = text(f"""
    SELECT k.id, k.content, k.version, {CONTRIBUTED_AT} AS contributed_at,
           {_moment("k.valid_at")} AS valid_at, {_moment("k.invalid_at")} AS invalid_at
    FROM public.knowledge_items k
    JOIN distillation.case_items i ON i.org_id = k.org_id AND i.item_id = k.id
    WHERE k.org_id = :org_id AND i.case_id = :case_id AND {LIVE} ORDER BY k.id
""")


def read_parties(conn: Connection, org_id: OrgId, case_id: CaseId) -> tuple[Party, ...]:
    """The live items of a case in id order, locked until the transaction ends."""
    parameters = {"org_id": org_id, "case_id": case_id}
    ids = [row.id for row in conn.execute(PARTIES, parameters)]
    conn.execute(LOCK_ITEMS, {"org_id": org_id, "ids": sorted(ids)})
    rows = conn.execute(PARTIES, parameters).mappings()
    return tuple(Party(**{**row, "id": ItemId(row["id"])}) for row in rows)


# Duplicates of an outdated item say the same: they lose their canonical and stay expired with it.
SUPERSEDE = text(f"""
    WITH outdated AS (
        UPDATE public.knowledge_items k SET expired_at = :at
        WHERE k.org_id = :org_id AND k.id = :item_id AND {LIVE} RETURNING k.id
    )
    DELETE FROM distillation.merges m USING outdated o
    WHERE m.org_id = :org_id AND m.canonical_id = o.id
    RETURNING m.duplicate_id, m.expired_at
""")

READ_VALIDITY = text("""
    SELECT to_jsonb(k.valid_at) AS valid_at, to_jsonb(k.invalid_at) AS invalid_at
    FROM public.knowledge_items k WHERE k.org_id = :org_id AND k.id = :item_id
""")
SET_VALIDITY = text("""
    UPDATE public.knowledge_items k
    SET valid_at = CAST(:valid_at AS timestamptz), invalid_at = CAST(:invalid_at AS timestamptz)
    WHERE k.org_id = :org_id AND k.id = :item_id
""")


def apply(
    conn: Connection, org_id: OrgId, case_id: CaseId, plan: Sequence[Resolving], *, at: datetime
) -> tuple[Entry, ...]:
    """Apply what an outcome does to locked items; the ledger entries."""
    entries: list[Entry] = []
    for change in plan:
        match change:
            case Supersede(item_id):
                entries += _supersede(conn, org_id, case_id, item_id, at)
            case SetValidity():
                entries.append(_date(conn, org_id, case_id, change))
    return tuple(entries)


def _supersede(
    conn: Connection, org_id: OrgId, case_id: CaseId, item_id: ItemId, at: datetime
) -> list[Entry]:
    rows = conn.execute(SUPERSEDE, {"org_id": org_id, "item_id": item_id, "at": at}).all()
    followers = {str(row.duplicate_id): row.expired_at.isoformat() for row in rows}
    parted = [
        Entry(
            "unmerge",
            row.duplicate_id,
            {"expired_at": row.expired_at, "canonical": str(item_id)},
            {"expired_at": row.expired_at, "canonical": None, "reason": "superseded"},
        )
        for row in rows
    ]
    before = {"expired_at": None, "followers": followers}
    return [Entry("supersede", item_id, before, {"expired_at": at, "case": str(case_id)}), *parted]


def _date(conn: Connection, org_id: OrgId, case_id: CaseId, change: SetValidity) -> Entry:
    stood = conn.execute(READ_VALIDITY, {"org_id": org_id, "item_id": change.item_id}).mappings().one()
    wanted = {"valid_at": change.valid_at, "invalid_at": change.invalid_at}
    conn.execute(SET_VALIDITY, {"org_id": org_id, "item_id": change.item_id, **wanted})
    return Entry("date", change.item_id, dict(stood), {**wanted, "case": str(case_id)})


REVIVE = text("""
    UPDATE public.knowledge_items k SET expired_at = NULL WHERE k.org_id = :org_id AND k.id = :item_id
""")
# A follower that somebody moved meanwhile is left where it is.
REJOIN = text("""
    INSERT INTO distillation.merges (org_id, duplicate_id, canonical_id, expired_at, is_legacy, run_id, stamp)
    SELECT k.org_id, k.id, CAST(:item_id AS uuid), k.expired_at, false, CAST(:run_id AS uuid), :stamp
    FROM public.knowledge_items k
    JOIN unnest(CAST(:ids AS uuid[]), CAST(:expired_ats AS timestamptz[])) AS n (id, expired_at)
        ON n.id = k.id AND n.expired_at = k.expired_at
    WHERE k.org_id = :org_id AND k.deleted_at IS NULL
    ORDER BY k.id
    ON CONFLICT DO NOTHING
    RETURNING duplicate_id, expired_at
""")


def restore_superseded(
    conn: Connection, org_id: OrgId, plan: Sequence[RestoreSuperseded], *, run_id: RunId, stamp: str
) -> list[Entry]:
    """Bring outdated items back, with the duplicates that they had."""
    entries: list[Entry] = []
    for change in plan:
        conn.execute(REVIVE, {"org_id": org_id, "item_id": change.item_id})
        entries.append(
            Entry("supersede", change.item_id, {"expired_at": change.expired_at}, {"expired_at": None})
        )
        parameters = {
            "org_id": org_id, "item_id": change.item_id, "run_id": run_id, "stamp": stamp,
            "ids": [item_id for item_id, _ in change.followers],
            "expired_ats": [expired_at for _, expired_at in change.followers],
        }  # fmt: skip
        entries += [
            Entry(
                "repoint",
                row.duplicate_id,
                {"canonical": None},
                {"canonical": str(change.item_id), "expired_at": row.expired_at},
            )
            for row in conn.execute(REJOIN, parameters).all()
        ]
    return entries


def restore_validity(conn: Connection, org_id: OrgId, plan: Sequence[RestoreValidity]) -> list[Entry]:
    """Put world time back as it was; bounds as JSON has them, since they may be infinite."""
    entries = []
    for change in plan:
        parameters = {"valid_at": change.valid_at, "invalid_at": change.invalid_at}
        stood = conn.execute(READ_VALIDITY, {"org_id": org_id, "item_id": change.item_id}).mappings().one()
        conn.execute(SET_VALIDITY, {"org_id": org_id, "item_id": change.item_id, **parameters})
        entries.append(Entry("date", change.item_id, dict(stood), parameters))
    return entries
