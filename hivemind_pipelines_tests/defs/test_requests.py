"""Who is asked for: due orgs, fairly, once, and with patience for those that fail."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.test_utils import create_run_for_test

from hivemind_pipelines.core.due import GateReading, OrgBacklog
from hivemind_pipelines.core.model import OrgId, Stage
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.defs import tags
from hivemind_pipelines.defs.partitions import partition_key
from hivemind_pipelines.defs.requests import Requested, distillation_requests, erasure_requests
from hivemind_pipelines.stages.backlog import Backlogs

OPEN = GateReading(pending_count=60, conflict_count=2, volume_threshold=50, conflict_threshold=5)
CLOSED = GateReading(pending_count=3, conflict_count=1, volume_threshold=50, conflict_threshold=5)
POLICY = DistillationPolicy()
NOW = datetime.now(UTC)
YESTERDAY = NOW - timedelta(hours=20)


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as opened:
        yield opened


def _backlogs(*org_ids: str, gate: GateReading = OPEN, due: int = 7, watermark: str = "w") -> Backlogs:
    orgs = tuple(
        OrgBacklog(OrgId(org_id), {Stage.ITEM_FEATURES: due}, oldest_due_at=YESTERDAY, watermark=watermark)
        for org_id in sorted(org_ids)
    )
    return Backlogs(gate, orgs, counts=())


def _asked(requested: Requested) -> list[str | None]:
    return [request.partition_key for request in requested.run_requests]


def _run(
    instance: DagsterInstance, org: str, status: DagsterRunStatus, tag: str = tags.DISTILLATION_ORG
) -> None:
    create_run_for_test(instance, job_name="distillation", status=status, tags={tag: org})


def test_an_open_gate_asks_for_every_due_org_with_its_own_tag(instance: DagsterInstance) -> None:
    requested = distillation_requests(instance, _backlogs("acme", "beta"), POLICY, NOW)
    assert _asked(requested) == ["acme", "beta"]
    assert [request.tags[tags.DISTILLATION_ORG] for request in requested.run_requests] == ["acme", "beta"]


def test_a_skip_says_both_numbers_and_both_thresholds(instance: DagsterInstance) -> None:
    requested = distillation_requests(instance, _backlogs("acme", gate=CLOSED), POLICY, NOW)
    assert requested.run_requests == []
    for number in ("3 pending", "threshold 50", "1 unstamped", "threshold 5"):
        assert number in requested.reason


@pytest.mark.parametrize(
    "status",
    [
        DagsterRunStatus.NOT_STARTED,
        DagsterRunStatus.STARTING,
        DagsterRunStatus.STARTED,
        DagsterRunStatus.CANCELING,
    ],
)
def test_an_org_whose_run_is_on_its_way_is_not_asked_for_again(
    instance: DagsterInstance, status: DagsterRunStatus
) -> None:
    _run(instance, "acme", status)
    assert _asked(distillation_requests(instance, _backlogs("acme", "beta"), POLICY, NOW)) == ["beta"]


def test_requests_are_capped_and_the_next_tick_goes_on_behind_the_last(instance: DagsterInstance) -> None:
    backlogs = _backlogs("a", "b", "c", "d", "e")
    first = distillation_requests(instance, backlogs, POLICY, NOW, limit=2)
    second = distillation_requests(instance, backlogs, POLICY, NOW, limit=2, cursor=first.cursor)
    third = distillation_requests(instance, backlogs, POLICY, NOW, limit=2, cursor=second.cursor)
    assert [_asked(first), _asked(second), _asked(third)] == [["a", "b"], ["c", "d"], ["e", "a"]]


def test_a_tick_out_of_time_asks_for_what_it_looked_at(instance: DagsterInstance) -> None:
    seconds = iter([0.0, 1.0, 41.0])
    requested = distillation_requests(instance, _backlogs("a", "b"), POLICY, NOW, clock=lambda: next(seconds))
    assert _asked(requested) == ["a"]
    assert requested.cursor == "a"


def test_the_run_key_moves_with_the_inputs_and_with_time(instance: DagsterInstance) -> None:
    def key(watermark: str, now: datetime) -> str | None:
        requested = distillation_requests(instance, _backlogs("acme", watermark=watermark), POLICY, now)
        return requested.run_requests[0].run_key

    later = NOW + POLICY.gate.min_interval
    assert key("w", NOW) == key("w", NOW)
    assert len({key("w", NOW), key("x", NOW), key("w", later)}) == 3


def test_an_org_that_keeps_failing_is_tried_less_and_less_often(instance: DagsterInstance) -> None:
    for _ in range(3):
        _run(instance, "acme", DagsterRunStatus.FAILURE)

    def asked_after(minutes: int) -> bool:
        now = datetime.now(UTC) + timedelta(minutes=minutes)
        return bool(distillation_requests(instance, _backlogs("acme"), POLICY, now).run_requests)

    assert [asked_after(minutes) for minutes in (1, 15, 39, 41)] == [False, False, False, True]


def test_one_success_ends_the_backoff(instance: DagsterInstance) -> None:
    _run(instance, "acme", DagsterRunStatus.FAILURE)
    _run(instance, "acme", DagsterRunStatus.SUCCESS)
    assert _asked(distillation_requests(instance, _backlogs("acme"), POLICY, NOW)) == ["acme"]


def test_an_org_whose_id_dagster_refuses_is_asked_for_by_its_key(instance: DagsterInstance) -> None:
    asked = _asked(distillation_requests(instance, _backlogs("a...b", "acme"), POLICY, NOW))
    assert asked == [partition_key("a...b"), "acme"]


def test_an_erasure_goes_ahead_and_waits_for_no_distillation(instance: DagsterInstance) -> None:
    _run(instance, "acme", DagsterRunStatus.STARTED)
    [request] = erasure_requests(instance, [OrgId("acme")], NOW).run_requests
    assert int(request.tags[tags.PRIORITY]) > 0
    assert tags.DISTILLATION_ORG not in request.tags


def test_one_erasure_of_an_org_is_in_progress_at_a_time(instance: DagsterInstance) -> None:
    _run(instance, "acme", DagsterRunStatus.STARTING, tags.ERASURE_ORG)
    assert erasure_requests(instance, [OrgId("acme")], NOW).run_requests == []


def test_an_erasure_that_failed_is_tried_again_within_minutes(instance: DagsterInstance) -> None:
    def asked_after(minutes: int) -> bool:
        now = datetime.now(UTC) + timedelta(minutes=minutes)
        return bool(erasure_requests(instance, [OrgId("acme")], now).run_requests)

    _run(instance, "acme", DagsterRunStatus.FAILURE, tags.ERASURE_ORG)
    assert [asked_after(minutes) for minutes in (0, 2)] == [False, True]
    for _ in range(7):
        _run(instance, "acme", DagsterRunStatus.FAILURE, tags.ERASURE_ORG)
    assert [asked_after(minutes) for minutes in (9, 11)] == [False, True]
