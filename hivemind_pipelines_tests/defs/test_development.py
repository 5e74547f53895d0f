"""The dev server's edges: a taken port, and children that do not want to stop."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hivemind_pipelines.defs import development
from hivemind_pipelines.settings import Settings

_STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) == 1:
    subprocess.Popen([sys.executable, __file__, "child"])
print("ready", flush=True)
time.sleep(600)
"""

_ORPHANING = """
import signal, subprocess, sys, time
if len(sys.argv) == 1:
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    subprocess.Popen([sys.executable, __file__, "child"], start_new_session=False)
else:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""


def test_a_port_in_use_is_one_clear_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert development.serve(Settings(home=tmp_path / "home"), port=port) == 2
    assert capsys.readouterr().err == f"port {port} on 127.0.0.1 is in use; name another with --port\n"
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("program", [_STUBBORN, _ORPHANING], ids=["ignores signals", "leaves a child"])
def test_a_stopped_group_leaves_no_process_behind(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(development, "LEADER_TIMEOUT_S", 1.0)
    monkeypatch.setattr(development, "GROUP_TIMEOUT_S", 1.0)
    script = tmp_path / "service.py"
    script.write_text(program)
    process = subprocess.Popen([sys.executable, str(script)], start_new_session=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert [process.stdout.readline(), process.stdout.readline()] == [b"ready\n", b"ready\n"]
        development.stop_group(process)
    assert process.returncode is not None
    assert not _alive(process.pid)


def test_the_services_get_the_home_and_automation_and_no_telemetry(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url="postgresql://somewhere/else")
    environment = development._environment(settings, tmp_path / "dagster")
    assert environment["HIVEMIND_HOME"] == str(tmp_path)
    assert environment["HIVEMIND_AUTOMATION"] == "on"
    assert environment["HIVEMIND_DATABASE_URL"] == "postgresql://somewhere/else"
    assert environment["DAGSTER_DISABLE_TELEMETRY"]


def _alive(group: int) -> bool:
    deadline = time.monotonic() + 2
    while development._group_lives(group):
        if time.monotonic() > deadline:
            return True
        time.sleep(0.05)
    return False
