"""`dev` as an operator has it: rows arrive, a run follows by itself, Ctrl-C leaves nothing behind."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hivemind_pipelines.services import embedded_postgres
from hivemind_pipelines.store.connection import open_store
from hivemind_pipelines_tests.builders import insert_pending, scalar

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="counts processes through /proc")

RUN_WITHIN_S = 120
START_WITHIN_S = 120
STOP_WITHIN_S = 60

_SERVE = """
import sys
from hivemind_pipelines.defs.development import serve
from hivemind_pipelines.settings import load
sys.exit(serve(load(), port=int(sys.argv[1])))
"""

_RUNS = """
query {
  runsOrError(filter: {pipelineName: "distillation"}) {
    ... on Runs { results { status tags { key value } } }
  }
}
"""

_INSTIGATORS = """
query {
  repositoryOrError(repositorySelector: {
    repositoryLocationName: "hivemind_pipelines", repositoryName: "__repository__"
  }) {
    ... on Repository {
      sensors { name sensorState { status } }
      schedules { name scheduleState { status } }
    }
  }
}
"""


class DevServer:
    """A running `dev`, seen from outside."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, home: Path) -> None:
        self.process = process
        self.port = port
        self.home = home

    def query(self, query: str) -> Any:
        """The data of a GraphQL query over HTTP."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql",
            data=json.dumps({"query": query}).encode(),
            headers={"Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as response:
            return json.load(response)["data"]

    def answers(self) -> bool:
        try:
            self.query("query { version }")
        except OSError:
            return False
        return True


@pytest.fixture
def home() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="hivemind-dev-"))
    # The server runs as a user of its own when the tests run as root.
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        embedded_postgres.stop(directory)
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _started(home: Path) -> Iterator[DevServer]:
    port = _free_port()
    own = {"HIVEMIND_HOME": str(home), "OMP_NUM_THREADS": "1"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HIVEMIND_")}
    process = subprocess.Popen([sys.executable, "-c", _SERVE, str(port)], env=environment | own)
    server = DevServer(process, port, home)
    try:
        yield server
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for pid in _processes_of(home):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.timeout(420)
def test_pending_rows_launch_a_run_and_ctrl_c_leaves_nothing_behind(home: Path) -> None:
    with _started(home) as server:
        _wait_for(server.answers, START_WITHIN_S, "the UI to answer")
        _assert_everything_runs(server)
        with open_store(embedded_postgres.ensure_running(home)) as store:
            for number in range(50):
                insert_pending(store, f"A pending note, number {number}.", confidence=0.0)
            _wait_for(lambda: "SUCCESS" in _statuses(server), RUN_WITHIN_S, "a run that succeeded")
            screened = scalar(store, "SELECT count(*) FROM distillation.prescreens WHERE is_low_quality")
            assert screened == 50
        assert _statuses(server)["SUCCESS"] == "acme"
        assert _processes_of(home)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(STOP_WITHIN_S) == 0
        assert _processes_of(home) == {}
        with socket.create_server(("127.0.0.1", server.port)):
            pass


def test_a_sigterm_during_the_start_leaves_nothing_behind(home: Path) -> None:
    with _started(home) as server:
        _wait_for(lambda: (home / "dagster" / "workspace.yaml").exists(), START_WITHIN_S, "the services")
        time.sleep(1)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(STOP_WITHIN_S) == 0
        assert _processes_of(home) == {}


def _assert_everything_runs(server: DevServer) -> None:
    _wait_for(lambda: _states(server), START_WITHIN_S, "the code location")
    assert set(_states(server).values()) == {"RUNNING"}


def _states(server: DevServer) -> dict[str, str]:
    repository = server.query(_INSTIGATORS)["repositoryOrError"]
    sensors = {one["name"]: one["sensorState"]["status"] for one in repository.get("sensors", [])}
    return sensors | {one["name"]: one["scheduleState"]["status"] for one in repository.get("schedules", [])}


def _statuses(server: DevServer) -> Mapping[str, str]:
    """The org of a distillation run by the run's status."""
    runs = server.query(_RUNS)["runsOrError"]["results"]
    assert not any(run["status"] == "FAILURE" for run in runs)
    return {run["status"]: _tag(run, "dagster/partition") for run in runs}


def _tag(run: Mapping[str, Any], key: str) -> str:
    return next((tag["value"] for tag in run["tags"] if tag["key"] == key), "")


def _wait_for(holds: Callable[[], object], within_s: float, what: str) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"waited {within_s} s for {what}"
        time.sleep(1)


def _processes_of(home: Path) -> dict[int, str]:
    """Processes whose command line or environment names the home: pid -> command line."""
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            command = (directory / "cmdline").read_bytes()
            environment = (directory / "environ").read_bytes()
        except OSError:
            continue
        own = int(directory.name) == os.getpid()
        if not own and str(home).encode() in command + environment:
            found[int(directory.name)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
