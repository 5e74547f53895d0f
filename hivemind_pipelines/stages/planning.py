"""planning: what a policy would change, from stored comparisons and without writing anything."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import uuid4

from hivemind_pipelines.core import clustering, matching, planning, quality, safety
from hivemind_pipelines.core.changes import (
    DissolveTopic,
    KeepCase,
    OpenCase,
    PlaceTopic,
    ReopenCase,
    StampSuspect,
    WithdrawCase,
)
from hivemind_pipelines.core.confirmation import (
    CONFIRM_PROMPT_VERSION,
    OUTPUT_TOKENS_MAX,
    confirmation_request,
)
from hivemind_pipelines.core.judging import OUTPUT_TOKENS_MAX as JUDGE_OUTPUT_TOKENS_MAX
from hivemind_pipelines.core.judging import judging_request
from hivemind_pipelines.core.model import (
    Category,
    Decision,
    ItemId,
    OrgId,
    RunId,
    Scope,
    Stage,
    TopicCluster,
)
from hivemind_pipelines.core.planning import (
    CaseEffects,
    Effect,
    LabelEffects,
    LlmForecast,
    MatchingEffects,
    OrgPlan,
    ScoreEffects,
    SummaryEffects,
    TopicEffects,
)
from hivemind_pipelines.core.policy import SECTION_GROUPS, DistillationPolicy, SectionGroup
from hivemind_pipelines.core.review import PairVerdict
from hivemind_pipelines.core.safety import Budget
from hivemind_pipelines.core.upkeep import StandingSummary, Upkeep, plan_upkeep
from hivemind_pipelines.stages import (
    backlog,
    cluster_summaries,
    contradiction_cases,
    duplicate_merges,
    suspicions,
    topic_clusters,
)
from hivemind_pipelines.stages.backlog import ModelStamps
from hivemind_pipelines.stages.context import Services, StageContext
from hivemind_pipelines.stages.forecasting import read_lengths, writing_forecast
from hivemind_pipelines.stages.spending import read_budget
from hivemind_pipelines.store import conflicts, derivations, items, reviews, scores, topics
from hivemind_pipelines.store import planning as stored
from hivemind_pipelines.store.connection import Store
from hivemind_pipelines.store.items import TopicCandidate
from hivemind_pipelines.store.pairs import StoredPair
from hivemind_pipelines.store.planning import ComparedPairs, ReadOnlyStore

#: Items of one category and scope that a preview clusters anew: the work grows with their square.
TOPIC_ITEMS_MAX = 30_000

#: Called with (org, orgs done, orgs in all) before each org is planned.
OnOrg = Callable[[OrgId, int, int], None]


@dataclass(frozen=True, slots=True)
class PolicyPlan:
    """What the proposed policy would change in each org, and the sections whose rows it makes stale."""

    in_force: DistillationPolicy
    proposed: DistillationPolicy
    orgs: tuple[OrgPlan, ...]

    @property
    def stale_sections(self) -> tuple[SectionGroup, ...]:
        """The section groups whose fingerprint differs."""
        before, after = self.in_force.stamps(), self.proposed.stamps()
        return tuple(group for group in SECTION_GROUPS if before[group] != after[group])


def plan(
    store: Store,
    services: Services,
    in_force: DistillationPolicy,
    proposed: DistillationPolicy,
    orgs: Sequence[OrgId],
    *,
    now: datetime,
    is_rescored: bool | None = None,
    on_org: OnOrg | None = None,
) -> PolicyPlan:
    """Hold a policy against what is stored, org by org, in READ ONLY transactions.

    `services` are those of the proposed policy; none of their models is loaded and none is called. Scores
    are previewed where the weights differ, unless `is_rescored` says otherwise.
    """
    if is_rescored is None:
        is_rescored = in_force.quality != proposed.quality
    with ReadOnlyStore(store.url) as unwritable:
        models = ModelStamps.of(services)
        due = {
            org.org_id: org.due for org in backlog.read(unwritable, in_force, now, models, list(orgs)).orgs
        }
        plans = []
        for done, org_id in enumerate(orgs):
            if on_org is not None:
                on_org(org_id, done, len(orgs))
            ctx = StageContext(
                store=unwritable, org_id=org_id, run_id=RunId(uuid4()), as_of=now,
                policy=proposed.for_org(org_id), services=services, dry_run=True,
            )  # fmt: skip
            own = in_force.for_org(org_id)
            plans.append(_plan_org(ctx, own, due.get(org_id, {}), is_rescored=is_rescored))
    return PolicyPlan(in_force, proposed, tuple(plans))


def _plan_org(
    ctx: StageContext, in_force: DistillationPolicy, due: Mapping[Stage, int], *, is_rescored: bool
) -> OrgPlan:
    """The sections in the order of a run, each on what those before it planned."""
    budget = read_budget(ctx)
    matched, merging, confirming = _matching(ctx, in_force, budget)
    cases, conflicting = _cases(ctx)
    placed, placing = _topics(ctx)
    budget = planning.spendable(ctx.policy.safety, budget, confirming)
    judging = _judging(ctx, budget)
    budget = planning.spendable(ctx.policy.safety, budget, judging)
    summaries, publishing, writing = _summaries(ctx, merging, budget)
    scored, scoring = _scores(ctx) if is_rescored else (ScoreEffects(), iter(()))
    return OrgPlan(
        org_id=ctx.org_id,
        due={stage: count for stage, count in due.items() if count},
        matching=matched,
        contradiction=cases,
        topics=placed,
        summaries=summaries,
        labels=_labels(ctx),
        scores=scored,
        llm=confirming + judging + writing,
        largest=planning.largest(
            (*planning.merge_effects(merging), *conflicting, *placing, *publishing, *scoring)
        ),
    )


def _matching(
    ctx: StageContext, in_force: DistillationPolicy, budget: Budget
) -> tuple[MatchingEffects, duplicate_merges.Plan, LlmForecast]:
    with ctx.store.read() as conn:
        unknown = stored.read_unknown(
            conn, ctx.org_id, feature_stamp=ctx.feature_stamp, probe_stamp=ctx.probe_stamp
        )
    if unknown.recompute:
        return MatchingEffects(recompute=unknown.recompute, new=unknown.new), (), LlmForecast()
    with ctx.store.read() as conn:
        compared = stored.read_pairs(
            conn,
            ctx.org_id,
            planning.movable(in_force.matching, ctx.policy.matching),
            in_force=in_force.fingerprint("matching"),
            proposed=ctx.policy.fingerprint("matching"),
            model=ctx.services.llm_model,
            prompt_version=CONFIRM_PROMPT_VERSION,
        )
        pool = items.read_pool(conn, ctx.org_id, stamp=ctx.settled_stamp)
        verdicts = reviews.read_verdicts(conn, ctx.org_id)
        live, _ = items.count_items(conn, ctx.org_id)
    again, moved = _decide_again(ctx, compared)
    pairs = (*compared.standing, *again)
    unsettled = {item_id for pair in moved for item_id in (pair.a_id, pair.b_id)}
    candidates = tuple(
        replace(item, settled=False) if item.settled and item.id in unsettled else item for item in pool.items
    )
    edges = duplicate_merges.judged_edges(
        replace(pool, items=candidates), pairs, verdicts, ctx.policy.matching
    )
    merging = clustering.plan_merges(candidates, edges, ctx.policy.matching)
    duplicate_merges.remember(ctx, merging)
    effects = planning.merge_counts(merging)
    return (
        MatchingEffects(
            pairs=compared.pairs,
            redecided=compared.redecided,
            moved=dict(sorted(Counter(moved.values()).items())),
            merged=effects.merged,
            repointed=effects.repointed,
            unmerged=effects.unmerged,
            new=unknown.new,
            refusal=safety.mass_change(merging, live, ctx.policy.safety),
        ),
        merging,
        _confirming(ctx, pairs, verdicts, budget),
    )


def _decide_again(
    ctx: StageContext, compared: ComparedPairs
) -> tuple[list[StoredPair], dict[StoredPair, str]]:
    """Pairs whose decision may move, decided under the policy, and of those that did, from what to what."""
    again, moved = [], {}
    for pair in compared.moving:
        decided = replace(pair, decided=matching.decide(pair.comparison, ctx.policy.matching))
        again.append(decided)
        before: Decision = pair.decided.decision
        if before != decided.decided.decision:
            moved[decided] = f"{before} to {decided.decided.decision}"
    return again, moved


def _confirming(
    ctx: StageContext, pairs: Iterable[StoredPair], verdicts: Iterable[PairVerdict], budget: Budget
) -> LlmForecast:
    if not ctx.policy.matching.llm_confirm or ctx.services.llm is None:
        return LlmForecast()
    judged = {(verdict.a_id, verdict.b_id) for verdict in verdicts}
    asked = sorted(
        (
            pair
            for pair in pairs
            if pair.llm is None
            and (pair.a_id, pair.b_id) not in judged
            and matching.is_confirmable(pair.decided, pair.comparison)
        ),
        key=lambda pair: (-pair.decided.probability, pair.a_id, pair.b_id),
    )
    lengths = read_lengths(ctx, (item_id for pair in asked for item_id in (pair.a_id, pair.b_id)))
    request = confirmation_request("", "", "-" * 16)
    frame = len(request.system) + len(request.user)
    characters = [frame + lengths.get(pair.a_id, 0) + lengths.get(pair.b_id, 0) for pair in asked]
    return planning.forecast(characters, OUTPUT_TOKENS_MAX, budget)


def _judging(ctx: StageContext, budget: Budget) -> LlmForecast:
    """One call for each examined pair that the rules hold apart; pairs nobody has examined are not foreseen."""
    if not ctx.policy.contradiction.llm_judge or ctx.services.llm is None:
        return LlmForecast()
    judge = contradiction_cases.judge_of(ctx.policy, ctx.services.llm_model)
    with ctx.store.read() as conn:
        lengths = conflicts.read_unjudged_lengths(conn, ctx.org_id, judge, now=ctx.as_of)
    request = judging_request("", "", "-" * 16)
    frame = len(request.system) + len(request.user)
    return planning.forecast([frame + length for length in lengths], JUDGE_OUTPUT_TOKENS_MAX, budget)


def _cases(ctx: StageContext) -> tuple[CaseEffects, list[Effect]]:
    _, standing, changes = contradiction_cases.read_plan(ctx)
    contradiction_cases.remember(ctx, standing, changes)
    sizes = {case.case_id: len(case.item_ids) for case in standing}
    counts: Counter[str] = Counter()
    effects = []
    for change in changes:
        match change:
            case OpenCase() | ReopenCase():
                counts["opened"] += 1
                effects.append(Effect("open_case", change.case.case_id, len(change.case.item_ids)))
            case WithdrawCase():
                counts["withdrawn"] += 1
                effects.append(Effect("withdraw_case", change.case_id, sizes[change.case_id]))
            case KeepCase():
                counts["kept"] += 1
            case StampSuspect():
                counts["suspects"] += 1
    return CaseEffects(**counts), effects


Group = tuple[Category, Scope]


def _topics(ctx: StageContext) -> tuple[TopicEffects, list[Effect]]:
    """Only groups (category and scope) in which something moves are clustered anew: a topic never leaves one."""
    read, standing = topic_clusters.read(ctx)
    eligible = [one for one in read if topic_clusters.is_eligible(ctx, one)]
    judged = suspicions.with_judgements(eligible, suspicions.judge(ctx, eligible))
    candidates = [one for one in judged if one.is_suspicious is False]
    sizes = Counter((one.item.category, one.item.scope) for one in candidates)
    moved = _moved_groups(candidates, standing)
    too_large = {group for group in moved if sizes[group] > TOPIC_ITEMS_MAX}
    moved -= too_large
    plan = topic_clusters.plan_anew(
        ctx,
        [one for one in candidates if (one.item.category, one.item.scope) in moved],
        [cluster for cluster in standing if (cluster.category, cluster.scope) in moved],
    ) if moved else ()  # fmt: skip
    ctx.planned.topics = topic_clusters.after(standing, plan)
    placed = [change.cluster for change in plan if isinstance(change, PlaceTopic)]
    effects = [Effect("place_topic", cluster.medoid_id, len(cluster.source_ids)) for cluster in placed]
    return (
        TopicEffects(
            placed=len(placed),
            dissolved=sum(isinstance(change, DissolveTopic) for change in plan),
            standing=len(ctx.planned.topics),
            recompute=sum(sizes[group] for group in too_large),
        ),
        effects,
    )


def _moved_groups(candidates: Sequence[TopicCandidate], standing: Sequence[TopicCluster]) -> set[Group]:
    moved = {(one.item.category, one.item.scope) for one in candidates if not one.is_placed}
    known = {(one.item.id, one.item.content_hash) for one in candidates}
    for cluster in standing:
        if not known.issuperset(zip(cluster.source_ids, cluster.source_hashes, strict=True)):
            moved.add((cluster.category, cluster.scope))
    return moved


def _summaries(
    ctx: StageContext, merging: duplicate_merges.Plan, budget: Budget
) -> tuple[SummaryEffects, list[Effect], LlmForecast]:
    upkeep = _upkeep(ctx, merging)
    rewritten = sum(bool(writing.replaces) for writing in upkeep.write)
    effects = [
        *(Effect("retire_summary", change.summary_id, 1) for change in upkeep.retire),
        *(
            Effect("write_summary", one.cluster.medoid_id, len(one.cluster.source_ids))
            for one in upkeep.write
        ),
    ]
    counted = SummaryEffects(
        written=len(upkeep.write) - rewritten,
        rewritten=rewritten,
        revived=len(upkeep.revive),
        retired=len(upkeep.retire),
        rescanned=len(upkeep.rescan),
        refusal=cluster_summaries.read_refusal(ctx, upkeep),
    )
    return counted, effects, writing_forecast(ctx, upkeep.write, budget)


def _upkeep(ctx: StageContext, merging: duplicate_merges.Plan) -> Upkeep:
    with ctx.store.read() as conn:
        summaries = derivations.read_summaries(conn, ctx.org_id)
        known = derivations.read_known_fingerprints(conn, ctx.org_id)
        standing: Sequence[TopicCluster] = topics.read_topics(conn, ctx.org_id)
    if ctx.planned.topics is not None:
        standing = list(ctx.planned.topics.values())
    effects = planning.merge_counts(merging)
    after = [_after_merging(one, effects.expired, effects.brought_back) for one in summaries]
    return plan_upkeep(standing, after, known=known, pii_stamp=ctx.services.scanner.stamp)


def _after_merging(
    summary: StandingSummary, expired: frozenset[ItemId], brought_back: frozenset[ItemId]
) -> StandingSummary:
    """The summary with the sources that a planned merge hides, and those that come back."""
    sources = frozenset(summary.source_ids)
    moved = len(sources & brought_back) - len(sources & expired)
    if not moved or summary.lost_sources or summary.changed_sources:
        return summary
    return replace(summary, live_sources=summary.live_sources + moved)


def _labels(ctx: StageContext) -> LabelEffects:
    policy = ctx.policy
    with ctx.store.read() as conn:
        rows = stored.read_labels(conn, ctx.org_id, stamp=policy.fingerprint("quality"))
    limit = policy.prescreen.low_quality_below
    becomes = [quality.preliminary_score(row.confidence, policy.quality) < limit for row in rows]
    return LabelEffects(
        rescreened=len(rows),
        flagged=sum(is_low and not row.is_low for row, is_low in zip(rows, becomes, strict=True)),
        cleared=sum(row.is_low and not is_low for row, is_low in zip(rows, becomes, strict=True)),
    )


def _scores(ctx: StageContext) -> tuple[ScoreEffects, Iterator[Effect]]:
    """Against the scores that readers see today; over the merges in force, not those that are planned."""
    with ctx.store.read() as conn:
        found = scores.preview(
            conn, [ctx.org_id], ctx.policy.quality, as_of=ctx.as_of,
            bins=planning.SCORE_BINS, named=planning.EFFECTS_NAMED,
        )  # fmt: skip
    effects = (Effect("rescore", item_id, change) for item_id, change in found.largest)
    return ScoreEffects(found.scored, found.changed, found.before, found.after), effects
