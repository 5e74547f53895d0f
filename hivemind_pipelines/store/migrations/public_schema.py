"""The contract with the HiveMind server's tables: what differs, and which indexes are missing."""

from collections.abc import Iterator

from sqlalchemy import Connection, Index, Table, UniqueConstraint, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex

from hivemind_pipelines.core.model import Category
from hivemind_pipelines.store import tables

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]

#: Tables that receive new rows from us: an extra column there must not need a value.
_INSERTED_INTO = frozenset({"knowledge_items", "quality_signals", "deployment_config"})

#: Readers rely on a value in these; elsewhere a NULL is survived.
_NEVER_NULL = frozenset({"id", "org_id", "content", "content_hash", "category", "knowledge_item_id", "key"})


def differences(connection: Connection) -> tuple[str, ...]:
    """How the tables that exist differ from the contract, one phrase each; empty when they agree."""
    found = _existing(connection)
    return tuple(
        phrase
        for table in tables.PUBLIC_TABLES
        if table.name in found
        for phrase in _table_differences(connection, table, found[table.name])
    ) + tuple(_label_differences(connection))


def existing_tables(connection: Connection) -> frozenset[str]:
    """The names of the contract's tables that are there."""
    return frozenset(_existing(connection))


def missing_indexes(connection: Connection) -> tuple[Index, ...]:
    """Indexes of the contract that no valid index of an existing table stands for."""
    return tuple(
        index
        for table in tables.PUBLIC_TABLES
        for index in _wanted_indexes(table)
        if not _has_index(connection, index)
    )


def unrepeatable(connection: Connection, index: Index) -> int:
    """How many keys occur more than once where `index` wants them unique."""
    if not index.unique or index.table is None or index.table.name not in existing_tables(connection):
        return 0
    keys = ", ".join(column.name for column in index.columns)
    counting = f"SELECT 1 FROM public.{index.table.name} GROUP BY {keys} HAVING count(*) > 1"
    return int(connection.execute(text(f"SELECT count(*) FROM ({counting}) AS repeated")).scalar_one())


def create_statement(index: Index) -> str:
    """CREATE INDEX CONCURRENTLY for one index of the contract; runs outside any transaction."""
    statement = str(CreateIndex(index).compile(dialect=_DIALECT)).strip()
    return statement.replace("INDEX ", "INDEX CONCURRENTLY ", 1)


def _existing(connection: Connection) -> dict[str, str]:
    rows = connection.execute(
        text(
            "SELECT relname, relkind FROM pg_class"
            " WHERE relnamespace = 'public'::regnamespace AND relname = ANY(:names)"
        ),
        {"names": [table.name for table in tables.PUBLIC_TABLES]},
    )
    return {row.relname: row.relkind for row in rows}


_COLUMNS = text("""
SELECT attname, format_type(atttypid, atttypmod) AS kind, attnotnull,
       attnotnull AND NOT atthasdef AND attidentity = '' AS wants_value
FROM pg_attribute
WHERE attrelid = to_regclass(:name) AND attnum > 0 AND NOT attisdropped
ORDER BY attnum
""")


def _table_differences(connection: Connection, table: Table, relkind: str) -> Iterator[str]:
    if relkind not in ("r", "p"):
        yield f"{table.name} is not a table"
        return
    found = {row.attname: row for row in connection.execute(_COLUMNS, {"name": f"public.{table.name}"})}
    for column in table.columns:
        row, kind = found.get(column.name), _kind(column.type)
        if row is None:
            yield f"{table.name}.{column.name} is missing"
        elif row.kind != kind:
            yield f"{table.name}.{column.name} is {row.kind}, expected {kind}"
        elif column.nullable and row.attnotnull:
            yield f"{table.name}.{column.name} is NOT NULL, expected nullable"
        elif column.name in _NEVER_NULL and not row.attnotnull:
            yield f"{table.name}.{column.name} is nullable, expected NOT NULL"
    if table.name in _INSERTED_INTO:
        for name, row in found.items():
            if name not in table.columns and row.wants_value:
                yield f"{table.name}.{name} is unknown, NOT NULL and has no default"


def _kind(column_type: object) -> str:
    """The column type in the words of Postgres' format_type()."""
    if column_type is tables.KNOWLEDGE_CATEGORY:
        return "knowledgecategory"
    compiled = str(column_type.compile(dialect=_DIALECT)).lower()  # type: ignore[attr-defined]
    return compiled.replace("varchar", "character varying")


def _label_differences(connection: Connection) -> Iterator[str]:
    rows = connection.execute(
        text("SELECT enumlabel FROM pg_enum WHERE enumtypid = to_regtype('public.knowledgecategory')")
    )
    found = {row.enumlabel for row in rows}
    if not found and "knowledge_items" not in _existing(connection):
        return
    missing = [category.value for category in Category if category.value not in found]
    if missing:
        yield f"type knowledgecategory lacks {', '.join(missing)}"


def _wanted_indexes(table: Table) -> Iterator[Index]:
    yield from sorted(table.indexes, key=lambda index: str(index.name))
    for constraint in table.constraints:
        if isinstance(constraint, UniqueConstraint):
            columns = [column.name for column in constraint.columns]
            yield _detached(table, "_".join(("uq", table.name, *columns)), columns)


def _detached(table: Table, name: str, columns: list[str]) -> Index:
    # Built on a copy of the table, so that the metadata does not learn of the index.
    from sqlalchemy import MetaData

    twin = table.to_metadata(MetaData())
    return Index(name, *(twin.columns[column] for column in columns), unique=True)


_SAME_INDEX = text("""
SELECT count(*)
FROM pg_index
JOIN pg_class ON pg_class.oid = indexrelid
JOIN pg_am ON pg_am.oid = relam
WHERE indrelid = to_regclass(:name) AND indisvalid AND indpred IS NULL
  AND amname = :method AND (indisunique OR NOT :is_unique)
  AND (SELECT array_agg(attname::text ORDER BY place)
       FROM unnest(indkey::smallint[]) WITH ORDINALITY AS keys (attnum, place)
       JOIN pg_attribute ON attrelid = indrelid AND pg_attribute.attnum = keys.attnum
       WHERE place <= indnkeyatts) = CAST(:columns AS text[])
  AND (:opclass = '' OR (SELECT opcname FROM pg_opclass WHERE oid = indclass[0]) = :opclass)
""")


def _has_index(connection: Connection, index: Index) -> bool:
    options = index.dialect_options["postgresql"]
    assert index.table is not None
    wanted = {
        "name": f"public.{index.table.name}",
        "method": options["using"] or "btree",
        "is_unique": bool(index.unique),
        "columns": [column.name for column in index.columns],
        "opclass": next(iter(options["ops"].values()), ""),
    }
    return bool(connection.execute(_SAME_INDEX, wanted).scalar_one())
