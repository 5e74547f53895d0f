"""A policy change as an operator walks through it in the UI: change, stale, plan, backfill, fresh, undo."""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import DagsterInstance
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._daemon.types import DaemonHeartbeat
from dagster_webserver.app import create_app_from_workspace_process_context
from starlette.testclient import TestClient

from hivemind_pipelines.core.model import Stage
from hivemind_pipelines.core.undo import RunTarget
from hivemind_pipelines.definitions import build_defs
from hivemind_pipelines.defs import backfill, policies, tags
from hivemind_pipelines.defs.partitions import add_orgs
from hivemind_pipelines.defs.resources import Commons
from hivemind_pipelines.settings import load, load_policy
from hivemind_pipelines.stages import planning, staleness, undo
from hivemind_pipelines.stages.backlog import ModelStamps
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import insert_item, public_dump, rows, scalar, unit_vector, vector_near
from hivemind_pipelines_tests.defs.conftest import SERVICES

MODULE = "hivemind_pipelines_tests.defs.walkthrough_location"
FIX = "Set the pool timeout to avoid stale connections after a database failover"
ORGS = ["acme", "beta"]
BEFORE = {"summary": {"method": "extractive"}, "matching": {"duplicate_min": 1.0}}
AFTER = BEFORE | {"matching": {"duplicate_min": 0.5}}

_DIRECT = """
run_coordinator:
  module: dagster._core.run_coordinator
  class: DefaultRunCoordinator
telemetry:
  enabled: false
"""

_STALENESS = """
query ($key: AssetKeyInput!, $org: String!) {
  assetNodeOrError(assetKey: $key) {
    ... on AssetNode {
      staleStatus(partition: $org)
      staleCauses(partition: $org) { key { path } reason }
    }
  }
}
"""


@pytest.fixture
def policy_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database_url: str) -> Path:
    for name in list(os.environ):
        if name.startswith(("HIVEMIND_", "DAGSTER_")):
            monkeypatch.delenv(name)
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump(BEFORE), encoding="utf-8")
    (tmp_path / "dagster").mkdir()
    (tmp_path / "dagster" / "dagster.yaml").write_text(_DIRECT, encoding="utf-8")
    monkeypatch.setenv("HIVEMIND_DATABASE_URL", database_url)
    monkeypatch.setenv("HIVEMIND_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HIVEMIND_POLICY_FILE", str(file))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    return file


def commons(store: Store) -> Commons:
    settings = load()
    return Commons(settings=settings, policy=load_policy(settings), store=store, services=SERVICES)


@contextmanager
def a_daemon(workspace: WorkspaceProcessContext) -> Iterator[None]:
    """What `dagster-daemon` does about backfills, here, with a heartbeat that others see."""
    stop = threading.Event()

    def beat() -> None:
        instance = workspace.instance
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), "BACKFILL", "test", errors=[]))

    def work() -> None:
        while not stop.wait(0.5):
            beat()
            list(execute_backfill_iteration(workspace, logging.getLogger("daemon")))

    beat()
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)


class Ui:
    """The webserver's GraphQL."""

    def __init__(self, workspace: WorkspaceProcessContext) -> None:
        self._client = TestClient(create_app_from_workspace_process_context(workspace))

    def staleness(self, asset: str, org: str) -> tuple[str, list[str]]:
        """The status of one partition, and the assets that are its causes."""
        variables = {"key": {"path": [asset]}, "org": org}
        answer: Any = self._client.post("/graphql", json={"query": _STALENESS, "variables": variables}).json()
        node = answer["data"]["assetNodeOrError"]
        return node["staleStatus"], [cause["key"]["path"][0] for cause in node["staleCauses"]]

    def stale(self) -> set[str]:
        """The stages of which some org's partition is not fresh."""
        return {stage.value for stage in Stage for org in ORGS if self.staleness(stage, org)[0] != "FRESH"}


@pytest.mark.timeout(600)
def test_change_stale_plan_backfill_fresh_undo(store: Store, policy_file: Path) -> None:
    vector = unit_vector(1)
    for org in ORGS:
        for number, text in enumerate((FIX, f"{FIX} today")):
            insert_item(store, text, org, embedding=vector_near(vector, 0.97, number))
    target = ModuleTarget(MODULE, None, None, "hivemind_pipelines")
    with DagsterInstance.get() as instance, WorkspaceProcessContext(instance, target) as workspace:
        ui, here = Ui(workspace), commons(store)
        add_orgs(instance, ORGS)
        policies.observe(instance, here)
        for org in ORGS:
            job = build_defs({"commons": here}).resolve_job_def("distillation")
            assert job.execute_in_process(instance=instance, partition_key=org).success
        assert ui.stale() == set()
        before = public_dump(store)

        policy_file.write_text(yaml.safe_dump(AFTER), encoding="utf-8")
        in_force, here = here.policy, commons(store)
        policies.observe(instance, here)
        assert ui.stale() == {
            "item_features", "duplicate_pairs", "duplicate_merges", "prescreened_contributions"
        }  # fmt: skip
        assert ui.staleness("duplicate_merges", "acme") == ("STALE", ["matching_policy"])

        now, models = datetime.now(UTC), ModelStamps.of(SERVICES)
        stale = staleness.read(store, here.policy, models)
        planned = planning.plan(store, SERVICES, in_force, here.policy, stale_orgs(stale), now=now)
        assert [one.matching.merged for one in planned.orgs] == [1, 1]
        assert public_dump(store) == before

        with a_daemon(workspace):
            done = backfill.carry_out(
                build_defs({"commons": here}), instance, here, backfill.Request(stale),
                on_progress=lambda *_: None, module=MODULE,
            )  # fmt: skip
        assert (done.by, done.failure, dict(done.failures)) == ("daemon", None, {})
        assert scalar(store, "SELECT count(*) FROM distillation.merges") == 2
        assert ui.stale() == set()
        assert not staleness.read(store, here.policy, models)
        found = instance.get_backfill(done.backfill_id)
        assert found is not None
        assert found.tags[tags.POLICY_VERSION] == here.policy.version
        query = "SELECT count(DISTINCT dagster_run_id) FROM distillation.runs WHERE backfill_id = :id"
        assert scalar(store, query, id=done.backfill_id) == 1

        undone = undo.run(store, here.policy, RunTarget(done.backfill_id), now=datetime.now(UTC))
        assert undone.is_complete
        assert without_runs(public_dump(store)) == without_runs(before)


def stale_orgs(stale: staleness.Staleness) -> list[Any]:
    return [one.org_id for one in stale.orgs]


def without_runs(dump: Any) -> Any:
    return {table: found for table, found in dump.items() if table != "deployment_config"}


def test_a_run_that_was_asked_for_under_another_policy_refuses_to_start(
    store: Store, policy_file: Path
) -> None:
    insert_item(store, FIX, "acme", embedding=unit_vector(1))
    assert policy_file.exists()
    with DagsterInstance.ephemeral() as instance:
        add_orgs(instance, ["acme"])
        job = build_defs({"commons": commons(store)}).resolve_job_def("distillation")
        result = job.execute_in_process(
            instance=instance, partition_key="acme", raise_on_error=False,
            tags={tags.POLICY_VERSION: "0" * 16},
        )  # fmt: skip
    assert not result.success
    assert rows(store, "SELECT 1 FROM distillation.runs") == []
