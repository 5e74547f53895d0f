"""The commands that carry a policy change through: what it would do, and the backfill that does it."""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from hivemind_pipelines import presentation, rollout_terminal
from hivemind_pipelines.commands import Answer, UsageError, changed_paths, connect, named_orgs, policy_of
from hivemind_pipelines.core import planning
from hivemind_pipelines.core.model import OrgId
from hivemind_pipelines.core.planning import OrgPlan
from hivemind_pipelines.core.policy import SECTION_GROUPS, DistillationPolicy, SectionGroup
from hivemind_pipelines.settings import Settings, load_policy
from hivemind_pipelines.settings import load as load_settings
from hivemind_pipelines.stages import planning as planner
from hivemind_pipelines.stages import staleness
from hivemind_pipelines.stages import status as standing
from hivemind_pipelines.stages.backlog import ModelStamps
from hivemind_pipelines.stages.context import Services, build_services
from hivemind_pipelines.stages.planning import PolicyPlan
from hivemind_pipelines.stages.staleness import Staleness
from hivemind_pipelines.store.connection import Store

if TYPE_CHECKING:
    from hivemind_pipelines.defs.backfill import Backfilled

#: Orgs named one by one on standard error; --json names them all.
ORGS_NAMED = 20


def plan(arguments: argparse.Namespace) -> Answer:
    """What another policy would change; nothing is."""
    started = time.monotonic()
    settings = load_settings()
    in_force, proposed = load_policy(settings), policy_of(settings, arguments.policy)
    _check_plot(arguments.plot)
    with connect(settings) as store, presentation.progress("planning", None) as advance:
        orgs = named_orgs(store, arguments.org)
        planned = planner.plan(
            store, build_services(settings, proposed), in_force, proposed, orgs,
            now=datetime.now(UTC),
            on_org=advance and (lambda org_id, done, _: advance(done, presentation.printable(org_id))),
        )  # fmt: skip
    if arguments.plot is not None:
        _draw(arguments.plot, planned)
    seconds = round(time.monotonic() - started, 3)
    data = plan_data(planned) | {"plot": arguments.plot and str(arguments.plot), "seconds": seconds}

    def show(console: Console) -> None:
        rollout_terminal.show_plan(console, planned)
        if arguments.plot is not None:
            console.print(f"drawn in {arguments.plot}", soft_wrap=True)
        console.print(f"planned in {seconds:.1f} s: nothing was changed")

    return Answer(data, show)


def plan_data(planned: PolicyPlan) -> dict[str, object]:
    """A plan as JSON: versions, changed paths, totals and every org's part."""
    return {
        "version": {"in_force": planned.in_force.version, "proposed": planned.proposed.version},
        "changes": changed_paths(planned.in_force, planned.proposed),
        "stale_sections": list(planned.stale_sections),
        "totals": planning.totals(planned.orgs),
        "llm": asdict(planning.total_llm(planned.orgs)),
        "scores": asdict(planning.total_scores(planned.orgs)),
        "refused_orgs": [one.org_id for one in planned.orgs if one.refusals],
        "orgs": {one.org_id: _org_data(one) for one in planned.orgs},
    }


def _org_data(one: OrgPlan) -> Mapping[str, object]:
    """One org's part; the breaker's verdict by the stage it stops."""
    refusals = {stage: str(refusal) for stage, refusal in one.refusals.items()}
    return {**asdict(one), "counts": one.counts(), "breaker": refusals}


def _check_plot(file: Path | None) -> None:
    if file is None:
        return
    if file.suffix.lower() != ".png":
        raise UsageError(f"--plot {file}: expected a file that ends in .png")
    if not file.parent.is_dir():
        raise UsageError(f"--plot {file}: there is no directory {file.parent}")


def _draw(file: Path, planned: PolicyPlan) -> None:
    from hivemind_pipelines.stages import plots

    png = plots.policy_effects(planning.totals(planned.orgs), planning.total_scores(planned.orgs))
    try:
        file.write_bytes(png)
    except OSError as error:
        raise UsageError(f"--plot {file}: {error.strerror}") from None


def backfill(arguments: argparse.Namespace) -> Answer:
    """Bring what another policy decided back to fresh: find it, plan it, ask, do it."""
    started = time.monotonic()
    settings = load_settings()
    policy = load_policy(settings)
    services = build_services(settings, policy)
    sections = _sections(arguments.section)
    with connect(settings) as store:
        orgs = named_orgs(store, arguments.org) if arguments.org else None
        stale = staleness.read(store, policy, ModelStamps.of(services)).within(orgs, sections)
        if not stale:
            return _nothing_stale(policy)
        if not arguments.yes and not sys.stdin.isatty():
            raise UsageError(f"{_counted(stale)} to backfill and no terminal to ask on: add --yes")
        planned = _plan_stale(store, services, policy, stale)
        rollout_terminal.show_stale(presentation.open_console(sys.stderr), stale, planned, policy)
        if not arguments.yes and not _is_confirmed(stale):
            return Answer({"backfilled": False, "reason": "declined"}, _say("nothing was changed"))
        done = _carry_out(settings, policy, store, stale, arguments)
        left = staleness.read(store, policy, ModelStamps.of(services)).within(orgs, sections)
        reasons = staleness.reasons(store, [one.org_id for one in left.orgs], now=datetime.now(UTC))
    outcome = Outcome(policy, stale, planned, done, left, reasons)
    return _answer(outcome, round(time.monotonic() - started, 3))


@dataclass(frozen=True, slots=True)
class Outcome:
    """A backfill from beginning to end: what was stale, what was planned, what was done and what is left."""

    policy: DistillationPolicy
    stale: Staleness
    planned: PolicyPlan
    done: "Backfilled"
    left: Staleness
    reasons: Mapping[OrgId, str]

    @property
    def complaints(self) -> tuple[str, ...]:
        """A line for each org that failed, was refused or waits, and for what went wrong as a whole."""
        failures = {org_id: f"failed: {said}" for org_id, said in self.done.failures.items()}
        waiting = {
            one.org_id: f"still stale: {self.reasons.get(one.org_id, 'run it again')}"
            for one in self.left.orgs
        }
        lines = [f"org {org_id!a} {said}" for org_id, said in sorted({**waiting, **failures}.items())]
        if len(lines) > ORGS_NAMED:
            lines[ORGS_NAMED:] = [f"{len(lines) - ORGS_NAMED:,} more orgs; --json names them all"]
        return (*([self.done.failure] if self.done.failure else []), *(lines if self.done.is_over else []))

    @property
    def is_failure(self) -> bool:
        """Whether anything failed or was refused; what waits for a key or a budget has not failed."""
        refused = any("refused" in said or "busy" in said for said in self.reasons.values())
        return bool(self.done.failure or self.done.failures) or (self.done.is_over and refused)


def _answer(outcome: Outcome, seconds: float) -> Answer:
    done = outcome.done
    data = {
        "backfilled": True,
        "backfill_id": done.backfill_id,
        "by": done.by,
        "is_over": done.is_over,
        "policy_version": outcome.policy.version,
        "stale": _stale_data(outcome.stale),
        "totals": planning.totals(outcome.planned.orgs),
        "llm": asdict(planning.total_llm(outcome.planned.orgs)),
        "failures": dict(done.failures),
        "failure": done.failure,
        "left": _stale_data(outcome.left),
        "reasons": dict(outcome.reasons),
        "seconds": seconds,
    }
    return Answer(
        data,
        lambda console: rollout_terminal.show_backfilled(console, done, outcome.stale, outcome.left, seconds),
        outcome.complaints,
        exit_code=1 if outcome.is_failure else 0,
    )


def _stale_data(stale: Staleness) -> dict[str, object]:
    return {
        "orgs": {one.org_id: {"sections": list(one.sections), "rows": dict(one.rows)} for one in stale.orgs},
        "scores": stale.scores,
    }


def _nothing_stale(policy: DistillationPolicy) -> Answer:
    said = f"nothing is stale under policy {policy.version}: nothing was changed"
    return Answer({"backfilled": False, "reason": "fresh", "policy_version": policy.version}, _say(said))


def _say(line: str) -> Callable[[Console], None]:
    return lambda console: console.print(line, soft_wrap=True)


def _counted(stale: Staleness) -> str:
    orgs = f"{len(stale.orgs):,} {'org' if len(stale.orgs) == 1 else 'orgs'}"
    return f"{orgs} and the scores of all" if stale.scores else orgs


def _is_confirmed(stale: Staleness) -> bool:
    print(f"backfill {_counted(stale)}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _sections(names: Sequence[str]) -> tuple[SectionGroup, ...] | None:
    return tuple(group for group in SECTION_GROUPS if group in names) or None


def _plan_stale(store: Store, services: Services, policy: DistillationPolicy, stale: Staleness) -> PolicyPlan:
    """What the policy in force makes of what it did not decide."""
    orgs = standing.known_orgs(store) if stale.scores else tuple(one.org_id for one in stale.orgs)
    with presentation.progress("planning", len(orgs)) as advance:
        return planner.plan(
            store, services, policy, policy, orgs,
            now=datetime.now(UTC), is_rescored=stale.scores,
            on_org=advance and (lambda org_id, done, _: advance(done, presentation.printable(org_id))),
        )  # fmt: skip


def _carry_out(
    settings: Settings,
    policy: DistillationPolicy,
    store: Store,
    stale: Staleness,
    arguments: argparse.Namespace,
) -> "Backfilled":
    # Dagster takes seconds to import.
    from hivemind_pipelines.definitions import build_defs
    from hivemind_pipelines.defs import backfill as backfills
    from hivemind_pipelines.defs.in_process import opened_instance
    from hivemind_pipelines.defs.resources import Commons

    commons = Commons(settings=settings, policy=policy, store=store)
    request = backfills.Request(stale, allow_mass_change=arguments.allow_mass_change)
    total = len(stale.orgs)
    with opened_instance(settings.home) as instance, presentation.progress("backfilling", total) as advance:
        if arguments.detach and not backfills.is_daemon_alive(instance):
            raise UsageError("--detach needs a daemon, and none is alive: start `hivemind-pipelines dev`")
        return backfills.carry_out(
            build_defs({"commons": commons}), instance, commons, request,
            is_detached=arguments.detach,
            on_progress=rollout_terminal.backfill_progress(sys.stderr, advance),
        )  # fmt: skip
