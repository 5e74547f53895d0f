"""Create or upgrade a database: only adds, safe beside a running server, a no-op the second time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg import errors
from sqlalchemy import Connection, Index, text
from sqlalchemy.exc import DBAPIError

from hivemind_pipelines.store import legacy
from hivemind_pipelines.store.connection import Store, StoreError
from hivemind_pipelines.store.migrations import public_schema
from hivemind_pipelines.store.tables import PUBLIC_TABLES

if TYPE_CHECKING:
    from alembic.config import Config

SCRIPTS = Path(__file__).parent
POSTGRES_MIN = 15
PGVECTOR_MIN = (0, 7)
_LOCK_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class MigrationResult:
    """What was added: names of tables and indexes, revisions, and counts of imported provenance."""

    tables: tuple[str, ...] = ()
    indexes: tuple[str, ...] = ()
    revisions: tuple[str, ...] = ()
    imported: legacy.Imported = field(default_factory=legacy.Imported)

    @property
    def is_noop(self) -> bool:
        """True when the database was as it should be."""
        return self == MigrationResult()


def migrate(store: Store) -> MigrationResult:
    """Bring the database to the newest schema and import what a HiveMind server left in its tags.

    Raises StoreError, with nothing changed, when the database is not a HiveMind one, pgvector is
    missing or a right is.
    """
    with store.session("AUTOCOMMIT") as session:
        # Building an index may take hours; the session that may is not given back to the pool.
        session.detach()
        session.execute(text("SELECT set_config('statement_timeout', '0', false)"))
        session.execute(text("SELECT set_config('lock_timeout', '0', false)"))
        with _one_at_a_time(session):
            _refuse_unfit(session)
            tables, revisions = _upgrade(store)
            indexes = tuple(_add_index(session, index) for index in public_schema.missing_indexes(session))
            imported = legacy.import_provenance(store, at=datetime.now(UTC))
    return MigrationResult(tables, indexes, revisions, imported)


@contextmanager
def _one_at_a_time(session: Connection) -> Iterator[None]:
    # Polled: a statement that waits in pg_advisory_lock() holds a snapshot, and CREATE INDEX
    # CONCURRENTLY of the other migration would wait for it.
    key = {"key": "hivemind_pipelines:migrate"}
    while not session.execute(text("SELECT pg_try_advisory_lock(hashtextextended(:key, 0))"), key).scalar():
        time.sleep(_LOCK_POLL_S)
    try:
        yield
    finally:
        session.execute(text("SELECT pg_advisory_unlock(hashtextextended(:key, 0))"), key)


def _refuse_unfit(session: Connection) -> None:
    _refuse_old_server(session)
    found = public_schema.differences(session)
    if found:
        raise StoreError(f"this is not a HiveMind database, nothing was changed: {'; '.join(found)}")
    for index in public_schema.missing_indexes(session):
        repeated = public_schema.unrepeatable(session, index)
        if repeated:
            keys = ", ".join(column.name for column in index.columns)
            raise StoreError(f"{repeated} values of ({keys}) occur more than once, nothing was changed")
    _ensure_pgvector(session)


def _refuse_old_server(session: Connection) -> None:
    version = int(session.execute(text("SHOW server_version_num")).scalar_one()) // 10_000
    if version < POSTGRES_MIN:
        raise StoreError(f"PostgreSQL {version} is too old: {POSTGRES_MIN} or newer is needed")


def _ensure_pgvector(session: Connection) -> None:
    if _pgvector_version(session) is None:
        _create_pgvector(session)
    version = _pgvector_version(session) or ""
    if tuple(int(part) for part in version.split(".")[:2]) < PGVECTOR_MIN:
        raise StoreError(
            f"pgvector {version} is too old: 0.7 or newer is needed (ALTER EXTENSION vector UPDATE)"
        )


def _pgvector_version(session: Connection) -> str | None:
    version: str | None = session.execute(
        text("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    ).scalar()
    return version


def _create_pgvector(session: Connection) -> None:
    database = session.engine.url.database
    known = session.execute(text("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'")).scalar()
    if known is None:
        raise StoreError("this Postgres server has no pgvector: install pgvector 0.7 or newer beside it")
    try:
        session.execute(text("CREATE EXTENSION IF NOT EXISTS vector"))
    except DBAPIError as error:
        if not isinstance(error.orig, errors.InsufficientPrivilege):
            raise
        raise StoreError(
            f"the extension vector is missing in database {database!r} and this role may not create it: "
            "have the database's owner run CREATE EXTENSION vector"
        ) from None


def _upgrade(store: Store) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Run every missing revision in one transaction: the public tables it made, and the revisions."""
    with store.begin() as connection:
        before = public_schema.existing_tables(connection)
        revisions = missing_revisions(connection)
        if revisions:
            connection.execute(text("CREATE SCHEMA IF NOT EXISTS distillation"))
            _run_alembic(connection)
        if len(public_schema.existing_tables(connection)) < len(PUBLIC_TABLES):
            _restore_absent(connection)
        created = public_schema.existing_tables(connection) - before
    return tuple(sorted(created)), revisions


def missing_revisions(connection: Connection) -> tuple[str, ...]:
    """The revisions that this database still lacks, oldest first."""
    # Late: only a migration needs Alembic, and its import takes a noticeable part of a second.
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(alembic_config())
    steps = script.iterate_revisions(script.get_current_head(), _revision(connection) or "base")
    return tuple(step.revision for step in steps)[::-1]


def _run_alembic(connection: Connection) -> None:
    from alembic import command

    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _restore_absent(connection: Connection) -> None:
    from hivemind_pipelines.store.migrations.versions import v0001_hivemind

    v0001_hivemind.create_absent(connection)


def alembic_config(scripts: Path = SCRIPTS) -> "Config":
    """Alembic's configuration for the revisions below `scripts`."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _revision(connection: Connection) -> str | None:
    if connection.execute(text("SELECT to_regclass('distillation.alembic_version')")).scalar() is None:
        return None
    revision: str | None = connection.execute(
        text("SELECT version_num FROM distillation.alembic_version")
    ).scalar()
    return revision


def _add_index(session: Connection, index: Index) -> str:
    """Build one index beside the running server; an unfinished one of an earlier attempt is rebuilt."""
    name = str(index.name)
    unfinished = text("SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid")
    if session.execute(unfinished, {"name": f"public.{name}"}).scalar():
        session.execute(text(f"REINDEX INDEX CONCURRENTLY public.{name}"))
    else:
        session.execute(text(public_schema.create_statement(index)))
    return name
