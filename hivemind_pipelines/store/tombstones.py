"""Erasing: the one transaction in which a text leaves its row and everything that was made of it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, bindparam, text
from sqlalchemy.dialects.postgresql import JSONB

from hivemind_pipelines.core.changes import Retire
from hivemind_pipelines.core.erasure import KeyedName, Sameness, keyed_name, text_names
from hivemind_pipelines.core.model import ItemId, OrgId, RunId
from hivemind_pipelines.core.text import normalise
from hivemind_pipelines.store import erasures, purge, signals, undoing
from hivemind_pipelines.store.connection import Store, wait_lock
from hivemind_pipelines.store.derivations import retire
from hivemind_pipelines.store.ledger import Entry
from hivemind_pipelines.store.merges import unmerge_entry

#: Loads hold it shared from looking at erased texts until they have inserted.
ERASED_TEXTS_LOCK = "hivemind_pipelines:erased_texts"

#: Outcome and author of a case that lost a party for good.
ERASED = "erased"
BY_ERASURE = "erasure"

# An item id is unique over all orgs; one that a server moved is known to the org it was in, too.
TARGETS = text("""
    SELECT w.id, k.org_id, r.org_id AS known_org_id, k.source_agent_id,
           COALESCE(r.kind = 'summary', false)
               OR COALESCE(k.source_agent_id = 'distillation' AND jsonb_typeof(k.tags) = 'object'
                           AND k.tags -> 'distilled' = 'true', false) AS is_summary,
           t.item_id IS NOT NULL AS is_erased, e.erasure_id
    FROM unnest(CAST(:ids AS uuid[])) AS w (id)
    LEFT JOIN public.knowledge_items k ON k.id = w.id
    LEFT JOIN distillation.registered_items r ON r.item_id = w.id
    LEFT JOIN distillation.tombstones t
        ON t.item_id = w.id AND t.org_id = COALESCE(k.org_id, r.org_id) AND t.kind = 'erased'
    LEFT JOIN distillation.erasures e ON e.org_id = t.org_id AND e.run_id = t.run_id
    ORDER BY w.id
""")


@dataclass(frozen=True, slots=True)
class Target:
    """An item that somebody wants erased; no `org_ids` when nobody ever knew it."""

    id: ItemId
    org_ids: tuple[OrgId, ...]
    is_summary: bool
    is_erased: bool
    erasure_id: UUID | None


def read_targets(conn: Connection, ids: Sequence[ItemId]) -> tuple[Target, ...]:
    """What is known of each id, in id order."""
    return tuple(
        Target(
            ItemId(row.id),
            tuple(sorted({OrgId(org) for org in (row.org_id, row.known_org_id) if org is not None})),
            row.is_summary,
            row.is_erased,
            row.erasure_id,
        )
        for row in conn.execute(TARGETS, {"ids": list(ids)})
    )


SOURCES_OF = text("""
    SELECT source_id FROM distillation.derivations WHERE derived_id = :id ORDER BY source_id
""")


def read_sources_of(conn: Connection, summary_id: ItemId) -> tuple[ItemId, ...]:
    """What a summary was made of; an item id is unique over all orgs."""
    return tuple(map(ItemId, conn.execute(SOURCES_OF, {"id": summary_id}).scalars()))


# Compared without case, space and punctuation first; the caller's normal form has the last word.
_SQUASHED = "lower(regexp_replace({0}.content, '[[:space:][:punct:]]+', '', 'g'))"
OWN_COPIES = text(f"""
    SELECT o.id, o.content, k.id AS copy_id, k.content AS copy_content
    FROM public.knowledge_items o
    JOIN public.knowledge_items k
        ON k.org_id = o.org_id AND k.source_agent_id = o.source_agent_id AND k.id <> o.id
       AND {_SQUASHED.format("k")} = {_SQUASHED.format("o")}
    WHERE o.org_id = :org_id AND o.id = ANY(CAST(:ids AS uuid[]))
    ORDER BY k.id
""")


def read_own_copies(conn: Connection, org_id: OrgId, ids: Sequence[ItemId]) -> tuple[ItemId, ...]:
    """Items of the same contributors that say exactly the same but for case, spacing and final punctuation."""
    rows = conn.execute(OWN_COPIES, {"org_id": org_id, "ids": list(ids)})
    same = {ItemId(row.copy_id) for row in rows if normalise(row.content) == normalise(row.copy_content)}
    return tuple(sorted(same - set(ids)))


def lock(conn: Connection, org_id: OrgId) -> None:
    """Keep every stage of the org, and every load, waiting until the transaction ends."""
    conn.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": ERASED_TEXTS_LOCK}
    )
    for name in ("duplicate_pairs", "topic_clusters", *undoing.LOCKS):
        wait_lock(conn, org_id, name)


LOCK_TEXTS = text("""
    SELECT k.id, k.content, k.content_hash, k.source_agent_id, md5(vector_send(k.embedding)) AS vector_digest,
           CASE WHEN k.deleted_at IS NOT NULL THEN 'deleted' WHEN k.expired_at IS NOT NULL THEN 'expired'
                ELSE 'live' END AS state
    FROM public.knowledge_items k
    WHERE k.org_id = :org_id AND k.id = ANY(CAST(:ids AS uuid[]))
    ORDER BY k.id FOR UPDATE
""")


@dataclass(frozen=True, slots=True)
class Standing:
    """A row with its text, locked; `state` is live, expired or deleted."""

    id: ItemId
    content: str
    content_hash: str
    contributor: str
    vector_digest: str | None
    state: str


# Features before what refers to them, as whoever compares pairs beside us takes them.
LOCK_FEATURES = text("""
    SELECT f.item_id FROM distillation.item_features f
    WHERE f.org_id = :org_id AND f.item_id = ANY(CAST(:ids AS uuid[]))
    ORDER BY f.item_id FOR UPDATE
""")


def lock_texts(conn: Connection, org_id: OrgId, ids: Iterable[ItemId]) -> tuple[Standing, ...]:
    """The rows of the org that are there, with their features nobody else's until the commit."""
    rows = conn.execute(LOCK_TEXTS, {"org_id": org_id, "ids": sorted(ids)}).all()
    conn.execute(LOCK_FEATURES, {"org_id": org_id, "ids": sorted(ids)})
    return tuple(
        Standing(
            ItemId(row.id), row.content, row.content_hash, row.source_agent_id, row.vector_digest, row.state
        )
        for row in rows
    )


# Derivations are one level deep where we made them; a server's own may not be.
DERIVED = text("""
    WITH RECURSIVE reached AS (
        SELECT unnest(CAST(:ids AS uuid[])) AS id
        UNION
        SELECT d.derived_id FROM reached r
        JOIN distillation.derivations d ON d.org_id = :org_id AND d.source_id = r.id
    )
    SELECT id FROM reached WHERE id <> ALL(CAST(:ids AS uuid[])) ORDER BY id
""")


def read_derived(conn: Connection, org_id: OrgId, ids: Sequence[ItemId]) -> tuple[ItemId, ...]:
    """Everything made of these items, however far, retired and deleted summaries included."""
    return tuple(map(ItemId, conn.execute(DERIVED, {"org_id": org_id, "ids": list(ids)}).scalars()))


# Merges are followed both ways: whoever said the same is told, and keeps what they said.
KIN = text("""
    WITH RECURSIVE reached AS (
        SELECT unnest(CAST(:ids AS uuid[])) AS id
        UNION
        SELECT next.id FROM reached r CROSS JOIN LATERAL (
            SELECT m.canonical_id AS id FROM distillation.merges m
            WHERE m.org_id = :org_id AND m.duplicate_id = r.id
            UNION ALL
            SELECT m.duplicate_id FROM distillation.merges m
            WHERE m.org_id = :org_id AND m.canonical_id = r.id) next
    ), paired AS (
        SELECT p.b_id AS id FROM distillation.candidate_pairs p
        WHERE p.org_id = :org_id AND p.a_id = ANY(CAST(:ids AS uuid[])) AND p.decision = 'duplicate'
        UNION ALL
        SELECT p.a_id FROM distillation.candidate_pairs p
        WHERE p.org_id = :org_id AND p.b_id = ANY(CAST(:ids AS uuid[])) AND p.decision = 'duplicate'
    )
    SELECT id FROM reached WHERE id <> ALL(CAST(:ids AS uuid[]))
    UNION
    SELECT id FROM paired WHERE id <> ALL(CAST(:ids AS uuid[]))
    ORDER BY id
""")


def read_kin(conn: Connection, org_id: OrgId, ids: Sequence[ItemId]) -> tuple[ItemId, ...]:
    """Items that merges or pairs say are the same statement, however far along the merges."""
    return tuple(map(ItemId, conn.execute(KIN, {"org_id": org_id, "ids": list(ids)}).scalars()))


def _known_hashes() -> str:
    """SQL of every hash that our tables hold for some items, those of earlier texts included."""
    sides = (
        ("item_features", "item_id", "content_hash"),
        ("candidate_pairs", "a_id", "a_hash"),
        ("candidate_pairs", "b_id", "b_hash"),
        ("pair_verdicts", "a_id", "a_hash"),
        ("pair_verdicts", "b_id", "b_hash"),
        ("topic_members", "item_id", "content_hash"),
        ("derivations", "source_id", "source_hash"),
        ("summaries", "summary_id", "content_hash"),
    )
    return " UNION ".join(
        f"SELECT h.{name} AS hash FROM distillation.{table} h"
        f" WHERE h.org_id = :org_id AND h.{item} = ANY(CAST(:ids AS uuid[]))"
        for table, item, name in sides
    )


HASHES = text(_known_hashes())

ERASE_ROWS = text("""
    UPDATE public.knowledge_items k
    SET content = '[erased ' || k.id || ']',
        content_hash = encode(sha256(convert_to('[erased ' || k.id || ']', 'UTF8')), 'hex'),
        embedding = NULL,
        tags = CASE WHEN k.id = ANY(CAST(:derived AS uuid[])) THEN '{"distilled": true}'::jsonb END,
        deleted_at = COALESCE(k.deleted_at, :at)
    WHERE k.org_id = :org_id AND k.id = ANY(CAST(:ids AS uuid[]))
""")

REGISTER_ERASED = text("""
    WITH known AS (
        UPDATE distillation.registered_items SET kind = 'erased'
        WHERE org_id = :org_id AND item_id = ANY(CAST(:ids AS uuid[]))
    )
    INSERT INTO distillation.registered_items (org_id, item_id, kind)
    SELECT k.org_id, k.id, 'erased' FROM public.knowledge_items k
    WHERE k.org_id = :org_id AND k.id = ANY(CAST(:ids AS uuid[]))
      AND NOT EXISTS (SELECT FROM distillation.registered_items r WHERE r.item_id = k.id)
    ON CONFLICT DO NOTHING
""")

FORGET_MERGES = text("""
    DELETE FROM distillation.merges m
    WHERE m.org_id = :org_id AND m.duplicate_id = ANY(CAST(:ids AS uuid[]))
    RETURNING m.duplicate_id, m.canonical_id, to_jsonb(m.expired_at) AS expired_at
""")

SCRUB_SIGNALS = text("""
    UPDATE public.quality_signals s SET metadata = NULL
    FROM public.knowledge_items k
    WHERE k.org_id = :org_id AND k.id = s.knowledge_item_id AND k.id = ANY(CAST(:ids AS uuid[]))
      AND s.metadata IS NOT NULL
""")

# What else a server wrote into a cluster's signal goes with the item that it names.
SCRUB_MENTIONS = text("""
    UPDATE public.quality_signals s
    SET metadata = jsonb_build_object(
        'conflicting_item_ids', COALESCE((
            SELECT jsonb_agg(other ORDER BY place)
            FROM jsonb_array_elements(s.metadata -> 'conflicting_item_ids') WITH ORDINALITY AS n (other, place)
            WHERE NOT (other #>> '{}' = ANY(CAST(:names AS text[])))), '[]'::jsonb),
        'category', s.metadata -> 'category', 'org_id', s.metadata -> 'org_id',
        'detected_at', s.metadata -> 'detected_at')
    FROM public.knowledge_items k
    WHERE k.org_id = :org_id AND k.id = s.knowledge_item_id AND s.signal_type = 'contradiction_cluster'
      AND jsonb_typeof(s.metadata -> 'conflicting_item_ids') = 'array'
      AND s.metadata -> 'conflicting_item_ids' ?| CAST(:names AS text[])
""")

# Links that no merge of ours stands for: a server wrote them.
STRIP_LINKS = text("""
    UPDATE public.knowledge_items k
    SET tags = jsonb_set(k.tags, '{provenance_links}', COALESCE((
        SELECT jsonb_agg(link ORDER BY place)
        FROM jsonb_array_elements(k.tags -> 'provenance_links') WITH ORDINALITY AS n (link, place)
        WHERE NOT (link #>> '{}' = ANY(CAST(:names AS text[])))), '[]'::jsonb))
    WHERE k.org_id = :org_id AND jsonb_typeof(k.tags) = 'object'
      AND jsonb_typeof(k.tags -> 'provenance_links') = 'array'
      AND k.tags -> 'provenance_links' ?| CAST(:names AS text[])
""")

CASES_OF = text("""
    SELECT DISTINCT c.case_id, c.status = 'open' AS is_open
    FROM distillation.case_items i
    JOIN distillation.contradiction_cases c ON c.org_id = i.org_id AND c.case_id = i.case_id
    WHERE i.org_id = :org_id AND i.item_id = ANY(CAST(:ids AS uuid[]))
    ORDER BY c.case_id
""")

CLOSE_CASES = text("""
    UPDATE distillation.contradiction_cases c
    SET evidence = '{}',
        status = CASE WHEN c.status = 'open' THEN 'dismissed' ELSE c.status END,
        outcome = CASE WHEN c.status = 'open' THEN :outcome ELSE c.outcome END,
        decided_by = CASE WHEN c.status = 'open' THEN :by ELSE c.decided_by END,
        decided_at = CASE WHEN c.status = 'open' THEN :at ELSE c.decided_at END
    WHERE c.org_id = :org_id AND c.case_id = ANY(CAST(:cases AS uuid[]))
""")

# Jobs are named by hashes over hashes; those of standing topics stay, the others are only claims and waits.
FORGET_JOBS = text("""
    DELETE FROM distillation.llm_jobs j
    WHERE j.org_id = :org_id AND NOT EXISTS (
        SELECT FROM distillation.topic_clusters t
        WHERE t.org_id = j.org_id AND t.fingerprint = j.fingerprint)
""")

# Pending rows that were matched with an item, or say what it says, are to be labelled anew.
REOPEN_LABELS = text(f"""
    UPDATE distillation.prescreens s SET label_stamp = ''
    WHERE s.org_id = :org_id AND s.pending_id IN (
        SELECT m.pending_id FROM distillation.pending_matches m
        WHERE m.org_id = :org_id AND m.other_id = ANY(CAST(:ids AS uuid[]))
        UNION ALL
        SELECT p.id FROM public.pending_contributions p
        JOIN public.knowledge_items k
            ON k.org_id = p.org_id AND k.id = ANY(CAST(:ids AS uuid[]))
           AND {_SQUASHED.format("k")} = {_SQUASHED.format("p")}
        WHERE p.org_id = :org_id)
""")

WRITE_NAMES = text("""
    INSERT INTO distillation.erased_texts (org_id, keyed_name, sameness, item_id, erased_at)
    SELECT :org_id, n.keyed_name, n.sameness, n.item_id, :at
    FROM unnest(CAST(:names AS text[]), CAST(:samenesses AS text[]), CAST(:items AS uuid[]))
        AS n (keyed_name, sameness, item_id)
    ON CONFLICT (org_id, keyed_name) DO NOTHING
""")


@dataclass(frozen=True, slots=True)
class Removal:
    """What is to be removed in one org: the items asked for, and what was derived from them."""

    erased: tuple[ItemId, ...]
    derived: tuple[ItemId, ...]
    texts: tuple[Standing, ...]

    @property
    def ids(self) -> list[ItemId]:
        """Erased and derived, in id order."""
        return sorted({*self.erased, *self.derived})


@dataclass(frozen=True, slots=True)
class Removed:
    """What one transaction did: rows by place, and the ledger entries in their order."""

    counts: Mapping[str, int]
    entries: tuple[Entry, ...]


def remove(
    conn: Connection, org_id: OrgId, removal: Removal, *, key: bytes, run_id: RunId, as_of: datetime
) -> Removed:
    """Take the texts out of their rows and everything derived, in the caller's one transaction.

    The caller holds `lock` and the rows, records the entries and then syncs `provenance_links`.
    """
    ids = removal.ids
    of_ids = {"org_id": org_id, "ids": ids}
    counts: Counter[str] = Counter()
    hashes = {row.content_hash for row in removal.texts} | set(conn.execute(HASHES, of_ids).scalars())
    retired = _retire(conn, org_id, removal, as_of)
    closed, cases = _close_cases(conn, org_id, ids, as_of)
    conn.execute(erasures.REOPEN_NEIGHBOURS, {"org_id": org_id, "lost": ids})
    conn.execute(REOPEN_LABELS, of_ids)
    counts["public.quality_signals"] += conn.execute(SCRUB_SIGNALS, of_ids).rowcount
    names = {"org_id": org_id, "names": list(map(str, ids))}
    counts["public.quality_signals"] += conn.execute(SCRUB_MENTIONS, names).rowcount
    erased_rows = {**of_ids, "derived": list(removal.derived), "at": as_of}
    counts["public.knowledge_items"] += conn.execute(ERASE_ROWS, erased_rows).rowcount
    revived = conn.execute(erasures.REVIVE_FOLLOWERS, {"org_id": org_id}).all()
    unmerged = conn.execute(FORGET_MERGES, of_ids).all()
    counts["distillation.merges"] += len(revived) + len(unmerged)
    counts.update(purge.purge(conn, org_id, ids, cases, sorted(hashes)))
    counts["distillation.llm_verdicts"] += conn.execute(erasures.FORGET_VERDICTS, {"org_id": org_id}).rowcount
    counts["distillation.llm_jobs"] += conn.execute(FORGET_JOBS, {"org_id": org_id}).rowcount
    conn.execute(REGISTER_ERASED, of_ids)
    tombstones = {
        "org_id": org_id, "at": as_of, "run_id": run_id, "ids": ids, "kinds": [ERASED for _ in ids],
    }  # fmt: skip
    conn.execute(erasures.WRITE_TOMBSTONES, tombstones)
    _write_names(conn, org_id, removal, key=key, at=as_of)
    entries = (
        *_erase_entries(org_id, removal, key),
        *retired,
        *closed,
        *_unmerged(revived, "canonical_erased", is_live=True),
        *_unmerged(unmerged, ERASED, is_live=False),
    )
    return Removed({place: count for place, count in sorted(counts.items()) if count}, entries)


def strip_links(conn: Connection, org_id: OrgId, ids: Iterable[ItemId]) -> int:
    """Take erased ids out of `provenance_links` that a server wrote; how many rows named one."""
    return conn.execute(STRIP_LINKS, {"org_id": org_id, "names": list(map(str, ids))}).rowcount


def _retire(conn: Connection, org_id: OrgId, removal: Removal, as_of: datetime) -> tuple[Entry, ...]:
    """Expire live summaries; one that the server removed is retired in the ledger alone."""
    plan = [Retire(summary, "source_erased") for summary in removal.derived]
    entries = retire(conn, org_id, plan, as_of=as_of)
    present = {row.id for row in removal.texts}
    after = {"expired_at": as_of, "reason": "source_erased"}
    gone = (
        Entry("retire", one, {"expired_at": None}, after) for one in removal.derived if one not in present
    )
    return (*entries, *gone)


def _close_cases(
    conn: Connection, org_id: OrgId, ids: Sequence[ItemId], at: datetime
) -> tuple[tuple[Entry, ...], list[UUID]]:
    """Empty the cases that name the items; open ones are dismissed and their signals wait again."""
    rows = conn.execute(CASES_OF, {"org_id": org_id, "ids": list(ids)}).all()
    cases, is_open = [row.case_id for row in rows], [row.case_id for row in rows if row.is_open]
    by = {"outcome": ERASED, "by": BY_ERASURE}
    conn.execute(CLOSE_CASES, {"org_id": org_id, "cases": cases, "at": at, **by})
    conn.execute(signals.FREE_SIGNALS, {"org_id": org_id, "ids": is_open})
    conn.execute(signals.REPLACE_PARTIES, {"org_id": org_id, "ids": is_open})
    before = {"status": "open", "outcome": None, "by": None}
    closed = (Entry("decide_case", case, before, {"status": "dismissed", **by}) for case in is_open)
    return tuple(closed), cases


def _write_names(conn: Connection, org_id: OrgId, removal: Removal, *, key: bytes, at: datetime) -> None:
    names = [
        (name, sameness, row.id)
        for row in removal.texts
        if row.id in set(removal.erased)
        for name, sameness in text_names(key, org_id, row.content).items()
    ]
    columns = {
        "names": [name for name, _, _ in names],
        "samenesses": [sameness for _, sameness, _ in names],
        "items": [item_id for _, _, item_id in names],
    }
    conn.execute(WRITE_NAMES, {"org_id": org_id, "at": at, **columns})


def _erase_entries(org_id: OrgId, removal: Removal, key: bytes) -> tuple[Entry, ...]:
    states = {row.id: row.state for row in removal.texts}
    versions = {row.id: keyed_name(key, "exact", org_id, row.content_hash) for row in removal.texts}
    return tuple(
        Entry(
            "erase",
            item_id,
            {"state": states.get(item_id, "gone"), "version": versions.get(item_id)},
            {"state": ERASED},
        )
        for item_id in removal.ids
    )


def _unmerged(rows: Sequence[object], reason: str, *, is_live: bool) -> list[Entry]:
    """Entries of merges that ended; the duplicate that was erased keeps the expiry it had."""
    entries = []
    for row in rows:
        duplicate, canonical, expired_at = (
            getattr(row, name) for name in ("duplicate_id", "canonical_id", "expired_at")
        )
        entry = unmerge_entry(duplicate, canonical, expired_at, {duplicate: reason})
        after = entry.after if is_live else {**entry.after, "expired_at": expired_at}
        entries.append(Entry(entry.change, duplicate, entry.before, after))
    return entries


NAMES = text("""
    SELECT org_id, keyed_name, sameness FROM distillation.erased_texts
    WHERE org_id = ANY(CAST(:org_ids AS text[]))
""")
SHARE_NAMES = text("SELECT pg_advisory_xact_lock_shared(hashtextextended(:name, 0))")


def read_erased_names(
    conn: Connection, org_ids: Iterable[OrgId], *, locked: bool = False
) -> dict[OrgId, dict[KeyedName, Sameness]]:
    """The keyed names of the texts that each org has erased; an org without any is absent.

    `locked` keeps erasures waiting until the transaction ends: nothing is erased between look and insert.
    """
    if locked:
        conn.execute(SHARE_NAMES, {"name": ERASED_TEXTS_LOCK})
    found: dict[OrgId, dict[KeyedName, Sameness]] = {}
    for row in conn.execute(NAMES, {"org_ids": sorted(set(org_ids))}):
        found.setdefault(OrgId(row.org_id), {})[KeyedName(row.keyed_name)] = row.sameness
    return found


OPEN_ERASURE = text("""
    INSERT INTO distillation.erasures (org_id, erasure_id, run_id, erased_at, unfinished)
    VALUES (:org_id, :erasure_id, :run_id, :at, :unfinished)
""").bindparams(bindparam("unfinished", type_=JSONB))

CLOSE_ERASURE = text("""
    UPDATE distillation.erasures SET unfinished = NULL, finished_at = :at
    WHERE org_id = :org_id AND erasure_id = :erasure_id AND finished_at IS NULL
""")

#: Who is at work on an erasure holds this lock of its own; the server takes it back from a process that died.
ATTENDED = "hivemind_pipelines:erasure:"

# Of one org, or of every org: an erasure whose process died is finished by whoever comes by with its key;
# under another one its needles would find nothing.
UNFINISHED = text("""
    SELECT e.org_id, e.erasure_id, e.run_id, e.erased_at, e.unfinished FROM distillation.erasures e
    WHERE e.finished_at IS NULL AND (CAST(:org_id AS text) IS NULL OR e.org_id = :org_id)
      AND COALESCE(e.unfinished ->> 'key', :key_name) = :key_name
      AND NOT EXISTS (
        SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()
        WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
          AND (l.classid::bigint << 32 | l.objid::bigint) = hashtextextended(:attended || e.erasure_id, 0))
    ORDER BY e.erased_at, e.erasure_id
""").columns(unfinished=JSONB)

TRY_ATTEND = text("SELECT pg_try_advisory_lock(hashtextextended(:attended || :erasure_id, 0))")
LEAVE = text("SELECT pg_advisory_unlock(hashtextextended(:attended || :erasure_id, 0))")
IS_UNFINISHED = text("""
    SELECT EXISTS (SELECT FROM distillation.erasures
                   WHERE org_id = :org_id AND erasure_id = :erasure_id AND finished_at IS NULL)
""")


@dataclass(frozen=True, slots=True)
class Erasure:
    """An erasure whose texts are gone and whose receipt is not written; `notes` is all it still needs."""

    org_id: OrgId
    id: UUID
    run_id: RunId
    erased_at: datetime
    notes: Mapping[str, object]


def open_erasure(conn: Connection, erasure: Erasure) -> None:
    """Remember, in the transaction that erases, what the receipt will need."""
    values = {
        "org_id": erasure.org_id, "erasure_id": erasure.id, "run_id": erasure.run_id,
        "at": erasure.erased_at, "unfinished": dict(erasure.notes),
    }  # fmt: skip
    conn.execute(OPEN_ERASURE, values)


def close_erasure(conn: Connection, erasure: Erasure, at: datetime) -> None:
    """Forget needles and reason: the receipt has what lasts."""
    conn.execute(CLOSE_ERASURE, {"org_id": erasure.org_id, "erasure_id": erasure.id, "at": at})


def read_unfinished(conn: Connection, key_name: str, org_id: OrgId | None = None) -> tuple[Erasure, ...]:
    """Erasures of one org, or of any, begun under a key, without a receipt and without a process, oldest first."""
    values = {"org_id": org_id, "key_name": key_name, "attended": ATTENDED}
    return tuple(
        Erasure(OrgId(row.org_id), row.erasure_id, RunId(row.run_id), row.erased_at, row.unfinished)
        for row in conn.execute(UNFINISHED, values)
    )


def is_unfinished(conn: Connection, erasure: Erasure) -> bool:
    """Whether nobody has written its receipt meanwhile."""
    values = {"org_id": erasure.org_id, "erasure_id": erasure.id}
    return bool(conn.execute(IS_UNFINISHED, values).scalar_one())


@contextmanager
def attend(store: Store, erasure_id: UUID) -> Iterator[bool]:
    """Be the only one at work on an erasure until the block ends; False when somebody else is."""
    lock_of = {"attended": ATTENDED, "erasure_id": str(erasure_id)}
    with store.session("AUTOCOMMIT") as conn:
        is_ours = bool(conn.execute(TRY_ATTEND, lock_of).scalar_one())
        try:
            yield is_ours
        finally:
            if is_ours:
                conn.execute(LEAVE, lock_of)


KIN_STATES = text("""
    SELECT k.id, k.source_agent_id = ANY(CAST(:contributors AS text[])) AS is_same_contributor,
           CASE WHEN k.deleted_at IS NOT NULL THEN 'deleted' WHEN k.expired_at IS NOT NULL THEN 'expired'
                ELSE 'live' END AS state
    FROM public.knowledge_items k
    LEFT JOIN distillation.tombstones t ON t.org_id = k.org_id AND t.item_id = k.id AND t.kind = 'erased'
    WHERE k.org_id = :org_id AND k.id = ANY(CAST(:ids AS uuid[])) AND t.item_id IS NULL
    ORDER BY k.id
""")


def read_kin_states(
    conn: Connection, org_id: OrgId, ids: Sequence[ItemId], contributors: Sequence[str]
) -> dict[ItemId, tuple[str, bool]]:
    """(state, whether it is of one of the contributors) of those items that stand, not erased."""
    values = {"org_id": org_id, "ids": list(ids), "contributors": list(contributors)}
    return {ItemId(row.id): (row.state, row.is_same_contributor) for row in conn.execute(KIN_STATES, values)}


FAULTS = text("""
    SELECT w.id,
           t.item_id IS NULL AS lacks_tombstone,
           k.id IS NOT NULL AND (
               k.content <> '[erased ' || w.id || ']' OR k.embedding IS NOT NULL OR k.deleted_at IS NULL
           ) AS is_back
    FROM unnest(CAST(:ids AS uuid[])) AS w (id)
    LEFT JOIN distillation.tombstones t ON t.org_id = :org_id AND t.item_id = w.id AND t.kind = 'erased'
    LEFT JOIN public.knowledge_items k ON k.org_id = :org_id AND k.id = w.id
    ORDER BY w.id
""")


def read_faults(conn: Connection, org_id: OrgId, ids: Sequence[ItemId]) -> dict[ItemId, str]:
    """Erased items that do not stand as erased any more, each with the reason."""
    return {
        ItemId(row.id): "has a text or a vector again, or is live"
        if row.is_back
        else "has lost its tombstone"
        for row in conn.execute(FAULTS, {"org_id": org_id, "ids": list(ids)})
        if row.is_back or row.lacks_tombstone
    }


CURRENT_HASHES = text("""
    SELECT k.id, k.content_hash, 'knowledge_items' AS place FROM public.knowledge_items k
    WHERE k.org_id = :org_id
    UNION ALL
    SELECT p.id, p.content_hash, 'pending_contributions' FROM public.pending_contributions p
    WHERE p.org_id = :org_id
""")


def read_returned(
    conn: Connection, org_id: OrgId, names: Iterable[str], key: bytes
) -> tuple[tuple[str, UUID], ...]:
    """Rows, as (table, id), whose text is one of those erased, to the letter."""
    wanted = frozenset(names)
    return tuple(
        (row.place, row.id)
        for row in conn.execute(CURRENT_HASHES, {"org_id": org_id})
        if keyed_name(key, "exact", org_id, row.content_hash) in wanted
    )
