"""The demo from start to end: read, load, simulate, distil, score, compare, report."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Protocol
from uuid import uuid4

from hivemind_pipelines.core.matching import difference
from hivemind_pipelines.core.model import Decision, ItemId, OrgId, RunId, Stage
from hivemind_pipelines.core.policy import DistillationPolicy
from hivemind_pipelines.core.receipts import QualityReceipt, Receipt
from hivemind_pipelines.demo import knowledge, simulation, telling
from hivemind_pipelines.demo.evaluation import Agreement, compare_with_mapping
from hivemind_pipelines.demo.knowledge import ORGS, RuleItem
from hivemind_pipelines.demo.simulation import Simulation
from hivemind_pipelines.demo.telling import Loaded, Outcome, ShownMerge, ShownSummary
from hivemind_pipelines.services.embedded_postgres import ensure_running
from hivemind_pipelines.services.pii import PERSONAL_TYPES, SECRET_TYPES
from hivemind_pipelines.settings import Settings, load_policy
from hivemind_pipelines.stages import distillation, quality_scores, reporting
from hivemind_pipelines.stages.context import Progress, Services, build_services
from hivemind_pipelines.stages.loading import load_rows
from hivemind_pipelines.store import reporting as figures
from hivemind_pipelines.store.connection import Store, open_store
from hivemind_pipelines.store.migrations.migrate import migrate
from hivemind_pipelines.store.simulated import insert_signals

MERGES_SHOWN = 5
SUMMARIES_SHOWN = 2
REPORT_NAME = "demo.html"
POLICY_NAME = "demo-policy.yaml"

_MERGES_READ = 500
_READABLE_CHARACTERS = 240


class Distill(Protocol):
    """How the orgs are distilled, the mass-change breaker lifted: plainly, or through Dagster's assets."""

    def __call__(
        self,
        store: Store,
        services: Services,
        policy: DistillationPolicy,
        orgs: Sequence[OrgId],
        *,
        progress: Progress | None,
    ) -> Mapping[OrgId, Mapping[Stage, Receipt]]: ...


def distill_plainly(
    store: Store,
    services: Services,
    policy: DistillationPolicy,
    orgs: Sequence[OrgId],
    *,
    progress: Progress | None,
) -> Mapping[OrgId, Mapping[Stage, Receipt]]:
    """Every stage in turn, without Dagster; the demo's knowledge may merge as much as it wants."""
    return distillation.distill(
        store, services, policy, orgs, now=datetime.now(UTC), allow_mass_change=True, progress=progress
    )


@dataclass(frozen=True, slots=True)
class _Work:
    """What the run itself did, before anything is read back."""

    loaded: Loaded
    receipts: Mapping[OrgId, Mapping[Stage, Receipt]]
    quality: QualityReceipt


def run(
    settings: Settings,
    *,
    read_items: Callable[[], Sequence[RuleItem]] = knowledge.read_items,
    distill: Distill = distill_plainly,
    services: Services | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Run the whole demo; a second run loads, embeds and changes nothing more.

    Raises DemoToolsMissing before anything is started, and what the database or the policy file raise.
    """
    timings: dict[str, float] = {}
    with _timed(timings, "read the linters"):
        items = read_items()
    policy, policy_file = demo_policy(settings)
    with _timed(timings, "start and migrate the database"):
        store = _open(settings)
    with store:
        now = datetime.now(UTC)
        simulated = simulation.simulate(items, now=now)
        with _timed(timings, "load and simulate"):
            loaded = _load(store, items, simulated, now)
        with _timed(timings, "distil both orgs"):
            chosen = services or build_services(settings, policy)
            receipts = distill(store, chosen, policy, ORGS, progress=progress)
        with _timed(timings, "score quality"):
            quality = quality_scores.run(store, datetime.now(UTC), policy, RunId(uuid4()))
        work = _Work(loaded, receipts, quality)
        with _timed(timings, "read back and report"):
            outcome = _read_back(store, items, work, timings, settings.home, policy_file)
            _write_report(outcome, now)
    return outcome


def demo_policy(settings: Settings) -> tuple[DistillationPolicy, Path | None]:
    """The policy in force; without a key summaries are extracted, which is written down for later commands.

    The path is the file that HIVEMIND_POLICY_FILE must name for later commands, None with a key.
    """
    policy = load_policy(settings)
    if settings.anthropic_api_key is not None:
        return policy, settings.policy_file
    import yaml

    summary = policy.summary.model_copy(update={"method": "extractive"})
    extractive = policy.model_copy(update={"summary": summary})
    path = settings.home / POLICY_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    document = extractive.model_dump(mode="json", exclude_defaults=True)
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return extractive, path


def _open(settings: Settings) -> Store:
    store = open_store(settings.database_url or ensure_running(settings.home))
    migrate(store)
    return store


def _load(store: Store, items: Sequence[RuleItem], simulated: Simulation, now: datetime) -> Loaded:
    rows = (*simulation.knowledge_rows(items), *simulated.notes)
    notes = load_rows(store, rows, target="items", now=now)
    pending = load_rows(store, simulated.pending, target="pending", now=now)
    with store.begin() as conn:
        signals = insert_signals(conn, simulated.signals)
    rules = Counter(tool for tool, _ in {(item.rule.tool, item.rule.code) for item in items})
    return Loaded(
        rules=dict(sorted(rules.items())),
        notes=notes.rows,
        notes_new=notes.loaded,
        pending=pending.rows,
        pending_new=pending.loaded,
        signals=len(simulated.signals),
        signals_new=signals,
        planted=simulated.planted_count,
    )


def _read_back(
    store: Store,
    items: Sequence[RuleItem],
    work: _Work,
    timings: Mapping[str, float],
    home: Path,
    policy_file: Path | None,
) -> Outcome:
    summaries = _summaries(store)
    return Outcome(
        loaded=work.loaded,
        reports=tuple(reporting.read_org_report(store, org_id, work.receipts[org_id]) for org_id in ORGS),
        quality=work.quality,
        merges=_merges(store),
        summaries=_worth_showing(summaries),
        redactions=redactions(summaries),
        agreement=_agreement(store, items),
        timings=timings,
        report_path=home / "reports" / REPORT_NAME,
        policy_file=policy_file,
    )


def _merges(store: Store) -> tuple[ShownMerge, ...]:
    found = []
    for org_id in ORGS:
        with store.read() as conn:
            read = figures.read_merged_texts(conn, org_id, limit=_MERGES_READ)
        found += [ShownMerge(org_id, merge, difference(merge.duplicate, merge.canonical)) for merge in read]
    return tuple(sorted(found, key=_dullness)[:MERGES_SHOWN])


def _dullness(shown: ShownMerge) -> tuple[bool, int, str]:
    """Merges between two tools come first, of those the longest that still fit a line or two."""
    merge = shown.merge
    length = max(len(merge.duplicate), len(merge.canonical))
    too_long = max(0, length - _READABLE_CHARACTERS)
    is_same_agent = merge.duplicate_agent == merge.canonical_agent
    return is_same_agent, too_long * 10 - length, str(merge.duplicate_id)


def _summaries(store: Store) -> tuple[ShownSummary, ...]:
    found = []
    for org_id in ORGS:
        with store.read() as conn:
            found += [ShownSummary(org_id, summary) for summary in figures.read_live_summaries(conn, org_id)]
    return tuple(found)


def _worth_showing(summaries: Sequence[ShownSummary]) -> tuple[ShownSummary, ...]:
    """One from which something was taken out, then one that most agents contributed to."""
    redacted = [shown for shown in summaries if redactions([shown])]
    shared = sorted(
        (shown for shown in summaries if shown not in redacted),
        key=lambda shown: (
            -len({source.agent for source in shown.summary.sources}),
            -len(shown.summary.sources),
            str(shown.summary.summary_id),
        ),
    )
    return tuple((*redacted[:1], *shared)[:SUMMARIES_SHOWN])


_PLACEHOLDER = re.compile(rf"\[({'|'.join(sorted(SECRET_TYPES | PERSONAL_TYPES))})\]")


def redactions(summaries: Sequence[ShownSummary]) -> dict[str, int]:
    """What the gate took out of live summaries, by type; placeholders that a source has are not counted."""
    counts: Counter[str] = Counter()
    for shown in summaries:
        own = {kind for source in shown.summary.sources for kind in _PLACEHOLDER.findall(source.content)}
        counts.update(kind for kind in _PLACEHOLDER.findall(shown.summary.content) if kind not in own)
    return dict(sorted(counts.items()))


def _agreement(store: Store, items: Sequence[RuleItem]) -> Agreement:
    canonical_of: dict[ItemId, ItemId] = {}
    decisions: dict[tuple[ItemId, ItemId], Decision] = {}
    for org_id in ORGS:
        with store.read() as conn:
            canonical_of |= figures.read_followers(conn, org_id)
            decisions |= figures.read_near_decisions(conn, org_id)
    return compare_with_mapping(items, canonical_of, decisions)


def _write_report(outcome: Outcome, as_of: datetime) -> None:
    """Write the report, but for a run that changed nothing and finds the last one in its place."""
    if outcome.is_noop and outcome.report_path.exists():
        return
    reporting.write_report(
        outcome.report_path, outcome.reports,
        title="What the linters know, distilled", as_of=as_of, sections=telling.sections(outcome),
    )  # fmt: skip


@contextmanager
def _timed(timings: dict[str, float], step: str) -> Iterator[None]:
    started = perf_counter()
    yield
    timings[step] = round(perf_counter() - started, 2)
