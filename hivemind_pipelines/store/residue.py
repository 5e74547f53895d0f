"""Every value of a database that could hold a text, column by column as its catalogue lists them.

Nothing here knows our tables: what a server, an operator or a later version of us adds is read as well.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from psycopg import sql
from sqlalchemy import Connection, text

from hivemind_pipelines.core.model import OrgId
from hivemind_pipelines.store.connection import Store, raw_cursor
from hivemind_pipelines.store.purge import TEXT_COLUMNS

BATCH = 2_000

ValueKind = Literal["text", "bytes", "vector"]

_VECTORS = ("vector", "halfvec", "sparsevec")


@dataclass(frozen=True, slots=True)
class TextColumn:
    """A column that could hold a text or what was computed from one."""

    schema: str
    table: str
    name: str
    kind: ValueKind
    type_name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}.{self.name}"


@dataclass(frozen=True, slots=True)
class Value:
    """One distinct value of a column and how many rows hold it; a vector's is the md5 of its bytes."""

    value: str | bytes
    rows: int


@dataclass(frozen=True, slots=True)
class PublicRow:
    """A row of the server's that is not erased, as one JSON text; summaries are told apart."""

    table: str
    org_id: OrgId
    id: UUID
    contributor: str
    state: str
    is_summary: bool
    value: str
    vector_digest: str | None


def read_columns(conn: Connection) -> tuple[tuple[TextColumn, ...], tuple[str, ...]]:
    """The columns to read, and the names of those that this role may not."""
    columns = tuple(
        TextColumn(row.schema_name, row.table_name, row.column_name, _kind(row.type_name), row.type_name)
        for row in conn.execute(TEXT_COLUMNS)
    )
    readable = tuple(column for column in columns if _may_read(conn, column))
    return readable, tuple(str(column) for column in columns if column not in readable)


def _kind(type_name: str) -> ValueKind:
    base = type_name.rpartition(".")[2].strip('"')
    return "vector" if base in _VECTORS else "bytes" if base == "bytea" else "text"


_MAY_READ = text("""
    SELECT has_schema_privilege(:schema, 'USAGE')
       AND has_column_privilege(quote_ident(:schema) || '.' || quote_ident(:table), :name, 'SELECT')
""")


def _may_read(conn: Connection, column: TextColumn) -> bool:
    values = {"schema": column.schema, "table": column.table, "name": column.name}
    return bool(conn.execute(_MAY_READ, values).scalar_one())


_READ: dict[ValueKind, str] = {
    "text": "SELECT {column}::text, count(*) FROM {table} WHERE {column} IS NOT NULL GROUP BY 1",
    "bytes": "SELECT {column}, count(*) FROM {table} WHERE {column} IS NOT NULL GROUP BY 1",
    "vector": "SELECT md5({send}({column})), count(*) FROM {table} WHERE {column} IS NOT NULL GROUP BY 1",
}


def read_values(store: Store, column: TextColumn) -> Iterator[Value]:
    """The distinct values of a column, in batches and in one snapshot."""
    base = column.type_name.rpartition(".")[2].strip('"')
    statement = sql.SQL(_READ[column.kind]).format(
        column=sql.Identifier(column.name),
        table=sql.Identifier(column.schema, column.table),
        send=sql.Identifier(f"{base}_send"),
    )
    with store.read() as conn:
        for value, count in _stream(conn, statement):
            yield Value(bytes(value) if column.kind == "bytes" else str(value), count)


# Erased rows are told by their tombstone; a row that says `[erased ...]` without one is somebody's text.
_PUBLIC_ROWS = """
    SELECT 'knowledge_items', k.org_id, k.id, k.source_agent_id,
           CASE WHEN k.deleted_at IS NOT NULL THEN 'deleted' WHEN k.expired_at IS NOT NULL THEN 'expired'
                ELSE 'live' END,
           COALESCE(r.kind = 'summary', false)
               OR (k.source_agent_id = 'distillation' AND COALESCE(k.tags -> 'distilled' = 'true', false)),
           (to_jsonb(k) - 'embedding')::text, md5(vector_send(k.embedding))
    FROM public.knowledge_items k
    LEFT JOIN distillation.registered_items r ON r.org_id = k.org_id AND r.item_id = k.id
    WHERE NOT EXISTS (SELECT FROM distillation.tombstones t
                      WHERE t.org_id = k.org_id AND t.item_id = k.id AND t.kind = 'erased')
    UNION ALL
    SELECT 'pending_contributions', p.org_id, p.id, p.source_agent_id, 'pending', false,
           to_jsonb(p)::text, NULL
    FROM public.pending_contributions p
"""


def read_public_rows(store: Store) -> Iterator[PublicRow]:
    """Every row of every org that is somebody's own: what it says is no residue of another's text."""
    with store.read() as conn:
        for row in _stream(conn, sql.SQL(_PUBLIC_ROWS)):
            table, org_id, id, contributor, state, is_summary, value, digest = row
            yield PublicRow(
                str(table), OrgId(str(org_id)), UUID(str(id)), str(contributor), str(state),
                bool(is_summary), str(value), None if digest is None else str(digest),
            )  # fmt: skip


def _stream(conn: Connection, statement: sql.SQL | sql.Composed) -> Iterator[Sequence[Any]]:
    """Rows through a cursor of the server's, so that a large table is never in memory at once."""
    # raw_cursor would read everything into the client: the driver's named cursor does not.
    with raw_cursor(conn) as cursor, cursor.connection.cursor(name="residue") as named:
        named.itersize = BATCH
        named.execute(statement)
        yield from named


READ_SIGNALS = """
    SELECT k.org_id, s.id, s.metadata::text
    FROM public.quality_signals s JOIN public.knowledge_items k ON k.id = s.knowledge_item_id
    WHERE s.metadata IS NOT NULL
"""

SCRUB_SIGNALS = text("""
    UPDATE public.quality_signals s SET metadata = NULL
    FROM public.knowledge_items k
    WHERE k.org_id = :org_id AND k.id = s.knowledge_item_id AND s.id = ANY(CAST(:ids AS uuid[]))
""")


def read_signals(store: Store) -> Iterator[tuple[OrgId, UUID, str]]:
    """Every signal that says anything, as (org, signal, metadata)."""
    with store.read() as conn:
        for org_id, signal_id, metadata in _stream(conn, sql.SQL(READ_SIGNALS)):
            yield OrgId(str(org_id)), UUID(str(signal_id)), str(metadata)


def scrub_signals(conn: Connection, org_id: OrgId, ids: Sequence[UUID]) -> int:
    """Empty what these signals say; how many."""
    return conn.execute(SCRUB_SIGNALS, {"org_id": org_id, "ids": list(ids)}).rowcount


SQLITE_MAGIC = b"SQLite format 3\x00"


def read_sqlite(file: Path) -> Iterator[tuple[str, str | bytes]]:
    """Every text and blob of an SQLite file as (table, value); raises sqlite3.Error when it is none."""
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=10)) as database:
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (name,) in names:
            quoted = '"' + name.replace('"', '""') + '"'
            for row in database.execute(f"SELECT * FROM {quoted}"):
                yield from ((name, value) for value in row if isinstance(value, str | bytes))
