"""Old runs go; what the UI still shows of a partition stays."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dagster import (
    AssetExecutionContext,
    AssetKey,
    DagsterInstance,
    Definitions,
    DynamicPartitionsDefinition,
    asset,
    define_asset_job,
    in_process_executor,
)
from dagster._core.storage.event_log import SqliteEventLogStorage

from hivemind_pipelines.defs.pruning import prune, runs_of_newest_materialisations

_orgs = DynamicPartitionsDefinition(name="orgs")


@asset(partitions_def=_orgs)
def noted(context: AssetExecutionContext) -> None:
    context.log.info("noted")


_defs = Definitions(assets=[noted], jobs=[define_asset_job("note", [noted])], executor=in_process_executor)


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as opened:
        opened.add_dynamic_partitions("orgs", ["acme", "beta"])
        yield opened


def _note(instance: DagsterInstance, org: str) -> str:
    result = _defs.resolve_job_def("note").execute_in_process(instance=instance, partition_key=org)
    assert result.success
    return result.run_id


def _tomorrow() -> datetime:
    return datetime.now(UTC) + timedelta(days=1)


def test_only_the_newest_materialisation_of_each_partition_keeps_its_run(instance: DagsterInstance) -> None:
    old = [_note(instance, "acme"), _note(instance, "beta"), _note(instance, "acme")]
    newest = {_note(instance, "acme"), _note(instance, "beta")}
    assert runs_of_newest_materialisations(instance) == newest
    assert prune(instance, _tomorrow(), batch_size=2, runs_max=100) == len(old)
    assert set(instance.get_run_ids()) == newest
    assert instance.get_latest_materialization_event(AssetKey("noted")) is not None
    assert instance.get_materialized_partitions(AssetKey("noted")) == {"acme", "beta"}


def test_young_runs_stay(instance: DagsterInstance) -> None:
    _note(instance, "acme")
    _note(instance, "acme")
    assert prune(instance, datetime.now(UTC) - timedelta(days=1), batch_size=10, runs_max=100) == 0
    assert len(instance.get_run_ids()) == 2


def test_one_sweep_deletes_no_more_than_it_may_and_the_next_goes_on(instance: DagsterInstance) -> None:
    for _ in range(5):
        _note(instance, "acme")
    assert prune(instance, _tomorrow(), batch_size=2, runs_max=3) == 3
    assert prune(instance, _tomorrow(), batch_size=2, runs_max=3) == 1
    assert prune(instance, _tomorrow(), batch_size=2, runs_max=3) == 0


def test_on_sqlite_the_file_of_a_pruned_run_is_gone_too(tmp_path: Path) -> None:
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        instance.add_dynamic_partitions("orgs", ["acme", "beta"])
        gone, stays, other = (_note(instance, org) for org in ("acme", "acme", "beta"))
        assert prune(instance, _tomorrow(), batch_size=10, runs_max=100) == 1
        storage = instance.event_log_storage
        assert isinstance(storage, SqliteEventLogStorage)
        assert not Path(storage.path_for_shard(gone)).exists()
        assert Path(storage.path_for_shard(stays)).exists()
        assert instance.get_materialized_partitions(AssetKey("noted")) == {"acme", "beta"}
        assert set(instance.get_run_ids()) == {stays, other}
