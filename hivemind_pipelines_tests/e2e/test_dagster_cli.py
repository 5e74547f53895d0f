"""A policy change carried through by Dagster's own command lines, as subprocesses beside a real daemon."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from dagster import DagsterInstance

from hivemind_pipelines.core.undo import RunTarget
from hivemind_pipelines.defs.development import stop_group, write_instance
from hivemind_pipelines.defs.partitions import add_orgs
from hivemind_pipelines.settings import load, load_policy
from hivemind_pipelines.stages import staleness, undo
from hivemind_pipelines.stages.backlog import ModelStamps
from hivemind_pipelines.stages.context import build_services
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import rows
from hivemind_pipelines_tests.test_cli_rollout import BASE, MOVED, fresh, policy_file

PROJECT = Path(__file__).parents[2]
ORGS = [f"org-{number}" for number in range(5)]
STALE = "item_features,duplicate_pairs,duplicate_merges,prescreened_contributions,distillation_report"
DAEMON_WITHIN_S = 180


@pytest.fixture
def policy_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database_url: str) -> Path:
    """The policy file of a deployment with an instance of its own."""
    for name in list(os.environ):
        if name.startswith(("HIVEMIND_", "DAGSTER_")):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    monkeypatch.setenv("HIVEMIND_HOME", str(home))
    monkeypatch.setenv("HIVEMIND_DATABASE_URL", database_url)
    monkeypatch.setenv("HIVEMIND_POLICY_FILE", str(tmp_path / "policy.yaml"))
    monkeypatch.setenv("DAGSTER_HOME", str(write_instance(home / "dagster")))
    return policy_file(tmp_path / "policy.yaml")


def call(*words: str) -> subprocess.CompletedProcess[str]:
    """One of the commands that Dagster installs beside this Python."""
    command = [str(Path(sys.executable).parent / words[0]), *words[1:]]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300, check=False)


@contextmanager
def a_daemon() -> Iterator[None]:
    """`dagster-daemon` with the project's workspace."""
    command = [str(Path(sys.executable).parent / "dagster-daemon"), "run", "-w", "workspace.yaml"]
    process = subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        yield
    finally:
        stop_group(process)


def stale_orgs(store: Store) -> list[str]:
    """Orgs that the policy file of now did not decide."""
    settings = load()
    policy = load_policy(settings)
    found = staleness.read(store, policy, ModelStamps.of(build_services(settings, policy)))
    return [one.org_id for one in found.orgs]


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DAEMON_WITHIN_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(1)


def merged_orgs(store: Store) -> list[str]:
    return [row.org_id for row in rows(store, "SELECT org_id FROM distillation.merges ORDER BY 1")]


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_stale_orgs_are_brought_back_by_dagsters_own_commands(store: Store, policy_in_force: Path) -> None:
    fresh(store, ORGS)
    with DagsterInstance.get() as instance:
        add_orgs(instance, ORGS)
    policy_in_force.write_text(yaml.safe_dump(BASE | {"matching": MOVED["matching"]}))
    assert stale_orgs(store) == ORGS

    module = ("-m", "hivemind_pipelines.definitions")
    alone = call("dagster", "asset", "materialize", *module, "--select", STALE, "--partition", "org-0")
    assert (alone.returncode, stale_orgs(store)) == (0, ORGS[1:]), alone.stderr[-2000:]
    alone = call("dg", "launch", "--assets", STALE, "--partition", "org-1")
    assert (alone.returncode, stale_orgs(store)) == (0, ORGS[2:]), alone.stderr[-2000:]

    ranged = call("dg", "launch", "--assets", STALE, "--partition-range", "org-2...org-4")
    assert ranged.returncode != 0
    assert "BackfillPolicy.single_run()" in ranged.stderr
    assert stale_orgs(store) == ORGS[2:]

    several = "org-2,org-3,org-4"
    asked = call(
        "dagster", "job", "backfill", "-w", "workspace.yaml", "-j", "distillation",
        "--partitions", several, "--noprompt",
    )  # fmt: skip
    said = re.search(r"Launched backfill job `(\w+)`", asked.stdout)
    assert said is not None, asked.stderr[-2000:]
    with a_daemon():
        wait_until(lambda: not stale_orgs(store))
    assert merged_orgs(store) == ORGS
    undone = undo.run(store, load_policy(load()), RunTarget(said[1]), now=datetime.now(UTC))
    assert undone.is_complete
    assert merged_orgs(store) == ORGS[:2]
