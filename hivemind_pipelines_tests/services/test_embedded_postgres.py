"""The embedded server: one address, a real answer, odd paths, clear refusals."""

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from hivemind_pipelines.services import embedded_postgres
from hivemind_pipelines.services.embedded_postgres import EmbeddedPostgresError

ENSURE = """
import sys
from pathlib import Path
from hivemind_pipelines.services.embedded_postgres import ensure_running
ensure_running(Path(sys.argv[1]))
"""


@contextmanager
def stopped_at_the_end() -> Iterator[Path]:
    """A home whose server is stopped; not below tmp_path, which other runs of pytest close to its user."""
    with tempfile.TemporaryDirectory(prefix="hivemind-home-") as home:
        try:
            yield Path(home)
        finally:
            embedded_postgres.stop(Path(home))


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with stopped_at_the_end() as home:
        embedded_postgres.ensure_running(home)
        yield home


@pytest.fixture
def fresh_home() -> Iterator[Path]:
    with stopped_at_the_end() as home:
        yield home


def answer(url: str, query: str) -> object:
    """The first column of the first row."""
    with connect(url) as connection:
        row = connection.execute(query).fetchone()
    return row[0] if row else None


def execute(url: str, *statements: str) -> None:
    """Run statements, each in a transaction of its own."""
    with connect(url) as connection:
        for statement in statements:
            connection.execute(statement)


def connect(url: str) -> "psycopg.Connection[tuple[object, ...]]":
    """A connection for any of our URLs."""
    return psycopg.connect(url.replace("+psycopg2:", ":").replace("+psycopg:", ":"), autocommit=True)


def test_the_database_answers_and_knows_vectors(home: Path) -> None:
    url = embedded_postgres.ensure_running(home)
    assert url.startswith("postgresql+psycopg://postgres@/hivemind?host=/")
    assert answer(url, "SELECT '[1,0]'::vector <=> '[0,1]'::vector") == pytest.approx(1.0)
    assert answer(url, "SELECT current_database()") == "hivemind"


def test_asking_again_gives_the_same_server(home: Path) -> None:
    first = embedded_postgres.ensure_running(home)
    started = answer(first, "SELECT pg_postmaster_start_time()")
    assert embedded_postgres.ensure_running(home) == first
    assert answer(first, "SELECT pg_postmaster_start_time()") == started


def test_it_listens_on_no_network_address(home: Path) -> None:
    url = embedded_postgres.ensure_running(home)
    assert answer(url, "SHOW listen_addresses") == ""


def test_only_its_owner_can_reach_the_data(home: Path) -> None:
    assert stat.S_IMODE((home / "postgres").stat().st_mode) == 0o700


def test_dagster_has_a_database_of_its_own(home: Path) -> None:
    url = embedded_postgres.dagster_url(home)
    assert url.startswith("postgresql+psycopg2://postgres@/dagster?host=/")
    assert answer(url, "SELECT current_database()") == "dagster"
    assert embedded_postgres.dagster_url(home) == url


@pytest.mark.parametrize("name", ["plain", "Odd name", """a'b"c\\d;--""", "naïve/slash?x=1&y#z%"])
def test_a_database_may_have_any_name(home: Path, name: str) -> None:
    url = embedded_postgres.ensure_database(embedded_postgres.ensure_running(home), name)
    assert answer(url, "SELECT current_database()") == name
    assert embedded_postgres.ensure_database(url, name) == url


def test_the_log_holds_no_statement_and_no_row(home: Path) -> None:
    url = embedded_postgres.ensure_running(home)
    execute(
        url,
        "CREATE TABLE checked (x text UNIQUE CHECK (x <> 'secret-1'))",
        "INSERT INTO checked VALUES ('secret-2')",
    )
    for statement in (
        "INSERT INTO checked VALUES ('secret-1')",
        "INSERT INTO checked VALUES ('secret-2')",
        "SELECT 'secret-3'::uuid",
    ):
        with pytest.raises(psycopg.Error):
            execute(url, statement)
    assert b"secret" not in (home / "postgres" / "log").read_bytes()


def test_the_callers_environment_does_not_reach_the_server(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGHOST", "nowhere.invalid")
    monkeypatch.setenv("PGDATABASE", "nothing")
    assert answer(embedded_postgres.ensure_running(home), "SELECT current_database()") == "hivemind"


def test_stopping_ends_it_and_starting_again_finds_the_data(home: Path) -> None:
    url = embedded_postgres.ensure_running(home)
    execute(url, "CREATE TABLE stopped AS SELECT 7 AS x")
    embedded_postgres.stop(home)
    embedded_postgres.stop(home)
    with pytest.raises(psycopg.OperationalError):
        answer(url, "SELECT 1")
    assert answer(embedded_postgres.ensure_running(home), "SELECT x FROM stopped") == 7


def test_stopping_what_never_ran_makes_nothing(tmp_path: Path) -> None:
    embedded_postgres.stop(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_a_path_too_long_and_too_odd_for_a_socket_works(fresh_home: Path) -> None:
    home = fresh_home / """sp ace, 'quote' "double" $HOME `id`; ü""" / ("long" * 30)
    try:
        url = embedded_postgres.ensure_running(home)
        socket_directory = Path(parse_qs(urlsplit(url).query)["host"][0])
        assert answer(url, "SELECT 1") == 1
        assert stat.S_IMODE(socket_directory.stat().st_mode) == 0o700
    finally:
        embedded_postgres.stop(home)
    assert not socket_directory.exists()


def test_a_relative_home_is_where_the_caller_stands(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home.parent)
    assert embedded_postgres.ensure_running(Path(home.name)) == embedded_postgres.ensure_running(home)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server runs under another user")
def test_below_a_private_directory_the_server_may_pass_but_nobody_may_read(fresh_home: Path) -> None:
    fresh_home.chmod(0o700)
    assert answer(embedded_postgres.ensure_running(fresh_home), "SELECT 1") == 1
    assert stat.S_IMODE(fresh_home.stat().st_mode) == 0o701


def test_a_home_that_is_a_file_is_one_clear_line(tmp_path: Path) -> None:
    home = tmp_path / "file"
    home.write_text("")
    with pytest.raises(EmbeddedPostgresError) as refused:
        embedded_postgres.ensure_running(home)
    assert str(refused.value) == f"embedded Postgres: {home}: File exists"


def test_a_server_that_cannot_start_says_why_in_one_line(home: Path) -> None:
    embedded_postgres.stop(home)
    version = home / "postgres" / "PG_VERSION"
    version.write_text("12\n")
    try:
        with pytest.raises(EmbeddedPostgresError) as refused:
            embedded_postgres.ensure_running(home)
    finally:
        version.write_text("18\n")
    message = str(refused.value)
    assert (
        message
        == f"cannot start Postgres in {home / 'postgres'}: database files are incompatible with server"
    )


def test_a_first_start_says_nothing_and_clears_what_a_killed_one_left(fresh_home: Path) -> None:
    fresh_home.chmod(0o755)
    unfinished = fresh_home / "postgres.new-killed"
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("18\n")
    command = [sys.executable, "-W", "error", "-c", ENSURE, str(fresh_home)]
    started = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (started.stdout, started.stderr) == ("", "")
    assert not unfinished.exists()
