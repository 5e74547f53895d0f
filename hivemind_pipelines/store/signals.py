"""Contradiction signals, the cases they belong to, and the one signal a case leaves behind."""

import json
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from uuid import NAMESPACE_URL, UUID, uuid5

from sqlalchemy import Connection, text

from hivemind_pipelines.core.changes import (
    CaseChange,
    KeepCase,
    OpenCase,
    ReopenCase,
    StampSuspect,
    WithdrawCase,
)
from hivemind_pipelines.core.model import (
    CaseId,
    Category,
    ContradictionCase,
    ItemId,
    OrgId,
    RunId,
    SignalId,
    StandingCase,
    SuspectSignal,
)
from hivemind_pipelines.store.items import LIVE, LOCK_ITEMS, ORIGINAL, register_originals
from hivemind_pipelines.store.ledger import Applied, Entry

#: Joins what an item `k` counts for: itself, or the canonical `m` that it was merged into.
COUNTS_FOR = """
    LEFT JOIN distillation.merges m
        ON m.org_id = k.org_id AND m.duplicate_id = k.id AND NOT m.is_legacy AND m.expired_at = k.expired_at
"""

SUSPECTS = text(f"""
    -- Contradiction signals in no case, or in an open one. One on a duplicate counts for its canonical: what
    -- two items say is in conflict, not which copy of it was flagged.
    WITH flagged AS (
        SELECT s.id AS signal_id, s.knowledge_item_id AS origin_id, t.signal_id IS NOT NULL AS is_stamped,
               t.case_id, COALESCE(m.canonical_id, s.knowledge_item_id) AS item_id
        FROM public.quality_signals s
        JOIN public.knowledge_items k ON k.id = s.knowledge_item_id
        {COUNTS_FOR}
        LEFT JOIN distillation.stamped_signals t ON t.org_id = k.org_id AND t.signal_id = s.id
        LEFT JOIN distillation.contradiction_cases c ON c.org_id = t.org_id AND c.case_id = t.case_id
        WHERE k.org_id = :org_id AND s.signal_type = 'contradiction' AND k.deleted_at IS NULL
          AND {ORIGINAL} AND (t.case_id IS NULL OR c.status = 'open')
    )
    SELECT f.*, k.category::text AS category
    FROM flagged f JOIN public.knowledge_items k ON k.org_id = :org_id AND k.id = f.item_id
    WHERE {LIVE} AND {ORIGINAL}
    ORDER BY f.signal_id
""")

#: The outcome of a case that a policy withdrew; it is opened again when a policy groups its items again.
WITHDRAWN = "withdrawn"
#: Who decided such a case.
BY_POLICY = "policy"

CASES = text("""
    SELECT c.case_id, c.stamp, c.detector, c.status = 'open' AS is_open, c.detector <> 'signals' AS is_foreign,
           COALESCE(c.outcome = :withdrawn AND c.decided_by = :by_policy, false) AS is_withdrawn,
           ARRAY(SELECT i.item_id FROM distillation.case_items i
                 WHERE i.org_id = c.org_id AND i.case_id = c.case_id ORDER BY i.item_id) AS item_ids
    FROM distillation.contradiction_cases c WHERE c.org_id = :org_id ORDER BY c.case_id
""")


def read_suspects(conn: Connection, org_id: OrgId) -> tuple[SuspectSignal, ...]:
    """Signals that may open a case or hold one open, in id order."""
    return tuple(
        SuspectSignal(
            SignalId(row.signal_id),
            ItemId(row.item_id),
            Category(row.category),
            row.is_stamped,
            None if row.case_id is None else CaseId(row.case_id),
            ItemId(row.origin_id),
        )
        for row in conn.execute(SUSPECTS, {"org_id": org_id})
    )


def read_cases(conn: Connection, org_id: OrgId) -> tuple[StandingCase, ...]:
    """Every case of the org, whatever its status, in id order."""
    rows = conn.execute(CASES, {"org_id": org_id, "withdrawn": WITHDRAWN, "by_policy": BY_POLICY})
    return tuple(
        StandingCase(
            CaseId(row.case_id),
            tuple(map(ItemId, row.item_ids)),
            row.stamp,
            is_withdrawn=not row.is_open and row.is_withdrawn,
            is_fixed=row.is_foreign or not (row.is_open or row.is_withdrawn),
            detector=row.detector,
            is_decided=not (row.is_open or row.is_withdrawn),
        )
        for row in rows
    )


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

# The case may be older than its newest signal: those are added to it. Signals that named a pair of the rules
# leave it when they group otherwise; the pair's case is not theirs to withdraw.
STAMP_SIGNALS = text("""
    INSERT INTO distillation.stamped_signals AS t (org_id, signal_id, item_id, case_id)
    SELECT k.org_id, s.id, k.id, c.case_id
    FROM public.quality_signals s
    JOIN public.knowledge_items k ON k.id = s.knowledge_item_id
    LEFT JOIN distillation.contradiction_cases c ON c.org_id = k.org_id AND c.case_id = CAST(:case_id AS uuid)
    WHERE k.org_id = :org_id AND s.id = ANY(CAST(:signals AS uuid[]))
    ON CONFLICT (org_id, signal_id) DO UPDATE SET case_id = EXCLUDED.case_id
        WHERE (t.case_id IS NULL AND EXCLUDED.case_id IS NOT NULL) OR EXISTS (
            SELECT FROM distillation.contradiction_cases r
            WHERE r.org_id = t.org_id AND r.case_id = t.case_id AND r.case_id IS DISTINCT FROM EXCLUDED.case_id
              AND r.status = 'open' AND r.detector <> 'signals')
""")


# A case that signals or a pair hold open; whoever decides it meanwhile holds the row first.
WITHDRAW = text("""
    UPDATE distillation.contradiction_cases c
    SET status = 'dismissed', outcome = :withdrawn, decided_by = :by_policy, decided_at = :at
    WHERE c.org_id = :org_id AND c.case_id = ANY(CAST(:ids AS uuid[])) AND c.status = 'open'
    RETURNING c.case_id
""")

FREE_SIGNALS = text("""
    UPDATE distillation.stamped_signals SET case_id = NULL
    WHERE org_id = :org_id AND case_id = ANY(CAST(:ids AS uuid[]))
""")

# Items that leave a case may be summarised again.
REPLACE_PARTIES = text("""
    UPDATE distillation.item_features f SET topic_stamp = NULL
    FROM distillation.case_items i
    WHERE f.org_id = :org_id AND i.org_id = f.org_id AND i.item_id = f.item_id
      AND i.case_id = ANY(CAST(:ids AS uuid[]))
""")

REOPEN = text("""
    WITH stood AS (
        SELECT case_id, status, outcome, decided_by FROM distillation.contradiction_cases
        WHERE org_id = :org_id AND case_id = :case_id AND status <> 'open'
          AND (:is_new_evidence OR (status = 'dismissed' AND outcome = :withdrawn AND decided_by = :by_policy))
        FOR UPDATE
    )
    UPDATE distillation.contradiction_cases c
    SET status = 'open', outcome = NULL, decided_by = NULL, decided_at = NULL, stamp = :stamp,
        detector = :detector, evidence = CAST(:evidence AS jsonb)
    FROM stood s
    WHERE c.org_id = :org_id AND c.case_id = s.case_id
      AND (SELECT count(*) FROM public.knowledge_items k
           WHERE k.org_id = :org_id AND k.id = ANY(CAST(:items AS uuid[]))
             AND k.expired_at IS NULL AND k.deleted_at IS NULL) = cardinality(CAST(:items AS uuid[]))
    RETURNING s.status, s.outcome, s.decided_by
""")

KEEP = text("""
    UPDATE distillation.contradiction_cases SET stamp = :stamp
    WHERE org_id = :org_id AND case_id = ANY(CAST(:ids AS uuid[])) AND status = 'open'
""")


def apply_cases(
    conn: Connection, org_id: OrgId, plan: Sequence[CaseChange], *, run_id: RunId, stamp: str, as_of: datetime
) -> Applied:
    """Withdraw, keep, open and reopen cases, a new one with its one signal, and remember lone suspects."""
    entries: list[Entry] = []
    dropped = 0
    placed = [change for change in plan if isinstance(change, OpenCase | ReopenCase)]
    parties = {item for change in placed for item in change.case.item_ids}
    # Locked, so that no row the server removes meanwhile fails the foreign key of the signal.
    conn.execute(LOCK_ITEMS, {"org_id": org_id, "ids": sorted(parties)})
    suspected = {change.item_id for change in plan if isinstance(change, StampSuspect)}
    register_originals(conn, org_id, sorted(parties | suspected))
    leaving = [change.case_id for change in plan if isinstance(change, WithdrawCase)]
    withdrawn = _withdraw(conn, org_id, leaving, at=as_of)
    entries += withdrawn
    dropped += len(leaving) - len(withdrawn)
    kept = [change.case_id for change in plan if isinstance(change, KeepCase)]
    conn.execute(KEEP, {"org_id": org_id, "ids": kept, "stamp": stamp})
    for change in placed:
        entry = (
            _open(conn, org_id, change, run_id=run_id, stamp=stamp)
            if isinstance(change, OpenCase)
            else _reopen(conn, org_id, change, stamp=stamp)
        )
        if entry is None:
            dropped += 1
            continue
        entries.append(entry)
        _stamp(conn, org_id, change.case.signal_ids, change.case.case_id)
    suspects: defaultdict[CaseId | None, list[SignalId]] = defaultdict(list)
    for suspect in (change for change in plan if isinstance(change, StampSuspect)):
        suspects[suspect.case_id].append(suspect.signal_id)
    for case_id, signal_ids in suspects.items():
        _stamp(conn, org_id, signal_ids, case_id)
    return Applied(len(plan) - dropped, dropped, tuple(entries))


def _withdraw(conn: Connection, org_id: OrgId, case_ids: Sequence[CaseId], *, at: datetime) -> list[Entry]:
    by = {"withdrawn": WITHDRAWN, "by_policy": BY_POLICY}
    parameters = {"org_id": org_id, "ids": list(case_ids), "at": at, **by}
    ids = sorted(conn.execute(WITHDRAW, parameters).scalars())
    conn.execute(FREE_SIGNALS, {"org_id": org_id, "ids": ids})
    conn.execute(REPLACE_PARTIES, {"org_id": org_id, "ids": ids})
    before = {"status": "open", "outcome": None, "by": None}
    after = {"status": "dismissed", "outcome": WITHDRAWN, "by": BY_POLICY}
    return [Entry("decide_case", case_id, before, after) for case_id in ids]


def _reopen(conn: Connection, org_id: OrgId, change: ReopenCase, *, stamp: str) -> Entry | None:
    case = change.case
    parameters = {
        "org_id": org_id, "case_id": case.case_id, "items": sorted(case.item_ids), "stamp": stamp,
        "withdrawn": WITHDRAWN, "by_policy": BY_POLICY, "is_new_evidence": change.is_new_evidence,
        "detector": case.detector, "evidence": _evidence(case),
    }  # fmt: skip
    row = conn.execute(REOPEN, parameters).first()
    if row is None:
        return None
    before = {"status": row.status, "outcome": row.outcome, "by": row.decided_by}
    return Entry("decide_case", case.case_id, before, {"status": "open", "outcome": None, "by": None})


def _evidence(case: ContradictionCase) -> str:
    """What speaks for a case: signals by id, and of a pair what the rules found."""
    signals = {"signals": [str(signal) for signal in case.signal_ids]} if case.signal_ids else {}
    return json.dumps({**signals, **case.evidence})


def _stamp(conn: Connection, org_id: OrgId, signal_ids: Sequence[SignalId], case_id: CaseId | None) -> None:
    conn.execute(STAMP_SIGNALS, {"org_id": org_id, "signals": list(signal_ids), "case_id": case_id})


def _open(conn: Connection, org_id: OrgId, change: OpenCase, *, run_id: RunId, stamp: str) -> Entry | None:
    case = change.case
    items = sorted(case.item_ids)
    signal_id = cluster_signal_id(case.case_id)
    parameters = {
        "org_id": org_id, "case_id": case.case_id, "category": case.category.value, "detector": case.detector,
        "evidence": _evidence(case),
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
