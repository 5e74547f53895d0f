"""What the demo tells: one set of headed parts, for the terminal, the report and --json."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from hivemind_pipelines.core.model import OrgId
from hivemind_pipelines.core.receipts import QualityReceipt
from hivemind_pipelines.demo.evaluation import FATES, Agreement, RulePair
from hivemind_pipelines.stages.reporting import OrgReport, Paragraph, Quote, Section, Table
from hivemind_pipelines.store.reporting import LiveSummary, MergedText

_CONTRADICTIONS_NAMED = 5
_SOURCE_CHARACTERS = 160


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was read and made up, and how much of it was new to the database."""

    rules: Mapping[str, int]
    notes: int
    notes_new: int
    pending: int
    pending_new: int
    signals: int
    signals_new: int
    planted: int


@dataclass(frozen=True, slots=True)
class ShownMerge:
    """A merge as people see it, with what differs between the two texts."""

    org_id: OrgId
    merge: MergedText
    difference: str


@dataclass(frozen=True, slots=True)
class ShownSummary:
    """A live summary of an org."""

    org_id: OrgId
    summary: LiveSummary


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything the demo found out; `timings` are seconds by step."""

    loaded: Loaded
    reports: tuple[OrgReport, ...]
    quality: QualityReceipt
    merges: tuple[ShownMerge, ...]
    summaries: tuple[ShownSummary, ...]
    redactions: Mapping[str, int]
    agreement: Agreement
    timings: Mapping[str, float]
    report_path: Path
    policy_file: Path | None

    @property
    def is_noop(self) -> bool:
        """Whether everything had been done before."""
        loaded = self.loaded
        applied = sum(receipt.applied for report in self.reports for receipt in report.receipts.values())
        return not (loaded.notes_new or loaded.pending_new or loaded.signals_new or applied)


def sections(outcome: Outcome) -> tuple[Section, ...]:
    """The parts that a report has beside its counts and pictures."""
    return (
        _knowledge(outcome.loaded),
        _merges(outcome),
        _summaries(outcome),
        _agreement(outcome.agreement),
        _timings(outcome),
    )


def next_commands(outcome: Outcome) -> tuple[str, ...]:
    """What to try next, as typed into a shell."""
    policy = f"HIVEMIND_POLICY_FILE={outcome.policy_file} " if outcome.policy_file else ""
    return tuple(
        f"{policy}.venv/bin/hivemind-pipelines {words}" for words in ("status", "distill --dry-run", "dev")
    )


def data(outcome: Outcome) -> dict[str, object]:
    """The outcome as JSON types, for --json."""
    return {
        "loaded": asdict(outcome.loaded),
        "orgs": {
            report.org_id: {
                "standing": asdict(report.standing),
                "stages": {
                    stage: receipt.model_dump(mode="json") for stage, receipt in report.receipts.items()
                },
            }
            for report in outcome.reports
        },
        "quality": outcome.quality.model_dump(mode="json"),
        "merges": [
            {
                "org": shown.org_id,
                "duplicate": shown.merge.duplicate,
                "duplicate_agent": shown.merge.duplicate_agent,
                "canonical": shown.merge.canonical,
                "canonical_agent": shown.merge.canonical_agent,
                "reason": shown.merge.reason,
                "difference": shown.difference,
            }
            for shown in outcome.merges
        ],
        "summaries": [
            {
                "org": shown.org_id,
                "text": shown.summary.content,
                "method": shown.summary.method,
                "sources": [
                    {"id": str(source.item_id), "agent": source.agent, "text": source.content}
                    for source in shown.summary.sources
                ],
            }
            for shown in outcome.summaries
        ],
        "redactions": dict(outcome.redactions),
        "agreement": {
            "merged_pairs": outcome.agreement.merge_counts(),
            "declared_pairs": outcome.agreement.fate_counts(),
            "verbatim": outcome.agreement.verbatim_count,
        },
        "nothing_done": outcome.is_noop,
        "report": str(outcome.report_path),
        "next": list(next_commands(outcome)),
        "seconds": dict(outcome.timings),
    }


def _knowledge(loaded: Loaded) -> Section:
    tools = ", ".join(f"{count:,} of {tool}" for tool, count in loaded.rules.items())
    read = (
        f"{sum(loaded.rules.values()):,} rules ({tools}) as {loaded.notes:,} notes: what each linter prints "
        "about itself, a message and an explanation a rule. Each linter is an agent; org platform holds ruff, "
        "pylint and bugbear, org security bandit and, once more, ruff's security rules."
    )
    simulated = (
        f"Simulated: {loaded.signals:,} signals of use and disagreement, {loaded.pending:,} pending "
        f"contributions, and {loaded.planted} leaked secrets that open nothing."
    )
    new = f"New to the database: {loaded.notes_new:,} notes, {loaded.pending_new:,} pending, "
    return Section(
        "Knowledge",
        (Paragraph(read), Paragraph(simulated), Paragraph(f"{new}{loaded.signals_new:,} signals.")),
    )


def _merges(outcome: Outcome) -> Section:
    quotes = (
        quote
        for shown in outcome.merges
        for quote in (
            Quote(f"{shown.org_id}: expired, from {shown.merge.duplicate_agent}", shown.merge.duplicate),
            Quote(f"kept, from {shown.merge.canonical_agent} ({shown.difference})", shown.merge.canonical),
        )
    )
    return Section(f"{len(outcome.merges)} merges", tuple(quotes))


def _summaries(outcome: Outcome) -> Section:
    taken = ", ".join(f"{count} {kind}" for kind, count in outcome.redactions.items()) or "nothing"
    blocks = [
        block
        for shown in outcome.summaries
        for block in (
            Quote(f"{shown.org_id}, {shown.summary.method}", shown.summary.content),
            Table(
                ("source of", "text"),
                tuple((source.agent, _shortened(source.content)) for source in shown.summary.sources),
            ),
        )
    ]
    note = f"The gate in front of stored summaries took out: {taken}. The secrets were planted for it."
    return Section(f"{len(outcome.summaries)} summaries", (*blocks, Paragraph(note)))


def _shortened(text: str) -> str:
    return text if len(text) <= _SOURCE_CHARACTERS else f"{text[: _SOURCE_CHARACTERS - 1].rstrip()}…"


def _agreement(agreement: Agreement) -> Section:
    merged = agreement.merge_counts()
    merges = Table(
        ("merged rules of two mapped tools", "pairs"),
        (
            ("agree with the mapping", merged["agrees"]),
            ("contradict it (it names another counterpart)", merged["contradicts"]),
            ("are not covered by it", merged["uncovered"]),
        ),
    )
    fates = agreement.fate_counts()
    declared = Table(
        ("ruff's counterparts in", "declared", *FATES),
        tuple(
            (tool, sum(counts.values()), *(counts[fate] for fate in FATES)) for tool, counts in fates.items()
        ),
    )
    verbatim = (
        f"{agreement.verbatim_count} of the merged pairs say the same word for word: such a text is stored "
        "once per org to begin with. The others were found by the distillation."
    )
    explained = (
        "ruff's code prefixes declare which rule of another linter a rule was taken from (PLR0913 is pylint's "
        "R0913, S101 bandit's B101). That makes two rules related, not equal: most are worded anew, look at "
        "more or less, or say when not to apply. So most declared pairs are rightly left apart; a merge means "
        "that their texts say the same."
    )
    return Section(
        "Against the mapping that code prefixes declare",
        (merges, *_contradicting(agreement), Paragraph(verbatim), declared, Paragraph(explained)),
    )


def _contradicting(agreement: Agreement) -> tuple[Paragraph, ...]:
    pairs = [pair for pair, verdict in agreement.merges if verdict == "contradicts"]
    named = ", ".join(map(_named, pairs[:_CONTRADICTIONS_NAMED]))
    return (Paragraph(f"Contradicting: {named}."),) if pairs else ()


def _named(pair: RulePair) -> str:
    return f"ruff {pair.ruff.code} with {pair.other.tool} {pair.other.code}"


def _timings(outcome: Outcome) -> Section:
    steps = tuple((step, f"{seconds:.1f}") for step, seconds in outcome.timings.items())
    return Section("Seconds", (Table(("step", "seconds"), steps),))
