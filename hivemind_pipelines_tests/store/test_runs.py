"""Runs, policies, receipts and the keys that the server reads."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from hivemind_pipelines.core.model import OrgId, RunId
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.store import runs
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines.store.runs import Run
from hivemind_pipelines_tests.builders import ACME, rows, scalar

POLICY = DistillationPolicy()
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def a_run(as_of: datetime = NOW, org: OrgId | None = ACME, **changes: object) -> Run:
    job = "quality" if org is None else "distillation"
    values = {"run_id": RunId(uuid4()), "org_id": org, "job": job, "as_of": as_of} | changes
    return Run(policy_version=POLICY.version, stamps=POLICY.stamps(), **values)  # type: ignore[arg-type]


def start(store: Store, run: Run) -> Run:
    with store.begin() as connection:
        return runs.start(connection, run, POLICY)


def finish(store: Store, run: Run, counts: dict[str, int], at: datetime) -> None:
    with store.begin() as connection:
        runs.finish(connection, run.run_id, "finished", counts, at)


def last_run(store: Store, org: OrgId | None = ACME) -> Run | None:
    with store.read() as connection:
        return runs.last_run(connection, org, "quality" if org is None else "distillation")


def test_a_run_comes_back_as_it_was_started(store: Store) -> None:
    run = a_run(dagster_run_id="d-1", allowed=("mass_change",))
    assert start(store, run) == run
    assert last_run(store) == run


def test_starting_a_run_again_keeps_its_as_of(store: Store) -> None:
    run = a_run()
    start(store, run)
    again = a_run(run_id=run.run_id, as_of=NOW + timedelta(hours=1))
    assert start(store, again).as_of == NOW
    assert scalar(store, "SELECT count(*) FROM distillation.runs") == 1


def test_a_run_id_cannot_serve_two_orgs(store: Store) -> None:
    run = a_run()
    start(store, run)
    with pytest.raises(ValueError, match="another org"):
        start(store, a_run(run_id=run.run_id, org=OrgId("globex")))


def test_the_policy_of_a_run_is_kept_once_and_reads_back_the_same(store: Store) -> None:
    start(store, a_run())
    start(store, a_run(NOW + timedelta(hours=1)))
    (row,) = rows(store, "SELECT * FROM distillation.policies")
    assert (row.version, row.first_used_at) == (POLICY.version, NOW)
    assert DistillationPolicy.parse(row.document) == POLICY


def test_a_finished_run_keeps_its_counts_and_its_first_end(store: Store) -> None:
    run = start(store, a_run())
    finish(store, run, {"merged": 3}, NOW + timedelta(minutes=1))
    finish(store, run, {"merged": 9}, NOW + timedelta(minutes=9))
    stored = last_run(store)
    assert stored is not None
    assert (stored.status, stored.counts) == ("finished", {"merged": 3})
    assert stored.finished_at == NOW + timedelta(minutes=1)


def test_the_last_run_is_the_newest_of_its_org_and_job(store: Store) -> None:
    newest = a_run(NOW + timedelta(hours=2))
    for run in (
        a_run(),
        newest,
        a_run(NOW + timedelta(hours=1)),
        a_run(NOW + timedelta(hours=3), OrgId("globex")),
    ):
        start(store, run)
    assert last_run(store) == newest
    assert last_run(store, OrgId("nobody")) is None


def test_a_run_over_all_orgs_has_none(store: Store) -> None:
    run = start(store, a_run(org=None))
    assert last_run(store, None) == run
    assert last_run(store, ACME) is None


def test_abandoned_runs_of_the_org_are_closed_as_failed(store: Store) -> None:
    crashed, foreign, current = a_run(), a_run(org=OrgId("globex")), a_run(NOW + timedelta(hours=1))
    done = start(store, a_run())
    finish(store, done, {}, NOW)
    for run in (crashed, foreign, current):
        start(store, run)
    with store.begin() as connection:
        assert runs.close_abandoned(connection, ACME, NOW + timedelta(hours=1)) == 1
        assert runs.close_abandoned(connection, ACME, NOW + timedelta(hours=1)) == 0
    found = rows(store, "SELECT run_id, status FROM distillation.runs")
    statuses = {row.run_id: row.status for row in found}
    assert statuses == {
        crashed.run_id: "failed",
        foreign.run_id: "running",
        current.run_id: "running",
        done.run_id: "finished",
    }


def test_the_last_run_key_is_iso_8601_in_utc_and_upserted(store: Store) -> None:
    tokyo = datetime.fromisoformat("2026-06-01T21:00:00+09:00")
    for at in (tokyo, tokyo + timedelta(minutes=30)):
        with store.begin() as connection:
            runs.write_last_run_key(connection, "distillation_last_run", at)
    (row,) = rows(store, "SELECT * FROM public.deployment_config")
    assert (row.key, row.value) == ("distillation_last_run", "2026-06-01T12:30:00+00:00")
    assert (row.created_at, row.updated_at) == (tokyo, tokyo + timedelta(minutes=30))


def test_the_newest_receipt_of_an_asset_is_kept_by_org(store: Store) -> None:
    odd = OrgId('o\'; DROP TABLE "x" -- ' + "é" * 200)
    with store.begin() as connection:
        for merged in (1, 2):
            runs.write_receipt(connection, "duplicate_merges", ACME, {"merged": merged}, NOW)
        runs.write_receipt(connection, "duplicate_merges", odd, {"merged": 7}, NOW)
        runs.write_receipt(connection, "topic_clusters", ACME, {"placed": 5}, NOW)
    with store.read() as connection:
        found = runs.read_receipts(connection, "duplicate_merges", [ACME, odd, OrgId("nobody")])
        assert found == {ACME: {"merged": 2}, odd: {"merged": 7}}
        assert runs.read_receipts(connection, "duplicate_merges", []) == {}
