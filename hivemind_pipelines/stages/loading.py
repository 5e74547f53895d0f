"""Load a JSONL file into the commons: each good row once, each bad line with its reason."""

import gzip
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from io import BufferedReader
from pathlib import Path

from hivemind_pipelines.core.erasure import Sameness
from hivemind_pipelines.core.intake import IntakeDefaults, IntakeRow, RowRefusal, parse_row
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines.store.loading import LoadTarget, Placement, RowsRefusedError, find_erased, insert_rows

LINE_BYTES_MAX = 10 * 1024 * 1024
BATCH_ROWS = 5_000
BATCH_BYTES = 16 * 1024 * 1024
#: Beyond this many refused lines only their number is kept.
REFUSALS_KEPT = 100_000

#: Why a row is refused whose text its org has erased, by how it is the same.
ERASED_BEFORE: Mapping[Sameness, str] = {
    "exact": "its text was erased in this org",
    "normalised": "its text was erased in this org (it differs in case, spacing or final punctuation only)",
}

GZIP_MAGIC = b"\x1f\x8b"
UTF8_BOM = b"\xef\xbb\xbf"

#: Called with (bytes read from the file, rows seen).
LoadProgress = Callable[[int, int], None]

_NumberedLine = tuple[int, bytes | RowRefusal]


class IntakeError(Exception):
    """A file that cannot be read at all; the message is one clear line."""


@dataclass(frozen=True, slots=True)
class RefusedLine:
    """A line of the file, counted from 1, that became no row."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What became of the rows of a file; `refusals` lists at most the first 100,000 of `refused`."""

    rows: int
    loaded: int
    known: int
    refused: int
    refusals: tuple[RefusedLine, ...]
    loaded_by_org: dict[str, int]


@dataclass(slots=True)
class _Tally:
    rows: int = 0
    known: int = 0
    refused: int = 0
    refusals: list[RefusedLine] = field(default_factory=list)
    loaded_by_org: Counter[str] = field(default_factory=Counter)

    def refuse(self, line: int, reason: str) -> None:
        self.refused += 1
        if len(self.refusals) < REFUSALS_KEPT:
            self.refusals.append(RefusedLine(line, reason))

    def report(self) -> LoadReport:
        refusals = tuple(sorted(self.refusals, key=lambda refusal: refusal.line))
        loaded = self.loaded_by_org.total()
        by_org = dict(sorted(self.loaded_by_org.items()))
        return LoadReport(self.rows, loaded, self.known, self.refused, refusals, by_org)


@dataclass(frozen=True, slots=True)
class _NumberedRow:
    line: int
    row: IntakeRow
    size: int


def load_file(
    store: Store,
    path: Path,
    *,
    defaults: IntakeDefaults,
    target: LoadTarget,
    now: datetime,
    receipt_key: bytes | None = None,
    on_progress: LoadProgress | None = None,
) -> LoadReport:
    """Load a JSONL file, plain or gzip, in bounded memory; with the receipt key, erased texts are refused.

    Raises IntakeError when the file cannot be opened or holds no rows.
    """
    tally = _Tally()
    with _open_file(path) as file:
        for batch in _batches(_parsed(_numbered_lines(path, file), defaults, tally)):
            _store_batch(store, batch, target, now, tally, receipt_key)
            if on_progress is not None:
                on_progress(file.tell() if file.seekable() else 0, tally.rows)
    if tally.rows == 0:
        raise IntakeError(f"{path} holds no rows")
    return tally.report()


def load_rows(store: Store, rows: Iterable[IntakeRow], *, target: LoadTarget, now: datetime) -> LoadReport:
    """Load rows that were made in memory, erased or not; a refusal's line is the row's place, from 1."""
    tally = _Tally()
    for batch in _batches(
        _NumberedRow(line, row, len(row.content)) for line, row in enumerate(rows, start=1)
    ):
        tally.rows += len(batch)
        _store_batch(store, batch, target, now, tally, None)
    return tally.report()


@contextmanager
def _open_file(path: Path) -> Iterator[BufferedReader]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from None
    with file:
        yield file


def _unreadable(path: Path, error: OSError) -> IntakeError:
    return IntakeError(f"cannot read {path}: {error.strerror or 'read error'}")


def _numbered_lines(path: Path, file: BufferedReader) -> Iterator[_NumberedLine]:
    """Lines that hold something, with their number from 1; a line beyond the cap is skipped unread."""
    number = 0
    try:
        # Told by its first bytes: a name says little about a file.
        packed = file.peek(2)[:2] == GZIP_MAGIC
        stream = gzip.GzipFile(fileobj=file) if packed else file
        while line := stream.readline(LINE_BYTES_MAX + 1):
            number += 1
            if len(line) > LINE_BYTES_MAX and not line.endswith(b"\n"):
                _skip_line(stream)
                yield number, RowRefusal(f"longer than {LINE_BYTES_MAX // 2**20} MB")
            elif (content := line.removeprefix(UTF8_BOM) if number == 1 else line).strip():
                yield number, content
    except (EOFError, zlib.error, gzip.BadGzipFile):
        yield number + 1, RowRefusal("the gzip stream is damaged or cut off here; nothing after it was read")
    except OSError as error:
        raise _unreadable(path, error) from None


def _skip_line(stream: gzip.GzipFile | BufferedReader) -> None:
    while (rest := stream.readline(LINE_BYTES_MAX)) and not rest.endswith(b"\n"):
        pass


def _parsed(
    lines: Iterable[_NumberedLine], defaults: IntakeDefaults, tally: _Tally
) -> Iterator[_NumberedRow]:
    for number, line in lines:
        tally.rows += 1
        if isinstance(line, RowRefusal):
            tally.refuse(number, line.reason)
            continue
        parsed = parse_row(line, defaults)
        if isinstance(parsed, RowRefusal):
            tally.refuse(number, parsed.reason)
        else:
            yield _NumberedRow(number, parsed, len(line))


def _batches(rows: Iterable[_NumberedRow]) -> Iterator[list[_NumberedRow]]:
    batch: list[_NumberedRow] = []
    size = 0
    for numbered in rows:
        batch.append(numbered)
        size += numbered.size
        if len(batch) >= BATCH_ROWS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _store_batch(
    store: Store,
    batch: Sequence[_NumberedRow],
    target: LoadTarget,
    now: datetime,
    tally: _Tally,
    receipt_key: bytes | None,
) -> None:
    """Store a batch; where the database refuses it, halve it until the row at fault stands alone."""
    try:
        with store.begin() as conn:
            rows = [numbered.row for numbered in batch]
            erased = {} if receipt_key is None else find_erased(conn, rows, target, receipt_key)
            kept = [numbered for place, numbered in enumerate(batch) if place not in erased]
            placement = insert_rows(conn, [numbered.row for numbered in kept], target, now)
    except RowsRefusedError as refused:
        if len(batch) == 1:
            tally.refuse(batch[0].line, str(refused))
            return
        middle = len(batch) // 2
        _store_batch(store, batch[:middle], target, now, tally, receipt_key)
        _store_batch(store, batch[middle:], target, now, tally, receipt_key)
        return
    for place, sameness in erased.items():
        tally.refuse(batch[place].line, ERASED_BEFORE[sameness])
    _count(kept, placement, tally)


def _count(batch: Sequence[_NumberedRow], placement: Placement, tally: _Tally) -> None:
    tally.known += len(placement.known)
    tally.loaded_by_org.update(batch[position].row.org_id for position in placement.loaded)
    for position in sorted(placement.taken):
        tally.refuse(batch[position].line, "its id names another text already")
