"""The append-only ledger: one row beside every effect, ids and scores and never text."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal
from uuid import UUID

from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql import JSONB

from hivemind_pipelines.core.model import OrgId, RunId
from hivemind_pipelines.store.connection import copy_rows

ChangeName = Literal[
    "merge",
    "repoint",
    "unmerge",
    "open_case",
    "publish",
    "revive",
    "retire",
    "embed",
    "flag",
    "unflag",
    "rescore",
    "lose",
    "allow_mass_change",
    "restore",
    "import_merge",
    "import_derivation",
    "judge",
    "decide_case",
    "supersede",
    "date",
    "erase",
]


@dataclass(frozen=True, slots=True)
class Entry:
    """One effect on one subject; `before` and `after` hold what undo needs to be exact.

    Values are JSON's own, UUID or datetime. `merge`: before {expired_at, canonical, canonical_tags},
    after {expired_at, canonical}. `repoint`: {canonical} twice, before with canonical_tags. `unmerge`: the
    merge's inverse, with a reason in after. `supersede`: {expired_at}, before with the followers that lost
    their canonical. `date`: {valid_at, invalid_at} twice.
    The subject of `open_case` and `decide_case` is the case, of `publish`, `revive`, `retire` and
    `import_derivation` the summary, of `flag` and `unflag` the pending row, of `judge` the pair, else the item.
    """

    change: ChangeName
    subject_id: UUID
    before: Mapping[str, object] = field(default_factory=dict, hash=False)
    after: Mapping[str, object] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Applied:
    """What a transaction did: the changes that took effect and how many met a changed row."""

    applied: int
    dropped: int
    entries: tuple[Entry, ...]


_COLUMNS = ("org_id", "run_id", "change", "subject_id", "before", "after", "stamp", "at")


def record(
    connection: Connection,
    org_id: OrgId,
    run_id: RunId,
    entries: Iterable[Entry],
    *,
    stamp: str,
    at: datetime,
) -> None:
    """Append the entries in their order, in the transaction of the effects they describe."""
    copy_rows(
        connection,
        "distillation.ledger",
        _COLUMNS,
        (
            (
                org_id,
                run_id,
                entry.change,
                entry.subject_id,
                _json(entry.before),
                _json(entry.after),
                stamp,
                at,
            )
            for entry in entries
        ),
    )


_READ_RUN = text("""
SELECT change, subject_id, before, after
FROM distillation.ledger
WHERE org_id = :org_id AND run_id = :run_id
ORDER BY seq
""").columns(before=JSONB, after=JSONB)


def read_run(connection: Connection, org_id: OrgId, run_id: RunId) -> tuple[Entry, ...]:
    """What one run did to one org, oldest first; datetimes and ids come back as strings."""
    found = connection.execute(_READ_RUN, {"org_id": org_id, "run_id": run_id})
    return tuple(Entry(row.change, row.subject_id, row.before, row.after) for row in found)


def _json(values: Mapping[str, object]) -> str:
    return json.dumps(values, allow_nan=False, default=_spell)


def _spell(value: object) -> str:
    match value:
        case datetime():
            return value.isoformat()
        case UUID():
            return str(value)
        case _:
            raise TypeError(f"the ledger takes no {type(value).__name__}")
