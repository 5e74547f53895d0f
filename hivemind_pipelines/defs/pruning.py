"""Sweeping the instance: old runs go in batches, the newest materialisation of each partition stays."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dagster import (
    AssetKey,
    AssetRecordsFilter,
    Config,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    OpExecutionContext,
    RunsFilter,
    op,
)
from dagster._core.storage.event_log import SqliteEventLogStorage
from pydantic import Field

_FINISHED = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
_EVENTS_PER_QUERY = 500


class PruningConfig(Config):
    """How much history the UI keeps."""

    keep_days: int = Field(default=14, ge=1, description="Runs younger than this stay.")
    batch_size: int = Field(default=200, ge=1, le=1_000, description="Runs looked at by one query.")
    runs_max: int = Field(default=20_000, ge=1, description="Runs deleted at most; the rest waits a day.")


@op(description="Deletes finished runs older than `keep_days`; returns nothing, logs how many went.")
def prune_runs(context: OpExecutionContext, config: PruningConfig) -> None:
    before = datetime.now(UTC) - timedelta(days=config.keep_days)
    deleted = prune(context.instance, before, batch_size=config.batch_size, runs_max=config.runs_max)
    context.log.info("pruned %d runs that ended before %s", deleted, before.isoformat())


def prune(instance: DagsterInstance, before: datetime, *, batch_size: int, runs_max: int) -> int:
    """Delete finished runs created before that instant, but for those the UI needs; returns how many."""
    kept = runs_of_newest_materialisations(instance)
    runs_filter = RunsFilter(statuses=_FINISHED, created_before=before)
    deleted, cursor = 0, None
    # Oldest first. The cursor only ever names a run that stays: a deleted one would end the listing.
    while deleted < runs_max and (
        records := instance.get_run_records(runs_filter, limit=batch_size, cursor=cursor, ascending=True)
    ):
        run_ids = [record.dagster_run.run_id for record in records]
        doomed = [run_id for run_id in run_ids if run_id not in kept][: runs_max - deleted]
        for run_id in doomed:
            delete_run(instance, run_id)
        deleted += len(doomed)
        cursor = next((run_id for run_id in reversed(run_ids) if run_id in kept), cursor)
    return deleted


def runs_of_newest_materialisations(instance: DagsterInstance) -> set[str]:
    """The runs that hold the newest materialisation of any partition of any asset."""
    return {run_id for key in instance.all_asset_keys() for run_id in _newest_runs(instance, key)}


def delete_run(instance: DagsterInstance, run_id: str) -> None:
    """Delete a run with its events, its captured logs and, on SQLite, its file."""
    instance.delete_run(run_id)
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    if isinstance(instance.event_log_storage, SqliteEventLogStorage):
        Path(instance.event_log_storage.path_for_shard(run_id)).unlink(missing_ok=True)


def _newest_runs(instance: DagsterInstance, key: AssetKey) -> Iterator[str]:
    newest = instance.get_latest_materialization_event(key)
    if newest is not None:
        yield newest.run_id
    storage_ids = sorted(
        instance.event_log_storage.get_latest_storage_id_by_partition(
            key, DagsterEventType.ASSET_MATERIALIZATION
        ).values()
    )
    for start in range(0, len(storage_ids), _EVENTS_PER_QUERY):
        chunk = storage_ids[start : start + _EVENTS_PER_QUERY]
        records = instance.fetch_materializations(
            AssetRecordsFilter(asset_key=key, storage_ids=chunk), limit=len(chunk)
        )
        yield from (record.run_id for record in records.records)
