"""What a person sees of a policy's plan and of its backfill: tables, counts and ids, never a text."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hivemind_pipelines.core import planning
from hivemind_pipelines.core.planning import SCORE_BINS, LlmForecast, OrgPlan, ScoreEffects
from hivemind_pipelines.core.policy import DistillationPolicy, SectionGroup
from hivemind_pipelines.presentation import printable
from hivemind_pipelines.stages.planning import PolicyPlan
from hivemind_pipelines.stages.staleness import Staleness

if TYPE_CHECKING:
    from hivemind_pipelines.defs.backfill import Backfilled

#: Orgs and effects shown at most; --json has them all.
ORGS_SHOWN = 20
EFFECTS_SHOWN = 5

_BAR_WIDTH = 30

#: What each count of a plan is called, by the section group whose change brings it about.
_SAID: Mapping[SectionGroup, tuple[tuple[str, str], ...]] = {
    "matching": (
        ("matching.merged", "merges made"),
        ("matching.unmerged", "merges unmade"),
        ("matching.repointed", "merges pointed elsewhere"),
        ("matching.redecided", "pairs decided again"),
        ("matching.recompute", "items compared anew, whose pairs no plan can know"),
        ("matching.new", "new items that wait anyway"),
    ),
    "contradiction": (
        ("contradiction.opened", "cases opened"),
        ("contradiction.withdrawn", "cases withdrawn"),
        ("contradiction.kept", "cases kept"),
        ("contradiction.suspects", "lone suspects"),
    ),
    "summary": (
        ("topics.placed", "topics placed"),
        ("topics.dissolved", "topics dissolved"),
        ("topics.recompute", "items in groups too large to be clustered for a plan"),
        ("summaries.written", "summaries written"),
        ("summaries.rewritten", "summaries rewritten"),
        ("summaries.revived", "summaries revived"),
        ("summaries.retired", "summaries retired"),
    ),
    "pii": (("summaries.rescanned", "summaries scanned again"),),
    "quality": (
        ("scores.changed", "scores moved"),
        ("labels.rescreened", "pending rows screened again"),
        ("labels.flagged", "newly labelled"),
        ("labels.cleared", "labels removed"),
    ),
}

_NUMBERS = frozenset({"before", "after", "score", "size"})


def show_plan(console: Console, planned: PolicyPlan) -> None:
    """The whole plan: versions, effects by org and section, scores, calls, largest effects, breaker."""
    in_force, proposed = planned.in_force.version, planned.proposed.version
    if in_force == proposed:
        _say(console, f"policy {in_force} is in force already; what follows waits for the next run")
    else:
        stale = ", ".join(planned.stale_sections) or "nothing"
        _say(console, f"policy {in_force} -> {proposed}; stale under it: {stale}")
    show_effects(console, planned.orgs)


def show_effects(console: Console, plans: Sequence[OrgPlan]) -> None:
    """What plans come to, whichever policy they are under."""
    _show_sections(console, plans)
    _show_scores(console, planning.total_scores(plans))
    _show_llm(console, planning.total_llm(plans))
    _show_largest(console, plans)
    _show_breaker(console, plans)


def show_stale(console: Console, stale: Staleness, planned: PolicyPlan, policy: DistillationPolicy) -> None:
    """Which orgs are stale in what, and what bringing them back comes to."""
    table = _table("org", "stale sections", "stale rows")
    for one in stale.orgs[:ORGS_SHOWN]:
        rows = ", ".join(f"{section} {count:,}" for section, count in one.rows.items()) or "-"
        table.add_row(Text(printable(one.org_id)), ", ".join(one.sections), rows)
    _say(console, f"stale under policy {policy.version}:")
    if table.rows:
        console.print(table)
    if len(stale.orgs) > ORGS_SHOWN:
        _say(console, f"{len(stale.orgs) - ORGS_SHOWN:,} more orgs; --json has them all")
    if stale.scores:
        _say(console, "the quality scores of all orgs were taken by other weights")
    show_effects(console, planned.orgs)


def backfill_progress(
    stream: TextIO, advance: Callable[[int, str], None] | None
) -> Callable[[int, int, str], None]:
    """Moves a terminal's bar; where there is none, a line whenever more orgs are done."""
    told = 0

    def tell(done: int, total: int, note: str) -> None:
        nonlocal told
        if advance is not None:
            advance(done, f"{done:,} of {total:,} orgs, {note}")
        elif done > told:
            told = done
            print(f"{done:,} of {total:,} orgs, {note}", file=stream, flush=True)

    return tell


def show_backfilled(
    console: Console, done: "Backfilled", stale: Staleness, left: Staleness, seconds: float
) -> None:
    """How a backfill ended, and how it is taken back."""
    if not done.is_over:
        _say(console, f"backfill {done.backfill_id} is with the daemon; its progress is in the UI")
        return
    fresh = len(stale.orgs) - len(left.orgs)
    scores = ", and the scores of all" if stale.scores and not left.scores else ""
    _say(
        console,
        f"backfill {done.backfill_id}, run by {done.by}: "
        f"{fresh:,} of {len(stale.orgs):,} orgs are fresh{scores}; {seconds:.1f} s",
    )
    _say(console, f"to take it back: hivemind-pipelines undo --run {done.backfill_id}")


def _show_sections(console: Console, plans: Sequence[OrgPlan]) -> None:
    table = _table("org", "section", "would change")
    if len(plans) != 1:
        for section, said in _sections(planning.totals(plans)):
            table.add_row(f"all {len(plans):,} orgs", section, said)
        table.add_section()
    moving = [plan for plan in plans if any(plan.counts().values())]
    for plan in moving[:ORGS_SHOWN]:
        for section, said in _sections(plan.counts()):
            table.add_row(Text(printable(plan.org_id)), section, said)
        table.add_section()
    if table.rows:
        console.print(table)
    if len(moving) > ORGS_SHOWN:
        _say(console, f"{len(moving) - ORGS_SHOWN:,} more orgs; --json has them all")
    if not moving:
        _say(console, "nothing would change")


def _sections(counts: Mapping[str, int]) -> Iterator[tuple[SectionGroup, str]]:
    for section, names in _SAID.items():
        said = ", ".join(f"{counts[name]:,} {words}" for name, words in names if counts[name])
        if said:
            yield section, said


def _show_scores(console: Console, scores: ScoreEffects) -> None:
    """Both distributions side by side, without the empty ends."""
    if not scores.scored:
        return
    _say(console, f"quality scores of {scores.scored:,} live items, {scores.changed:,} of them move:")
    table = _table("score", "before", "after", "")
    most = max(*scores.before, *scores.after, 1)
    for number, (before, after) in enumerate(zip(scores.before, scores.after, strict=True)):
        if before or after:
            lower = number / SCORE_BINS
            bars = Text(f"{_bar(before, most)}\n{_bar(after, most)}")
            table.add_row(f"{lower:.2f}", f"{before:,}", f"{after:,}", bars)
    console.print(table)


def _bar(count: int, most: int) -> str:
    return "#" * max(round(_BAR_WIDTH * count / most), 1 if count else 0)


def _show_llm(console: Console, llm: LlmForecast) -> None:
    if not llm.calls:
        _say(console, "no model would be called")
        return
    tokens = f"{llm.input_tokens:,} tokens in and {llm.output_tokens:,} out"
    budget = f"; the budgets let {llm.first_run_calls:,} of them through in the first run"
    _say(console, f"a model would be called {llm.calls:,} times, at most {tokens}, ${llm.usd:.2f}{budget}")


def _show_largest(console: Console, plans: Sequence[OrgPlan]) -> None:
    effects = [(plan.org_id, effect) for plan in plans for effect in plan.largest]
    if not effects:
        return
    table = _table("largest effects", "size", "id", "org")
    ordered = sorted(effects, key=lambda one: (one[1].kind, -abs(one[1].size), str(one[1].subject_id)))
    shown: dict[str, int] = {}
    for org_id, effect in ordered:
        shown[effect.kind] = shown.get(effect.kind, 0) + 1
        if shown[effect.kind] <= EFFECTS_SHOWN:
            size = f"{effect.size:+.3f}" if effect.kind == "rescore" else f"{effect.size:,.0f}"
            org = Text(printable(org_id))
            table.add_row(effect.kind.replace("_", " "), size, str(effect.subject_id), org)
    console.print(table)


def _show_breaker(console: Console, plans: Sequence[OrgPlan]) -> None:
    refused = [(plan.org_id, refusal) for plan in plans for refusal in plan.refusals.values()]
    if not refused:
        _say(console, "mass-change breaker: it would let everything through")
    for org_id, refusal in refused[:ORGS_SHOWN]:
        _say(console, f"mass-change breaker: it would stop org {printable(org_id)}: {refusal}")
    if len(refused) > ORGS_SHOWN:
        _say(console, f"mass-change breaker: and {len(refused) - ORGS_SHOWN:,} more")


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in _NUMBERS else "left", overflow="fold")
    return table
