"""The way to Postgres: one engine, short transactions, and errors that fit on one line."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal, Self

import psycopg
from psycopg import errors, sql
from psycopg.types.json import Jsonb
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import ArgumentError, DBAPIError

from hivemind_pipelines.core.model import OrgId

APPLICATION_NAME = "hivemind-pipelines"

#: What a session gets where the URL's own `options` do not say otherwise.
SESSION_DEFAULTS: Mapping[str, str] = {
    "statement_timeout": "15min",
    "lock_timeout": "30s",
    "idle_in_transaction_session_timeout": "5min",
}

Isolation = Literal["READ COMMITTED", "REPEATABLE READ", "AUTOCOMMIT"]


class StoreError(RuntimeError):
    """The database cannot be used as it is; the message is one line and never holds a password."""


def open_store(url: str) -> "Store":
    """A store on the database at `url`; connects lazily, so it raises only for a malformed URL."""
    return Store(normalise_url(url))


def normalise_url(url: str) -> str:
    """The same address for the psycopg 3 driver; query arguments are kept, asyncpg's own translated.

    Raises StoreError for anything that is not a Postgres URL; the message does not repeat it.
    """
    try:
        parsed = make_url(url.strip())
    except (ArgumentError, ValueError):
        raise StoreError("the database URL is malformed; expected postgresql://user@host:port/name") from None
    if parsed.get_backend_name() not in ("postgres", "postgresql"):
        raise StoreError(f"the database URL names {parsed.get_backend_name()!r}; only Postgres is supported")
    known = parsed.set(drivername="postgresql+psycopg", query=_libpq_query(parsed.query))
    return known.render_as_string(hide_password=False)


#: asyncpg's and its dialect's own arguments, which libpq refuses.
_ASYNCPG_ONLY = frozenset(
    {"async_fallback", "prepared_statement_cache_size", "prepared_statement_name_func", "command_timeout"}
)


def _libpq_query(query: Mapping[str, tuple[str, ...] | str]) -> dict[str, tuple[str, ...] | str]:
    kept = {name: value for name, value in query.items() if name not in _ASYNCPG_ONLY}
    if "ssl" in kept:
        mode = kept.pop("ssl")
        kept.setdefault("sslmode", {"true": "require", "false": "disable"}.get(str(mode).lower(), mode))
    return kept


class Store:
    """A Postgres database, usable from many threads; no connection of it waits inside a transaction."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._address = make_url(url)
        self._engine = _engine(self._address)

    def __repr__(self) -> str:
        return f"Store({self._address.render_as_string()})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.dispose()

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One short READ COMMITTED transaction: committed at the end, rolled back by an exception."""
        with self.session("READ COMMITTED") as connection, connection.begin():
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One REPEATABLE READ READ ONLY snapshot."""
        with self.session("REPEATABLE READ", read_only=True) as connection, connection.begin():
            yield connection

    @contextmanager
    def session(self, isolation: Isolation, *, read_only: bool = False) -> Iterator[Connection]:
        """A connection of the given isolation level; the caller opens and ends its transactions."""
        with _plain_errors(self._address), self._connect() as connection:
            yield connection.execution_options(isolation_level=isolation, postgresql_readonly=read_only)

    def dispose(self) -> None:
        """Close every idle connection; the store stays usable."""
        self._engine.dispose()

    def _connect(self) -> Connection:
        try:
            return self._engine.connect()
        except DBAPIError as error:
            raise StoreError(_connect_trouble(self._address, error.orig)) from None
        except psycopg.Error as error:
            raise StoreError(_connect_trouble(self._address, error)) from None


def try_lock(connection: Connection, org_id: OrgId, stage: str) -> bool:
    """Take the advisory lock of one org's stage until the transaction ends; False when it is held."""
    statement = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))")
    return bool(connection.execute(statement, {"name": f"hivemind_pipelines:{stage}:{org_id}"}).scalar_one())


def wait_lock(connection: Connection, org_id: OrgId, stage: str) -> None:
    """Take the advisory lock of `try_lock`, waiting as long as for any other lock."""
    statement = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")
    connection.execute(statement, {"name": f"hivemind_pipelines:{stage}:{org_id}"})


def copy_rows(
    connection: Connection, table: str, columns: Sequence[str], rows: Iterator[Sequence[object]]
) -> None:
    """Append rows by COPY; `table` is schema-qualified, a dict in a row is sent as jsonb."""
    target = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(*table.split(".")), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    with raw_cursor(connection) as cursor, cursor.copy(target) as copy:
        for row in rows:
            copy.write_row([Jsonb(value) if isinstance(value, dict) else value for value in row])


_ANALYZED = ("item_features", "lsh_bands", "candidate_pairs", "registered_items")


def refresh_statistics(store: Store) -> None:
    """Tell the planner of a bulk load now, not when autovacuum gets there.

    A role that does not own the tables is answered with a warning and loses only speed.
    """
    with store.begin() as connection:
        for table in _ANALYZED:
            connection.execute(text(f"ANALYZE distillation.{table}"))


@contextmanager
def raw_cursor(connection: Connection) -> Iterator[psycopg.Cursor[Any]]:
    """psycopg's own cursor inside the connection's transaction: for COPY and server-side cursors."""
    driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
    with driver.cursor() as cursor:
        yield cursor


_CONNECT_DEFAULTS = {"application_name": APPLICATION_NAME, "connect_timeout": "10"}


def _engine(address: URL) -> Engine:
    engine = create_engine(
        address,
        pool_size=2,
        max_overflow=14,
        pool_pre_ping=True,
        pool_recycle=600,
        # Item text is a parameter; an exception must never quote it.
        hide_parameters=True,
        use_native_hstore=False,
        connect_args={name: value for name, value in _CONNECT_DEFAULTS.items() if name not in address.query},
    )
    event.listen(engine, "connect", _set_session)
    event.listen(engine, "handle_error", _forget_values)
    return engine


_SESSION = """
SELECT set_config(wanted.name, wanted.setting, false)
FROM unnest(%s::text[], %s::text[]) AS wanted (name, setting)
JOIN pg_settings AS given ON given.name = wanted.name
WHERE given.source <> 'client'
"""


def _set_session(driver: psycopg.Connection[Any], _record: object) -> None:
    driver.execute("SET TIME ZONE 'UTC'")
    driver.execute(_SESSION, (list(SESSION_DEFAULTS), list(SESSION_DEFAULTS.values())))
    driver.commit()


def _forget_values(context: ExceptionContext) -> None:
    # DETAIL and CONTEXT of a Postgres error quote the failing row.
    original, wrapped = context.original_exception, context.sqlalchemy_exception
    if isinstance(original, psycopg.Error):
        _keep_first_line(original)
        if wrapped is not None:
            wrapped.args = (f"({type(original).__module__}.{type(original).__name__}) {original}",)


def _keep_first_line(error: psycopg.Error) -> None:
    error.args = ((error.diag.message_primary or str(error)).split("\n", 1)[0],)


@contextmanager
def _plain_errors(address: URL) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        trouble = _use_trouble(address, error.orig)
        if trouble is None:
            raise
        raise StoreError(trouble) from None
    except psycopg.Error as error:
        _keep_first_line(error)
        trouble = _use_trouble(address, error)
        if trouble is None:
            raise
        raise StoreError(trouble) from None


def _use_trouble(address: URL, error: BaseException | None) -> str | None:
    database = address.database or address.username or "?"
    match error:
        case errors.UndefinedTable() | errors.InvalidSchemaName():
            return f"database {database!r} lacks tables of ours ({error}); run `hivemind-pipelines migrate`"
        case errors.InsufficientPrivilege():
            return f"the role of the database URL lacks a right on database {database!r}: {error}"
        case errors.LockNotAvailable():
            return f"gave up waiting for a lock that another session holds on database {database!r}"
        case errors.DeadlockDetected():
            return f"two sessions waited for each other on database {database!r}; nothing was done, try again"
        case errors.QueryCanceled():
            return f"a statement on database {database!r} was stopped: {error}"
        case errors.AdminShutdown() | errors.CrashShutdown() | errors.CannotConnectNow():
            return f"the Postgres server at {_place(address)} went away: {error}"
        case psycopg.OperationalError() if error.sqlstate is None:
            return f"the connection to Postgres at {_place(address)} was lost"
        case _:
            return None


_REASONS: tuple[tuple[str, str], ...] = (
    (r"password authentication failed|no password supplied|pg_hba\.conf|authentication failed", "auth"),
    (r'role "[^"]*" does not exist', "auth"),
    (r'database "[^"]*" does not exist', "database"),
    (r"permission denied for database", "right"),
    (r"could not translate host name|failed to resolve host|Name or service not known", "host"),
    (r"Connection refused|No such file or directory|timeout expired|timed out|unreachable|No route", "down"),
)


def _connect_trouble(address: URL, error: BaseException | None) -> str:
    """One line that says why connecting failed, in our words where the reason is known."""
    place, said = _place(address), str(error)
    kind = next((kind for pattern, kind in _REASONS if re.search(pattern, said)), None)
    match kind:
        case "auth":
            return f"Postgres at {place} refuses role {address.username!r}: check the role and its password"
        case "database":
            return f"Postgres at {place} has no database {address.database!r}: create it first"
        case "right":
            return f"role {address.username!r} may not connect to database {address.database!r} at {place}"
        case "host":
            return f"cannot reach Postgres: the host name in {place} does not resolve"
        case "down":
            return f"cannot reach Postgres at {place}: is the server running and the address right?"
        case _:
            return f"cannot connect to Postgres at {place}: {_without_password(address, said)}"


def _without_password(address: URL, message: str) -> str:
    line = message.strip().split("\n", 1)[0]
    password = str(address.password or "")
    return line.replace(password, "***") if password else line


def _place(address: URL) -> str:
    host = address.host or address.query.get("host") or "the local socket"
    return f"{host}:{address.port}" if address.port else str(host)
