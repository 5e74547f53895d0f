"""The commands that carry a policy change through: what it would do, and the backfill that does it."""

import argparse
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from hivemind_pipelines import presentation, rollout_terminal
from hivemind_pipelines.commands import Answer, UsageError, changed_paths, connect, named_orgs, policy_of
from hivemind_pipelines.core import planning
from hivemind_pipelines.core.planning import OrgPlan
from hivemind_pipelines.settings import load as load_settings
from hivemind_pipelines.settings import load_policy
from hivemind_pipelines.stages import planning as planner
from hivemind_pipelines.stages.context import build_services
from hivemind_pipelines.stages.planning import PolicyPlan


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
