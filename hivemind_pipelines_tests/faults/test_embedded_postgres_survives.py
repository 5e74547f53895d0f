"""What the embedded server survives: kill -9 at any moment, stale files, many processes at once."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from hivemind_pipelines.services import embedded_postgres

ROWS = 1_000
ENSURE = """
import sys
from pathlib import Path
from hivemind_pipelines.services.embedded_postgres import ensure_running
print(ensure_running(Path(sys.argv[1])))
"""
COMPUTE = """
import sys
import psycopg
with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    print("connected", flush=True)
    connection.execute("SELECT count(*) FROM generate_series(1, 30000000)")
"""


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A server that holds committed rows; not below tmp_path, which other runs of pytest close."""
    with stopped_at_the_end() as home:
        with connect(home) as connection:
            connection.execute("CREATE TABLE kept AS SELECT generate_series(1, %s) AS x", (ROWS,))
        yield home


@pytest.fixture
def fresh_home() -> Iterator[Path]:
    """An empty directory for a server of the test's own."""
    with stopped_at_the_end() as home:
        yield home


def test_committed_rows_outlive_a_killed_postmaster(home: Path) -> None:
    kill_postmaster(home)
    assert kept_rows(home) == ROWS


def test_a_stranger_that_took_over_the_process_id_is_no_obstacle(home: Path) -> None:
    kill_postmaster(home)
    write_process_id(home, os.getpid())
    assert kept_rows(home) == ROWS


def test_stopping_does_not_signal_a_stranger_that_took_over_the_process_id(home: Path) -> None:
    kill_postmaster(home)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        write_process_id(home, stranger.pid)
        embedded_postgres.stop(home)
        stranger.communicate(b"\n")
    assert stranger.returncode == 0
    assert kept_rows(home) == ROWS


def test_an_empty_lock_file_is_no_obstacle(home: Path) -> None:
    embedded_postgres.stop(home)
    (home / "postgres" / "postmaster.pid").touch()
    assert kept_rows(home) == ROWS


def test_a_backend_that_outlives_its_postmaster_is_waited_for(home: Path) -> None:
    url = embedded_postgres.ensure_running(home).replace("+psycopg:", ":")
    command = [sys.executable, "-c", COMPUTE, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as busy:
        assert busy.stdout is not None
        assert busy.stdout.readline() == "connected\n"
        kill_postmaster(home)
        assert kept_rows(home) == ROWS
        busy.kill()


def test_processes_that_find_it_killed_at_once_share_one_server(home: Path) -> None:
    kill_postmaster(home)
    assert ensure_in_processes(home, 3) == {embedded_postgres.ensure_running(home)}
    assert kept_rows(home) == ROWS


def test_processes_that_make_it_at_once_share_one_server_that_outlives_them(fresh_home: Path) -> None:
    urls = ensure_in_processes(fresh_home, 3)
    started_by_one = process_id(fresh_home)
    assert urls == {embedded_postgres.ensure_running(fresh_home)}
    assert process_id(fresh_home) == started_by_one


def test_a_process_killed_while_it_makes_the_server_does_not_stop_the_next(fresh_home: Path) -> None:
    command = [sys.executable, "-c", ENSURE, str(fresh_home)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as maker:
        while not any(fresh_home.glob("postgres.new-*/PG_VERSION")):
            time.sleep(0.01)
        maker.kill()
    with connect(fresh_home) as connection:
        connection.execute("SELECT '[1]'::vector")


@contextmanager
def stopped_at_the_end() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hivemind-home-") as home:
        try:
            yield Path(home)
        finally:
            embedded_postgres.stop(Path(home))


def connect(home: Path) -> "psycopg.Connection[tuple[int]]":
    url = embedded_postgres.ensure_running(home).replace("+psycopg:", ":")
    return psycopg.connect(url, autocommit=True)


def kept_rows(home: Path) -> int:
    with connect(home) as connection:
        found = connection.execute("SELECT count(*) FROM kept").fetchone()
    return found[0] if found else 0


def process_id(home: Path) -> int:
    return int((home / "postgres" / "postmaster.pid").read_text().split()[0])


def write_process_id(home: Path, process_id: int) -> None:
    lock_file = home / "postgres" / "postmaster.pid"
    _, _, rest = lock_file.read_text().partition("\n")
    lock_file.write_text(f"{process_id}\n{rest}")


def kill_postmaster(home: Path) -> None:
    embedded_postgres.ensure_running(home)
    os.kill(process_id(home), signal.SIGKILL)


def ensure_in_processes(home: Path, count: int) -> set[str]:
    command = [sys.executable, "-c", ENSURE, str(home)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    urls = {process.communicate()[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0] * count
    return urls
