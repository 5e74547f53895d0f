"""What must hold at any moment, as named queries: an empty result holds.

Each query answers with rows (org_id, subject_id) and takes `:org_id`, NULL for every org. A promise
that no query can see is proved elsewhere, and its `kind` says where: `dump` compares the public tables
before and after, `scan` reads every storage for what was erased. Such a promise may still have a query
for the part that shows in the tables.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal
from uuid import UUID

from sqlalchemy import Connection, text

from hivemind_pipelines.core.model import OrgId

#: How long a soft delete, or another's expiry, may take to reach what was derived.
PROPAGATION_INTERVAL = timedelta(minutes=30)
SAMPLE_SIZE = 5


@dataclass(frozen=True, slots=True)
class Invariant:
    """A promise, the query that finds what breaks it, and what proves it in full."""

    name: str
    promise: str
    sql: str | None
    kind: Literal["query", "dump", "scan"] = "query"


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise: how many subjects break it, and the smallest ids among them."""

    name: str
    promise: str
    count: int
    sample_ids: tuple[UUID, ...]


def violations(connection: Connection, org_id: OrgId | None = None) -> tuple[Violation, ...]:
    """Every invariant with a query that does not hold, for one org or for all."""
    found = (_violation(connection, invariant, org_id) for invariant in INVARIANTS if invariant.sql)
    return tuple(violation for violation in found if violation is not None)


def _violation(connection: Connection, invariant: Invariant, org_id: OrgId | None) -> Violation | None:
    query = text(
        f"WITH found AS ({invariant.sql}), subjects AS (SELECT DISTINCT subject_id FROM found)"
        " SELECT (SELECT count(*) FROM subjects) AS total,"
        f" ARRAY(SELECT subject_id FROM subjects ORDER BY subject_id LIMIT {SAMPLE_SIZE}) AS sample"
    )
    values = {"org_id": org_id, "interval": PROPAGATION_INTERVAL}
    wanted = {name: values[name] for name in query.compile().params}
    row = connection.execute(query, wanted).one()
    return Violation(invariant.name, invariant.promise, row.total, tuple(row.sample)) if row.total else None


def _of_org(alias: str) -> str:
    return f"(CAST(:org_id AS text) IS NULL OR {alias}.org_id = :org_id)"


_VANISHED = f"""
    -- Parties whose loss has consequences: the erasure stage leaves a tombstone for each that is gone.
    SELECT mentioned.org_id, mentioned.item_id AS subject_id
    FROM (SELECT org_id, duplicate_id AS item_id FROM distillation.merges
          UNION SELECT org_id, canonical_id FROM distillation.merges
          UNION SELECT org_id, source_id FROM distillation.derivations) AS mentioned
    WHERE {_of_org("mentioned")}
      AND NOT EXISTS (SELECT FROM public.knowledge_items k WHERE k.id = mentioned.item_id)
      AND NOT EXISTS (SELECT FROM distillation.tombstones t
                      WHERE t.org_id = mentioned.org_id AND t.item_id = mentioned.item_id)
"""

_NO_CANONICAL = f"""
    -- UNION, not UNION ALL: a cycle ends, and its members end nowhere.
    WITH RECURSIVE followed AS (
        SELECT m.org_id, m.duplicate_id, m.canonical_id AS reached_id
        FROM distillation.merges m
        JOIN public.knowledge_items k ON k.org_id = m.org_id AND k.id = m.duplicate_id
        WHERE {_of_org("m")} AND k.expired_at IS NOT NULL AND k.deleted_at IS NULL
        UNION
        SELECT f.org_id, f.duplicate_id, m.canonical_id
        FROM followed f
        JOIN distillation.merges m ON m.org_id = f.org_id AND m.duplicate_id = f.reached_id
    ), ends AS (
        SELECT f.org_id, f.duplicate_id, f.reached_id, k.id, k.deleted_at, k.expired_at
        FROM followed f
        LEFT JOIN public.knowledge_items k ON k.org_id = f.org_id AND k.id = f.reached_id
        WHERE NOT EXISTS (SELECT FROM distillation.merges m
                          WHERE m.org_id = f.org_id AND m.duplicate_id = f.reached_id)
    ), sound AS (
        SELECT e.org_id, e.duplicate_id
        FROM ends e
        WHERE (e.id IS NOT NULL AND COALESCE(e.deleted_at, e.expired_at) IS NULL)
           OR (COALESCE(e.deleted_at, e.expired_at) BETWEEN now() - :interval AND now()
               OR e.id IS NULL)
              AND NOT EXISTS (SELECT FROM distillation.tombstones t
                              WHERE t.org_id = e.org_id AND t.item_id = e.reached_id)
    )
    SELECT f.org_id, f.duplicate_id AS subject_id
    FROM followed f
    WHERE NOT EXISTS (SELECT FROM sound s WHERE s.org_id = f.org_id AND s.duplicate_id = f.duplicate_id)
"""

_MERGE_CYCLE = f"""
    -- Duplicates that reach themselves.
    WITH RECURSIVE followed AS (
        SELECT m.org_id, m.duplicate_id, m.canonical_id AS reached_id
        FROM distillation.merges m
        WHERE {_of_org("m")}
        UNION
        SELECT f.org_id, f.duplicate_id, m.canonical_id
        FROM followed f
        JOIN distillation.merges m ON m.org_id = f.org_id AND m.duplicate_id = f.reached_id
    )
    SELECT f.org_id, f.duplicate_id AS subject_id FROM followed f WHERE f.duplicate_id = f.reached_id
"""

_LIVE_SUMMARIES = f"""
    -- Summaries of ours that readers see.
    SELECT s.org_id, s.summary_id, s.fingerprint
    FROM distillation.summaries s
    JOIN public.knowledge_items k ON k.org_id = s.org_id AND k.id = s.summary_id
    WHERE {_of_org("s")} AND k.expired_at IS NULL AND k.deleted_at IS NULL
"""

_FEW_SOURCES = f"""
    -- Live summaries with too few derivations.
    SELECT live.org_id, live.summary_id AS subject_id
    FROM ({_LIVE_SUMMARIES}) AS live
    LEFT JOIN distillation.derivations d ON d.org_id = live.org_id AND d.derived_id = live.summary_id
    GROUP BY live.org_id, live.summary_id
    HAVING count(d.source_id) < 3
"""

_SUMMARY_AS_SOURCE = f"""
    -- The foreign keys pin the kinds; they cannot see a row that a server marked as derived.
    SELECT d.org_id, d.derived_id AS subject_id
    FROM distillation.derivations d
    WHERE {_of_org("d")}
      AND (EXISTS (SELECT FROM distillation.registered_items r
                   WHERE r.org_id = d.org_id AND r.item_id = d.source_id AND r.kind <> 'original')
           OR EXISTS (SELECT FROM public.knowledge_items k
                      WHERE k.org_id = d.org_id AND k.id = d.source_id
                        AND k.source_agent_id = 'distillation' AND jsonb_typeof(k.tags) = 'object'
                        AND k.tags -> 'distilled' = 'true'))
"""

_UNSOUND_SOURCE = f"""
    -- Live summaries of lost sources; a moment in the future or at infinity is as good as long ago.
    SELECT d.org_id, d.derived_id AS subject_id
    FROM distillation.derivations d
    JOIN public.knowledge_items derived
        ON derived.org_id = d.org_id AND derived.id = d.derived_id
        AND derived.expired_at IS NULL AND derived.deleted_at IS NULL
    LEFT JOIN public.knowledge_items k ON k.org_id = d.org_id AND k.id = d.source_id
    WHERE {_of_org("d")}
      AND (k.id IS NULL
           OR k.content_hash <> d.source_hash
           OR k.deleted_at NOT BETWEEN now() - :interval AND now()
           OR EXISTS (SELECT FROM distillation.tombstones t
                      WHERE t.org_id = d.org_id AND t.item_id = d.source_id AND t.at < now() - :interval))
"""

_TWIN_SUMMARIES = f"""
    -- Live summaries that share a fingerprint.
    SELECT live.org_id, live.summary_id AS subject_id
    FROM (SELECT l.*, count(*) OVER (PARTITION BY l.org_id, l.fingerprint) AS twins
          FROM ({_LIVE_SUMMARIES}) AS l) AS live
    WHERE live.twins > 1
"""

_TWIN_CASES = f"""
    -- Open cases that share their item set.
    WITH open_cases AS (
        SELECT c.org_id, c.case_id, array_agg(i.item_id ORDER BY i.item_id) AS item_ids
        FROM distillation.contradiction_cases c
        JOIN distillation.case_items i ON i.org_id = c.org_id AND i.case_id = c.case_id
        WHERE {_of_org("c")} AND c.status = 'open'
        GROUP BY c.org_id, c.case_id
    )
    SELECT o.org_id, o.case_id AS subject_id
    FROM (SELECT *, count(*) OVER (PARTITION BY org_id, item_ids) AS twins FROM open_cases) AS o
    WHERE o.twins > 1
"""

_ABSURD_SCORE = f"""
    -- NaN is greater than every number, so BETWEEN refuses it too.
    SELECT k.org_id, k.id AS subject_id
    FROM public.knowledge_items k
    WHERE {_of_org("k")} AND k.expired_at IS NULL AND k.deleted_at IS NULL
      AND k.quality_score NOT BETWEEN 0 AND 1
"""

_ERASED_REMAINS = f"""
    -- Erased items of which a text, a vector, features or something derived is left.
    SELECT t.org_id, t.item_id AS subject_id
    FROM distillation.tombstones t
    WHERE {_of_org("t")} AND t.kind = 'erased'
      AND (EXISTS (SELECT FROM public.knowledge_items k
                   WHERE k.org_id = t.org_id AND k.id = t.item_id
                     AND (k.content <> '[erased ' || k.id || ']' OR k.embedding IS NOT NULL
                          OR k.deleted_at IS NULL))
           OR EXISTS (SELECT FROM distillation.item_features f
                      WHERE f.org_id = t.org_id AND f.item_id = t.item_id)
           OR EXISTS (SELECT FROM distillation.derivations d
                      WHERE d.org_id = t.org_id AND d.source_id = t.item_id)
           OR EXISTS (SELECT FROM distillation.derivations d
                      WHERE d.org_id = t.org_id AND d.derived_id = t.item_id)
           OR EXISTS (SELECT FROM distillation.merges m
                      WHERE m.org_id = t.org_id AND m.duplicate_id = t.item_id)
           OR EXISTS (SELECT FROM distillation.pair_verdicts v
                      WHERE v.org_id = t.org_id AND v.a_id = t.item_id)
           OR EXISTS (SELECT FROM distillation.pair_verdicts v
                      WHERE v.org_id = t.org_id AND v.b_id = t.item_id))
"""

_STALE_CLAIM = f"""
    -- Claims that a later, finished run should have taken over or dropped.
    SELECT j.org_id, j.claimed_by AS subject_id
    FROM distillation.llm_jobs j
    WHERE {_of_org("j")} AND j.lease_until < now()
      AND EXISTS (SELECT FROM distillation.runs r
                  WHERE r.org_id = j.org_id AND r.job = 'distillation' AND r.status = 'finished'
                    AND r.as_of > j.lease_until)
"""

_FOREIGN_PARTY = f"""
    -- Items that we hold under another org than their own.
    SELECT mentioned.org_id, mentioned.item_id AS subject_id
    FROM (SELECT org_id, item_id FROM distillation.registered_items
          UNION SELECT org_id, item_id FROM distillation.case_items
          UNION SELECT org_id, item_id FROM distillation.stamped_signals
          UNION SELECT org_id, medoid_id FROM distillation.topic_clusters
          UNION SELECT org_id, subject_id FROM distillation.ledger) AS mentioned
    JOIN public.knowledge_items k ON k.id = mentioned.item_id
    WHERE {_of_org("mentioned")} AND k.org_id <> mentioned.org_id
"""


def _latest(*changes: str) -> str:
    """The last ledger row of each subject among some kinds of change."""
    names = ", ".join(f"'{change}'" for change in changes)
    return f"""
        -- One row a subject.
        SELECT DISTINCT ON (l.org_id, l.subject_id)
               l.org_id, l.subject_id, l.change, l.after ->> 'canonical' AS canonical,
               l.after ->> 'status' AS status, l.after ->> 'verdict' AS verdict
        FROM distillation.ledger l
        WHERE {_of_org("l")} AND l.change IN ({names})
        ORDER BY l.org_id, l.subject_id, l.seq DESC
    """


_UNLEDGERED = f"""
    -- The ledger replayed to its last word on each subject, against the tables. A duplicate that was
    -- lost has a tombstone, and its merge ended with it.
    WITH placed AS ({_latest("merge", "repoint", "import_merge", "unmerge")}),
         written AS ({_latest("publish", "revive", "retire")}),
         opened AS ({_latest("open_case", "decide_case")}),
         judged AS ({_latest("judge")}),
         merges AS (SELECT m.* FROM distillation.merges m WHERE {_of_org("m")}),
         cases AS (SELECT c.* FROM distillation.contradiction_cases c WHERE {_of_org("c")}),
         live_summaries AS (
             SELECT r.org_id, r.item_id, s.summary_id IS NOT NULL AS is_ours
             FROM distillation.registered_items r
             JOIN public.knowledge_items k ON k.org_id = r.org_id AND k.id = r.item_id
             LEFT JOIN distillation.summaries s ON s.org_id = r.org_id AND s.summary_id = r.item_id
             WHERE {_of_org("r")} AND r.kind = 'summary' AND k.expired_at IS NULL AND k.deleted_at IS NULL)
    SELECT m.org_id, m.duplicate_id AS subject_id
    FROM merges m
    LEFT JOIN placed p ON p.org_id = m.org_id AND p.subject_id = m.duplicate_id
    WHERE p.change IS NULL OR p.change = 'unmerge' OR p.canonical IS DISTINCT FROM m.canonical_id::text
    UNION ALL
    SELECT p.org_id, p.subject_id
    FROM placed p
    LEFT JOIN merges m ON m.org_id = p.org_id AND m.duplicate_id = p.subject_id
    LEFT JOIN distillation.tombstones t ON t.org_id = p.org_id AND t.item_id = p.subject_id
    WHERE p.change <> 'unmerge' AND m.org_id IS NULL AND t.org_id IS NULL
    UNION ALL
    SELECT s.org_id, s.item_id
    FROM live_summaries s
    LEFT JOIN written w ON w.org_id = s.org_id AND w.subject_id = s.item_id
    WHERE w.change = 'retire' OR (w.change IS NULL AND s.is_ours)
    UNION ALL
    SELECT w.org_id, w.subject_id
    FROM written w
    LEFT JOIN distillation.summaries s ON s.org_id = w.org_id AND s.summary_id = w.subject_id
    WHERE w.change <> 'retire' AND s.org_id IS NULL
    UNION ALL
    SELECT COALESCE(c.org_id, o.org_id), COALESCE(c.case_id, o.subject_id)
    FROM cases c
    FULL JOIN opened o ON o.org_id = c.org_id AND o.subject_id = c.case_id
    WHERE c.org_id IS NULL OR o.org_id IS NULL OR o.status <> c.status
    UNION ALL
    SELECT v.org_id, v.pair_id
    FROM distillation.pair_verdicts v
    LEFT JOIN judged j ON j.org_id = v.org_id AND j.subject_id = v.pair_id
    WHERE {_of_org("v")} AND j.verdict IS DISTINCT FROM v.verdict
"""

_TOO_PUBLIC = f"""
    -- Live derived items that show what a source keeps private.
    SELECT d.org_id, d.derived_id AS subject_id
    FROM distillation.derivations d
    JOIN public.knowledge_items derived
        ON derived.org_id = d.org_id AND derived.id = d.derived_id AND derived.is_public
    JOIN public.knowledge_items k ON k.org_id = d.org_id AND k.id = d.source_id AND NOT k.is_public
    WHERE {_of_org("d")} AND derived.expired_at IS NULL AND derived.deleted_at IS NULL
"""

INVARIANTS: tuple[Invariant, ...] = (
    Invariant(
        "I1",
        "we remove no id; proved by dumps, the query finds parties of merges and derivations that are gone "
        "without a tombstone, as they are between a server's hard delete and its propagation",
        _VANISHED,
        "dump",
    ),
    Invariant(
        "I2",
        "an item expired by a merge reaches exactly one live canonical of its org by following merges; one "
        "that was deleted, expired by others or removed may take one propagation interval",
        _NO_CANONICAL,
    ),
    Invariant("I3", "merges form no cycle", _MERGE_CYCLE),
    Invariant("I4", "we change content and hash of no unerased item; proved by dumps", None, "dump"),
    Invariant("I5", "a live summary of ours has at least 3 sources of its own org", _FEW_SOURCES),
    Invariant("I6", "derivations are one level deep: a summary is never a source", _SUMMARY_AS_SOURCE),
    Invariant(
        "I7",
        "no live summary has an erased or deleted source for longer than one propagation interval, nor one "
        "that is gone or changed (nobody notes when that happened, so these show at once)",
        _UNSOUND_SOURCE,
    ),
    Invariant("I8", "there is one live summary per fingerprint", _TWIN_SUMMARIES),
    Invariant("I9", "there is one open case per item set", _TWIN_CASES),
    Invariant("I10", "the quality score of a live item is finite and in [0, 1]", _ABSURD_SCORE),
    Invariant(
        "I11",
        "an erased item leaves no content, embedding or text anywhere; proved by the residual scan, the "
        "query finds texts, vectors, features and derived rows in the tables",
        _ERASED_REMAINS,
        "scan",
    ),
    Invariant(
        "I12",
        "no LLM claim is held past its lease once a later run of its org has finished",
        _STALE_CLAIM,
    ),
    Invariant("I13", "on pending rows we change only our own tags; proved by dumps", None, "dump"),
    Invariant(
        "I14",
        "an org's run changes no other org's rows; proved by dumps, the query finds items that our tables "
        "hold under another org than their own",
        _FOREIGN_PARTY,
        "dump",
    ),
    Invariant(
        "I15",
        "every merge, live summary, case and verdict has its ledger row, and the last word on each is "
        "the state",
        _UNLEDGERED,
    ),
    Invariant("I16", "a live derived item is public only where all its sources are", _TOO_PUBLIC),
)
