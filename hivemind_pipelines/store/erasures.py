"""Items that their owner deleted, or that the server removed, and what was derived from them."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from hivemind_pipelines.core.changes import Retire
from hivemind_pipelines.core.model import ItemId, OrgId, RunId
from hivemind_pipelines.store.derivations import retire
from hivemind_pipelines.store.items import LIVE
from hivemind_pipelines.store.ledger import Entry
from hivemind_pipelines.store.merges import sync_provenance_links, unmerge_entry

# Found as a set difference, never by a timestamp: what we know, less what is there, less what was done.
LOST = """
    SELECT r.org_id, r.item_id, k.id IS NULL AS is_gone
    FROM distillation.registered_items r
    LEFT JOIN public.knowledge_items k ON k.org_id = r.org_id AND k.id = r.item_id
    LEFT JOIN distillation.tombstones t ON t.org_id = r.org_id AND t.item_id = r.item_id
    WHERE (k.id IS NULL AND t.kind IS NULL)
       OR (k.id IS NULL AND t.kind = 'deleted')
       OR (k.deleted_at IS NOT NULL AND t.kind IS NULL)
"""

# The owner took a soft delete back, or the server put a removed row back under its id.
RESTORED = """
    SELECT t.org_id, t.item_id
    FROM distillation.tombstones t
    JOIN public.knowledge_items k ON k.org_id = t.org_id AND k.id = t.item_id AND k.deleted_at IS NULL
    WHERE t.kind IN ('deleted', 'gone')
"""

READ_LOST = text(f"SELECT item_id, is_gone FROM ({LOST}) lost WHERE org_id = :org_id ORDER BY item_id")
READ_RESTORED = text(f"SELECT item_id FROM ({RESTORED}) restored WHERE org_id = :org_id ORDER BY item_id")
# Reads every org on purpose: it is the question which orgs have something to propagate.
ORGS_WITH_LOSSES = text(f"""
    SELECT org_id FROM ({LOST}) lost UNION SELECT org_id FROM ({RESTORED}) restored ORDER BY org_id
""")


@dataclass(frozen=True, slots=True)
class Losses:
    """Items whose content their owner took back (or gave again) since we last looked."""

    deleted: tuple[ItemId, ...]
    gone: tuple[ItemId, ...]
    restored: tuple[ItemId, ...]

    @property
    def lost(self) -> tuple[ItemId, ...]:
        """Deleted and gone items, in id order."""
        return tuple(sorted((*self.deleted, *self.gone)))


def read_orgs_with_losses(conn: Connection) -> tuple[OrgId, ...]:
    """Orgs in which something waits to be propagated."""
    return tuple(map(OrgId, conn.execute(ORGS_WITH_LOSSES).scalars()))


def read_losses(conn: Connection, org_id: OrgId) -> Losses:
    """What was deleted, removed or restored in the org and is not propagated yet."""
    rows = conn.execute(READ_LOST, {"org_id": org_id}).all()
    restored = conn.execute(READ_RESTORED, {"org_id": org_id}).scalars()
    return Losses(
        deleted=tuple(ItemId(row.item_id) for row in rows if not row.is_gone),
        gone=tuple(ItemId(row.item_id) for row in rows if row.is_gone),
        restored=tuple(map(ItemId, restored)),
    )


DERIVED_LIVE = text(f"""
    SELECT DISTINCT d.derived_id
    FROM distillation.derivations d
    JOIN public.knowledge_items k ON k.org_id = d.org_id AND k.id = d.derived_id AND {LIVE}
    WHERE d.org_id = :org_id AND d.source_id = ANY(CAST(:lost AS uuid[]))
""")

# Followers of a lost canonical come back at once; the next run finds them a new canonical.
REVIVE_FOLLOWERS = text("""
    WITH followers AS (
        SELECT m.duplicate_id, m.canonical_id, to_jsonb(m.expired_at) AS expired_at
        FROM distillation.merges m
        JOIN public.knowledge_items k
            ON k.org_id = m.org_id AND k.id = m.duplicate_id AND k.expired_at = m.expired_at
           AND k.deleted_at IS NULL
        WHERE m.org_id = :org_id AND NOT EXISTS (
            SELECT FROM public.knowledge_items c
            WHERE c.org_id = m.org_id AND c.id = m.canonical_id AND c.deleted_at IS NULL)
        ORDER BY k.id FOR NO KEY UPDATE OF k
    ), revived AS (
        UPDATE public.knowledge_items k SET expired_at = NULL
        FROM followers f WHERE k.org_id = :org_id AND k.id = f.duplicate_id
    ), unsettled AS (
        UPDATE distillation.item_features t SET settled_stamp = NULL, topic_stamp = NULL
        FROM followers f WHERE t.org_id = :org_id AND t.item_id = f.duplicate_id
    ), forgotten AS (
        DELETE FROM distillation.merges m USING followers f
        WHERE m.org_id = :org_id AND m.duplicate_id = f.duplicate_id
    )
    SELECT duplicate_id, canonical_id, expired_at FROM followers ORDER BY duplicate_id
""")

# The rest of a lost item's topic is due again; so is the component it was settled in.
REOPEN_NEIGHBOURS = text("""
    WITH topics AS (
        SELECT DISTINCT fingerprint FROM distillation.topic_members
        WHERE org_id = :org_id AND item_id = ANY(CAST(:lost AS uuid[]))
    ), members AS (
        SELECT m.item_id FROM distillation.topic_members m JOIN topics t ON t.fingerprint = m.fingerprint
        WHERE m.org_id = :org_id
    ), dissolved AS (
        DELETE FROM distillation.topic_clusters c USING topics t
        WHERE c.org_id = :org_id AND c.fingerprint = t.fingerprint
    )
    UPDATE distillation.item_features f SET topic_stamp = NULL
    FROM members m WHERE f.org_id = :org_id AND f.item_id = m.item_id
""")

# Restored items may be placed again; what looked for candidates meanwhile did not see them.
REOPEN_RESTORED = text("""
    UPDATE distillation.item_features SET probed_stamp = NULL, settled_stamp = NULL, topic_stamp = NULL
    WHERE org_id = :org_id AND item_id = ANY(CAST(:restored AS uuid[]))
""")

# Features carry words of the text: of a removed row nothing of them stays.
FORGET_GONE = text("""
    WITH verdicts AS (
        -- A short text can be guessed from its hash.
        DELETE FROM distillation.pair_verdicts
        WHERE org_id = :org_id AND (a_id = ANY(CAST(:gone AS uuid[])) OR b_id = ANY(CAST(:gone AS uuid[])))
    )
    DELETE FROM distillation.item_features
    WHERE org_id = :org_id AND item_id = ANY(CAST(:gone AS uuid[]))
""")

# A verdict of the model is kept under the hashes of two texts: without both it answers no question.
FORGET_VERDICTS = text("""
    DELETE FROM distillation.llm_verdicts v
    WHERE v.org_id = :org_id AND (
        NOT EXISTS (SELECT FROM public.knowledge_items k
                    WHERE k.org_id = v.org_id AND k.content_hash = v.a_hash)
        OR NOT EXISTS (SELECT FROM public.knowledge_items k
                       WHERE k.org_id = v.org_id AND k.content_hash = v.b_hash))
""")

WRITE_TOMBSTONES = text("""
    INSERT INTO distillation.tombstones AS t (org_id, item_id, kind, at, run_id)
    SELECT :org_id, n.item_id, n.kind, :at, :run_id
    FROM unnest(CAST(:ids AS uuid[]), CAST(:kinds AS text[])) AS n (item_id, kind)
    ON CONFLICT (org_id, item_id) DO UPDATE SET kind = EXCLUDED.kind, at = EXCLUDED.at, run_id = EXCLUDED.run_id
""")

DROP_TOMBSTONES = text("""
    DELETE FROM distillation.tombstones
    WHERE org_id = :org_id AND kind IN ('deleted', 'gone') AND item_id = ANY(CAST(:restored AS uuid[]))
""")


@dataclass(frozen=True, slots=True)
class Propagated:
    """The effects of one org's losses, as ledger entries by kind."""

    retired: tuple[Entry, ...]
    revived: tuple[Entry, ...]


def propagate(
    conn: Connection, org_id: OrgId, losses: Losses, *, run_id: RunId, as_of: datetime
) -> Propagated:
    """Carry losses through to everything derived, in the caller's one transaction.

    The caller records the entries; `provenance_links` follow through `sync_links_of`.
    """
    lost = list(losses.lost)
    derived = sorted(conn.execute(DERIVED_LIVE, {"org_id": org_id, "lost": lost}).scalars())
    retired = retire(conn, org_id, [Retire(ItemId(item), "source_deleted") for item in derived], as_of=as_of)
    rows = conn.execute(REVIVE_FOLLOWERS, {"org_id": org_id}).all()
    reasons = {ItemId(row.duplicate_id): "canonical_deleted" for row in rows}
    revived = tuple(
        unmerge_entry(row.duplicate_id, row.canonical_id, row.expired_at, reasons) for row in rows
    )
    conn.execute(REOPEN_NEIGHBOURS, {"org_id": org_id, "lost": lost})
    conn.execute(REOPEN_RESTORED, {"org_id": org_id, "restored": list(losses.restored)})
    conn.execute(FORGET_GONE, {"org_id": org_id, "gone": list(losses.gone)})
    if losses.gone:
        conn.execute(FORGET_VERDICTS, {"org_id": org_id})
    kinds = [(item, "deleted") for item in losses.deleted] + [(item, "gone") for item in losses.gone]
    tombstones = {
        "org_id": org_id, "at": as_of, "run_id": run_id,
        "ids": [item for item, _ in kinds], "kinds": [kind for _, kind in kinds],
    }  # fmt: skip
    conn.execute(WRITE_TOMBSTONES, tombstones)
    conn.execute(DROP_TOMBSTONES, {"org_id": org_id, "restored": list(losses.restored)})
    return Propagated(retired, revived)


def sync_links_of(conn: Connection, org_id: OrgId, propagated: Propagated) -> None:
    """Take the followers that came back out of their canonical's `provenance_links`."""
    sync_provenance_links(conn, org_id, propagated.revived)


def record_losses(losses: Losses) -> tuple[Entry, ...]:
    """The ledger entries of the losses themselves."""
    return (
        *(Entry("lose", item, {"state": "present"}, {"state": "deleted"}) for item in losses.deleted),
        *(Entry("lose", item, {"state": "present"}, {"state": "gone"}) for item in losses.gone),
        *(Entry("restore", item, {"state": "deleted"}, {"state": "present"}) for item in losses.restored),
    )
