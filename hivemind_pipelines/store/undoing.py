"""Undo: finding the ledger rows of what is to be undone, how things stand, and turning them back."""

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql import JSONB

from hivemind_pipelines.core.changes import Rescore, Retire, Unmerge
from hivemind_pipelines.core.model import CaseId, ItemId, OrgId, PendingId, RunId
from hivemind_pipelines.core.undo import (
    CASE_CHANGES,
    LABELS,
    PLACEMENTS,
    RESOLUTIONS,
    SCORES,
    WRITINGS,
    CaseState,
    CaseTarget,
    DecideCase,
    Effect,
    ItemState,
    LabelState,
    MergeAgain,
    MergeTarget,
    PairKey,
    Part,
    Relabel,
    ResolvedState,
    RestoreSuperseded,
    RestoreValidity,
    RestoreVerdict,
    ReviveSummary,
    RunTarget,
    Standing,
    SummaryState,
    Target,
    Undoing,
    VerdictState,
)
from hivemind_pipelines.store import derivations, merges, resolutions, reviews
from hivemind_pipelines.store.connection import wait_lock
from hivemind_pipelines.store.contributions import LOCK_PENDING, OUR_KEYS, OUR_TAGS
from hivemind_pipelines.store.derivations import LIVE_SOURCE
from hivemind_pipelines.store.items import LOCK_ITEMS
from hivemind_pipelines.store.ledger import Entry

#: Whoever changes what undo looks at holds one of these; undo holds all, always in this order.
LOCKS = (
    "erasure_propagation",
    "duplicate_merges",
    "contradiction_cases",
    "cluster_summaries",
    "prescreened_contributions",
    "review",
)

# An id names a run of ours, a Dagster run with one of ours per org, or a backfill with any number. A run
# over all orgs has none of its own: every org with a ledger row of it counts, so this reads all of them
# on purpose.
RUN_ORGS = text("""
    WITH meant AS (
        SELECT r.run_id, r.org_id FROM distillation.runs r
        WHERE r.run_id::text = :run OR r.dagster_run_id = :run OR r.backfill_id = :run
    )
    SELECT m.run_id, m.org_id FROM meant m WHERE m.org_id IS NOT NULL
    UNION
    SELECT m.run_id, l.org_id FROM meant m JOIN distillation.ledger l ON l.run_id = m.run_id
    WHERE m.org_id IS NULL
    ORDER BY org_id, run_id
""")
RUN_KNOWN = text("""
    SELECT EXISTS (
        SELECT FROM distillation.runs
        WHERE run_id::text = :run OR dagster_run_id = :run OR backfill_id = :run)
""")


# An item id is unique over all orgs, and only an item we once placed can be un-placed.
MERGE_ORG = text("""
    SELECT r.org_id FROM distillation.registered_items r
    WHERE r.item_id = :item_id AND EXISTS (
        SELECT FROM distillation.ledger l
        WHERE l.org_id = r.org_id AND l.subject_id = r.item_id
          AND l.change IN ('merge', 'repoint', 'unmerge', 'import_merge'))
""")

RunsByOrg = Mapping[OrgId, tuple[RunId, ...]]


def find(conn: Connection, target: Target) -> RunsByOrg | None:
    """The orgs that a target concerns, with the runs of ours that a run means; None when it is unknown."""
    match target:
        case RunTarget(run):
            return _find_runs(conn, run)
        case MergeTarget(duplicate_id):
            org_id = conn.execute(MERGE_ORG, {"item_id": duplicate_id}).scalars().first()
        case CaseTarget(case_id):
            org_id = reviews.find_case(conn, case_id)
    return None if org_id is None else {OrgId(org_id): ()}


def _find_runs(conn: Connection, run: str) -> RunsByOrg | None:
    if not conn.execute(RUN_KNOWN, {"run": run}).scalar_one():
        return None
    found: dict[OrgId, tuple[RunId, ...]] = {}
    for row in conn.execute(RUN_ORGS, {"run": run}):
        org_id = OrgId(row.org_id)
        found[org_id] = (*found.get(org_id, ()), RunId(row.run_id))
    return found


_ENTRY = "l.seq, l.change, l.subject_id, l.before, l.after"

RUN_EFFECTS = text(f"""
    SELECT {_ENTRY} FROM distillation.ledger l
    WHERE l.org_id = :org_id AND l.run_id = ANY(CAST(:run_ids AS uuid[])) ORDER BY l.seq
""").columns(before=JSONB, after=JSONB)

# From the last merge on; and the followers that the item brought along.
MERGE_EFFECTS = text(f"""
    WITH own AS (
        SELECT l.* FROM distillation.ledger l
        WHERE l.org_id = :org_id AND l.subject_id = :item_id
          AND l.change IN ('merge', 'repoint', 'unmerge', 'import_merge')
    ), newest AS (
        SELECT seq, run_id FROM own WHERE change IN ('merge', 'import_merge') ORDER BY seq DESC LIMIT 1
    )
    SELECT {_ENTRY} FROM own l JOIN newest n ON l.seq >= n.seq
    UNION ALL
    SELECT {_ENTRY} FROM distillation.ledger l JOIN newest n ON l.run_id = n.run_id
    WHERE l.org_id = :org_id AND l.change = 'repoint'
      AND l.before ->> 'canonical' = CAST(:item_id AS uuid)::text
    ORDER BY seq
""").columns(before=JSONB, after=JSONB)

# What a person decided and its effects carry one run; else what opened the case.
CASE_EFFECTS = text(f"""
    WITH decided AS (
        SELECT l.run_id, l.after ->> 'status' AS status, l.after ->> 'outcome' AS outcome,
               l.after ->> 'by' AS decided_by
        FROM distillation.ledger l
        WHERE l.org_id = :org_id AND l.subject_id = :case_id AND l.change = 'decide_case'
        ORDER BY l.seq DESC LIMIT 1
    ), meant AS (
        SELECT d.run_id FROM decided d
        JOIN distillation.runs r ON r.run_id = d.run_id AND r.job = 'review' WHERE d.status <> 'open'
    )
    SELECT {_ENTRY} FROM distillation.ledger l
    WHERE l.org_id = :org_id AND CASE WHEN EXISTS (SELECT FROM meant)
        THEN l.run_id = (SELECT run_id FROM meant)
        ELSE l.subject_id = :case_id AND l.change = 'open_case' END
    ORDER BY l.seq
""").columns(before=JSONB, after=JSONB)


def read_effects(
    conn: Connection, org_id: OrgId, target: Target, run_ids: Sequence[RunId]
) -> tuple[Effect, ...]:
    """The ledger rows that a target means in one org, oldest first.

    Of a merge that was taken back already the later `unmerge` is left out. Of a case that a person decided
    it is the decision with its effects, of another one its opening.
    """
    match target:
        case RunTarget():
            rows = conn.execute(RUN_EFFECTS, {"org_id": org_id, "run_ids": list(run_ids)})
        case MergeTarget(duplicate_id):
            rows = conn.execute(MERGE_EFFECTS, {"org_id": org_id, "item_id": duplicate_id})
        case CaseTarget(case_id):
            rows = conn.execute(CASE_EFFECTS, {"org_id": org_id, "case_id": case_id})
    effects = (Effect(row.change, row.subject_id, row.before, row.after) for row in rows)
    return tuple(one for one in effects if not isinstance(target, MergeTarget) or one.change != "unmerge")


def lock(conn: Connection, org_id: OrgId) -> None:
    """Keep every stage of the org that could stand in the way waiting until the transaction ends."""
    for name in LOCKS:
        wait_lock(conn, org_id, name)


# Every subject and canonical, and all that are in one cluster with them today.
INVOLVED = text("""
    WITH named AS (SELECT unnest(CAST(:ids AS uuid[])) AS id),
    centres AS (
        SELECT id FROM named
        UNION SELECT m.canonical_id FROM distillation.merges m JOIN named n ON n.id = m.duplicate_id
        WHERE m.org_id = :org_id
    )
    SELECT id FROM centres
    UNION SELECT m.duplicate_id FROM distillation.merges m JOIN centres c ON c.id = m.canonical_id
    WHERE m.org_id = :org_id
    ORDER BY id
""")

# A merge is in force while the expiry it gave is the one there is.
ITEMS = text("""
    SELECT k.id, k.deleted_at IS NOT NULL AS is_deleted, k.expired_at IS NULL AS is_live, k.is_public,
           k.quality_score, m.canonical_id, m.expired_at AS merged_at, EXISTS (
               SELECT FROM distillation.tombstones t
               WHERE t.org_id = k.org_id AND t.item_id = k.id AND t.kind = 'erased') AS is_erased
    FROM public.knowledge_items k
    LEFT JOIN distillation.merges m
        ON m.org_id = k.org_id AND m.duplicate_id = k.id AND m.expired_at = k.expired_at AND NOT m.is_legacy
    WHERE k.org_id = :org_id AND k.id = ANY(CAST(:ids AS uuid[]))
""")

SUMMARIES = text(f"""
    SELECT i.id, i.deleted_at IS NOT NULL AS is_deleted, i.expired_at IS NULL AS is_live,
           CASE WHEN i.expired_at BETWEEN '0001-01-02 UTC' AND '9999-12-30 UTC' THEN i.expired_at END
               AS expired_at,
           s.retired_reason, EXISTS (
               SELECT FROM distillation.tombstones t
               WHERE t.org_id = i.org_id AND t.item_id = i.id AND t.kind = 'erased') AS is_erased,
           (s.content_hash IS NULL OR s.content_hash = i.content_hash) AND NOT EXISTS (
               SELECT FROM distillation.derivations d
               LEFT JOIN public.knowledge_items k ON k.org_id = d.org_id AND k.id = d.source_id AND {LIVE_SOURCE}
               WHERE d.org_id = i.org_id AND d.derived_id = i.id AND k.id IS NULL) AS is_whole
    FROM public.knowledge_items i
    LEFT JOIN distillation.summaries s ON s.org_id = i.org_id AND s.summary_id = i.id
    WHERE i.org_id = :org_id AND i.id = ANY(CAST(:ids AS uuid[]))
""")

RESOLVED = text("""
    SELECT k.id, k.deleted_at IS NOT NULL AS is_deleted, to_jsonb(k.expired_at) #>> '{}' AS expired_at,
           to_jsonb(k.valid_at) #>> '{}' AS valid_at, to_jsonb(k.invalid_at) #>> '{}' AS invalid_at
    FROM public.knowledge_items k WHERE k.org_id = :org_id AND k.id = ANY(CAST(:ids AS uuid[]))
""")

CASES = text("""
    SELECT c.case_id, c.status, c.outcome, c.decided_by, NOT EXISTS (
        SELECT FROM distillation.case_items i
        LEFT JOIN public.knowledge_items k
            ON k.org_id = i.org_id AND k.id = i.item_id AND k.expired_at IS NULL AND k.deleted_at IS NULL
        WHERE i.org_id = c.org_id AND i.case_id = c.case_id AND k.id IS NULL) AS is_whole
    FROM distillation.contradiction_cases c
    WHERE c.org_id = :org_id AND c.case_id = ANY(CAST(:ids AS uuid[]))
""")

LABELLED = text("""
    SELECT p.id, s.is_low_quality, s.document, s.is_marked FROM public.pending_contributions p
    JOIN distillation.prescreens s ON s.org_id = p.org_id AND s.pending_id = p.id
        AND s.content_hash = p.content_hash
    WHERE p.org_id = :org_id AND p.id = ANY(CAST(:ids AS uuid[]))
""")

VERDICTS = text("""
    SELECT v.a_id, v.b_id, v.pair_id, v.verdict, v.source, v.decided_by, v.decided_at, v.reason,
           a.id IS NOT NULL AND b.id IS NOT NULL AS holds
    FROM distillation.pair_verdicts v
    LEFT JOIN public.knowledge_items a ON a.org_id = v.org_id AND a.id = v.a_id AND a.content_hash = v.a_hash
    LEFT JOIN public.knowledge_items b ON b.org_id = v.org_id AND b.id = v.b_id AND b.content_hash = v.b_hash
    WHERE v.org_id = :org_id AND v.a_id = ANY(CAST(:ids AS uuid[])) AND v.b_id = ANY(CAST(:ids AS uuid[]))
""")


def read_standing(
    conn: Connection, org_id: OrgId, effects: Sequence[Effect], *, locked: bool = False
) -> Standing:
    """How everything the effects touched stands; `locked` keeps the rows as they are until the commit."""
    placed = _placed(effects)
    involved = list(conn.execute(INVOLVED, {"org_id": org_id, "ids": sorted(placed)}).scalars())
    items = sorted({*involved, *_subjects(effects, SCORES)})
    resolved = _subjects(effects, RESOLUTIONS)
    summaries, pending = _subjects(effects, WRITINGS), _subjects(effects, LABELS)
    if locked:
        conn.execute(LOCK_ITEMS, {"org_id": org_id, "ids": sorted({*items, *summaries, *resolved})})
        conn.execute(LOCK_PENDING, {"org_id": org_id, "ids": pending})

    def read(statement: Any, ids: Sequence[UUID]) -> list[dict[str, Any]]:
        found = conn.execute(statement, {"org_id": org_id, "ids": list(ids)}).mappings()
        return [dict(row) for row in found]

    return Standing(
        items={ItemId(row.pop("id")): ItemState(**row) for row in read(ITEMS, items)},
        summaries={ItemId(row.pop("id")): SummaryState(**row) for row in read(SUMMARIES, summaries)},
        cases={
            CaseId(row.pop("case_id")): CaseState(**row)
            for row in read(CASES, _subjects(effects, CASE_CHANGES))
        },
        labels={PendingId(row.pop("id")): LabelState(**row) for row in read(LABELLED, pending)},
        resolved={ItemId(row.pop("id")): ResolvedState(**row) for row in read(RESOLVED, resolved)},
        verdicts={_key(row): VerdictState(**row) for row in read(VERDICTS, sorted({*involved, *placed}))},
    )


def _key(row: dict[str, Any]) -> PairKey:
    return ItemId(row.pop("a_id")), ItemId(row.pop("b_id"))


def _subjects(effects: Sequence[Effect], changes: Collection[str]) -> list[UUID]:
    return sorted({effect.subject_id for effect in effects if effect.change in changes})


def _placed(effects: Sequence[Effect]) -> set[UUID]:
    """Items that the effects merged, parted or judged, and their canonicals."""
    named = {effect.subject_id for effect in effects if effect.change in PLACEMENTS}
    for effect in effects:
        sides = (effect.before.get("canonical"), effect.after.get("canonical"))
        judged = (effect.after.get("a"), effect.after.get("b")) if effect.change == "judge" else ()
        named |= {UUID(str(item_id)) for item_id in (*sides, *judged) if item_id}
    return named


# The expiry is the one there was: a merge that is pointed back keeps its own.
MERGE_AGAIN = text("""
    WITH wanted AS (
        SELECT * FROM unnest(CAST(:duplicates AS uuid[]), CAST(:canonicals AS uuid[]),
                             CAST(:expired_ats AS timestamptz[])) AS n (duplicate_id, canonical_id, expired_at)
    ), valid AS (
        SELECT w.duplicate_id, w.canonical_id, w.expired_at, m.canonical_id AS previous_id,
               d.expired_at IS NULL AS is_new,
               CASE WHEN c.tags IS NULL THEN 'sql_null' WHEN jsonb_typeof(c.tags) = 'null' THEN 'json_null'
                    WHEN jsonb_typeof(c.tags) = 'object' THEN 'object' ELSE 'other' END AS canonical_tags
        FROM wanted w
        JOIN public.knowledge_items d ON d.org_id = :org_id AND d.id = w.duplicate_id
        JOIN public.knowledge_items c ON c.org_id = :org_id AND c.id = w.canonical_id
        LEFT JOIN distillation.merges m ON m.org_id = :org_id AND m.duplicate_id = w.duplicate_id
    ), expired AS (
        UPDATE public.knowledge_items k SET expired_at = v.expired_at
        FROM valid v WHERE k.org_id = :org_id AND k.id = v.duplicate_id AND v.is_new
    ), recorded AS (
        INSERT INTO distillation.merges AS m
            (org_id, duplicate_id, canonical_id, expired_at, is_legacy, run_id, stamp)
        SELECT :org_id, duplicate_id, canonical_id, expired_at, false, :run_id, :stamp FROM valid
        ON CONFLICT (org_id, duplicate_id) DO UPDATE SET
            canonical_id = EXCLUDED.canonical_id, expired_at = EXCLUDED.expired_at,
            run_id = EXCLUDED.run_id, stamp = EXCLUDED.stamp
    )
    SELECT duplicate_id, canonical_id, previous_id, expired_at, is_new, canonical_tags
    FROM valid ORDER BY duplicate_id
""")

REVIVE = text("""
    WITH revived AS (
        UPDATE public.knowledge_items k SET expired_at = NULL
        WHERE k.org_id = :org_id AND k.id = ANY(CAST(:ids AS uuid[])) RETURNING k.id
    )
    UPDATE distillation.summaries s SET retired_reason = NULL
    FROM revived r WHERE s.org_id = :org_id AND s.summary_id = r.id
""")

# Our keys alone; when nothing else is left, tags that were NULL before us are NULL again.
RELABEL = text(f"""
    WITH wanted AS (
        SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:lows AS boolean[]), CAST(:scores AS float8[]),
                             CAST(:kinds AS text[]), CAST(:documents AS jsonb[]))
            AS n (pending_id, is_low, score, tags_kind, document)
    ), valid AS (
        SELECT w.*, CASE WHEN jsonb_typeof(p.tags) = 'object' THEN p.tags {OUR_KEYS} END AS bare,
               CASE WHEN p.tags IS NULL THEN 'sql_null' WHEN jsonb_typeof(p.tags) = 'null' THEN 'json_null'
                    ELSE 'object' END AS kind_now
        FROM wanted w JOIN public.pending_contributions p ON p.org_id = :org_id AND p.id = w.pending_id
        WHERE p.tags IS NULL OR jsonb_typeof(p.tags) = 'object'
           OR ((w.is_low OR w.document IS NOT NULL) AND jsonb_typeof(p.tags) = 'null')
    ), tagged AS (
        UPDATE public.pending_contributions p
        SET tags = CASE
            WHEN v.is_low OR v.document IS NOT NULL THEN COALESCE(v.bare, '{{}}'::jsonb)
                || {OUR_TAGS.format(low="v.is_low", score="v.score", document="v.document")}
            WHEN v.bare = '{{}}'::jsonb AND v.tags_kind = 'sql_null' THEN NULL
            WHEN v.bare = '{{}}'::jsonb AND v.tags_kind = 'json_null' THEN 'null'::jsonb
            ELSE v.bare END
        FROM valid v WHERE p.org_id = :org_id AND p.id = v.pending_id
    ), remembered AS (
        UPDATE distillation.prescreens s
        SET is_low_quality = w.is_low, score = w.score, document = w.document
        FROM wanted w WHERE s.org_id = :org_id AND s.pending_id = w.pending_id
    )
    SELECT w.pending_id, w.is_low, w.score, w.document, s.is_low_quality AS was_low,
           s.document AS document_before, s.is_marked, COALESCE(v.kind_now, 'other') AS kind_now
    FROM wanted w
    JOIN distillation.prescreens s ON s.org_id = :org_id AND s.pending_id = w.pending_id
    LEFT JOIN valid v ON v.pending_id = w.pending_id ORDER BY w.pending_id
""").columns(document=JSONB, document_before=JSONB)

# Ours is what we set: it goes back to what it was, and another's stays.
REMARK = text("""
    WITH wanted AS (
        SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:marks AS boolean[])) AS n (pending_id, is_marked)
    ), remarked AS (
        UPDATE distillation.prescreens s SET is_marked = w.is_marked
        FROM wanted w WHERE s.org_id = :org_id AND s.pending_id = w.pending_id AND s.is_marked <> w.is_marked
        RETURNING s.pending_id, s.is_marked
    )
    UPDATE public.pending_contributions p SET is_sensitive_flagged = r.is_marked
    FROM remarked r WHERE p.org_id = :org_id AND p.id = r.pending_id
""")

# Compared once more in place: between two scores of the same run only ours is put back.
RESCORE = text("""
    UPDATE public.knowledge_items k SET quality_score = n.score
    FROM unnest(CAST(:ids AS uuid[]), CAST(:befores AS float8[]), CAST(:scores AS float8[]))
        AS n (item_id, score_before, score)
    WHERE k.org_id = :org_id AND k.id = n.item_id AND k.quality_score = n.score_before
    RETURNING k.id, n.score_before, n.score
""")

RESTORE_VERDICTS = text("""
    UPDATE distillation.pair_verdicts v
    SET verdict = n.verdict, source = n.source, decided_by = n.by, decided_at = n.at, reason = n.reason,
        run_id = :run_id
    FROM unnest(CAST(:a_ids AS uuid[]), CAST(:b_ids AS uuid[]), CAST(:verdicts AS text[]),
                CAST(:sources AS text[]), CAST(:bys AS text[]), CAST(:ats AS timestamptz[]),
                CAST(:reasons AS text[])) AS n (a_id, b_id, verdict, source, by, at, reason)
    WHERE v.org_id = :org_id AND v.a_id = n.a_id AND v.b_id = n.b_id
""")
FORGET_VERDICTS = text("""
    DELETE FROM distillation.pair_verdicts v
    USING unnest(CAST(:a_ids AS uuid[]), CAST(:b_ids AS uuid[])) AS n (a_id, b_id)
    WHERE v.org_id = :org_id AND v.a_id = n.a_id AND v.b_id = n.b_id
""")

REPLACE_TOPICS = text("""
    UPDATE distillation.item_features SET topic_stamp = NULL
    WHERE org_id = :org_id AND item_id = ANY(CAST(:ids AS uuid[]))
""")


def apply(
    conn: Connection,
    org_id: OrgId,
    plan: Sequence[Undoing],
    standing: Standing,
    *,
    run_id: RunId,
    stamp: str,
    by: str,
    at: datetime,
) -> tuple[Entry, ...]:
    """Turn everything back under the locks the standing was read with; the ledger entries, in order.

    Provenance links follow once the caller has recorded the entries.
    """
    unmerges = [change for change in plan if isinstance(change, Unmerge)]
    again = [change for change in plan if isinstance(change, MergeAgain)]
    placed = {item_id for one in unmerges for item_id in (one.duplicate_id, one.canonical_id)}
    placed |= {item_id for one in again for item_id in (one.duplicate_id, one.canonical_id)}
    revived = merges.apply_merges(conn, org_id, unmerges, run_id=run_id, stamp=stamp, as_of=at).entries
    entries = [
        *revived,
        *_merge_again(conn, org_id, again, run_id=run_id, stamp=stamp),
        *derivations.retire(conn, org_id, [one for one in plan if isinstance(one, Retire)], as_of=at),
        *_revive(conn, org_id, [one for one in plan if isinstance(one, ReviveSummary)]),
        *resolutions.restore_superseded(
            conn,
            org_id,
            [one for one in plan if isinstance(one, RestoreSuperseded)],
            run_id=run_id,
            stamp=stamp,
        ),
        *resolutions.restore_validity(
            conn, org_id, [one for one in plan if isinstance(one, RestoreValidity)]
        ),
        *_decide(conn, org_id, [one for one in plan if isinstance(one, DecideCase)], at=at),
        *_relabel(conn, org_id, [one for one in plan if isinstance(one, Relabel)]),
        *_rescore(conn, org_id, [one for one in plan if isinstance(one, Rescore)]),
        *_restore(conn, org_id, [one for one in plan if isinstance(one, RestoreVerdict)], standing, run_id),
        *_part(conn, org_id, [one for one in plan if isinstance(one, Part)], run_id=run_id, by=by, at=at),
    ]
    reviews.reopen(conn, org_id, placed)
    conn.execute(REPLACE_TOPICS, {"org_id": org_id, "ids": sorted(placed)})
    return tuple(entries)


def _merge_again(
    conn: Connection, org_id: OrgId, plan: Sequence[MergeAgain], *, run_id: RunId, stamp: str
) -> tuple[Entry, ...]:
    parameters = {
        "org_id": org_id, "run_id": run_id, "stamp": stamp,
        "duplicates": [change.duplicate_id for change in plan],
        "canonicals": [change.canonical_id for change in plan],
        "expired_ats": [change.expired_at for change in plan],
    }  # fmt: skip
    return tuple(map(merges.merge_entry, conn.execute(MERGE_AGAIN, parameters)))


def _revive(conn: Connection, org_id: OrgId, plan: Sequence[ReviveSummary]) -> tuple[Entry, ...]:
    conn.execute(REVIVE, {"org_id": org_id, "ids": [change.summary_id for change in plan]})
    return tuple(
        Entry("revive", change.summary_id, {"expired_at": change.expired_at}, {"expired_at": None})
        for change in plan
    )


def _decide(
    conn: Connection, org_id: OrgId, plan: Sequence[DecideCase], *, at: datetime
) -> tuple[Entry, ...]:
    return tuple(
        entry
        for change in plan
        for entry in reviews.decide_case(
            conn, org_id, change.case_id, change.status, change.outcome, by=change.decided_by, at=at
        )
    )


def _relabel(conn: Connection, org_id: OrgId, plan: Sequence[Relabel]) -> tuple[Entry, ...]:
    parameters = {
        "org_id": org_id,
        "ids": [change.pending_id for change in plan],
        "lows": [change.is_low_quality for change in plan],
        "scores": [change.score for change in plan],
        "kinds": [change.tags_kind for change in plan],
        "documents": [None if one.document is None else json.dumps(dict(one.document)) for one in plan],
    }
    rows = conn.execute(RELABEL, parameters).all()
    marks = {change.pending_id: change.is_marked for change in plan}
    # The column is written only where a flag of ours is concerned: not every role may.
    if any(row.is_marked != marks[row.pending_id] for row in rows):
        remarked = {"org_id": org_id, "ids": list(marks), "marks": list(marks.values())}
        conn.execute(REMARK, remarked)
    return tuple(
        Entry(
            "flag" if row.is_low or row.document is not None else "unflag",
            row.pending_id,
            {
                "low_quality": row.was_low, "score": row.score, "tags": row.kind_now,
                "prescreen": row.document_before, "sensitive": row.is_marked,
            },
            {
                "low_quality": row.is_low, "score": row.score, "prescreen": row.document,
                "sensitive": marks[row.pending_id],
            },
        )
        for row in rows
    )  # fmt: skip


def _rescore(conn: Connection, org_id: OrgId, plan: Sequence[Rescore]) -> tuple[Entry, ...]:
    parameters = {
        "org_id": org_id,
        "ids": [change.item_id for change in plan],
        "befores": [change.before for change in plan],
        "scores": [change.after for change in plan],
    }
    return tuple(
        Entry("rescore", row.id, {"quality_score": row.score_before}, {"quality_score": row.score})
        for row in sorted(conn.execute(RESCORE, parameters), key=lambda row: UUID(str(row.id)))
    )


def _restore(
    conn: Connection, org_id: OrgId, plan: Sequence[RestoreVerdict], standing: Standing, run_id: RunId
) -> tuple[Entry, ...]:
    gone = [change for change in plan if change.earlier is None]
    conn.execute(
        FORGET_VERDICTS,
        {"org_id": org_id, "a_ids": [one.a_id for one in gone], "b_ids": [one.b_id for one in gone]},
    )
    back = [(change, change.earlier) for change in plan if change.earlier is not None]
    columns = {
        f"{name}s": [earlier.get(name) for _, earlier in back]
        for name in ("verdict", "source", "by", "at", "reason")
    }
    keys = {"a_ids": [one.a_id for one, _ in back], "b_ids": [one.b_id for one, _ in back]}
    conn.execute(RESTORE_VERDICTS, {"org_id": org_id, "run_id": run_id, **keys, **columns})
    reviews.reopen(conn, org_id, {item_id for one in plan for item_id in (one.a_id, one.b_id)})
    return tuple(_restored(change, standing.verdicts[change.a_id, change.b_id]) for change in plan)


def _restored(change: RestoreVerdict, state: VerdictState) -> Entry:
    before = {
        "verdict": state.verdict, "source": state.source, "by": state.decided_by, "at": state.decided_at,
        "reason": state.reason,
    }  # fmt: skip
    after = {**(change.earlier or {"verdict": None}), "a": change.a_id, "b": change.b_id}
    return Entry("judge", state.pair_id, before, after)


def _part(
    conn: Connection, org_id: OrgId, plan: Sequence[Part], *, run_id: RunId, by: str, at: datetime
) -> tuple[Entry, ...]:
    wanted = [(change.a_id, change.b_id, change.is_direct) for change in plan]
    return reviews.judge(conn, org_id, wanted, "distinct", source="undo", by=by, at=at, run_id=run_id)
