from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_pipelines.core.due import (
    Due,
    GateReading,
    NotDue,
    OrgBacklog,
    attempt_bucket,
    decide,
    decide_all,
    run_key,
)
from hivemind_pipelines.core.model import OrgId, Stage
from hivemind_pipelines.core.policy import DistillationPolicy, GatePolicy, OrgOverride

NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)
POLICY = GatePolicy()
OPEN = GateReading(50, 0, 50, 5)
CLOSED = GateReading(49, 4, 50, 5)
ORG = OrgId("acme")
SOME = {Stage.DUPLICATE_PAIRS: 3, Stage.ITEM_FEATURES: 2}


def backlog(**fields: object) -> OrgBacklog:
    return OrgBacklog(**({"org_id": ORG, "due": SOME, "oldest_due_at": NOW} | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pending", "conflicts", "is_open"), [(49, 4, False), (50, 0, True), (0, 5, True), (51, 6, True)]
)
def test_gate_opens_at_either_threshold(pending: int, conflicts: int, is_open: bool) -> None:
    assert GateReading(pending, conflicts, 50, 5).is_open is is_open


def test_a_skip_says_both_numbers_and_both_thresholds() -> None:
    decision = decide(CLOSED, backlog(last_started_at=NOW - timedelta(hours=1)), POLICY, NOW)
    assert isinstance(decision, NotDue)
    assert "49 pending rows (threshold 50)" in decision.reason
    assert "4 unstamped contradiction signals (threshold 5)" in decision.reason


def test_an_open_gate_with_work_is_due_and_says_which_stages() -> None:
    decision = decide(OPEN, backlog(), POLICY, NOW)
    assert isinstance(decision, Due)
    assert decision.reason.startswith("due: item_features 2, duplicate_pairs 3; gate open")


def test_an_open_gate_without_work_is_not_due() -> None:
    assert isinstance(decide(OPEN, backlog(due={Stage.ITEM_FEATURES: 0}), POLICY, NOW), NotDue)


def test_a_closed_gate_waits_until_the_oldest_row_is_too_old() -> None:
    started = NOW - timedelta(hours=1)
    fresh = backlog(oldest_due_at=NOW - POLICY.max_staleness, last_started_at=started)
    stale = backlog(oldest_due_at=NOW - POLICY.max_staleness - timedelta(seconds=1), last_started_at=started)
    assert isinstance(decide(CLOSED, fresh, POLICY, NOW), NotDue)
    assert isinstance(decide(CLOSED, stale, POLICY, NOW), Due)


@pytest.mark.parametrize("oldest_due_at", [NOW, NOW - timedelta(days=3)])
def test_at_most_one_run_per_interval_whatever_is_due(oldest_due_at: datetime) -> None:
    just = backlog(
        oldest_due_at=oldest_due_at, last_started_at=NOW - POLICY.min_interval + timedelta(seconds=1)
    )
    then = backlog(oldest_due_at=oldest_due_at, last_started_at=NOW - POLICY.min_interval)
    assert isinstance(decide(OPEN, just, POLICY, NOW), NotDue)
    assert isinstance(decide(OPEN, then, POLICY, NOW), Due)


@given(
    oldest=st.none() | st.datetimes(timezones=st.none() | st.just(UTC)),
    started=st.none() | st.datetimes(timezones=st.none() | st.just(UTC)),
)
def test_no_timestamp_blocks_an_org_for_longer_than_the_policy_says(
    oldest: datetime | None, started: datetime | None
) -> None:
    odd = backlog(oldest_due_at=oldest, last_started_at=started)
    later = [NOW, NOW + 2 * POLICY.min_interval, NOW + POLICY.max_staleness + timedelta(minutes=1)]
    assert any(isinstance(decide(OPEN, odd, POLICY, moment), Due) for moment in later)
    past = backlog(oldest_due_at=oldest, last_started_at=min(started, NOW, key=_naive) if started else None)
    if oldest is None or _naive(oldest) <= _naive(NOW):
        assert isinstance(decide(CLOSED, past, POLICY, NOW + POLICY.max_staleness * 2), Due)


def _naive(moment: datetime) -> datetime:
    return moment.replace(tzinfo=None)


def test_a_start_far_in_the_future_is_a_broken_clock() -> None:
    ahead = backlog(last_started_at=NOW + timedelta(days=400))
    assert isinstance(decide(OPEN, ahead, POLICY, NOW), Due)


def test_work_of_unknown_age_is_tried_once_per_staleness_limit() -> None:
    unknown = backlog(oldest_due_at=None, last_started_at=NOW - timedelta(hours=1))
    assert isinstance(decide(CLOSED, unknown, POLICY, NOW), NotDue)
    assert isinstance(decide(CLOSED, unknown, POLICY, NOW + timedelta(hours=24)), Due)
    assert isinstance(decide(CLOSED, backlog(oldest_due_at=None), POLICY, NOW), Due)


def test_an_org_with_its_own_gate_is_read_against_its_own_thresholds() -> None:
    policy = DistillationPolicy(orgs={"acme": OrgOverride(gate=GatePolicy(volume_threshold=10))})
    decisions = decide_all(CLOSED, [backlog(), backlog(org_id=OrgId("other"))], policy, NOW)
    assert [type(decision) for decision in decisions] == [Due, NotDue]
    assert "threshold 10" in decisions[0].reason


def test_run_keys_move_with_the_watermark_and_the_attempt_and_never_collide() -> None:
    keys = {
        run_key(OrgId(org), watermark, bucket)
        for org in ("a", "a:b", 'a","b')
        for watermark in ("1", "b:1")
        for bucket in (attempt_bucket(NOW, POLICY), attempt_bucket(NOW + POLICY.min_interval, POLICY))
    }
    assert len(keys) == 12
