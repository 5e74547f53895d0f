"""Due or not: whether an org gets a distillation run now, and the reason in words."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from hivemind_pipelines.core.model import OrgId, Stage
from hivemind_pipelines.core.policy import DistillationPolicy, GatePolicy


@dataclass(frozen=True, slots=True)
class GateReading:
    """The deployment-wide counts that open the gate, beside their thresholds."""

    pending_count: int
    conflict_count: int
    volume_threshold: int
    conflict_threshold: int

    @property
    def is_open(self) -> bool:
        """Enough pending rows, or enough contradiction signals that no run has stamped yet."""
        return self.pending_count >= self.volume_threshold or self.conflict_count >= self.conflict_threshold

    def under(self, policy: GatePolicy) -> "GateReading":
        """The same counts read against the thresholds of another gate section."""
        return GateReading(
            self.pending_count, self.conflict_count, policy.volume_threshold, policy.conflict_threshold
        )

    def __str__(self) -> str:
        return (
            f"gate {'open' if self.is_open else 'closed'}: "
            f"{self.pending_count} pending rows (threshold {self.volume_threshold}), "
            f"{self.conflict_count} unstamped contradiction signals (threshold {self.conflict_threshold})"
        )


@dataclass(frozen=True, slots=True)
class OrgBacklog:
    """What waits in one org: due rows by stage, the age of the oldest, the last start of a run.

    `watermark` moves whenever the org's inputs move. Work in backoff is not due.
    """

    org_id: OrgId
    due: Mapping[Stage, int] = field(hash=False)
    oldest_due_at: datetime | None = None
    last_started_at: datetime | None = None
    watermark: str = ""

    @property
    def due_count(self) -> int:
        """Due rows over all stages."""
        return sum(count for count in self.due.values() if count > 0)


@dataclass(frozen=True, slots=True)
class Due:
    """The org gets a run, and why."""

    org_id: OrgId
    reason: str


@dataclass(frozen=True, slots=True)
class NotDue:
    """The org gets no run now, and why."""

    org_id: OrgId
    reason: str


def decide_all(
    gate: GateReading, backlogs: Iterable[OrgBacklog], policy: DistillationPolicy, now: datetime
) -> list[Due | NotDue]:
    """The decision for each backlog in the order given, under the org's own gate section if it has one."""
    decisions = []
    for backlog in backlogs:
        override = policy.orgs.get(backlog.org_id)
        reading = gate.under(override.gate) if override and override.gate else gate
        decisions.append(decide(reading, backlog, policy.for_org(backlog.org_id).gate, now))
    return decisions


def decide(gate: GateReading, backlog: OrgBacklog, policy: GatePolicy, now: datetime) -> Due | NotDue:
    """Due when something waits, the last start is long enough ago, and the gate is open or it waits too long.

    Times in the future or missing never block for longer than the policy's own intervals.
    """
    waiting = _waiting(backlog)
    if not backlog.due_count:
        return NotDue(backlog.org_id, f"nothing due; {gate}")
    if _started_recently(backlog.last_started_at, policy.min_interval, now):
        interval = int(policy.min_interval.total_seconds())
        return NotDue(
            backlog.org_id, f"{waiting}, but the last run started less than {interval} s ago; {gate}"
        )
    if gate.is_open:
        return Due(backlog.org_id, f"{waiting}; {gate}")
    if _is_stale(backlog, policy.max_staleness, now):
        hours = policy.max_staleness.total_seconds() / 3600
        return Due(backlog.org_id, f"{waiting}, the oldest for more than {hours:g} h; {gate}")
    return NotDue(backlog.org_id, f"{waiting}; {gate}")


def attempt_bucket(now: datetime, policy: GatePolicy) -> int:
    """The number of the `min_interval` that `now` falls into: it moves, so that a failed run is retried."""
    return int(_aware(now).timestamp() // policy.min_interval.total_seconds())


def run_key(org_id: OrgId, watermark: str, bucket: int) -> str:
    """The key under which Dagster launches one run per org, state of its inputs and attempt."""
    return json.dumps([org_id, watermark, bucket], ensure_ascii=False, separators=(",", ":"))


def _waiting(backlog: OrgBacklog) -> str:
    counts = [f"{stage} {backlog.due[stage]}" for stage in Stage if backlog.due.get(stage, 0) > 0]
    return f"due: {', '.join(counts)}"


def _started_recently(started_at: datetime | None, min_interval: timedelta, now: datetime) -> bool:
    if started_at is None:
        return False
    # A start far in the future is a broken clock, not a recent run.
    return abs(_aware(now) - _aware(started_at)) < min_interval


def _is_stale(backlog: OrgBacklog, max_staleness: timedelta, now: datetime) -> bool:
    since = _past(backlog.oldest_due_at, now) or _past(backlog.last_started_at, now)
    return since is None or _aware(now) - since > max_staleness


def _past(moment: datetime | None, now: datetime) -> datetime | None:
    return None if moment is None or _aware(moment) > _aware(now) else _aware(moment)


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
