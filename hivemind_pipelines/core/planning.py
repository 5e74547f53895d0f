"""Planning: what another policy would change, as counts, largest effects and a forecast of calls."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal
from uuid import UUID

from hivemind_pipelines.core.changes import Merge, Refusal, Unmerge
from hivemind_pipelines.core.model import ItemId, OrgId, Stage
from hivemind_pipelines.core.policy import MatchingPolicy, SafetyPolicy
from hivemind_pipelines.core.safety import CHARACTERS_PER_TOKEN, Budget

#: Bars of a distribution of scores over [0, 1].
SCORE_BINS = 20

#: Effects of each kind that a plan names by id.
EFFECTS_NAMED = 5


@dataclass(frozen=True, slots=True)
class Movable:
    """Which stored decisions two sets of thresholds may see differently.

    Without a veto those with `low` ≤ probability < `high`; all with a veto where `vetoed` is set, and
    all of equal normalised texts, whose stored probability is 1, where `same` is set.
    """

    low: float = 2.0
    high: float = 2.0
    vetoed: bool = False
    same: bool = False

    def covers(self, probability: float, *, is_vetoed: bool, is_same: bool) -> bool:
        """Whether a decision stored with this probability has to be taken again."""
        if is_vetoed:
            return self.vetoed
        return (is_same and self.same) or self.low <= probability < self.high


def movable(before: MatchingPolicy, after: MatchingPolicy) -> Movable:
    """What `matching.decide` may decide differently under the second policy; the test holds the two together."""
    names = ("duplicate_min", "possible_min")
    moved = [name for name in names if getattr(before, name) != getattr(after, name)]
    bounds = [getattr(policy, name) for name in moved for policy in (before, after)]
    return Movable(
        low=min(bounds, default=2.0),
        high=max(bounds, default=2.0),
        vetoed=before.vetoed_possible_min != after.vetoed_possible_min,
        same="possible_min" in moved,
    )


EffectKind = Literal[
    "merge",
    "unmerge",
    "open_case",
    "withdraw_case",
    "place_topic",
    "retire_summary",
    "write_summary",
    "rescore",
]


@dataclass(frozen=True, slots=True)
class Effect:
    """One thing a plan does: `size` counts the items concerned, for a rescore it is the change of the score.

    The subject is the canonical, the case, a topic's medoid, the summary or the item.
    """

    kind: EffectKind
    subject_id: UUID
    size: float


@dataclass(frozen=True, slots=True)
class MatchingEffects:
    """Pairs and merges. `recompute` items have features or candidates of another stamp, so that nothing is
    known of their pairs: merges are planned only when there are none. `new` items are due under any policy.
    """

    pairs: int = 0
    redecided: int = 0
    moved: Mapping[str, int] = field(default_factory=dict, hash=False)
    merged: int = 0
    repointed: int = 0
    unmerged: int = 0
    recompute: int = 0
    new: int = 0
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class CaseEffects:
    """Contradiction cases; `opened` counts those that come back too."""

    opened: int = 0
    kept: int = 0
    withdrawn: int = 0
    suspects: int = 0


@dataclass(frozen=True, slots=True)
class TopicEffects:
    """Topics; `recompute` items are in groups too large to be clustered for a preview."""

    placed: int = 0
    dissolved: int = 0
    standing: int = 0
    recompute: int = 0


@dataclass(frozen=True, slots=True)
class SummaryEffects:
    """Summaries: written for new topics, rewritten in place of others, revived, retired, scanned again."""

    written: int = 0
    rewritten: int = 0
    revived: int = 0
    retired: int = 0
    rescanned: int = 0
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class LabelEffects:
    """Pending rows: looked at again, newly labelled, and freed of their label."""

    rescreened: int = 0
    flagged: int = 0
    cleared: int = 0


@dataclass(frozen=True, slots=True)
class ScoreEffects:
    """Quality scores: `before` and `after` count live items in SCORE_BINS equal parts of [0, 1]."""

    scored: int = 0
    changed: int = 0
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class LlmForecast:
    """Calls of a model and what they cost at most: dense tokens in, the longest answers out.

    `first_run_calls` are those that the budget of one run, and what is left of today's, lets through.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    first_run_calls: int = 0

    def __add__(self, other: "LlmForecast") -> "LlmForecast":
        return LlmForecast(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


def forecast(prompt_characters: Sequence[int], max_output_tokens: int, budget: Budget) -> LlmForecast:
    """One call a prompt, in that order, each of so many characters."""
    tokens = [math.ceil(characters / CHARACTERS_PER_TOKEN) for characters in prompt_characters]
    usd, affordable = 0.0, 0
    for number, count in enumerate(tokens, start=1):
        usd += budget.cost_usd(count, max_output_tokens)
        if number <= budget.calls_left() and usd <= budget.usd_left():
            affordable = number
    return LlmForecast(len(tokens), sum(tokens), max_output_tokens * len(tokens), usd, affordable)


def spendable(policy: SafetyPolicy, budget: Budget, planned: LlmForecast) -> Budget:
    """The budget once the calls of a forecast that fit were made."""
    share = planned.first_run_calls / planned.calls if planned.calls else 0.0
    spent = type(budget.run)(planned.first_run_calls, planned.usd * share)
    return Budget(policy, run=budget.run + spent, day=budget.day + spent)


@dataclass(frozen=True, slots=True)
class OrgPlan:
    """What a policy would change in one org; `due` rows wait under the policy in force anyway."""

    org_id: OrgId
    due: Mapping[Stage, int] = field(hash=False)
    matching: MatchingEffects = MatchingEffects()
    contradiction: CaseEffects = CaseEffects()
    topics: TopicEffects = TopicEffects()
    summaries: SummaryEffects = SummaryEffects()
    labels: LabelEffects = LabelEffects()
    scores: ScoreEffects = ScoreEffects()
    llm: LlmForecast = LlmForecast()
    largest: tuple[Effect, ...] = ()

    @property
    def refusals(self) -> dict[Stage, Refusal]:
        """The stages that the mass-change breaker would stop; the counts are those once it is lifted."""
        found = {
            Stage.DUPLICATE_MERGES: self.matching.refusal,
            Stage.CLUSTER_SUMMARIES: self.summaries.refusal,
        }
        return {stage: refusal for stage, refusal in found.items() if refusal is not None}

    def counts(self) -> dict[str, int]:
        """Every count by `section.name`, without those that only describe what stands."""
        sections = {
            "matching": self.matching,
            "contradiction": self.contradiction,
            "topics": self.topics,
            "summaries": self.summaries,
            "labels": self.labels,
            "scores": self.scores,
        }
        return {
            f"{section}.{one.name}": getattr(effects, one.name)
            for section, effects in sections.items()
            for one in fields(effects)  # type: ignore[arg-type]
            if type(getattr(effects, one.name)) is int and one.name not in _DESCRIPTIVE
        }


_DESCRIPTIVE = frozenset({"pairs", "standing", "scored"})


def totals(plans: Iterable[OrgPlan]) -> dict[str, int]:
    """The counts of all orgs added up, zeros included."""
    counts = Counter(OrgPlan(OrgId(""), {}).counts())
    for plan in plans:
        counts.update(plan.counts())
    return dict(counts)


def total_llm(plans: Iterable[OrgPlan]) -> LlmForecast:
    """The calls of all orgs and what they cost at most."""
    return sum((plan.llm for plan in plans), LlmForecast())


def total_scores(plans: Iterable[OrgPlan]) -> ScoreEffects:
    """The scores of all orgs in one distribution; orgs that are not scored again have no part in it."""
    scored = [plan.scores for plan in plans if plan.scores.scored]
    return ScoreEffects(
        scored=sum(one.scored for one in scored),
        changed=sum(one.changed for one in scored),
        before=tuple(map(sum, zip(*(one.before for one in scored), strict=True))),
        after=tuple(map(sum, zip(*(one.after for one in scored), strict=True))),
    )


@dataclass(frozen=True, slots=True)
class MergeCounts:
    """A plan of merges: how many of each sort, the items it newly expires and those it brings back."""

    merged: int
    repointed: int
    unmerged: int
    expired: frozenset[ItemId]
    brought_back: frozenset[ItemId]


def merge_counts(plan: Sequence[Merge | Unmerge]) -> MergeCounts:
    """The counts of a plan."""
    merges = [change for change in plan if isinstance(change, Merge)]
    back = frozenset(change.duplicate_id for change in plan if isinstance(change, Unmerge))
    expired = frozenset(change.duplicate_id for change in merges if change.previous_canonical_id is None)
    return MergeCounts(len(expired), len(merges) - len(expired), len(back), expired, back)


def merge_effects(plan: Iterable[Merge | Unmerge]) -> list[Effect]:
    """How many duplicates each canonical gets and loses."""
    gained: Counter[UUID] = Counter()
    lost: Counter[UUID] = Counter()
    for change in plan:
        match change:
            case Merge():
                gained[change.canonical_id] += 1
            case Unmerge():
                lost[change.canonical_id] += 1
    return [
        *(Effect("merge", item_id, count) for item_id, count in gained.items()),
        *(Effect("unmerge", item_id, count) for item_id, count in lost.items()),
    ]


def largest(effects: Iterable[Effect]) -> tuple[Effect, ...]:
    """The EFFECTS_NAMED largest of each kind, kinds and equal sizes in a fixed order."""
    ordered = sorted(effects, key=lambda one: (one.kind, -abs(one.size), str(one.subject_id)))
    named: Counter[str] = Counter()
    kept = []
    for effect in ordered:
        named[effect.kind] += 1
        if named[effect.kind] <= EFFECTS_NAMED:
            kept.append(effect)
    return tuple(kept)
