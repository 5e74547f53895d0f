"""Sensors and schedules on a real backlog: what they ask for, skip, register and observe."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dagster import (
    AssetKey,
    DagsterInstance,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    RunRequest,
    ScheduleDefinition,
    SensorDefinition,
    SensorResult,
    SkipReason,
    build_schedule_context,
    build_sensor_context,
)

from hivemind_pipelines.core.policy import SECTION_GROUPS, DistillationPolicy
from hivemind_pipelines.defs.policies import policy_key
from hivemind_pipelines.defs.schedules import build_schedules
from hivemind_pipelines.defs.sensors import build_sensors
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines_tests.builders import delete_item, insert_item, insert_pending, insert_signal
from hivemind_pipelines_tests.defs.conftest import Location, location

NEW = datetime.now(UTC) - timedelta(minutes=5)


def _sensor(name: str) -> SensorDefinition:
    return next(sensor for sensor in build_sensors(running=True) if sensor.name == name)


def _schedule(name: str) -> ScheduleDefinition:
    return next(schedule for schedule in build_schedules(running=True) if schedule.name == name)


def _tick(here: Location, name: str, cursor: str | None = None) -> SensorResult:
    context = build_sensor_context(instance=here.instance, cursor=cursor, resources={"commons": here.commons})
    result = _sensor(name)(context)
    assert isinstance(result, SensorResult)
    return result


def _fill(store: Store, pending: int, org: str = "acme") -> None:
    for number in range(pending):
        insert_pending(store, f"pending {org} {number}", org, contributed_at=NEW)


def _reason(result: SensorResult) -> str:
    assert isinstance(result.skip_reason, SkipReason)
    return str(result.skip_reason.skip_message)


def test_49_pending_rows_skip_and_the_50th_launches(commons_location: Location, store: Store) -> None:
    _fill(store, 49)
    skipped = _tick(commons_location, "distillation_backlog")
    assert not skipped.run_requests
    assert "49 pending rows (threshold 50)" in _reason(skipped)
    assert "0 unstamped contradiction signals (threshold 5)" in _reason(skipped)
    insert_pending(store, "one more", contributed_at=NEW)
    [request] = _tick(commons_location, "distillation_backlog").run_requests or []
    assert (request.partition_key, request.job_name) == ("acme", "distillation")


def test_5_unstamped_contradictions_open_the_gate(commons_location: Location, store: Store) -> None:
    item_id = insert_item(store, "Do it.", contributed_at=NEW)
    for _ in range(4):
        insert_signal(store, item_id)
    assert not _tick(commons_location, "distillation_backlog").run_requests
    insert_signal(store, item_id)
    assert _tick(commons_location, "distillation_backlog").run_requests


def test_after_a_run_nothing_is_asked_for_though_the_gate_stays_open(
    commons_location: Location, store: Store
) -> None:
    _fill(store, 50)
    commons_location.run("distillation", "acme")
    assert not _tick(commons_location, "distillation_backlog").run_requests


def test_new_orgs_become_partitions_even_while_the_gate_is_closed(
    commons_location: Location, store: Store
) -> None:
    insert_item(store, "One.", org="acme", contributed_at=NEW)
    insert_item(store, "Two.", org="beta", contributed_at=NEW)
    [added] = _tick(commons_location, "distillation_backlog").dynamic_partitions_requests or []
    assert list(added.partition_keys) == ["acme", "beta"]


def test_policies_are_materialised_when_their_fingerprint_moves(
    commons_location: Location, store: Store
) -> None:
    first = _tick(commons_location, "distillation_backlog")
    assert {event.asset_key for event in first.asset_events} == {
        policy_key(group) for group in SECTION_GROUPS
    }
    for event in first.asset_events:
        commons_location.instance.report_runless_asset_event(event)
    assert not _tick(commons_location, "distillation_backlog").asset_events
    changed = DistillationPolicy.parse(
        {"summary": {"method": "extractive"}, "contradiction": {"cosine_min": 0.7}}
    )
    elsewhere = location(commons_location.instance, store, changed)
    moved = _tick(elsewhere, "distillation_backlog").asset_events
    assert [event.asset_key for event in moved] == [AssetKey("contradiction_policy")]


def test_an_erasure_is_asked_for_ahead_of_everything(commons_location: Location, store: Store) -> None:
    gone = insert_item(store, "Do it.")
    commons_location.run("distillation", "acme")
    assert not _tick(commons_location, "erasure_backlog").run_requests
    delete_item(store, gone)
    [request] = _tick(commons_location, "erasure_backlog").run_requests or []
    assert (request.partition_key, request.job_name) == ("acme", "erasure")
    assert request.tags["dagster/priority"] == "10"
    commons_location.run("erasure", "acme")
    assert not _tick(commons_location, "erasure_backlog").run_requests


@pytest.fixture
def stored_location(tmp_path: Path, store: Store) -> Iterator[Location]:
    """A schedule opens its instance from a reference, which an ephemeral one does not have."""
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield location(instance, store, DistillationPolicy())


def _evaluate(here: Location) -> list[RunRequest] | SkipReason:
    with build_schedule_context(instance=here.instance, resources={"commons": here.commons}) as context:
        return _schedule("distillation_every_30_minutes")(context)  # type: ignore[no-any-return]


def test_the_schedule_asks_for_the_same_runs_and_registers_their_orgs(
    stored_location: Location, store: Store
) -> None:
    _fill(store, 50)
    result = _evaluate(stored_location)
    assert isinstance(result, list)
    assert [request.partition_key for request in result] == ["acme"]
    assert stored_location.instance.has_dynamic_partition("orgs", "acme")


def test_the_schedule_skips_with_the_numbers(stored_location: Location) -> None:
    result = _evaluate(stored_location)
    assert isinstance(result, SkipReason)
    assert "0 pending rows (threshold 50)" in str(result.skip_message)


@pytest.mark.parametrize("running", [True, False])
def test_automation_decides_whether_anything_runs_by_itself(running: bool) -> None:
    sensors = {sensor.default_status for sensor in build_sensors(running=running)}
    schedules = {schedule.default_status for schedule in build_schedules(running=running)}
    assert sensors == {DefaultSensorStatus.RUNNING if running else DefaultSensorStatus.STOPPED}
    assert schedules == {DefaultScheduleStatus.RUNNING if running else DefaultScheduleStatus.STOPPED}


def test_the_cadence_is_the_seeds() -> None:
    cadence = {schedule.name: schedule.cron_schedule for schedule in build_schedules(running=True)}
    assert cadence["distillation_every_30_minutes"] == "*/30 * * * *"
    assert cadence["quality_every_10_minutes"] == "*/10 * * * *"


def test_one_tick_asks_for_no_more_runs_than_it_may(commons_location: Location, store: Store) -> None:
    for number in range(30):
        insert_item(store, f"Item {number}.", org=f"org-{number:02}")
    first = _tick(commons_location, "distillation_backlog")
    assert len(first.run_requests or []) == 25
    second = _tick(commons_location, "distillation_backlog", first.cursor)
    assert (second.run_requests or [])[0].partition_key == "org-25"
