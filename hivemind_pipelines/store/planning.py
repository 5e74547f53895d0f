"""What a preview of a policy reads: stored comparisons, lengths and labels, never a text."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from hivemind_pipelines.core.model import (
    Comparison,
    ItemId,
    LlmVerdict,
    OrgId,
    PairDecision,
    PendingId,
)
from hivemind_pipelines.core.planning import Movable
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines.store.items import POOL
from hivemind_pipelines.store.pairs import COMPARED, StoredPair, comparison_of


class ReadOnlyStore(Store):
    """A store whose every transaction is READ ONLY: what would write is refused by Postgres itself."""

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One REPEATABLE READ READ ONLY snapshot, as `read` gives."""
        with self.read() as connection:
            yield connection


@dataclass(frozen=True, slots=True)
class Unknown:
    """Pool items without a current comparison: of an older stamp, and those nobody has looked at yet."""

    recompute: int
    new: int


# One member of a class looks for candidates for all of them, so a class is judged by any member.
UNKNOWN = text(f"""
    WITH pool AS (
        SELECT f.class_key, f.probed_stamp, f.content_hash = k.content_hash AND f.stamp <> '' AS is_known,
               f.stamp = :feature_stamp AS is_current
        FROM public.knowledge_items k
        LEFT JOIN distillation.item_features f ON f.org_id = k.org_id AND f.item_id = k.id
        WHERE k.org_id = :org_id AND {POOL}
    ), classes AS (
        SELECT count(*) AS items, bool_or(probed_stamp IS NOT DISTINCT FROM :probe_stamp) AS is_probed,
               bool_or(probed_stamp IS NOT NULL) AS was_probed
        FROM pool WHERE is_known AND is_current GROUP BY class_key
    )
    SELECT (SELECT count(*) FROM pool WHERE is_known AND NOT is_current)
           + COALESCE(sum(items) FILTER (WHERE was_probed AND NOT is_probed), 0) AS recompute,
           (SELECT count(*) FROM pool WHERE is_known IS NOT TRUE)
           + COALESCE(sum(items) FILTER (WHERE NOT was_probed), 0) AS new
    FROM classes
""")


def read_unknown(conn: Connection, org_id: OrgId, *, feature_stamp: str, probe_stamp: str) -> Unknown:
    """How many items of the pool have no pairs that a policy with these stamps may rely on."""
    parameters = {"org_id": org_id, "feature_stamp": feature_stamp, "probe_stamp": probe_stamp}
    row = conn.execute(UNKNOWN, parameters).one()
    return Unknown(int(row.recompute), int(row.new))


IS_VETOED = "p.reason LIKE 'veto:%'"

# Decided under the proposed policy already, or under the one in force on the same side of every
# threshold that differs: the stored decision is what deciding again would give.
MAY_MOVE = f"""
    p.stamp <> :proposed AND (p.stamp <> :in_force
        OR CASE WHEN {IS_VETOED} THEN :vetoed
                ELSE (p.probability >= :low AND p.probability < :high)
                     OR (p.reason = 'same:normalised' AND :same) END)
"""
_OF_ORG = "WHERE p.org_id = :org_id AND a.deleted_at IS NULL AND b.deleted_at IS NULL"

MOVING = text(f"""
    SELECT p.a_id, p.b_id, p.a_hash, p.b_hash, p.probability, p.decision, p.reason, v.same, v.confidence,
           p.comparison
    {COMPARED} {_OF_ORG} AND {MAY_MOVE}
""")

# Plainly distinct pairs neither tie nor part anything.
STANDING = text(f"""
    SELECT p.a_id, p.b_id, p.a_hash, p.b_hash, p.probability, p.decision, p.reason, v.same, v.confidence,
           {IS_VETOED} AS is_vetoed
    {COMPARED} {_OF_ORG} AND NOT ({MAY_MOVE}) AND (p.decision <> 'distinct' OR {IS_VETOED})
""")

COUNT_PAIRS = text(f"""
    SELECT count(*) AS pairs, count(*) FILTER (WHERE p.stamp <> :proposed) AS redecided
    FROM distillation.candidate_pairs p
    JOIN public.knowledge_items a ON a.org_id = p.org_id AND a.id = p.a_id AND a.content_hash = p.a_hash
    JOIN public.knowledge_items b ON b.org_id = p.org_id AND b.id = p.b_id AND b.content_hash = p.b_hash
    {_OF_ORG}
""")


@dataclass(frozen=True, slots=True)
class ComparedPairs:
    """The stored pairs as a policy finds them.

    `moving` have to be decided again and carry their comparison; `standing` keep their decision, theirs
    holds no scores, and plainly distinct ones are left out. `redecided` of all `pairs` get a new stamp.
    """

    moving: tuple[StoredPair, ...]
    standing: tuple[StoredPair, ...]
    pairs: int
    redecided: int


def read_pairs(
    conn: Connection,
    org_id: OrgId,
    movable: Movable,
    *,
    in_force: str,
    proposed: str,
    model: str,
    prompt_version: str,
) -> ComparedPairs:
    """The pairs of the org; `in_force` and `proposed` are the matching fingerprints of the two policies."""
    parameters = {
        "org_id": org_id, "in_force": in_force, "proposed": proposed, "model": model,
        "prompt_version": prompt_version, "low": movable.low, "high": movable.high,
        "vetoed": movable.vetoed, "same": movable.same,
    }  # fmt: skip
    row = conn.execute(COUNT_PAIRS, {"org_id": org_id, "proposed": proposed}).one()
    moving = tuple(_pair(row, comparison_of(row.comparison)) for row in conn.execute(MOVING, parameters))
    standing = tuple(
        _pair(row, Comparison((), (row.reason,) if row.is_vetoed else ()))
        for row in conn.execute(STANDING, parameters)
    )
    return ComparedPairs(moving, standing, row.pairs, row.redecided)


def _pair(row: Any, comparison: Comparison) -> StoredPair:
    return StoredPair(
        a_id=ItemId(row.a_id),
        b_id=ItemId(row.b_id),
        a_hash=row.a_hash,
        b_hash=row.b_hash,
        comparison=comparison,
        decided=PairDecision(row.decision, row.probability, row.reason),
        llm=None if row.same is None else LlmVerdict(row.same, row.confidence),
    )


LENGTHS = text("""
    SELECT k.id, char_length(k.content) AS characters FROM public.knowledge_items k
    WHERE k.org_id = :org_id AND k.id = ANY(CAST(:ids AS uuid[]))
""")


def read_lengths(conn: Connection, org_id: OrgId, ids: Iterable[ItemId]) -> dict[ItemId, int]:
    """Characters of each item's text."""
    rows = conn.execute(LENGTHS, {"org_id": org_id, "ids": sorted(set(ids))})
    return {ItemId(row.id): row.characters for row in rows}


@dataclass(frozen=True, slots=True)
class PendingLabel:
    """A pending row that has to be looked at again, and whether it carries our label today."""

    pending_id: PendingId
    confidence: float
    is_low: bool


LABELS = text("""
    SELECT p.id, p.confidence, COALESCE(s.is_low_quality, false) AS is_low
    FROM public.pending_contributions p
    LEFT JOIN distillation.prescreens s ON s.org_id = p.org_id AND s.pending_id = p.id
    WHERE p.org_id = :org_id AND (s.stamp IS DISTINCT FROM :stamp OR s.content_hash <> p.content_hash)
    ORDER BY p.id
""")


def read_labels(conn: Connection, org_id: OrgId, *, stamp: str) -> Sequence[PendingLabel]:
    """Pending rows whose labels are missing or of another policy or content."""
    return [
        PendingLabel(PendingId(row.id), row.confidence, row.is_low)
        for row in conn.execute(LABELS, {"org_id": org_id, "stamp": stamp})
    ]
