"""erase: a text leaves its row and all that was made of it, what is left is searched for, and a receipt says so.

The texts go in one transaction an org. The search and the receipt come after it, from keyed needles that
the transaction left behind: what a process that died left unfinished is resumed by whoever comes by next.
"""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID, uuid4

from hivemind_pipelines.core import erasure, residue
from hivemind_pipelines.core.model import ItemId, OrgId, RunId
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.core.residue import ErasedText, Finder, Needles
from hivemind_pipelines.core.text import content_hash
from hivemind_pipelines.stages import residual_scan
from hivemind_pipelines.stages.residual_scan import Copy, Overlap, Places, Scan
from hivemind_pipelines.store import ledger, merges, runs, tombstones
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines.store.tombstones import Erasure, Removal, Target

#: Copies listed one by one in a receipt; beyond it only their number.
COPIES_LISTED = 1_000
SOURCES_NAMED = 5
#: How often a search that finds something is made before the finding counts.
SEARCHES_MAX = 3


class ErasureError(ValueError):
    """What was asked for cannot be erased; the message is one line, and nothing was changed."""


class ReceiptError(ValueError):
    """A file that is no receipt; the message is one line."""


@dataclass(frozen=True, slots=True)
class Office:
    """Where erasing is done: what to search, where receipts and reports lie, and the key that signs."""

    places: Places
    home: Path
    key: bytes

    @property
    def store(self) -> Store:
        """The commons."""
        return self.places.store


@dataclass(frozen=True, slots=True)
class Issued:
    """A receipt and its file."""

    file: Path
    receipt: Mapping[str, object]

    @property
    def residue(self) -> Mapping[str, int]:
        """Rows or files by place in which something is left."""
        scan = self.receipt["scan"]
        assert isinstance(scan, dict)
        found: Mapping[str, int] = scan["residue"]
        return found


@dataclass(frozen=True, slots=True)
class Outcome:
    """The receipts of this call, of an erasure that had been interrupted too; what was erased before it."""

    issued: tuple[Issued, ...]
    already_erased: Mapping[ItemId, UUID | None]


def erase(
    office: Office,
    policy: DistillationPolicy,
    ids: Sequence[ItemId],
    *,
    reason: str,
    with_copies: bool,
    now: datetime,
) -> Outcome:
    """Erase the items, with the same contributors' copies if asked; raises ErasureError before any change."""
    targets = _known(office.store, ids)
    issued = [*resume(office, now=now)]
    for org_id in sorted({org_id for target in targets for org_id in target.org_ids}):
        wanted = [target.id for target in targets if org_id in target.org_ids and not target.is_erased]
        erasure_id = uuid4()
        with tombstones.attend(office.store, erasure_id):
            done = _remove(
                office, policy, org_id, wanted, erasure_id,
                reason=reason, with_copies=with_copies, now=now,
            )  # fmt: skip
            if done is not None:
                issued.append(_finish(office, done, now))
    return Outcome(tuple(issued), {one.id: one.erasure_id for one in targets if one.is_erased})


def resume(office: Office, *, now: datetime, org_id: OrgId | None = None) -> tuple[Issued, ...]:
    """Finish the erasures, of one org or of any, whose process died; their receipts."""
    issued = []
    for one in _unfinished(office.store, office.key, org_id):
        with tombstones.attend(office.store, one.id) as is_ours:
            if is_ours and _is_unfinished(office.store, one):
                issued.append(_finish(office, one, now))
    return tuple(issued)


def unfinished_orgs(store: Store, key: bytes) -> tuple[OrgId, ...]:
    """Orgs in which `resume` has something to do under a key."""
    return tuple(sorted({one.org_id for one in _unfinished(store, key)}))


def _unfinished(store: Store, key: bytes, org_id: OrgId | None = None) -> tuple[Erasure, ...]:
    with store.read() as conn:
        return tombstones.read_unfinished(conn, erasure.key_name(key), org_id)


def _is_unfinished(store: Store, one: Erasure) -> bool:
    with store.read() as conn:
        return tombstones.is_unfinished(conn, one)


def _known(store: Store, ids: Sequence[ItemId]) -> tuple[Target, ...]:
    with store.read() as conn:
        targets = tombstones.read_targets(conn, sorted(set(ids)))
        for target in targets:
            if not target.org_ids:
                raise ErasureError(f"no item {target.id} is known; nothing was erased")
            if target.is_summary and not target.is_erased:
                sources = tombstones.read_sources_of(conn, target.id)
                named = ", ".join(map(str, sources[:SOURCES_NAMED])) or "none known"
                more = f" and {len(sources) - SOURCES_NAMED} more" if len(sources) > SOURCES_NAMED else ""
                raise ErasureError(
                    f"{target.id} is a summary: erase what it was made of ({named}{more}); nothing was erased"
                )
    return targets


def _remove(
    office: Office,
    policy: DistillationPolicy,
    org_id: OrgId,
    ids: Sequence[ItemId],
    erasure_id: UUID,
    *,
    reason: str,
    with_copies: bool,
    now: datetime,
) -> Erasure | None:
    """The one transaction; None when somebody else erased all of it meanwhile."""
    stamp, run_id = policy.version, RunId(uuid4())
    with office.store.begin() as conn:
        tombstones.lock(conn, org_id)
        left = [one.id for one in tombstones.read_targets(conn, sorted(ids)) if not one.is_erased]
        if with_copies:
            left = sorted({*left, *tombstones.read_own_copies(conn, org_id, left)})
        if not left:
            return None
        rows = tombstones.lock_texts(conn, org_id, left)
        derived = tombstones.read_derived(conn, org_id, left)
        texts = (*rows, *tombstones.lock_texts(conn, org_id, derived))
        removal = Removal(tuple(left), derived, texts)
        kin = tombstones.read_kin(conn, org_id, left)
        runs.start(conn, runs.Run(run_id, org_id, "erasure", now, stamp, policy.stamps()), policy)
        removed = tombstones.remove(conn, org_id, removal, key=office.key, run_id=run_id, as_of=now)
        ledger.record(conn, org_id, run_id, removed.entries, stamp=stamp, at=now)
        merges.sync_provenance_links(
            conn, org_id, [one for one in removed.entries if one.change == "unmerge"]
        )
        tombstones.strip_links(conn, org_id, removal.ids)
        notes = {
            "key": erasure.key_name(office.key),
            "reason": reason,
            "with_copies": with_copies,
            "needles": _needles(texts, office.key).to_json(),
            "erased": _named(org_id, left, removal, office.key),
            "derived": _named(org_id, derived, removal, office.key),
            "kin": [str(item_id) for item_id in kin if item_id not in set(derived)],
            "contributors": sorted({row.contributor for row in rows}),
            "too_short": [str(row.id) for row in texts if residue.is_too_short(row.content)],
            "removed": dict(removed.counts),
        }
        done = Erasure(org_id, erasure_id, run_id, now, notes)
        tombstones.open_erasure(conn, done)
        runs.finish(conn, run_id, "finished", {"erased": len(left), "derived": len(derived)}, now)
    return done


def _needles(texts: Iterable[tombstones.Standing], key: bytes) -> Needles:
    found = [ErasedText(row.id, row.content, row.vector_digest) for row in texts]
    return residue.needles(found, key)


def _named(org_id: OrgId, ids: Iterable[ItemId], removal: Removal, key: bytes) -> list[dict[str, object]]:
    rows = {row.id: row for row in removal.texts}
    return [
        {
            "id": str(item_id),
            "state_before": rows[item_id].state if item_id in rows else "gone",
            "tombstone_hash": content_hash(erasure.tombstone_text(item_id)),
            "text": erasure.keyed_name(key, "exact", org_id, rows[item_id].content_hash)
            if item_id in rows
            else None,
        }
        for item_id in ids
    ]


def _finish(office: Office, done: Erasure, now: datetime) -> Issued:
    """Search, write the receipt and forget the needles; the same again gives the same file."""
    notes = done.notes
    needles = Needles.from_json(_mapping(notes["needles"]))
    found, scrubbed, scan = _search(office, done, needles)
    copies = _copies(office.store, done, found)
    receipt = erasure.sign(
        {
            "format": erasure.RECEIPT_FORMAT,
            "erasure_id": str(done.id),
            "org_id": done.org_id,
            "run_id": str(done.run_id),
            "reason": notes["reason"],
            "with_copies": notes["with_copies"],
            "erased_at": done.erased_at.isoformat(),
            "issued_at": now.isoformat(),
            "erased": notes["erased"],
            "derived": notes["derived"],
            "removed": _sum(_mapping(notes["removed"]), scrubbed),
            "copies": copies[:COPIES_LISTED],
            "copies_total": len(copies),
            "scan": _scan_json(scan, found, needles, notes),
            "out_of_reach": list(erasure.OUT_OF_REACH),
        },
        office.key,
    )
    file = _write(office.home / "erasures", done, receipt)
    with office.store.begin() as conn:
        tombstones.close_erasure(conn, done, now)
    return Issued(file, receipt)


def _search(office: Office, done: Erasure, needles: Needles) -> tuple[Overlap, Mapping[str, int], Scan]:
    """What others say too, what was scrubbed, and what is left.

    Somebody may say it again while we look, a new summary of other sources say: what seems to be left is
    held once more against what others say.
    """
    derived = frozenset(_ids(done.notes["derived"]))
    scrubbed: Counter[str] = Counter()
    for _ in range(SEARCHES_MAX):
        found = residual_scan.overlap(office.store, needles, office.key, derived=derived)
        finder = Finder(found.needles, office.key)
        scrubbed += residual_scan.scrub(office.places, finder, done.org_id, office.home / "reports")
        scan = residual_scan.scan(office.places, found.needles, office.key)
        if not scan.residue:
            break
    return found, scrubbed, scan


def _scan_json(
    scan: Scan, found: Overlap, needles: Needles, notes: Mapping[str, object]
) -> dict[str, object]:
    return {
        "needles": len(needles.items),
        "shared_with_others": len(needles.items) - len(found.needles.items),
        "shared_rows": found.shared_rows,
        "too_short_to_tell": notes["too_short"],
        "looked_at": dict(sorted(scan.looked_at.items())),
        "residue": dict(sorted(scan.residue.items())),
        "not_scanned": sorted(scan.not_scanned),
    }


def _copies(store: Store, done: Erasure, found: Overlap) -> list[dict[str, object]]:
    """Whoever says the same: found by its words in any org, or by our merges and pairs in this one."""
    contributors = _strings(done.notes["contributors"])
    kin = [ItemId(UUID(one)) for one in _strings(done.notes["kin"])]
    with store.read() as conn:
        merged = tombstones.read_kin_states(conn, done.org_id, kin, contributors)
    by_words = [_copy_json(copy, done.org_id, contributors, merged.keys()) for copy in found.copies]
    listed = {copy["id"] for copy in by_words}
    by_merges: list[dict[str, object]] = [
        {
            "table": "knowledge_items", "org_id": done.org_id, "id": str(item_id), "state": state,
            "same_contributor": is_own, "found_by": ["merges"], "share": None,
        }
        for item_id, (state, is_own) in merged.items()
        if str(item_id) not in listed
    ]  # fmt: skip
    return sorted([*by_words, *by_merges], key=lambda copy: (copy["org_id"] != done.org_id, str(copy["id"])))


def _copy_json(
    copy: Copy, org_id: OrgId, contributors: Sequence[str], merged: Iterable[ItemId]
) -> dict[str, object]:
    is_merged = ItemId(UUID(copy.id)) in merged
    return {
        "table": copy.table,
        "org_id": copy.org_id,
        "id": copy.id,
        "state": copy.state,
        "same_contributor": copy.org_id == org_id and copy.contributor in contributors,
        "found_by": ["words", "merges"] if is_merged else ["words"],
        "share": copy.share,
    }


def _write(directory: Path, done: Erasure, receipt: Mapping[str, object]) -> Path:
    """The receipt's file appears whole or not at all, for its owner only."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"erasure-{done.erased_at:%Y%m%dT%H%M%S}-{done.id.hex[:8]}.json"
    with tempfile.NamedTemporaryFile("w", dir=directory, prefix=".receipt-", delete=False) as draft:
        json.dump(receipt, draft, indent=2)
        draft.write("\n")
        draft.flush()
        os.fsync(draft.fileno())
    Path(draft.name).replace(file)
    return file


@dataclass(frozen=True, slots=True)
class Verified:
    """What became of a receipt's promise: `faults` is empty while it holds."""

    receipt: Mapping[str, object]
    faults: tuple[str, ...]


def verify(store: Store, file: Path, key: bytes) -> Verified:
    """Check signature, tombstones and that no row says an erased text again; raises ReceiptError.

    The needles are gone with the receipt, so the full scan cannot be made again; what can come back is
    a row, and that is looked for.
    """
    receipt = read_receipt(file)
    match erasure.receipt_fault(receipt, key):
        case "malformed":
            raise ReceiptError(f"{file} is no erasure receipt")
        case "wrong_key":
            return Verified(receipt, ("it was signed with another key than HIVEMIND_RECEIPT_KEY",))
        case "tampered":
            return Verified(receipt, ("it was changed after it was signed",))
        case None:
            return Verified(receipt, _broken(store, receipt, key))


def read_receipt(file: Path) -> dict[str, object]:
    """The decoded file; raises ReceiptError."""
    try:
        receipt = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReceiptError(f"cannot read {file}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ReceiptError(f"{file} is no erasure receipt: not JSON") from None
    if not isinstance(receipt, dict):
        raise ReceiptError(f"{file} is no erasure receipt")
    return receipt


def _broken(store: Store, receipt: Mapping[str, object], key: bytes) -> tuple[str, ...]:
    org_id = OrgId(str(receipt["org_id"]))
    rows = [*_rows(receipt["erased"]), *_rows(receipt["derived"])]
    names = [str(row["text"]) for row in _rows(receipt["erased"]) if row["text"]]
    with store.read() as conn:
        faults = tombstones.read_faults(conn, org_id, [ItemId(UUID(str(row["id"]))) for row in rows])
        returned = tombstones.read_returned(conn, org_id, names, key)
    return (
        *(f"item {item_id} {reason}" for item_id, reason in faults.items()),
        *(f"{table} {row_id} says the erased text again" for table, row_id in returned),
    )


def _rows(value: object) -> list[Mapping[str, object]]:
    assert isinstance(value, list)
    return value


def _ids(value: object) -> list[str]:
    return [str(row["id"]) for row in _rows(value)]


def _strings(value: object) -> list[str]:
    assert isinstance(value, list)
    return value


def _mapping(value: object) -> Mapping[str, object]:
    assert isinstance(value, dict)
    return value


def _sum(removed: Mapping[str, object], scrubbed: Mapping[str, int]) -> dict[str, int]:
    counts = {place: int(str(count)) for place, count in removed.items()}
    return {place: counts.get(place, 0) + scrubbed.get(place, 0) for place in sorted({*counts, *scrubbed})}
