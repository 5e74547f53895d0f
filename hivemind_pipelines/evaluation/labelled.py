"""Labelled files: JSON lines, plain or gzip, each row checked, the first bad one named by file and line."""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar
from uuid import UUID

from hivemind_pipelines.core.intake import IntakeDefaults, IntakeRow, RowRefusal, parse_row
from hivemind_pipelines.core.model import Category, Scope

Row = TypeVar("Row")
GroundingLabel = Literal["supported", "partially_supported", "not_supported"]
FileShape = Literal["pairs", "clusters"]
Span = tuple[int, int, str]
Record = Mapping[str, object]

GROUNDING_LABELS: tuple[GroundingLabel, ...] = ("supported", "partially_supported", "not_supported")

UNSCOPED = Scope()

_LABEL = re.compile(r"[a-z][a-z_]{0,39}")
GZIP_MAGIC = b"\x1f\x8b"
UTF8_BOM = b"\xef\xbb\xbf"
LINE_BYTES_MAX = 10 * 1024 * 1024


class LabelledFileError(ValueError):
    """A file that cannot be evaluated; the message is one clear line and never quotes a text."""


class _RowError(ValueError):
    """Carries a reason from a field up to the line it stands on."""


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """Two texts that are, or are not, the same statement; `kind` says what the labeller changed."""

    id: str
    text_a: str
    text_b: str
    is_same: bool
    scope_a: Scope = UNSCOPED
    scope_b: Scope = UNSCOPED
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class ContrastedPair:
    """Two texts and what they are to each other, in the words of their data set.

    `split` names a part of it, and `style` the manner in which they are written.
    """

    id: str
    text_a: str
    text_b: str
    label: str
    split: str | None = None
    style: str | None = None
    scope_a: Scope = UNSCOPED
    scope_b: Scope = UNSCOPED


@dataclass(frozen=True, slots=True)
class ClusteredText:
    """A text with the cluster of equal statements it belongs to; `row` is what the commons is given."""

    id: str
    cluster: str
    op: str | None
    row: IntakeRow


@dataclass(frozen=True, slots=True)
class SpannedText:
    """A text with the spans [start, end) of personal data in it, in code points, each with its type."""

    id: str
    text: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class SecretText:
    """A text with or without secrets; `negative_kind` says why one without looks as if it had some."""

    id: str
    text: str
    is_secret: bool
    spans: tuple[Span, ...]
    negative_kind: str | None


@dataclass(frozen=True, slots=True)
class ClaimedText:
    """A document and a claim about it."""

    id: str
    document: str
    claim: str
    label: GroundingLabel


@dataclass(frozen=True, slots=True)
class InjectedTexts:
    """A text, or a group of related ones, into which instructions to a model were planted, or not."""

    id: str
    texts: tuple[str, ...]
    is_injected: bool
    category: str | None


@dataclass(frozen=True, slots=True)
class TriagedText:
    """A contribution that people kept, or did not."""

    id: str
    text: str
    is_noise: bool


def read_pairs(path: Path) -> tuple[LabelledPair, ...]:
    """Rows {text_a, text_b, label 1 or 0, kind?}, and the scope of a side as framework_a?, version_b?.

    Raises LabelledFileError.
    """
    return _read(path, lambda record, _, number: _pair(record, number))


def read_contrasts(path: Path) -> tuple[ContrastedPair, ...]:
    """Rows {text_a, text_b, label, split?, style?}; the label `contradiction` is the one looked for.

    Raises LabelledFileError.
    """
    return _read(path, lambda record, _, number: _contrasted(record, number))


def read_clusters(path: Path) -> tuple[ClusteredText, ...]:
    """Rows {text, cluster, org?, op?}, and whatever else a row of the commons may hold.

    Raises LabelledFileError, also for two texts of one org under one id.
    """
    rows = _read(path, _clustered)
    seen: dict[UUID, str] = {}
    for row in rows:
        if seen.setdefault(row.row.id, row.row.content_hash) != row.row.content_hash:
            raise LabelledFileError(f"{path}: id {row.id!a} names two different texts of one org")
    return rows


def read_spans(path: Path) -> tuple[SpannedText, ...]:
    """Rows {text, spans?}; a row without the key `spans` is clean. Raises LabelledFileError."""
    return _read(path, lambda record, _, number: _spanned(record, number))


def read_secrets(path: Path) -> tuple[SecretText, ...]:
    """Rows {text, label 1 or 0, spans?, neg_kind?}. Raises LabelledFileError."""
    return _read(path, lambda record, _, number: _secret(record, number))


def read_claims(path: Path) -> tuple[ClaimedText, ...]:
    """Rows {text_a, text_b, label}, document and claim. Raises LabelledFileError."""
    return _read(path, lambda record, _, number: _claimed(record, number))


def read_injections(path: Path) -> tuple[InjectedTexts, ...]:
    """Rows {text or texts, label 1 or 0, category?}. Raises LabelledFileError."""
    return _read(path, lambda record, _, number: _injected(record, number))


def read_triaged(path: Path) -> tuple[TriagedText, ...]:
    """Rows {text, label}: 1, rejected... or not_reproducible; 0 or accepted. Raises LabelledFileError."""
    return _read(path, lambda record, _, number: _triaged(record, number))


def shape(path: Path) -> FileShape:
    """Whether a file holds pairs or clusters, by the keys of its first row. Raises LabelledFileError."""
    for number, line in _lines(path):
        record = _record(line, path, number)
        if {"text_a", "text_b"} <= record.keys():
            return "pairs"
        if "cluster" in record and not {"text", "content"}.isdisjoint(record):
            return "clusters"
        raise LabelledFileError(
            f"{path}:{number}: neither a pair (text_a, text_b, label) nor a row of a cluster (text, cluster)"
        )
    raise LabelledFileError(f"{path} holds no rows")


def _read(path: Path, parse: Callable[[Record, bytes, int], Row]) -> tuple[Row, ...]:
    rows = []
    for number, line in _lines(path):
        record = _record(line, path, number)
        try:
            rows.append(parse(record, line, number))
        except _RowError as error:
            raise LabelledFileError(f"{path}:{number}: {error}") from None
    if not rows:
        raise LabelledFileError(f"{path} holds no rows")
    return tuple(rows)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that hold something, with their number from 1."""
    number = 0
    try:
        with path.open("rb") as file:
            stream = gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == GZIP_MAGIC else file
            while line := stream.readline(LINE_BYTES_MAX + 1):
                number += 1
                if len(line) > LINE_BYTES_MAX:
                    raise LabelledFileError(f"{path}:{number}: longer than {LINE_BYTES_MAX // 2**20} MB")
                content = line.removeprefix(UTF8_BOM) if number == 1 else line
                if content.strip():
                    yield number, content
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise LabelledFileError(f"{path}:{number + 1}: the gzip stream is damaged or cut off") from None
    except OSError as error:
        raise LabelledFileError(f"cannot read {path}: {error.strerror or 'read error'}") from None


def _record(line: bytes, path: Path, number: int) -> Record:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise LabelledFileError(f"{path}:{number}: not UTF-8") from None
    except (ValueError, RecursionError):
        raise LabelledFileError(f"{path}:{number}: not a line of JSON") from None
    if not isinstance(record, dict):
        raise LabelledFileError(f"{path}:{number}: not a JSON object")
    return record


def _pair(record: Record, number: int) -> LabelledPair:
    return LabelledPair(
        id=_id(record, number),
        text_a=_text(record, "text_a"),
        text_b=_text(record, "text_b"),
        is_same=_is_one(record, "label"),
        scope_a=_scope(record, "a"),
        scope_b=_scope(record, "b"),
        kind=_optional(record, "kind"),
    )


def _scope(record: Record, side: str) -> Scope:
    return Scope(*(_optional(record, f"{column}_{side}") for column in ("framework", "language", "version")))


def _contrasted(record: Record, number: int) -> ContrastedPair:
    label = _text(record, "label")
    if not _LABEL.fullmatch(label):
        raise _RowError("label must be one word of lower-case letters")
    return ContrastedPair(
        id=_id(record, number),
        text_a=_text(record, "text_a"),
        text_b=_text(record, "text_b"),
        label=label,
        split=_optional(record, "split"),
        style=_optional(record, "style"),
        scope_a=_scope(record, "a"),
        scope_b=_scope(record, "b"),
    )


def _clustered(record: Record, line: bytes, number: int) -> ClusteredText:
    # A data set's categories are its own; matching does not look at them.
    row = parse_row(line, IntakeDefaults(unknown_category=Category.GENERAL))
    if isinstance(row, RowRefusal):
        raise _RowError(row.reason)
    cluster = record.get("cluster")
    if cluster is None or not isinstance(cluster, str | int):
        raise _RowError("cluster must be text or a whole number")
    return ClusteredText(_id(record, number), str(cluster), _optional(record, "op"), row)


def _spanned(record: Record, number: int) -> SpannedText:
    text = _text(record, "text")
    return SpannedText(_id(record, number), text, _spans(record, text))


def _secret(record: Record, number: int) -> SecretText:
    text = _text(record, "text")
    return SecretText(
        _id(record, number),
        text,
        _is_one(record, "label"),
        _spans(record, text),
        _optional(record, "neg_kind"),
    )


def _claimed(record: Record, number: int) -> ClaimedText:
    document, claim = _text(record, "text_a"), _text(record, "text_b")
    for label in GROUNDING_LABELS:
        if record.get("label") == label:
            return ClaimedText(_id(record, number), document, claim, label)
    raise _RowError(f"label must be one of {', '.join(GROUNDING_LABELS)}")


def _triaged(record: Record, number: int) -> TriagedText:
    label = record.get("label")
    if isinstance(label, str):
        is_kept, is_noise = label == "accepted", label.startswith("rejected") or label == "not_reproducible"
        if not (is_kept or is_noise):
            raise _RowError("label must be 1, 0, accepted, rejected or not_reproducible")
        return TriagedText(_id(record, number), _text(record, "text"), is_noise)
    return TriagedText(_id(record, number), _text(record, "text"), _is_one(record, "label"))


def _injected(record: Record, number: int) -> InjectedTexts:
    texts = _texts(record) if "texts" in record else (_text(record, "text"),)
    return InjectedTexts(_id(record, number), texts, _is_one(record, "label"), _optional(record, "category"))


def _texts(record: Record) -> tuple[str, ...]:
    texts = record["texts"]
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise _RowError("texts must be a list of texts")
    return tuple(texts)


def _id(record: Record, number: int) -> str:
    value = record.get("id")
    return f"line {number}" if value is None else str(value)


def _text(record: Record, key: str) -> str:
    if key not in record:
        raise _RowError(f"{key} is missing")
    value = record[key]
    if not isinstance(value, str):
        raise _RowError(f"{key} must be text")
    return value


def _optional(record: Record, key: str) -> str | None:
    value = record.get(key)
    if value is not None and not isinstance(value, str):
        raise _RowError(f"{key} must be text")
    return value


def _is_one(record: Record, key: str) -> bool:
    if key not in record:
        raise _RowError(f"{key} is missing")
    value = record[key]
    if not isinstance(value, int) or value not in (0, 1):
        raise _RowError(f"{key} must be 0 or 1")
    return bool(value)


def _spans(record: Record, text: str) -> tuple[Span, ...]:
    given = record.get("spans")
    if given is None:
        return ()
    if not isinstance(given, list):
        raise _RowError("spans must be a list of [start, end, type]")
    return tuple(_span(span, len(text)) for span in given)


def _span(span: object, length: int) -> Span:
    match span:
        case [int(start), int(end), str(type_)] if 0 <= start < end <= length:
            return start, end, type_
    raise _RowError("spans must be [start, end, type] within the text, in code points")
