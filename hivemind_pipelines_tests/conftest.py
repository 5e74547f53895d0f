"""One Postgres for the whole session, one fresh database for each test that asks for one."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from hivemind_pipelines.services import embedded_postgres
from hivemind_pipelines.store.connection import Store, open_store
from hivemind_pipelines.store.migrations.migrate import migrate
from hivemind_pipelines_tests.builders import HIVEMIND_SCHEMA

MakeDatabase = Callable[[str], str]


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a throwaway server's first database; the server is stopped when the session ends."""
    home = Path(tempfile.mkdtemp(prefix="hivemind-tests-"))
    # The server runs as a user of its own when the tests run as root.
    home.chmod(0o755)
    try:
        url = embedded_postgres.ensure_running(home)
        _trade_safety_for_speed(url)
        yield url
    finally:
        embedded_postgres.stop(home)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def make_database(postgres_url: str) -> MakeDatabase:
    """Creates a database, cloned from the one named, and answers with its URL."""
    numbers = count(1)

    def make(template: str) -> str:
        name = f"test_{next(numbers)}"
        _administer(postgres_url, "CREATE DATABASE {} TEMPLATE {}", name, template)
        return make_url(postgres_url).set(database=name).render_as_string(hide_password=False)

    return make


@pytest.fixture(scope="session")
def migrated_template(make_database: MakeDatabase) -> str:
    """The name of a database that was migrated once and is only cloned from then on."""
    url = make_database("template1")
    with open_store(url) as store:
        migrate(store)
    return str(make_url(url).database)


@pytest.fixture
def database_url(postgres_url: str, make_database: MakeDatabase, migrated_template: str) -> Iterator[str]:
    """The URL of a fresh, migrated, empty database."""
    with dropped_after(postgres_url, make_database(migrated_template)) as url:
        yield url


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """A store on a fresh, migrated, empty database."""
    with open_store(database_url) as opened:
        yield opened


@pytest.fixture
def empty_database_url(postgres_url: str, make_database: MakeDatabase) -> Iterator[str]:
    """The URL of a database in which there is nothing at all."""
    with dropped_after(postgres_url, make_database("template1")) as url:
        yield url


@pytest.fixture
def hivemind_store(empty_database_url: str) -> Iterator[Store]:
    """A store on a database that a HiveMind server made and that never saw us."""
    with psycopg.connect(_libpq(empty_database_url), autocommit=True) as connection:
        connection.execute(HIVEMIND_SCHEMA)
    with open_store(empty_database_url) as opened:
        yield opened


@contextmanager
def dropped_after(server_url: str, url: str) -> Iterator[str]:
    """Hands on the URL and drops its database afterwards, with whoever is still connected."""
    try:
        yield url
    finally:
        _administer(server_url, "DROP DATABASE {} WITH (FORCE)", str(make_url(url).database))


def _administer(server_url: str, statement: str, *names: str) -> None:
    with psycopg.connect(_libpq(server_url), autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def _trade_safety_for_speed(server_url: str) -> None:
    with psycopg.connect(_libpq(server_url), autocommit=True) as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.execute(sql.SQL("ALTER SYSTEM SET {} = off").format(sql.Identifier(setting)))
        connection.execute("SELECT pg_reload_conf()")


def _libpq(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
