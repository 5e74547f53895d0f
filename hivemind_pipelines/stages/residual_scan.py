"""The residual scan: whether anything of an erased text is left, in databases, Dagster's storage and files."""

import gzip
import sqlite3
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from hivemind_pipelines.core.model import ItemId, OrgId
from hivemind_pipelines.core.residue import Finder, Needle, Needles
from hivemind_pipelines.store import residue
from hivemind_pipelines.store.connection import Store, StoreError, open_store

CHUNK_BYTES = 4 * 1024 * 1024
#: Chunks overlap, so that a run of words that lies across two is found in one.
OVERLAP_BYTES = 4 * 1024
#: A text that shares so many of an erased one's needles says the same.
COPY_SHARE_MIN = 0.5

#: The embedded server's files are read as a database, through the server; the key is no text.
SKIPPED = ("postgres", "receipt.key")


@dataclass(frozen=True, slots=True)
class Places:
    """Where to look: the commons, Dagster's own database if it has one, directories, and what cannot be read."""

    store: Store
    databases: tuple[str, ...] = ()
    directories: tuple[Path, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Copy:
    """A row of somebody's own that says what an erased text said; `share` of the text's needles are in it."""

    table: str
    org_id: OrgId
    id: str
    state: str
    contributor: str
    of: tuple[ItemId, ...]
    share: float


@dataclass(frozen=True, slots=True)
class Overlap:
    """What other people's rows hold of the erased texts, and the needles that are left to tell residue."""

    copies: tuple[Copy, ...]
    needles: Needles
    shared_rows: int


@dataclass(slots=True)
class Scan:
    """What was looked at and what was found: rows or files by place."""

    looked_at: Counter[str] = field(default_factory=Counter)
    residue: Counter[str] = field(default_factory=Counter)
    not_scanned: list[str] = field(default_factory=list)


def overlap(store: Store, needles: Needles, key: bytes, *, derived: frozenset[str]) -> Overlap:
    """Hold the needles against every row that is somebody's own.

    A summary that stands excuses only what is left of summaries: of an original it may hold nothing that
    no other original says.
    """
    finder = Finder(needles, key)
    sizes = Counter(item for items in needles.items.values() for item in items)
    excused: set[Needle] = set()
    copies = []
    shared_rows = 0
    for row in residue.read_public_rows(store):
        found = finder.in_text(row.value)
        if row.vector_digest is not None:
            found |= finder.in_vector(row.vector_digest)
        if row.is_summary:
            found = {needle for needle in found if derived.issuperset(needles.items[needle])}
        if not found:
            continue
        excused |= found
        shared_rows += 1
        hits = Counter(item for needle in found for item in needles.items[needle] if item not in derived)
        shares = {item: count / sizes[item] for item, count in hits.items()}
        close = {item: share for item, share in shares.items() if share >= COPY_SHARE_MIN}
        if close and not row.is_summary:
            copies.append(_copy(row, close))
    return Overlap(tuple(copies), needles.without(excused), shared_rows)


def _copy(row: residue.PublicRow, close: dict[str, float]) -> Copy:
    of = tuple(ItemId(UUID(item)) for item in sorted(close))
    share = round(min(max(close.values()), 1.0), 3)
    return Copy(row.table, row.org_id, str(row.id), row.state, row.contributor, of, share)


def scrub(places: Places, finder: Finder, org_id: OrgId, reports: Path) -> Counter[str]:
    """Take out what may be taken out anywhere: what signals of the org say, and reports that quote."""
    ids = [
        signal_id
        for owner, signal_id, metadata in residue.read_signals(places.store)
        if owner == org_id and finder.in_text(metadata)
    ]
    if ids:
        with places.store.begin() as conn:
            residue.scrub_signals(conn, org_id, ids)
    quoting = [file for file in _files([reports]) if _hits_in_file(file, finder)]
    for file in quoting:
        file.unlink(missing_ok=True)
    return +Counter({"public.quality_signals": len(ids), "reports": len(quoting)})


def scan(places: Places, needles: Needles, key: bytes) -> Scan:
    """Look everywhere for the needles; nothing is changed."""
    finder = Finder(needles, key)
    result = Scan(not_scanned=list(places.unknown))
    _scan_database(places.store, "", finder, result)
    for number, url in enumerate(places.databases, start=1):
        try:
            with open_store(url) as other:
                _scan_database(other, f"dagster database {number}: ", finder, result)
        except StoreError:
            result.not_scanned.append(f"dagster database {number}")
    for file in _files(places.directories):
        _scan_file(file, finder, result)
    return result


def _scan_database(store: Store, prefix: str, finder: Finder, result: Scan) -> None:
    with store.read() as conn:
        columns, unreadable = residue.read_columns(conn)
    result.not_scanned += [f"{prefix}{name}" for name in unreadable]
    for column in columns:
        for value in residue.read_values(store, column):
            result.looked_at[f"{prefix}{column.schema}"] += 1
            if _hits(finder, column.kind, value.value):
                result.residue[f"{prefix}{column}"] += value.rows


def _hits(finder: Finder, kind: residue.ValueKind, value: str | bytes) -> bool:
    if isinstance(value, bytes):
        return bool(finder.in_bytes(value))
    return bool(finder.in_vector(value) if kind == "vector" else finder.in_text(value))


def _scan_file(file: Path, finder: Finder, result: Scan) -> None:
    result.looked_at["files"] += 1
    try:
        if _hits_in_file(file, finder):
            result.residue[str(file)] += 1
    except FileNotFoundError:
        # A run that ended meanwhile took its file with it.
        return
    except (OSError, sqlite3.Error, EOFError, zlib.error) as error:
        result.not_scanned.append(f"{file} ({type(error).__name__})")


def _hits_in_file(file: Path, finder: Finder) -> bool:
    with file.open("rb") as opened:
        head = opened.read(16)
    if any(finder.in_text(chunk) for chunk in _chunks(file, is_packed=head.startswith(b"\x1f\x8b"))):
        return True
    if head != residue.SQLITE_MAGIC:
        return False
    values = (value for _, value in residue.read_sqlite(file))
    return any(_hits(finder, "text", value) for value in values)


def _chunks(file: Path, *, is_packed: bool) -> Iterator[str]:
    """The file as text whatever it is, in overlapping pieces."""
    with gzip.open(file) if is_packed else file.open("rb") as opened:
        tail = b""
        while chunk := opened.read(CHUNK_BYTES):
            yield (tail + chunk).decode("utf-8", "replace")
            tail = chunk[-OVERLAP_BYTES:]


def _files(directories: Iterable[Path]) -> Sequence[Path]:
    """Regular files below the directories, each once, without what `SKIPPED` names at the top."""
    found: set[Path] = set()
    for directory in directories:
        found |= {
            file
            for file in directory.rglob("*")
            if file.relative_to(directory).parts[0] not in SKIPPED
            and file.is_file()
            and not file.is_symlink()
        }
    return sorted(found)
