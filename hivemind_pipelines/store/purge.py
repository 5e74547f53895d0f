"""What an erasure removes from our own tables, generated from their declaration so that none is forgotten.

A row goes when its `item_id`, `other_id` or a foreign key of it names an erased item, or a case of one, or
when a hash of it is one of the item's. A table whose rows stay says
why in `KEPT`, column by column.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, String, Table, text

from hivemind_pipelines.core.model import OrgId
from hivemind_pipelines.store import tables

_IDS = "a name of ours, no text of an item"
_CODES = "codes, stamps and moments of ours"

#: Tables whose rows outlive an erasure, with the reason for each column that could hold text.
KEPT: Mapping[str, Mapping[str, str]] = {
    "registered_items": {"kind": "becomes `erased`"},
    "merges": {"stamp": _CODES},
    "contradiction_cases": {
        "category": _CODES,
        "detector": _CODES,
        "status": "an open one is dismissed",
        "outcome": _CODES,
        "evidence": "emptied",
        "decided_by": "the name of who decided",
        "stamp": _CODES,
    },
    "case_items": {},
    "stamped_signals": {},
    "topic_clusters": {
        "fingerprint": "dissolved with a member",
        "category": "dissolved with a member",
        "framework": "dissolved with a member",
        "language": "dissolved with a member",
        "version": "dissolved with a member",
        "stamp": _CODES,
    },
    "llm_jobs": {
        "fingerprint": "a job that is no standing topic's is forgotten",
        "last_reason": _CODES,
    },
    "llm_spend": {"purpose": _CODES},
    "runs": {
        "job": _CODES,
        "status": _CODES,
        "dagster_run_id": _IDS,
        "backfill_id": _IDS,
        "policy_version": _CODES,
        "stamps": _CODES,
        "counts": "numbers",
        "allowed": _CODES,
    },
    "policies": {"version": _CODES, "document": "the operator's own policy"},
    "receipts": {"asset": _IDS, "payload": "counts"},
    "refused_plans": {"inputs_hash": "a hash over ids and stamps", "stamp": _CODES},
    "tombstones": {"kind": _CODES},
    "erased_texts": {"keyed_name": "an HMAC", "sameness": _CODES},
    "erasures": {"unfinished": "keyed needles and the reason, until the receipt is written"},
    "ledger": {
        "change": _CODES,
        "before": "ids, scores and moments; append-only",
        "after": "ids, scores and moments; append-only",
        "stamp": _CODES,
    },
}

#: Columns of the server's tables: what erasing does to them, or why it does not.
PUBLIC: Mapping[str, Mapping[str, str]] = {
    "knowledge_items": {
        "content": "overwritten",
        "content_hash": "overwritten",
        "tags": "emptied",
        "embedding": "NULL",
        "org_id": "the server's",
        "source_agent_id": "the server's",
        "run_id": "the server's",
        "framework": "the server's",
        "language": "the server's",
        "version": "the server's",
    },
    "pending_contributions": dict.fromkeys(
        (
            "org_id", "source_agent_id", "run_id", "content", "content_hash", "framework", "language",
            "version", "tags",
        ),
        "a reviewer's; copies of an erased text are listed",
    ),
    "quality_signals": {
        "metadata": "emptied",
        "signal_type": "the server's",
        "agent_id": "the server's",
        "run_id": "the server's",
    },
    "deployment_config": {"key": "the server's", "value": "the server's"},
}  # fmt: skip

_ITEM_TABLES = ("registered_items", "item_features")


@dataclass(frozen=True, slots=True)
class Rule:
    """How rows of one table are found that hold something of an erased item."""

    table: str
    item_columns: tuple[str, ...]
    case_columns: tuple[str, ...]
    hash_columns: tuple[str, ...]

    @property
    def condition(self) -> str:
        """SQL over the alias `p`, with `:ids`, `:cases` and `:hashes`."""
        parts = [
            *(f"p.{column} = ANY(CAST(:ids AS uuid[]))" for column in self.item_columns),
            *(f"p.{column} = ANY(CAST(:cases AS uuid[]))" for column in self.case_columns),
            *(f"p.{column} = ANY(CAST(:hashes AS text[]))" for column in self.hash_columns),
        ]
        return " OR ".join(parts)


def rules() -> tuple[Rule, ...]:
    """A rule for every table of ours that is not kept, children before their parents."""
    found = (_rule(table) for table in reversed(tables.OWN_TABLES) if table.name not in KEPT)
    return tuple(rule for rule in found if rule.condition)


def _rule(table: Table) -> Rule:
    items, cases = {"item_id", "other_id"} & set(table.columns.keys()), set[str]()
    for key in table.foreign_keys:
        if key.parent.name != "org_id" and key.column.name != "kind":
            if key.column.table.name in _ITEM_TABLES:
                items.add(key.parent.name)
            elif key.column.table.name == "contradiction_cases":
                cases.add(key.parent.name)
    hashes = [column.name for column in table.columns if _is_hash(column.name, column.type)]
    return Rule(table.name, tuple(sorted(items)), tuple(sorted(cases)), tuple(sorted(hashes)))


def _is_hash(name: str, kind: object) -> bool:
    return name.endswith("_hash") and isinstance(kind, String) and kind.length == 64


def purge(
    conn: Connection,
    org_id: OrgId,
    ids: Sequence[UUID],
    cases: Sequence[UUID],
    hashes: Sequence[str],
) -> dict[str, int]:
    """Delete every row that a rule finds; how many by table, those that had any."""
    wanted = {"ids": list(ids), "cases": list(cases), "hashes": list(hashes)}
    counts = {}
    for rule in rules():
        statement = text(
            f"DELETE FROM distillation.{rule.table} p WHERE p.org_id = :org_id AND ({rule.condition})"
        )
        values = {name: wanted[name] for name in statement.compile().params if name in wanted}
        counts[f"distillation.{rule.table}"] = conn.execute(statement, {"org_id": org_id, **values}).rowcount
    return {table: count for table, count in counts.items() if count}


# Columns of a type that could hold an item's text, in schemas that are no one's but the database's own.
TEXT_COLUMNS = text("""
    SELECT n.nspname AS schema_name, c.relname AS table_name, a.attname AS column_name,
           format_type(a.atttypid, NULL) AS type_name
    FROM pg_attribute a
    JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'm')
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_type e ON e.oid = t.typelem
    WHERE a.attnum > 0 AND NOT a.attisdropped AND NOT c.relispartition
      AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg_toast%'
      AND n.nspname NOT LIKE 'pg_temp%'
      AND t.typtype <> 'e' AND COALESCE(e.typtype, 'b') <> 'e'
      AND NOT (t.typcategory IN ('B', 'D', 'N', 'T') OR t.typname = 'uuid')
      AND NOT COALESCE(e.typcategory IN ('B', 'D', 'N', 'T') AND t.typcategory = 'A', false)
    ORDER BY 1, 2, a.attnum
""")


def undeclared(conn: Connection) -> tuple[str, ...]:
    """Columns of the two schemas that are neither purged by a rule nor declared, as table.column."""
    purged = {rule.table for rule in rules()}
    return tuple(
        f"{row.schema_name}.{row.table_name}.{row.column_name}"
        for row in conn.execute(TEXT_COLUMNS)
        if row.table_name != "alembic_version" and not _is_declared(row, purged)
    )


def _is_declared(row: object, purged: set[str]) -> bool:
    schema, table, column = (getattr(row, name) for name in ("schema_name", "table_name", "column_name"))
    if schema == tables.PUBLIC_SCHEMA:
        return column in PUBLIC.get(table, {})
    return column == "org_id" or table in purged or column in KEPT.get(table, {})
