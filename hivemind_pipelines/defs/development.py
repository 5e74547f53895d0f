"""`dev`: database, Dagster UI, daemon and automation from one command, and nothing left when it stops."""

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from hivemind_pipelines.settings import Settings
from hivemind_pipelines.store.connection import open_store

START_TIMEOUT_S = 120.0
#: How long Dagster's services may take to end by themselves, and then what they leave behind.
LEADER_TIMEOUT_S = 30.0
GROUP_TIMEOUT_S = 10.0

_POLL_S = 0.2

Say = Callable[[str], None]


def serve(settings: Settings, *, port: int = 3000, host: str = "127.0.0.1", say: Say | None = None) -> int:
    """Run until Ctrl-C or SIGTERM; returns the exit code: 0 stopped, 1 services failed, 2 port in use.

    Raises StoreError, EmbeddedPostgresError or what `migrate` raises when there is no usable database.
    """
    say = say or _say
    if not _is_free(host, port):
        print(f"port {port} on {host} is in use; name another with --port", file=sys.stderr)
        return 2
    with _stop_signals() as stop, _database(settings):
        if stop.is_set():
            return 0
        dagster_home = write_instance(settings.home / "dagster")
        process = _start(settings, dagster_home, port=port, host=host)
        try:
            return _watch(process, stop, f"http://{_in_url(host)}:{port}", say)
        finally:
            say("stopping ...")
            stop_group(process)


def write_instance(dagster_home: Path) -> Path:
    """Make a DAGSTER_HOME with our instance and workspace files; returns it, absolute."""
    dagster_home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(__file__).with_name("dagster.yaml"), dagster_home / "dagster.yaml")
    (dagster_home / "workspace.yaml").write_text(_WORKSPACE, encoding="utf-8")
    return dagster_home.absolute()


def stop_group(process: subprocess.Popen[bytes]) -> None:
    """End a session leader and everything it started, politely first; returns when all are gone."""
    if process.poll() is None:
        # To the leader alone: it knows in which order its services end.
        process.send_signal(signal.SIGINT)
    _wait_until(lambda: process.poll() is not None, LEADER_TIMEOUT_S)
    for number in (signal.SIGTERM, signal.SIGKILL):
        if _wait_until(lambda: _is_gone(process), 0):
            return
        _signal_group(process.pid, number)
        _wait_until(lambda: _is_gone(process), GROUP_TIMEOUT_S)


_WORKSPACE = """\
load_from:
  - python_module:
      module_name: hivemind_pipelines.definitions
      location_name: hivemind_pipelines
"""


@contextmanager
def _database(settings: Settings) -> Iterator[None]:
    from hivemind_pipelines.store.migrations.migrate import migrate

    if settings.database_url is not None:
        with open_store(settings.database_url) as store:
            migrate(store)
        yield
        return
    from hivemind_pipelines.services import embedded_postgres

    try:
        with open_store(embedded_postgres.ensure_running(settings.home)) as store:
            migrate(store)
        yield
    finally:
        embedded_postgres.stop(settings.home)


def _start(settings: Settings, dagster_home: Path, *, port: int, host: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "dagster", "dev", "--log-level", "warning"]
    command += ["--workspace", "workspace.yaml", "--port", str(port), "--host", host]
    # Its own session: Ctrl-C reaches us alone, and a signal to the group reaches all that is theirs.
    return subprocess.Popen(
        command, cwd=dagster_home, env=_environment(settings, dagster_home), start_new_session=True
    )


def _environment(settings: Settings, dagster_home: Path) -> Mapping[str, str]:
    ours = {
        "DAGSTER_HOME": str(dagster_home),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "HIVEMIND_HOME": str(settings.home),
        "HIVEMIND_AUTOMATION": "on",
        # `dagster dev` recommends `dg dev`, which needs a checkout.
        "PYTHONWARNINGS": "ignore:Function `dev_command`",
    }
    optional = {
        "HIVEMIND_DATABASE_URL": settings.database_url,
        "HIVEMIND_POLICY_FILE": settings.policy_file,
        "HIVEMIND_GLINER_MODEL": settings.gliner_model,
    }
    given = {name: str(value) for name, value in optional.items() if value is not None}
    return {**os.environ, **given, **ours}


def _watch(process: subprocess.Popen[bytes], stop: threading.Event, address: str, say: Say) -> int:
    deadline = time.monotonic() + START_TIMEOUT_S
    is_up = False
    while not stop.wait(_POLL_S):
        if process.poll() is not None:
            print(f"Dagster ended by itself with code {process.returncode}", file=sys.stderr)
            return 1
        if not is_up and _answers(address):
            is_up = True
            say(f"Dagster UI: {address}  (Ctrl-C stops everything)")
        if not is_up and time.monotonic() > deadline:
            print(f"Dagster did not answer within {START_TIMEOUT_S:.0f} s", file=sys.stderr)
            return 1
    return 0


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM and SIGHUP set; also for a process started with SIGINT ignored.

    A caught signal is back to its default in a child, so the services can be interrupted too.
    """
    stop = threading.Event()

    def request(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, request) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the webserver binds: the remains of closed connections are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def _answers(address: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{address}/server_info", timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


def _is_gone(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is not None and not _group_lives(process.pid)


def _wait_until(holds: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S / 4)
    return True


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _say(line: str) -> None:
    print(line, flush=True)
