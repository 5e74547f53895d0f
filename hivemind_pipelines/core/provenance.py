"""Provenance: what a HiveMind server merged and derived before us, read from the tags it left."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from hivemind_pipelines.core.model import ItemId

MERGED_KEY = "provenance_links"
SOURCES_KEY = "source_item_ids"
SUMMARY_KEY = "distilled"


@dataclass(frozen=True, slots=True)
class LegacyRow:
    """A row of one org as the server left it; `tags` is decoded JSON of any shape."""

    item_id: ItemId
    is_live: bool
    expired_at: datetime | None
    tags: object = field(hash=False, default=None)


@dataclass(frozen=True, slots=True)
class LegacyMerge:
    """A duplicate that the server expired, and the live canonical it ends at."""

    duplicate_id: ItemId
    canonical_id: ItemId
    expired_at: datetime


@dataclass(frozen=True, slots=True)
class LegacyDerivation:
    """A summary of the server and one of its sources."""

    derived_id: ItemId
    source_id: ItemId


@dataclass(frozen=True, slots=True)
class LegacyProvenance:
    """What can be imported, each sorted, and how many links could not be, by reason code."""

    merges: tuple[LegacyMerge, ...]
    derivations: tuple[LegacyDerivation, ...]
    summary_ids: tuple[ItemId, ...]
    ignored: Mapping[str, int] = field(hash=False)


def read_provenance(rows: Iterable[LegacyRow]) -> LegacyProvenance:
    """Everything importable in the rows of one org; an id that is none of theirs is ignored.

    Reason codes: `malformed`, `self`, `unknown` (another org's, or hard-deleted), `not_expired`,
    `no_live_canonical`, `summary_party` (a merge that touches a summary), `summary_source`.
    """
    by_id = {row.item_id: row for row in rows}
    ignored: Counter[str] = Counter()
    summaries = {item_id for item_id, row in by_id.items() if is_summary(row.tags)}
    merges = _merges(by_id, summaries, ignored)
    derivations = _derivations(by_id, summaries, ignored)
    return LegacyProvenance(merges, derivations, tuple(sorted(summaries)), dict(sorted(ignored.items())))


def is_summary(tags: object) -> bool:
    """Whether the tags mark a row as derived: marked as distilled, or naming its sources."""
    if not isinstance(tags, dict):
        return False
    return tags.get(SUMMARY_KEY) is True or bool(linked_ids(tags, SOURCES_KEY)[0])


def linked_ids(tags: object, key: str) -> tuple[tuple[ItemId, ...], int]:
    """The distinct ids under `key` in their order, and how many entries are not ids."""
    entries = tags.get(key) if isinstance(tags, dict) else None
    if entries is None:
        return (), 0
    if not isinstance(entries, list):
        return (), 1
    ids = [_parse_id(entry) for entry in entries]
    return tuple(dict.fromkeys(id for id in ids if id is not None)), ids.count(None)


def _merges(
    by_id: Mapping[ItemId, LegacyRow], summaries: Collection[ItemId], ignored: Counter[str]
) -> tuple[LegacyMerge, ...]:
    claims = {
        canonical_id: _claimed(by_id[canonical_id], by_id, summaries, ignored)
        for canonical_id in sorted(by_id)
    }
    canonical_of = _flatten(claims, [item_id for item_id in claims if by_id[item_id].is_live])
    orphans = {id for claimed in claims.values() for id in claimed} - canonical_of.keys()
    ignored.update({"no_live_canonical": len(orphans)} if orphans else {})
    return tuple(
        LegacyMerge(duplicate_id, canonical_of[duplicate_id], expired_at)
        for duplicate_id in sorted(canonical_of)
        if (expired_at := by_id[duplicate_id].expired_at) is not None
    )


def _claimed(
    row: LegacyRow, by_id: Mapping[ItemId, LegacyRow], summaries: Collection[ItemId], ignored: Counter[str]
) -> Sequence[ItemId]:
    ids, malformed = linked_ids(row.tags, MERGED_KEY)
    ignored.update({"malformed": malformed} if malformed else {})
    refusals = {id: _merge_refusal(row.item_id, id, by_id, summaries) for id in ids}
    ignored.update(reason for reason in refusals.values() if reason)
    return [id for id, reason in refusals.items() if reason is None]


def _merge_refusal(
    canonical_id: ItemId,
    duplicate_id: ItemId,
    by_id: Mapping[ItemId, LegacyRow],
    summaries: Collection[ItemId],
) -> str | None:
    if duplicate_id == canonical_id:
        return "self"
    if duplicate_id not in by_id:
        return "unknown"
    if canonical_id in summaries or duplicate_id in summaries:
        return "summary_party"
    return "not_expired" if by_id[duplicate_id].expired_at is None else None


def _flatten(claims: Mapping[ItemId, Sequence[ItemId]], roots: Sequence[ItemId]) -> dict[ItemId, ItemId]:
    """Each reachable duplicate with the smallest live root that reaches it; `roots` ascend."""
    canonical_of: dict[ItemId, ItemId] = {}
    for root in roots:
        reached = [root]
        while reached:
            fresh = [id for id in claims.get(reached.pop(), ()) if id not in canonical_of]
            canonical_of.update(dict.fromkeys(fresh, root))
            reached.extend(fresh)
    return canonical_of


def _derivations(
    by_id: Mapping[ItemId, LegacyRow], summaries: Collection[ItemId], ignored: Counter[str]
) -> tuple[LegacyDerivation, ...]:
    edges = []
    for derived_id in sorted(summaries):
        ids, malformed = linked_ids(by_id[derived_id].tags, SOURCES_KEY)
        ignored.update({"malformed": malformed} if malformed else {})
        for source_id in sorted(ids):
            reason = _source_refusal(derived_id, source_id, by_id, summaries)
            if reason:
                ignored[reason] += 1
            else:
                edges.append(LegacyDerivation(derived_id, source_id))
    return tuple(edges)


def _source_refusal(
    derived_id: ItemId, source_id: ItemId, by_id: Mapping[ItemId, LegacyRow], summaries: Collection[ItemId]
) -> str | None:
    if source_id == derived_id:
        return "self"
    if source_id not in by_id:
        return "unknown"
    return "summary_source" if source_id in summaries else None


def _parse_id(entry: object) -> ItemId | None:
    if not isinstance(entry, str):
        return None
    try:
        return ItemId(UUID(entry))
    except ValueError:
        return None
