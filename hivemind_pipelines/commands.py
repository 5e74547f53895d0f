"""The commands: each reads the settings, calls one use case and returns one answer."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import yaml
from rich.console import Console

from hivemind_pipelines import presentation
from hivemind_pipelines.core.intake import DEFAULT_ORG, IntakeDefaults, org_fault
from hivemind_pipelines.core.model import Category, OrgId, Stage
from hivemind_pipelines.core.policy import DistillationPolicy, PolicyError
from hivemind_pipelines.core.receipts import Receipt
from hivemind_pipelines.demo import session, telling, terminal
from hivemind_pipelines.demo.knowledge import DemoToolsMissing
from hivemind_pipelines.evaluation import session as evaluation
from hivemind_pipelines.evaluation import terminal as figures
from hivemind_pipelines.evaluation.labelled import LabelledFileError
from hivemind_pipelines.services.embedded_postgres import EmbeddedPostgresError, ensure_running
from hivemind_pipelines.settings import Settings, SettingsError, load_policy
from hivemind_pipelines.settings import load as load_settings
from hivemind_pipelines.stages import status as standing
from hivemind_pipelines.stages.backlog import ModelStamps
from hivemind_pipelines.stages.context import build_services
from hivemind_pipelines.stages.distillation import distill as distill_plainly
from hivemind_pipelines.stages.loading import IntakeError, LoadReport, load_file
from hivemind_pipelines.store.connection import Store, StoreError, open_store
from hivemind_pipelines.store.migrations.migrate import migrate as migrate_store

#: Refused lines named one by one on standard error; --json lists them all.
REFUSALS_SHOWN = 20
ORGS_NAMED = 20

Receipts = Mapping[OrgId, Mapping[Stage, Receipt]]


class UsageError(Exception):
    """A command line that asks for something that does not exist; the message is one clear line."""


#: Errors whose message is one clear line: the first are the caller's to mend, the others are failures.
INPUT_ERRORS = (
    UsageError,
    IntakeError,
    SettingsError,
    PolicyError,
    LabelledFileError,
    evaluation.EvaluationRequestError,
    DemoToolsMissing,
)
KNOWN_ERRORS = (*INPUT_ERRORS, StoreError, EmbeddedPostgresError)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command found: `data` for --json, `show` for people, `complaints` for standard error."""

    data: Mapping[str, object]
    show: Callable[[Console], None]
    complaints: tuple[str, ...] = ()
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class Distilled:
    """What a distillation did by org and stage, and what went wrong, a line each."""

    receipts: Receipts
    failures: tuple[str, ...] = ()
    failed_checks: tuple[str, ...] = ()


def demo(_arguments: argparse.Namespace) -> Answer:
    """The main job on real knowledge, always on the embedded Postgres."""
    # Made-up signals and secrets must never reach the commons of a deployment.
    settings = load_settings().model_copy(update={"database_url": None})
    with terminal.progress() as progress:
        outcome = session.run(settings, distill=_distill_demo(settings), progress=progress)
    return Answer(telling.data(outcome), lambda console: terminal.show(console, outcome))


def _distill_demo(settings: Settings) -> session.Distill:
    # Dagster takes seconds to import.
    from hivemind_pipelines.definitions import build_defs
    from hivemind_pipelines.defs.in_process import distill_beside_dev

    return partial(distill_beside_dev, build_defs, settings)


def dev(arguments: argparse.Namespace) -> Answer:
    """The Dagster UI and daemon, until Ctrl-C."""
    from hivemind_pipelines.defs.development import serve

    exit_code = serve(load_settings(), port=arguments.port)
    return Answer({"port": arguments.port, "exit_code": exit_code}, lambda _: None, exit_code=exit_code)


def migrate(_arguments: argparse.Namespace) -> Answer:
    """Create or upgrade the tables."""
    with connect(load_settings(), migrated=False) as store:
        result = migrate_store(store)
    data = asdict(result) | {"changed": not result.is_noop}
    return Answer(data, lambda console: presentation.show_migration(console, result))


def load(arguments: argparse.Namespace) -> Answer:
    """A JSONL file into the commons or the review queue."""
    started = time.monotonic()
    defaults = _intake_defaults(arguments)
    file: Path = arguments.file
    size = file.stat().st_size if file.is_file() else None
    settings = load_settings()
    with connect(settings) as store, presentation.progress("loading", size) as advance:
        report = load_file(
            store,
            file,
            defaults=defaults,
            target="pending" if arguments.pending else "items",
            now=datetime.now(UTC),
            receipt_key=settings.receipt_key,
            on_progress=advance and (lambda read, rows: advance(read, f"{rows:,} rows")),
        )
    data = {"file": str(file), "pending": arguments.pending} | asdict(report) | _seconds_since(started)
    return Answer(
        data,
        lambda console: presentation.show_load(console, report, pending=arguments.pending),
        _refusal_lines(file, report),
        exit_code=2 if report.refused else 0,
    )


def _intake_defaults(arguments: argparse.Namespace) -> IntakeDefaults:
    org_id = DEFAULT_ORG if arguments.org is None else OrgId(arguments.org)
    if (fault := org_fault(org_id)) is not None:
        raise UsageError(f"--org {fault}")
    unknown = arguments.unknown_category
    return IntakeDefaults(org_id, None if unknown is None else Category(unknown))


def _refusal_lines(file: Path, report: LoadReport) -> tuple[str, ...]:
    shown = report.refusals[:REFUSALS_SHOWN]
    lines = [f"{file}:{refusal.line}: {refusal.reason}" for refusal in shown]
    if left := report.refused - len(lines):
        lines.append(f"{left:,} more refused rows; --json lists them")
    if any(refusal.reason.startswith("unknown category") for refusal in report.refusals):
        lines.append("--unknown-category CATEGORY gives such rows a category instead of refusing them")
    return tuple(lines)


def distill(arguments: argparse.Namespace) -> Answer:
    """The stages, in this process."""
    started = time.monotonic()
    stages = _named_stages(arguments.stage)
    settings = load_settings()
    policy = load_policy(settings)
    with connect(settings) as store:
        orgs = named_orgs(store, arguments.org)
        run = _dry_run if arguments.dry_run else _run_assets
        outcome = run(settings, policy, store, orgs, stages, arguments) if orgs else Distilled({})
    refused = _noted(outcome.receipts, "refused")
    data = {
        "dry_run": arguments.dry_run,
        "nothing_due": presentation.is_nothing_due(outcome.receipts) and not outcome.failures,
        "orgs": {
            org_id: {stage: receipt.model_dump(mode="json") for stage, receipt in by_stage.items()}
            for org_id, by_stage in outcome.receipts.items()
        },
        "failures": list(outcome.failures),
        "failed_checks": list(outcome.failed_checks),
    }
    return Answer(
        data | _seconds_since(started),
        lambda console: _show_distilled(console, outcome, dry_run=arguments.dry_run),
        (*outcome.failures, *refused, *_noted(outcome.receipts, "busy"), *outcome.failed_checks),
        exit_code=1 if refused or outcome.failures else 0,
    )


def _show_distilled(console: Console, outcome: Distilled, *, dry_run: bool) -> None:
    presentation.show_receipts(console, outcome.receipts, dry_run=dry_run)
    if not outcome.failures:
        presentation.show_end(console, outcome.receipts, dry_run=dry_run)


def _named_stages(name: str | None) -> tuple[Stage, ...] | None:
    if name is None:
        return None
    if name not in set(Stage):
        raise UsageError(f"unknown stage {name!a}; the stages are {', '.join(Stage)}")
    return (Stage(name),)


def named_orgs(store: Store, names: Sequence[str]) -> tuple[OrgId, ...]:
    """The orgs named, or all there are; raises UsageError when one is unknown."""
    known = standing.known_orgs(store)
    unknown = sorted(set(names) - set(known))
    if unknown:
        said = ", ".join(f"{org_id!a}" for org_id in known[:ORGS_NAMED]) or "none yet"
        more = f" and {len(known) - ORGS_NAMED:,} more" if len(known) > ORGS_NAMED else ""
        raise UsageError(f"unknown org {unknown[0]!a}; the known orgs are {said}{more}")
    return tuple(org_id for org_id in known if org_id in names) if names else known


def _dry_run(
    settings: Settings,
    policy: DistillationPolicy,
    store: Store,
    orgs: Sequence[OrgId],
    stages: Sequence[Stage] | None,
    arguments: argparse.Namespace,
) -> Distilled:
    services = build_services(settings, policy)
    with presentation.progress("planning", None) as advance:
        receipts = distill_plainly(
            store,
            services,
            policy,
            orgs,
            now=datetime.now(UTC),
            stages=stages,
            full=arguments.full,
            dry_run=True,
            allow_mass_change=arguments.allow_mass_change,
            progress=advance and (lambda stage, done, total: advance(done, f"{stage} {done:,} of {total:,}")),
        )
    return Distilled(receipts)


def _run_assets(
    settings: Settings,
    policy: DistillationPolicy,
    store: Store,
    orgs: Sequence[OrgId],
    stages: Sequence[Stage] | None,
    arguments: argparse.Namespace,
) -> Distilled:
    # Dagster takes seconds to import.
    from hivemind_pipelines.definitions import build_defs
    from hivemind_pipelines.defs.in_process import distill_in_process
    from hivemind_pipelines.defs.resources import Commons

    with presentation.progress("distilling", None) as advance:
        commons = Commons(
            settings=settings,
            policy=policy,
            store=store,
            progress=advance and (lambda stage, done, total: advance(done, f"{stage} {done:,} of {total:,}")),
        )
        runs = distill_in_process(
            build_defs({"commons": commons}),
            commons,
            orgs,
            stages=stages,
            full=arguments.full,
            allow_mass_change=arguments.allow_mass_change,
            on_org=advance
            and (lambda org_id, done, _: advance(done, f"org {presentation.printable(org_id)}")),
        )
    return Distilled(
        {org_id: run.receipts for org_id, run in runs.items()},
        tuple(f"org {org_id!a}: {run.failure}" for org_id, run in runs.items() if run.failure),
        tuple(
            f"org {org_id!a}: invariant {name} does not hold"
            for org_id, run in runs.items()
            for name in run.failed_checks
        ),
    )


def _noted(receipts: Receipts, outcome: str) -> tuple[str, ...]:
    return tuple(
        f"org {org_id!a}, {stage}: {receipt.note or outcome}"
        for org_id, by_stage in receipts.items()
        for stage, receipt in by_stage.items()
        if receipt.outcome == outcome
    )


def status(_arguments: argparse.Namespace) -> Answer:
    """How the commons stands."""
    settings = load_settings()
    policy = load_policy(settings)
    models = ModelStamps.of(build_services(settings, policy))
    with connect(settings) as store:
        found = standing.read(store, policy, datetime.now(UTC), models)
    data = {
        "gate": asdict(found.gate) | {"open": found.gate.is_open},
        "orgs": {org.org_id: asdict(org) for org in found.orgs},
        "last_run_keys": dict(found.last_run_keys),
    }
    return Answer(data, lambda console: presentation.show_status(console, found))


def evaluate(arguments: argparse.Namespace) -> Answer:
    """Production code on labelled files."""
    settings = load_settings()
    policy = load_policy(settings)
    request = evaluation.Request(
        task=arguments.task,
        files=tuple(arguments.files),
        predictions=arguments.predictions,
        plot=arguments.plot,
        redacted=arguments.redacted,
        fit=arguments.fit,
        model=arguments.model,
        readings=arguments.readings,
        verdicts=arguments.verdicts,
    )
    with terminal.progress() as progress:
        data = evaluation.run(request, settings, policy, progress=progress)
    return Answer(data, lambda console: figures.show(console, data))


def policy_show(_arguments: argparse.Namespace) -> Answer:
    """The policy in force."""
    policy = load_policy(load_settings())
    document = policy.model_dump(mode="json")
    data = {"version": policy.version, "fingerprints": policy.stamps(), "policy": document}
    written = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return Answer(data, lambda console: console.out(written, end="", highlight=False))


def policy_diff(arguments: argparse.Namespace) -> Answer:
    """What another policy file would change."""
    settings = load_settings()
    in_force, proposed = load_policy(settings), policy_of(settings, arguments.file)
    changes = changed_paths(in_force, proposed)
    before, after = in_force.stamps(), proposed.stamps()
    stale = [group for group in after if after[group] != before[group]]
    versions = {"in_force": in_force.version, "proposed": proposed.version}
    data = {"version": versions, "changes": changes, "stale_sections": stale}
    return Answer(data, lambda console: presentation.show_policy_changes(console, changes, stale))


def policy_validate(arguments: argparse.Namespace) -> Answer:
    """Whether a file is a policy."""
    policy = policy_of(load_settings(), arguments.file)
    data = {"valid": True, "version": policy.version, "fingerprints": policy.stamps()}
    return Answer(data, lambda console: console.print(f"{arguments.file} is valid: policy {policy.version}"))


def policy_of(settings: Settings, file: Path) -> DistillationPolicy:
    """The policy as it would be in force if the file were the configured one."""
    return load_policy(settings.model_copy(update={"policy_file": file}))


def changed_paths(in_force: DistillationPolicy, proposed: DistillationPolicy) -> list[dict[str, object]]:
    """Every path whose value differs between two policies."""
    before, after = (dict(_paths(policy.model_dump(mode="json"))) for policy in (in_force, proposed))
    return [
        {"path": path, "in_force": before.get(path), "proposed": after.get(path)}
        for path in before | after
        if before.get(path) != after.get(path)
    ]


def _paths(document: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in document.items():
        if isinstance(value, dict) and value:
            yield from _paths(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@contextmanager
def connect(settings: Settings, *, migrated: bool = True) -> Iterator[Store]:
    """The configured database, or the embedded one, which is ours alone and kept up to date."""
    if settings.database_url is not None:
        with open_store(settings.database_url) as store:
            yield store
        return
    if sys.stderr.isatty():
        print("using the embedded Postgres", file=sys.stderr)
    with open_store(ensure_running(settings.home)) as store:
        if migrated:
            migrate_store(store)
        yield store


def _seconds_since(started: float) -> dict[str, float]:
    return {"seconds": round(time.monotonic() - started, 3)}
