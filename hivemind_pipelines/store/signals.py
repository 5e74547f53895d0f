"""Contradiction signals, the cases they belong to, and the one signal a case leaves behind."""

import json
from collections import defaultdict
from collections.abc import Sequence
from uuid import NAMESPACE_URL, UUID, uuid5

from sqlalchemy import Connection, text

from hivemind_pipelines.core.changes import OpenCase, StampSuspect
from hivemind_pipelines.core.model import CaseId, Category, ItemId, OrgId, RunId, SignalId, SuspectSignal
from hivemind_pipelines.store.items import LIVE, ORIGINAL, register_originals
from hivemind_pipelines.store.ledger import Entry
from hivemind_pipelines.store.pairs import LOCK_ITEMS, Applied

SUSPECTS = text(f"""
    -- Contradiction signals on live originals that are in no case: new ones and lone suspects.
    SELECT s.id AS signal_id, k.id AS item_id, k.category::text AS category, t.signal_id IS NOT NULL AS is_stamped
    FROM public.quality_signals s
    JOIN public.knowledge_items k ON k.id = s.knowledge_item_id
    LEFT JOIN distillation.stamped_signals t ON t.org_id = k.org_id AND t.signal_id = s.id
    WHERE k.org_id = :org_id AND s.signal_type = 'contradiction' AND t.case_id IS NULL
      AND {LIVE} AND {ORIGINAL}
    ORDER BY s.id
""")

CASE_IDS = text("SELECT case_id FROM distillation.contradiction_cases WHERE org_id = :org_id")


def read_suspects(conn: Connection, org_id: OrgId) -> tuple[SuspectSignal, ...]:
    """Signals that may open a case, in id order."""
    return tuple(
        SuspectSignal(SignalId(row.signal_id), ItemId(row.item_id), Category(row.category), row.is_stamped)
        for row in conn.execute(SUSPECTS, {"org_id": org_id})
    )


def read_case_ids(conn: Connection, org_id: OrgId) -> frozenset[CaseId]:
    """Every case of the org, whatever its status."""
    return frozenset(map(CaseId, conn.execute(CASE_IDS, {"org_id": org_id}).scalars()))


INSERT_CASE = text("""
    INSERT INTO distillation.contradiction_cases
        (org_id, case_id, category, detector, evidence, signal_id, opened_at, run_id, stamp)
    SELECT CAST(:org_id AS varchar), :case_id, :category, :detector, CAST(:evidence AS jsonb), :signal_id,
           :opened_at, :run_id, :stamp
    WHERE (SELECT count(*) FROM public.knowledge_items k
           WHERE k.org_id = :org_id AND k.id = ANY(CAST(:items AS uuid[]))
             AND k.expired_at IS NULL AND k.deleted_at IS NULL) = cardinality(CAST(:items AS uuid[]))
    ON CONFLICT DO NOTHING
    RETURNING case_id
""")

INSERT_CASE_ITEMS = text("""
    INSERT INTO distillation.case_items (org_id, case_id, item_id)
    SELECT :org_id, :case_id, unnest(CAST(:items AS uuid[]))
""")

INSERT_CLUSTER_SIGNAL = text("""
    INSERT INTO public.quality_signals (id, knowledge_item_id, signal_type, metadata, created_at)
    SELECT :signal_id, k.id, 'contradiction_cluster', CAST(:metadata AS jsonb), :created_at
    FROM public.knowledge_items k WHERE k.org_id = :org_id AND k.id = :item_id
    ON CONFLICT DO NOTHING
""")

# The case may be older than its newest signal: those are added to it.
STAMP_SIGNALS = text("""
    INSERT INTO distillation.stamped_signals AS t (org_id, signal_id, item_id, case_id)
    SELECT k.org_id, s.id, k.id, c.case_id
    FROM public.quality_signals s
    JOIN public.knowledge_items k ON k.id = s.knowledge_item_id
    LEFT JOIN distillation.contradiction_cases c ON c.org_id = k.org_id AND c.case_id = CAST(:case_id AS uuid)
    WHERE k.org_id = :org_id AND s.id = ANY(CAST(:signals AS uuid[]))
    ON CONFLICT (org_id, signal_id) DO UPDATE SET case_id = EXCLUDED.case_id
        WHERE t.case_id IS NULL AND EXCLUDED.case_id IS NOT NULL
""")


def apply_cases(
    conn: Connection, org_id: OrgId, plan: Sequence[OpenCase | StampSuspect], *, run_id: RunId, stamp: str
) -> Applied:
    """Open cases, each with its one signal, and remember lone suspects."""
    entries: list[Entry] = []
    dropped = 0
    parties = {item for change in plan if isinstance(change, OpenCase) for item in change.case.item_ids}
    # Locked, so that no row the server removes meanwhile fails the foreign key of the signal.
    conn.execute(LOCK_ITEMS, {"org_id": org_id, "ids": sorted(parties)})
    suspected = {change.item_id for change in plan if isinstance(change, StampSuspect)}
    register_originals(conn, org_id, sorted(parties | suspected))
    for change in (change for change in plan if isinstance(change, OpenCase)):
        opened = _open(conn, org_id, change, run_id=run_id, stamp=stamp)
        if opened is None:
            dropped += 1
            continue
        entries.append(opened)
        _stamp(conn, org_id, change.case.signal_ids, change.case.case_id)
    suspects: defaultdict[CaseId | None, list[SignalId]] = defaultdict(list)
    for suspect in (change for change in plan if isinstance(change, StampSuspect)):
        suspects[suspect.case_id].append(suspect.signal_id)
    for case_id, signal_ids in suspects.items():
        _stamp(conn, org_id, signal_ids, case_id)
    return Applied(len(plan) - dropped, dropped, tuple(entries))


def _stamp(conn: Connection, org_id: OrgId, signal_ids: Sequence[SignalId], case_id: CaseId | None) -> None:
    conn.execute(STAMP_SIGNALS, {"org_id": org_id, "signals": list(signal_ids), "case_id": case_id})


def _open(conn: Connection, org_id: OrgId, change: OpenCase, *, run_id: RunId, stamp: str) -> Entry | None:
    case = change.case
    items = sorted(case.item_ids)
    signal_id = cluster_signal_id(case.case_id)
    parameters = {
        "org_id": org_id, "case_id": case.case_id, "category": case.category.value, "detector": case.detector,
        "evidence": json.dumps({"signals": [str(signal) for signal in case.signal_ids]}),
        "signal_id": signal_id, "opened_at": change.detected_at, "run_id": run_id, "stamp": stamp,
        "items": items,
    }  # fmt: skip
    if conn.execute(INSERT_CASE, parameters).first() is None:
        return None
    conn.execute(INSERT_CASE_ITEMS, {"org_id": org_id, "case_id": case.case_id, "items": items})
    metadata = {
        "conflicting_item_ids": [str(item) for item in items],
        "category": case.category.value,
        "org_id": org_id,
        "detected_at": change.detected_at.isoformat(),
    }
    signal = {
        "org_id": org_id, "signal_id": signal_id, "item_id": items[0], "created_at": change.detected_at,
        "metadata": json.dumps(metadata),
    }  # fmt: skip
    conn.execute(INSERT_CLUSTER_SIGNAL, signal)
    after = {"status": "open", "items": [str(item) for item in items], "signal": str(signal_id)}
    return Entry("open_case", case.case_id, {"status": None}, after)


def cluster_signal_id(case_id: CaseId) -> UUID:
    """The id of the `contradiction_cluster` signal of a case."""
    return uuid5(NAMESPACE_URL, f"hivemind:contradiction_cluster:{case_id}")


COUNT_OPEN_CASES = text("""
    SELECT count(*) FROM distillation.contradiction_cases WHERE org_id = :org_id AND status = 'open'
""")


def count_open_cases(conn: Connection, org_id: OrgId) -> int:
    """Open contradiction cases of the org."""
    return int(conn.execute(COUNT_OPEN_CASES, {"org_id": org_id}).scalar_one())
