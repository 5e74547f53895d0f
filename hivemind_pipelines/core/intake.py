"""Intake: one line of a JSONL file becomes a valid row of the commons, or the reason why it cannot."""

import json
import math
import sys
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid5

from hivemind_pipelines.core.model import Category, OrgId
from hivemind_pipelines.core.text import content_hash

DEFAULT_ORG = OrgId("default")
DEFAULT_AGENT = "import"

#: Ids that are not UUIDs, and rows without an id, get a UUID below this one.
INTAKE_NAMESPACE = UUID("6c0f2a7e-3f0b-5e0e-9d57-2a4b8f1c7d11")

ORG_LENGTH_MAX = 255
TAG_DEPTH_MAX = 100
_CATEGORIES = frozenset(str(category) for category in Category)
COUNT_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class IntakeDefaults:
    """What a row gets that does not say it; `unknown_category` None refuses categories we do not know."""

    org_id: OrgId = DEFAULT_ORG
    unknown_category: Category | None = None


@dataclass(frozen=True, slots=True)
class IntakeRow:
    """A row that the commons can take: every text storable, every number finite and in range.

    `tags` is any JSON value; `contributed_at` is UTC, or None for the moment of loading.
    """

    id: UUID
    org_id: OrgId
    content: str
    content_hash: str
    category: Category
    confidence: float
    source_agent_id: str
    framework: str | None
    language: str | None
    version: str | None
    tags: object
    contributed_at: datetime | None
    quality_score: float
    retrieval_count: int
    helpful_count: int
    not_helpful_count: int
    is_public: bool


@dataclass(frozen=True, slots=True)
class RowRefusal:
    """Why a line is no row; names fields and positions, never the item's text."""

    reason: str


class _RefusedError(ValueError):
    """Carries a reason from a field up to `parse_row`."""


def parse_row(line: bytes, defaults: IntakeDefaults) -> IntakeRow | RowRefusal:
    """Read one line of UTF-8 JSON; keys that are not ours are ignored."""
    try:
        return _row(_record(line), defaults)
    except _RefusedError as refused:
        return RowRefusal(str(refused))


def _record(line: bytes) -> Mapping[str, object]:
    try:
        record = json.loads(line.decode("utf-8"), object_pairs_hook=_unique_keys)
    except _RefusedError:
        raise
    except UnicodeDecodeError as error:
        raise _RefusedError(f"not UTF-8 (byte {error.start + 1} of the line)") from None
    except json.JSONDecodeError as error:
        raise _RefusedError(f"malformed JSON: {error.msg} (column {error.colno})") from None
    except RecursionError:
        raise _RefusedError("malformed JSON: nested too deeply") from None
    except ValueError:  # an integer of more than 4,300 digits
        raise _RefusedError("malformed JSON: a number is too long") from None
    if not isinstance(record, dict):
        raise _RefusedError("not a JSON object")
    return record


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise _RefusedError("malformed JSON: a key occurs twice in one object")
    return record


def _row(record: Mapping[str, object], defaults: IntakeDefaults) -> IntakeRow:
    content = _content(record)
    org_id = _org(record, defaults.org_id)
    digest = content_hash(content)
    return IntakeRow(
        id=_id(record, org_id, digest),
        org_id=org_id,
        content=content,
        content_hash=digest,
        category=_category(record, defaults.unknown_category),
        confidence=_share(record, "confidence", default=0.8),
        source_agent_id=_text(record, "source_agent_id", max_length=255) or DEFAULT_AGENT,
        framework=_text(record, "framework", max_length=100),
        language=_text(record, "language", max_length=50),
        version=_text(record, "version", max_length=50),
        tags=_tags(record),
        contributed_at=_moment(record, "contributed_at"),
        quality_score=_share(record, "quality_score", default=0.5),
        retrieval_count=_count(record, "retrieval_count"),
        helpful_count=_count(record, "helpful_count"),
        not_helpful_count=_count(record, "not_helpful_count"),
        is_public=_flag(record, "is_public"),
    )


def _content(record: Mapping[str, object]) -> str:
    content = _either(record, "text", "content")
    if content is None:
        empty = isinstance(record.get("text"), str) or isinstance(record.get("content"), str)
        raise _RefusedError("text is empty" if empty else "text is missing")
    return content


def org_fault(org_id: str) -> str | None:
    """Why a text cannot name an org, which is a column's value and a partition's key; None when it can."""
    if not org_id.strip():
        return "is empty"
    if len(org_id) > ORG_LENGTH_MAX:
        return f"is {len(org_id)} characters long, more than {ORG_LENGTH_MAX}"
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in org_id):
        return "contains a control character or a lone surrogate"
    return "contains '...'" if "..." in org_id else None


def _org(record: Mapping[str, object], default: OrgId) -> OrgId:
    given = _either(record, "org", "org_id")
    if given is None:
        return default
    if (fault := org_fault(given)) is not None:
        raise _RefusedError(f"org {fault}")
    return OrgId(given)


def _either(record: Mapping[str, object], key: str, alias: str) -> str | None:
    given = {value for name in (key, alias) if (value := _text(record, name)) is not None}
    if len(given) > 1:
        raise _RefusedError(f"{key} and {alias} say different things")
    return given.pop() if given else None


def _text(record: Mapping[str, object], key: str, *, max_length: int = sys.maxsize) -> str | None:
    value = record.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise _RefusedError(f"{key} must be text")
    if (fault := _text_fault(value)) is not None:
        raise _RefusedError(f"{key} contains {fault}")
    if len(value) > max_length:
        raise _RefusedError(f"{key} is {len(value)} characters long, more than {max_length}")
    return value if value.strip() else None


def _text_fault(value: str) -> str | None:
    if "\x00" in value:
        return "a NUL character"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "a lone surrogate"
    return None


def _id(record: Mapping[str, object], org_id: OrgId, digest: str) -> UUID:
    value = record.get("id")
    if value is None:
        return _named("hash", org_id, digest)
    if isinstance(value, int) and not isinstance(value, bool):
        return _named("id", org_id, str(value))
    given = _text(record, "id", max_length=255)
    if given is None:
        raise _RefusedError("id is empty")
    try:
        return UUID(given)
    except ValueError:
        return _named("id", org_id, given)


def _named(kind: str, org_id: OrgId, name: str) -> UUID:
    return uuid5(INTAKE_NAMESPACE, json.dumps([kind, org_id, name]))


def _category(record: Mapping[str, object], fallback: Category | None) -> Category:
    value = record.get("category")
    if value is None:
        return Category.GENERAL
    if isinstance(value, str) and value in _CATEGORIES:
        return Category(value)
    if fallback is not None:
        return fallback
    said = f" {value[:40]!a}" if isinstance(value, str) else ""
    raise _RefusedError(f"unknown category{said}")


def _share(record: Mapping[str, object], key: str, *, default: float) -> float:
    value = record.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise _RefusedError(f"{key} must be a number from 0 to 1")
    return float(value)


def _count(record: Mapping[str, object], key: str) -> int:
    value = record.get(key)
    if value is None:
        return 0
    # Exports of nullable columns write whole numbers as 3.0.
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= COUNT_MAX:
        count = int(value)
        if count == value:
            return count
    raise _RefusedError(f"{key} must be a whole number from 0 to {COUNT_MAX}")


def _flag(record: Mapping[str, object], key: str) -> bool:
    value = record.get(key)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise _RefusedError(f"{key} must be true or false")
    return value


def _moment(record: Mapping[str, object], key: str) -> datetime | None:
    value = _text(record, key, max_length=64)
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value.strip())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise _RefusedError(f"{key} must be an ISO 8601 time in the years 1 to 9999") from None


def _tags(record: Mapping[str, object]) -> object:
    tags = record.get("tags")
    level: list[object] = [tags]
    depth = 0
    while level:
        if depth > TAG_DEPTH_MAX:
            raise _RefusedError(f"tags nest deeper than {TAG_DEPTH_MAX} levels")
        level = [inner for value in level for inner in _inside(value)]
        depth += 1
    return tags


def _inside(value: object) -> tuple[object, ...]:
    match value:
        case str():
            if (fault := _text_fault(value)) is not None:
                raise _RefusedError(f"tags contain {fault}")
        case float():
            if not math.isfinite(value):
                raise _RefusedError("tags contain a number that is not finite")
        case dict():
            return (*value.keys(), *value.values())
        case list():
            return tuple(value)
    return ()
