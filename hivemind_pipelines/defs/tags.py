"""The run tags that carry meaning between sensors, runs, the run queue and the command line."""

from collections.abc import Mapping

#: Which of our jobs a run belongs to; dagster.yaml limits distillation runs by it.
JOB = "hivemind/job"
#: The org of a distillation run; dagster.yaml lets one run per value be in progress.
DISTILLATION_ORG = "hivemind/distillation_org"
#: The org of an erasure run; no limit knows it, so that an erasure never waits for a distillation.
ERASURE_ORG = "hivemind/erasure_org"
#: Lifts the mass-change breaker for one run; recorded with the run.
ALLOW_MASS_CHANGE = "hivemind/allow_mass_change"
#: Looks at every row of the org again, whatever its stamps say.
FULL = "hivemind/full"

#: The policy a run was asked for under; a run in which another one is in force refuses to start.
POLICY_VERSION = "hivemind/policy_version"
#: The backfill of runs that no daemon launched.
BACKFILL = "hivemind/backfill"

PRIORITY = "dagster/priority"
DAGSTER_BACKFILL = "dagster/backfill"


def is_on(tags: Mapping[str, str], name: str) -> bool:
    """Whether a yes-or-no tag is set to `true`."""
    return tags.get(name, "").strip().lower() == "true"


def backfill_of(tags: Mapping[str, str]) -> str | None:
    """The backfill that a run belongs to, a daemon's or our own."""
    return tags.get(DAGSTER_BACKFILL) or tags.get(BACKFILL)
